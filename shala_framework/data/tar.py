"""Read tar files as shards. Every member is a field of a sample, is counted and named, or is an error.

The module reads headers itself, because Python's `tarfile` takes a damaged header for the end of the file, stops at the
first end mark whatever follows it, and reads as much as a header declares. Names and samples agree with WebDataset:
adjacent fields whose names agree up to the first dot form a sample.
"""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Final, Protocol, TypeVar

import attrs

from shala_framework.data.tar_headers import (
    REFUSED,
    decimal,
    member_name,
    octal,
    pax_records,
    refusal,
    sums_up,
)
from shala_framework.support.errors import DataError
from shala_framework.support.urls import said_by

BLOCK = 512
CHUNK = 1 << 20  # bytes to read at a time of data that are not kept
MAX_FIELD_BYTES = 1 << 28  # for readers without a spec; data.max_field_bytes has the same default
MAX_HEADER_BYTES = 1 << 20  # of a long name or of pax records
MAX_PADDING_BYTES = 1 << 26  # zeros after the end mark
DAMAGE: Final = (OSError, ValueError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)

_T = TypeVar("_T")
_RESERVED = re.compile(r"__[^/]*__($|/)")  # names that WebDataset reserves
_ZEROS = bytes(BLOCK)
_FOREIGN = {
    b"\x28\xb5\x2f\xfd": "a file compressed by zstd",
    b"\x04\x22\x4d\x18": "a file compressed by lz4",
    b"\x1f\x9d": "a file compressed by compress",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf": "a 7z archive",
}
MAGIC_BYTES = 6


class Readable(Protocol):
    """A stream to read a tar file from."""

    def read(self, size: int, /) -> bytes: ...


_OPENERS: Final[dict[bytes, Callable[[Any], Readable]]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


@attrs.frozen
class Field:
    """One field of a sample.

    Attributes:
        key: Key of the sample.
        name: Name of the field, in lower case.
        offset: Position of its first byte in the tar file.
        size: Number of bytes.
    """

    key: str
    name: str
    offset: int
    size: int


class TarReader:
    """The fields of a tar file in order. Each may be read before the next is taken.

    Args:
        stream: Stream at the start of the tar file.
        num_bytes: Size of the file, if known.
        seek: Moves the stream to a position. None reads everything in between.
        on_skipped: Called with the reason and the name of every member that is not a field.
    """

    def __init__(
        self,
        stream: Readable,
        num_bytes: int | None = None,
        *,
        seek: Callable[[int], object] | None = None,
        on_skipped: Callable[[str, str], None] = lambda _, __: None,
    ) -> None:
        self.stream, self.num_bytes, self.seek, self.on_skipped = stream, num_bytes, seek, on_skipped
        self._position = 0

    def __iter__(self) -> Iterator[Field]:
        """Yield the fields in order.

        Raises:
            tarfile.ReadError: The file is not a tar file, is damaged or is truncated.
            DataError: The file contains something that cannot be read as a field, such as a link.
        """
        common: dict[str, bytes] = {}
        records: dict[str, bytes] = {}
        long_name: bytes | None = None
        while True:
            header, start = self._take(BLOCK), self._position - BLOCK
            if not any(header):
                if records or long_name is not None:
                    raise tarfile.ReadError(f"damaged at byte {start}: the end mark follows an extended header")
                self._expect_end()
                return
            _check_sum(header, start)
            kind, size = header[156:157], octal(header[124:136], start)
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                self._check_room(size, f"the extended header at byte {start}")
                if size > MAX_HEADER_BYTES:
                    raise tarfile.ReadError(
                        f"the extended header at byte {start} declares {size:,} bytes; "
                        f"expected at most {MAX_HEADER_BYTES:,}"
                    )
                content = self._take(size)
                self._move(self._position + -size % BLOCK)
                if kind == b"g":
                    common |= pax_records(content, start)
                elif kind == b"L":
                    long_name = content.partition(b"\0")[0]
                elif kind != b"K":
                    records |= pax_records(content, start)
                continue
            declared, long, records, long_name = common | records, long_name, {}, None
            name = member_name(header, long, declared)
            size = decimal(declared["size"], start) if declared.get("size") else size
            if kind in (b"0", b"\0", b"7") and name.endswith("/"):
                kind = b"5"
            if any(key.startswith("GNU.sparse.") for key in declared):
                kind = b"S"
            if kind in REFUSED:
                raise refusal(name, kind, header)
            if kind == b"5":
                continue  # a directory has no bytes, whatever its size field states
            self._check_room(size, repr(name))
            end = self._position + size + -size % BLOCK
            if kind in (b"0", b"\0", b"7"):
                key, field = split_name(name)
                if key:
                    yield Field(key, field, self._position, size)
                else:
                    self.on_skipped(field, name)
            elif kind == b"V":
                self.on_skipped("volume labels", name)
            elif kind != b"D":
                raise DataError(f"{name!r} is a member of the unknown type {kind!r}; write the shard again without it")
            self._move(end)

    def read(self, field: Field, limit: int = MAX_FIELD_BYTES) -> bytes:
        """Read the bytes of the field that was taken last.

        Raises:
            tarfile.ReadError: The field is truncated.
            DataError: The field is larger than the limit.
        """
        check_size(field.name, field.size, limit, field.key)
        return self._take(field.size, f"{field.key}.{field.name}")

    def pieces(self, field: Field) -> Iterator[bytes]:
        """Read the bytes of a field of any size in pieces."""
        end = field.offset + field.size
        while self._position < end:
            yield self._take(min(CHUNK, end - self._position), f"{field.key}.{field.name}")

    def _take(self, size: int, name: str = "") -> bytes:
        """Read exactly this many bytes."""
        data = self.stream.read(size) if size else b""
        while len(data) < size and (more := self.stream.read(size - len(data))):
            data += more
        if len(data) < size:
            what = f"{name!r} has {len(data):,} bytes of {size:,}" if name else "its end mark is missing"
            raise tarfile.ReadError(f"cut short: {what}")
        self._position += size
        return data

    def _move(self, position: int) -> None:
        if position == self._position:
            return
        if self.seek is not None:
            self.seek(position)
            self._position = position
        while self._position < position:
            self._take(min(CHUNK, position - self._position))

    def _check_room(self, size: int, name: str) -> None:
        """Raise ReadError if a member reaches beyond the end of the file."""
        if self.num_bytes is not None and size > self.num_bytes - self._position:
            left = self.num_bytes - self._position
            raise tarfile.ReadError(f"cut short or damaged: {name} declares {size:,} bytes, and {left:,} are left")

    def _expect_end(self) -> None:
        """Raise an error unless the first block of the end mark is followed by zeros only, and by at least some."""
        found = self._take(BLOCK)
        begun = self._position
        while not any(found):
            found = self.stream.read(CHUNK)
            if not found:
                return
            self._position += len(found)
            if self._position - begun > MAX_PADDING_BYTES:
                raise tarfile.ReadError(f"expected at most {MAX_PADDING_BYTES:,} zeros after the end mark, got more")
        start = self._position - len(found)
        place = next(number for number, byte in enumerate(found) if byte)
        begin = place - (start + place) % BLOCK
        header = found[begin : begin + BLOCK] if begin >= 0 else b""
        if len(header) == BLOCK and sums_up(header):
            raise DataError(
                f"a second archive begins at byte {start + begin:,}, after the end mark, which tar ignores; "
                "join archives with `tar --concatenate`, or make them separate shards"
            )
        raise tarfile.ReadError(f"damaged: bytes that are not zero at {start + place:,}, after the end mark")


def by_sample(fields: Iterable[Field], value: Callable[[Field], _T | None]) -> Iterator[tuple[str, dict[str, _T]]]:
    """Group fields by sample and yield key and fields of each sample in order.

    Args:
        fields: Fields of a tar file.
        value: Returns what to keep of a field, or None to drop it.

    Raises:
        DataError: The fields of one sample are not adjacent.
        tarfile.ReadError: A sample has one field twice.
    """
    keys: set[str] = set()
    names: set[str] = set()
    key: str | None = None
    kept: dict[str, _T] = {}
    for field in fields:
        if field.key != key:
            if key is not None:
                yield key, kept
            key, kept = field.key, {}
            names.clear()
            if key in keys:
                raise DataError(f"fields of {key!r} are not adjacent; sort the tar file by name and try again")
            keys.add(key)
        if field.name in names:
            raise tarfile.ReadError(f"{key!r} has the field {field.name!r} twice")
        names.add(field.name)
        content = value(field)
        if content is not None:
            kept[field.name] = content
    if key is not None:
        yield key, kept


def split_name(name: str) -> tuple[str, str]:
    """Split a member's name into key and field. If it is not a field, the key is empty and the second part says why.

    Example:
        >>> split_name("a/0001.Skeleton.JSON")
        ('a/0001', 'skeleton.json')
        >>> split_name("a/README")
        ('', 'files without an extension')
    """
    folder, slash, base = name.rpartition("/")
    if base.startswith("._"):
        return "", "AppleDouble files of macOS"
    if base.startswith("."):
        return "", "hidden files"
    if _RESERVED.match(name):
        return "", "names that WebDataset reserves"
    stem, _, extension = base.partition(".")
    if not extension:
        return "", "files without an extension"
    return f"{folder}{slash}{stem}", extension.lower()


def check_size(name: str, size: int, limit: int, key: str = "") -> None:
    """Raise DataError if a field is larger than `data.max_field_bytes` allows."""
    if size > limit:
        where = f"sample {key!r}: " if key else ""
        raise DataError(
            f"{where}field {name!r} declares {size:,} bytes; expected at most {limit:,}, the value of "
            "data.max_field_bytes; raise that key, or leave the file out"
        )


def compression(start: bytes) -> bytes | None:
    """Return the mark of a compression that shards may have, if a file starts with one."""
    return next((magic for magic in _OPENERS if start.startswith(magic)), None)


def uncompressed(stream: IO[bytes]) -> tuple[Readable, bool]:
    """Return the tar file within a stream, and whether it is compressed according to its first bytes."""
    start = stream.read(MAGIC_BYTES)
    whole = _Rejoined(start, stream)
    magic = compression(start)
    return (_OPENERS[magic](whole), True) if magic else (whole, False)


def check_end(file: IO[bytes]) -> int:
    """Return the size of a tar file on disk.

    Raises:
        tarfile.ReadError: The file starts as a tar file but has no end mark, like a file that was cut between two
        members.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 2 * BLOCK))
    whole = size >= 2 * BLOCK and not file.read().strip(b"\0")
    file.seek(0)
    header = b"" if whole else file.read(BLOCK)
    if not whole and (len(header) < BLOCK or sums_up(header)):
        raise tarfile.ReadError("cut short: its end mark is missing")
    file.seek(0)
    return size


def reason_of(error: BaseException) -> str:
    """Describe an error of `DAMAGE` in one phrase."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return said_by(error)


class _Rejoined:
    """A stream whose first bytes have already been read. It has no `seek` and `tell`, because nothing needs them."""

    def __init__(self, start: bytes, rest: Readable) -> None:
        self._start, self._rest = start, rest

    def read(self, size: int = -1, /) -> bytes:
        if not self._start:
            return self._rest.read(size)
        start = self._start if size < 0 else self._start[:size]
        self._start = self._start[len(start) :]
        return start + self._rest.read(size - len(start) if size >= 0 else -1)


def _check_sum(header: bytes, start: int) -> None:
    if sums_up(header):
        return
    if start:
        raise tarfile.ReadError(f"damaged: the header at byte {start:,} does not match its checksum")
    for magic, kind in _FOREIGN.items():
        if header.startswith(magic):
            raise tarfile.ReadError(f"expected a tar file, plain or compressed by gzip, bzip2 or xz, got {kind}")
    if compression(header):
        raise tarfile.ReadError("it is compressed, and an index needs the plain tar file; decompress it")
    raise tarfile.ReadError("expected a tar file, got something else, or its first header is damaged")
