"""Which samples of a shard are read from a server in one request: those that are near each other."""

from collections.abc import Collection, Mapping, Sequence
from typing import BinaryIO

from shala_framework.data.shard_index import Member

NEAR_BYTES = 1 << 16  # between two samples, which take less time to transfer than another request
MOST_PIECE_BYTES = 1 << 23  # of one request, unless a single sample is larger


def span_of(members: Mapping[str, Member], wanted: Collection[str] | None = None) -> tuple[int, int]:
    """Return where the wanted fields of a sample begin and end in its shard; an empty span if it has none."""
    chosen = [member for name, member in members.items() if wanted is None or name in wanted]
    if not chosen:
        return 0, 0
    return min(member.offset for member in chosen), max(member.offset + member.size for member in chosen)


def near_groups(spans: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Divide spans into groups to read in one request each.

    Args:
        spans: Begin and end of each.

    Returns:
        Indices of the spans of each group.

    Example:
        >>> near_groups([(0, 10), (500_000, 500_010), (10, 20)])
        [[0, 2], [1]]
    """
    groups: list[list[int]] = []
    begin, end = 0, 0
    for index in sorted(range(len(spans)), key=spans.__getitem__):
        first, last = spans[index]
        if groups and first - end <= NEAR_BYTES and max(end, last) - begin <= MOST_PIECE_BYTES:
            groups[-1].append(index)
            end = max(end, last)
        else:
            groups.append([index])
            begin, end = first, last
    return groups


class Piece:
    """A part of a file in memory, which is read by positions in the file.

    Args:
        begin: Position of the first byte.
        content: The bytes.
    """

    def __init__(self, begin: int, content: bytes) -> None:
        self.begin, self.content = begin, content
        self._position = begin

    @classmethod
    def read_from(cls, file: BinaryIO, spans: Sequence[tuple[int, int]]) -> "Piece":
        """Read the part of a file that covers some spans."""
        begin, end = min(first for first, _ in spans), max(last for _, last in spans)
        file.seek(begin)
        return cls(begin, file.read(end - begin))

    def seek(self, position: int, /) -> int:
        """Go to a position in the file."""
        self._position = position
        return position

    def read(self, size: int, /) -> bytes:
        """Return bytes of the file, fewer where the part ends."""
        first = self._position - self.begin
        self._position += size
        return self.content[first : first + size]
