"""Checksums inside the files of a run or a set of shards: a CRC-32 of the whole file, in a field near its start.

The field has the form `"checksum": "1a2b3c4d"`. The checksum is computed with eight zeros in the field, so it covers
every other byte, including the layout, and equal content gives equal files. CRC-32 detects every error within 32
adjacent bits and misses one in 4 billion of the others. It protects against damage, not against forgery.
"""

import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

FIELD = "checksum"
ZEROS = "0" * 8  # content of the field while the checksum is computed
_PLACE = re.compile(rb'\\?"checksum\\?": \\?"([0-9a-f]{8})\\?"')  # with backslashes inside a JSON string
_MOST_BEFORE = 256  # bytes at the start of a file in which the field is searched
_CHUNK = 1 << 20


def add_checksum(content: bytes) -> bytes:
    """Fill in the field of a file's content.

    Args:
        content: Content with `ZEROS` in the field.

    Raises:
        ValueError: The content has no such field near its start.
    """
    start, end = _place(content)
    return content[:start] + _crc32([content]).encode() + content[end:]


def checksum_of(content: bytes) -> str:
    """Return the checksum that a file's content declares.

    Raises:
        ValueError: The content has no such field.
    """
    start, end = _place(content)
    return content[start:end].decode()


def declared_checksum(path: Path) -> str | None:
    """Return the checksum that a file declares, without reading the rest of it; None if it declares none.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(_MOST_BEFORE)
    try:
        return checksum_of(start)
    except ValueError:
        return None


def verify_checksum(content: bytes) -> None:
    """Compare a file's content with the checksum inside it.

    Raises:
        ValueError: They differ, or there is no checksum.
    """
    _verify([content])


def verify_file(path: Path) -> None:
    """Compare a file with the checksum inside it, without loading all of it into memory.

    Raises:
        ValueError: They differ, or there is no checksum.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        _verify(iter(lambda: file.read(_CHUNK), b""))


def _verify(chunks: Iterable[bytes]) -> None:
    chunks = iter(chunks)
    first = next(chunks, b"")
    start, end = _place(first)
    declared = first[start:end].decode()

    def zeroed() -> Iterator[bytes]:
        yield first[:start]
        yield ZEROS.encode()
        yield memoryview(first)[end:]  # type: ignore[misc]  # bytes-like is enough
        yield from chunks

    found = _crc32(zeroed())
    if found != declared:
        raise ValueError(f"its content has the checksum {found}, but should have {declared}")


def _place(content: bytes) -> tuple[int, int]:
    found = _PLACE.search(content, 0, _MOST_BEFORE)
    if found is None:
        raise ValueError("it has no checksum where one is expected")
    return found.span(1)


def _crc32(chunks: Iterable[bytes]) -> str:
    value = 0
    for chunk in chunks:
        value = zlib.crc32(chunk, value)
    return f"{value:08x}"
