"""The index of a set of shards: its samples with their fields, and the position and checksum of each field.

`index.json` in the shards' folder states the length of every shard. `<shard>.index.json` next to each shard lists its
samples and is read together with the shard. With an index, a truncated or changed shard is an error rather than a
missing modality, an epoch has a known length, and any sample can be read on its own. A local shard without an index is
scanned for the same information, except checksums. Each index file has its own checksum, and `index.json` also has the
checksums of the shards' indexes.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import attrs

from shala_framework.data.tally import Tally
from shala_framework.data.tar import (
    DAMAGE,
    MAX_FIELD_BYTES,
    Field,
    TarReader,
    by_sample,
    check_end,
    check_size,
    reason_of,
)
from shala_framework.support.checkpoint import write_file
from shala_framework.support.checksums import FIELD, ZEROS, add_checksum, checksum_of
from shala_framework.support.errors import DataError
from shala_framework.support.json_files import check_shape, parse_json

INDEX_FILE = "index.json"
_SUFFIX = ".index.json"
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tar\.[a-z0-9]+)$", re.IGNORECASE)
_VERSION = 2  # version 1 had no checksums of the index files themselves
_SHARD_SHAPE = {"num_bytes": int, "samples": [list]}


@attrs.frozen
class Member:
    """Position of one field of a sample in its shard.

    Attributes:
        offset: Position of its first byte.
        size: Number of bytes.
        crc32: CRC-32 of the bytes; None if they have not been read.
    """

    offset: int
    size: int
    crc32: int | None = None


@attrs.frozen
class ShardIndex:
    """Content of one shard.

    Attributes:
        num_bytes: Size of the shard.
        samples: Key, and field to member, of each sample in order.
        shard: Name of the shard without its ending; empty if unknown.
    """

    num_bytes: int
    samples: tuple[tuple[str, dict[str, Member]], ...]
    shard: str = ""

    def to_json(self) -> bytes:
        """Format one line per sample, for human readers."""
        lines = [
            json.dumps([key, {name: [m.offset, m.size, m.crc32] for name, m in fields.items()}])
            for key, fields in self.samples
        ]
        head = (
            f'{{"{FIELD}": "{ZEROS}", "shard": {json.dumps(self.shard)}, "num_bytes": {self.num_bytes}, "samples": [\n'
        )
        return add_checksum(head.encode() + ",\n".join(lines).encode() + b"\n]}\n")

    @classmethod
    def from_json(cls, content: bytes) -> "ShardIndex":
        """Parse the result of `to_json`. An index without a checksum is from an earlier version.

        Raises:
            ValueError: The content is not an index, or is damaged.
        """
        found = parse_json(content, {"shard": str, **_SHARD_SHAPE}, earlier=_SHARD_SHAPE)
        try:
            num_bytes = found["num_bytes"]
            samples = tuple(
                (str(key), {str(name): Member(*member) for name, member in fields.items()})
                for key, fields in found["samples"]
            )
            for key, fields in samples:
                for name, member in fields.items():
                    if not (member.offset >= 0 and 0 <= member.size <= num_bytes - member.offset):
                        raise ValueError(f"field {name!r} of {key!r} lies outside the shard")
            return cls(num_bytes, samples, found.get("shard", ""))
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"not the index of a shard: {error}") from error


class Listed(NamedTuple):
    """Entry of a shard in `index.json`.

    Attributes:
        num_bytes: Length of the shard.
        num_samples: Number of its samples.
        index_checksum: Checksum of the shard's own index; empty if an earlier version wrote the file.
    """

    num_bytes: int
    num_samples: int
    index_checksum: str = ""


def shard_index_name(shard: str) -> str:
    """Return the name of a shard's own index: "a/b-000.tar" to "a/b-000.index.json"."""
    return shard.removesuffix(".tar") + _SUFFIX


def scan_shard(file: BinaryIO, *, sums: bool = False, tally: Tally | None = None) -> ShardIndex:
    """Scan a tar file. Fields are skipped by seeking unless checksums are wanted.

    Args:
        file: File of the shard, on disk.
        sums: Whether to read the fields for their checksums.
        tally: Counts members that are not fields.

    Raises:
        tarfile.TarError: The file is not a tar file, is truncated or damaged, or a sample has one field twice.
        DataError: One key appears in two places, or a member would be lost, such as a link.
    """
    num_bytes = check_end(file)
    reader = TarReader(file, num_bytes, seek=file.seek, on_skipped=(Tally() if tally is None else tally).skip)

    def member(field: Field) -> Member:
        crc32 = None
        if sums:
            crc32 = 0
            for piece in reader.pieces(field):
                crc32 = zlib.crc32(piece, crc32)
        return Member(field.offset, field.size, crc32)

    return ShardIndex(num_bytes, tuple(by_sample(reader, member)))


LEAST_READING = 1 << 14  # fewer bytes than this do not justify a separate read


class Seekable(Protocol):
    """A file, or a part of one, that is read by positions."""

    def seek(self, position: int, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


def read_sample(
    file: Seekable,
    fields: Mapping[str, Member],
    wanted: Iterable[str] | None = None,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> dict[str, bytes]:
    """Read all fields of a sample, or those of `wanted` that it has.

    Raises:
        ValueError: A field is truncated, or its checksum differs.
        DataError: A field is larger than allowed.
    """
    found: dict[str, bytes] = {}
    names = set(fields) if wanted is None else set(wanted)
    chosen = {name: member for name, member in fields.items() if name in names}
    start = min((member.offset for member in chosen.values()), default=0)
    end = max((member.offset + member.size for member in chosen.values()), default=0)
    if end - start > max_field_bytes:  # no field is larger than all of them together
        for name, member in chosen.items():
            check_size(name, member.size, max_field_bytes)
    # The fields are adjacent, and over a network one read is faster than many.
    together = end - start <= 2 * sum(member.size for member in chosen.values()) + LEAST_READING
    if together and chosen:
        file.seek(start)
        span = file.read(end - start)
    for name, member in chosen.items():
        if together:
            data = span[member.offset - start : member.offset - start + member.size]
        else:
            file.seek(member.offset)
            data = file.read(member.size)
        if len(data) < member.size:
            raise ValueError(f"field {name!r} is cut short: {len(data)} bytes of {member.size}")
        if member.crc32 is not None and zlib.crc32(data) != member.crc32:
            raise ValueError(f"field {name!r} does not match the index: its checksum differs")
        found[name] = data
    return found


def write_summary(folder: Path, lengths: Mapping[str, Listed], name: str = INDEX_FILE, *, owner: str = "") -> None:
    """Write `index.json`.

    Args:
        folder: Folder of the shards.
        lengths: Name of each shard to its entry.
        name: Name of the file, for the index of a part.
        owner: Name of the writer, if several may write at once.
    """
    lines = [
        f'{json.dumps(name)}: {{"num_bytes": {num_bytes}, "num_samples": {num_samples}, "index": "{checksum}"}}'
        for name, (num_bytes, num_samples, checksum) in lengths.items()
    ]
    head = f'{{"{FIELD}": "{ZEROS}", "version": {_VERSION}, "shards": {{\n'
    write_file(folder / name, add_checksum((head + ",\n".join(lines) + "\n}}\n").encode()), owner=owner)


def parse_summary(content: bytes, source: str) -> dict[str, Listed]:
    """Parse the result of `write_summary`.

    Args:
        content: Content of the file.
        source: Name of the file, for errors.

    Raises:
        DataError: The file is damaged, or of a later version.
    """
    shard = {"num_bytes": int, "num_samples": int}
    earlier = {"version": int, "shards": {str: shard}}
    try:
        found = parse_json(content, {"version": int}, earlier=earlier)
        if found["version"] > _VERSION:
            raise DataError(f"{source}: expected version {_VERSION} of the index, got {found['version']}; update shala")
        if found["version"] == _VERSION:
            check_shape(found, {"version": int, "shards": {str: {**shard, "index": str}}})
        else:
            check_shape(found, earlier)
    except ValueError as error:
        raise DataError(f"{source}: not an index of shards, or damaged: {error}; `shala index` makes one") from error
    return {
        name: Listed(of["num_bytes"], of["num_samples"], of.get("index", "")) for name, of in found["shards"].items()
    }


def write_index(
    folder: Path, on_shard: Callable[[int], None] = lambda _: None, tally: Tally | None = None
) -> dict[str, Listed]:
    """Write a new index of every shard of a folder, including checksums.

    Args:
        folder: Folder of the shards, which are read from end to end.
        on_shard: Called with the number of shards done so far.
        tally: Counts members of the shards that are not fields.

    Returns:
        Name of each shard to its entry.

    Raises:
        DataError: There is no shard, or one of them cannot be read. No `index.json` is left in that case.
    """
    shards = sorted(folder.glob("*.tar"))
    if not shards:
        packed = sorted(path.name for path in folder.iterdir() if _COMPRESSED.search(path.name))
        hint = f"; {packed[0]} is compressed, and an index needs plain tar files: decompress them" if packed else ""
        raise DataError(f"{folder}: expected shards (*.tar), found none{hint}")
    (folder / INDEX_FILE).unlink(missing_ok=True)
    lengths = {}
    for done, shard in enumerate(shards, 1):
        try:
            with shard.open("rb") as file:
                index = scan_shard(file, sums=True, tally=tally)
        except DataError as error:
            raise DataError(f"{shard}: {error}") from error
        except DAMAGE as error:
            raise DataError(f"{shard}: not a readable shard: {reason_of(error)}; copy or pack it again") from error
        content = attrs.evolve(index, shard=shard.stem).to_json()
        write_file(Path(shard_index_name(str(shard))), content)
        lengths[shard.name] = Listed(index.num_bytes, len(index.samples), checksum_of(content))
        on_shard(done)
    write_summary(folder, lengths)
    return lengths
