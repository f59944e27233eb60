"""The index of a set of shards: which samples each holds, which fields each sample has, where they lie and their sums.

`index.json` in the shards' folder has the length of every shard; `<shard>.index.json` beside each shard, read when the
shard is, has its samples. With them a cut or changed shard is an error and never a missing modality, an epoch has a
known length, and any sample can be read by itself. A local shard without an index is looked through for the same, sums
excepted. Each of these files has a checksum of itself, and `index.json` those of the shards' own.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

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
    """Where one field of a sample lies in its shard.

    Attributes:
        offset: Of its first byte.
        size: Bytes.
        crc32: Of the bytes; None where they have not been read.
    """

    offset: int
    size: int
    crc32: int | None = None


@attrs.frozen
class ShardIndex:
    """What one shard holds.

    Attributes:
        num_bytes: Its size.
        samples: Key, and field to member, of each sample in order.
        shard: Name of the shard without its ending; empty where it is not known.
    """

    num_bytes: int
    samples: tuple[tuple[str, dict[str, Member]], ...]
    shard: str = ""

    def to_json(self) -> bytes:
        """One line a sample, so that a person can look at it too."""
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
        """The inverse of `to_json`; an index without a checksum is an earlier version's.

        Raises:
            ValueError: It is something else, or damaged.
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
            raise ValueError(f"no index of a shard: {error}") from error


class Listed(NamedTuple):
    """What `index.json` says of a shard.

    Attributes:
        num_bytes: Length of the shard.
        num_samples: Number of its samples.
        index_checksum: Checksum of the shard's own index; empty where an earlier version wrote the file.
    """

    num_bytes: int
    num_samples: int
    index_checksum: str = ""


def shard_index_name(shard: str) -> str:
    """Where a shard's own index is: "a/b-000.tar" to "a/b-000.index.json"."""
    return shard.removesuffix(".tar") + _SUFFIX


def scan_shard(file: BinaryIO, *, sums: bool = False, tally: Tally | None = None) -> ShardIndex:
    """Look through a tar file, whose fields are seeked over unless sums are wanted.

    Args:
        file: Of the shard, on disk.
        sums: Whether to read the fields for their checksums.
        tally: Counts members that are no fields.

    Raises:
        tarfile.TarError: It is no tar file, is cut short or damaged, or a sample has one field twice.
        DataError: One key stands in two places, or a member would be lost, such as a link.
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


LEAST_READING = 1 << 14  # bytes that are not worth a reading of their own


def read_sample(
    file: BinaryIO,
    fields: Mapping[str, Member],
    wanted: Iterable[str] | None = None,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> dict[str, bytes]:
    """Bytes of a sample's fields, or of those wanted that it has.

    Raises:
        ValueError: A field is cut short, or its sum is another.
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
    # Fields lie side by side: one reading over a network is faster than many.
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
            raise ValueError(f"field {name!r} is not what the index says: another checksum")
        found[name] = data
    return found


def write_summary(folder: Path, lengths: Mapping[str, Listed], name: str = INDEX_FILE, *, owner: str = "") -> None:
    """Write `index.json`.

    Args:
        folder: Of the shards.
        lengths: Name of each shard to what is said of it.
        name: Of the file, for the index of a part.
        owner: Who writes it, where several may at once.
    """
    lines = [
        f'{json.dumps(name)}: {{"num_bytes": {num_bytes}, "num_samples": {num_samples}, "index": "{checksum}"}}'
        for name, (num_bytes, num_samples, checksum) in lengths.items()
    ]
    head = f'{{"{FIELD}": "{ZEROS}", "version": {_VERSION}, "shards": {{\n'
    write_file(folder / name, add_checksum((head + ",\n".join(lines) + "\n}}\n").encode()), owner=owner)


def parse_summary(content: bytes, source: str) -> dict[str, Listed]:
    """The inverse of `write_summary`.

    Args:
        content: Of the file.
        source: Its name, for errors.

    Raises:
        DataError: It is damaged, or of a later version.
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
    """Write the index of every shard of a folder anew, checksums included.

    Args:
        folder: Of the shards, which are read from end to end.
        on_shard: Called with the number of shards done so far.
        tally: Counts members of the shards that are no fields.

    Returns:
        Name of each shard to what is said of it.

    Raises:
        DataError: There is no shard, or one of them cannot be read; then no `index.json` is left.
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
