"""Read the body ids of an NTU `.skeleton` file without its joints."""


def id_changes(content: bytes) -> bool:
    """Return whether a file has two body ids that never overlap in time, as after a Kinect lost a person.

    Args:
        content: Bytes of the file; a damaged file has none.
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
    # The first id to end and the last to begin are the farthest apart.
    return len(spans) > 1 and min(end for _, end in spans.values()) < max(start for start, _ in spans.values())
