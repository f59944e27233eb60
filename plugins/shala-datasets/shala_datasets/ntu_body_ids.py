"""The body ids of an NTU `.skeleton` file, read without its joints."""


def id_changes(content: bytes) -> bool:
    """Whether a file has two body ids that never overlap in time, as when a Kinect loses a person and finds them again.

    Args:
        content: The file; one that is damaged has none.
    """
    spans: dict[bytes, tuple[int, int]] = {}
    lines = iter(content.split(b"\n"))
    try:
        for frame in range(int(next(lines)[:20])):
            for _ in range(int(next(lines)[:20])):
                body = next(lines).split(None, 1)[0]
                spans[body] = (spans.get(body, (frame, frame))[0], frame)
                for _ in range(int(next(lines)[:20])):
                    next(lines)
    except (StopIteration, ValueError, IndexError):
        return False
    # The first to end and the last to begin are the two that are farthest apart.
    return len(spans) > 1 and min(end for _, end in spans.values()) < max(start for start, _ in spans.values())
