"""Which shards a run began with: a record in its folder, by which shards that were packed again are recognised.

Indexed shards are compared by the checksums in their index, which cover every byte. Of others, names, sizes and places
of all fields are compared, and the bytes themselves where the set has no more than `MOST_BYTES` of them.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shala_framework.data.random_access import IndexedShards, index_shards
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.urls import local_path

MOST_BYTES = 1 << 28  # of shards without an index that are read from end to end for this
MOST_LISTED = 3
Shards = list[dict[str, Any]]
_SHAPE = [{"name": str, "num_bytes": int, "num_samples": int, "content": str}]


def describe_shards(urls: Sequence[str], cache: Path | None = None) -> Shards:
    """Name, size, number of samples and content of each shard.

    Raises:
        DataError: A shard is absent, cut short, or not what an index says.
    """
    shards = index_shards(urls, cache)
    names = [url.rpartition("/")[2] for url in urls]
    if shards is None:  # behind a URL without an index: nothing is known before all of it is read
        return [{"name": name, "num_bytes": -1, "num_samples": -1, "content": ""} for name in names]
    read_all = sum(shards.num_bytes) <= MOST_BYTES
    return [
        {
            "name": name,
            "num_bytes": shards.num_bytes[number],
            "num_samples": shards.counts[number],
            "content": _content(shards, number, read_all),
        }
        for number, name in enumerate(names)
    ]


def _content(shards: IndexedShards, number: int, read_all: bool) -> str:
    """What tells two shards of one size apart; its first word says how it was found."""
    if number not in shards.scanned:
        checksum = shards.index_checksums[number]
        return f"index {checksum}" if checksum else ""
    if read_all:
        total = 0
        with local_path(shards.urls[number]).open("rb") as file:
            while chunk := file.read(1 << 20):
                total = zlib.crc32(chunk, total)
        return f"bytes {total:08x}"
    return f"layout {zlib.crc32(repr(shards.scanned[number].samples).encode()):08x}"


def compare_shards(then: Shards, now: Shards) -> list[str]:
    """What differs between two descriptions, one line for each of the first shards; empty where nothing does."""
    if [shard["name"] for shard in then] != [shard["name"] for shard in now]:
        return [f"{_names(then)} then, {_names(now)} now"]
    lines = []
    for old, new in zip(then, now, strict=True):
        sizes = [(shard["num_samples"], shard["num_bytes"]) for shard in (old, new)]
        kinds = [shard["content"].partition(" ")[0] for shard in (old, new)]
        if -1 in sizes[0] or -1 in sizes[1]:
            continue
        if sizes[0] != sizes[1]:
            told = [f"{samples} samples in {size} bytes" for samples, size in sizes]
            lines.append(f"{old['name']}: {told[0]} then, {told[1]} now")
        elif kinds[0] == kinds[1] and old["content"] != new["content"]:
            lines.append(f"{old['name']}: of the same size, with other content")
    more = [f"and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    return lines[:MOST_LISTED] + more


def _names(shards: Shards) -> str:
    names = [shard["name"] for shard in shards]
    return ", ".join(names[:MOST_LISTED]) + (
        f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    )


def read_record(path: Path, warn: Callable[[str], None]) -> dict[str, Shards] | None:
    """The record of an earlier call; None where there is none, or a damaged one, of which the user is told."""
    if not path.exists():
        return None
    try:
        advice = "whether the shards have changed since is not known; it is written again"
        found: dict[str, Shards] = read_json(
            path, {"train": _SHAPE, "validation": _SHAPE}, error=CheckpointError, advice=advice
        )
        return found
    except CheckpointError as error:
        warn(str(error))
        return None


def write_record(path: Path, shards: dict[str, Shards]) -> None:
    """Keep the record of this call."""
    write_file(path, dump_json(shards, indent=1))
