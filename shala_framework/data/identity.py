"""Recognise shards that were packed again since a run began, by a record in the run's folder.

Indexed shards are compared by the checksums in their index, which cover every byte. Shards without an index are
compared by names, sizes and positions of all fields, and also by their bytes if the set has no more than `MOST_BYTES`.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.random_access import index_shards
from shala_framework.data.shard_cache import CopyFolder
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.urls import local_path

MOST_BYTES = 1 << 28  # size up to which shards without an index are read completely for the comparison
MOST_LISTED = 3
Shards = list[dict[str, Any]]
_SHAPE = [{"name": str, "num_bytes": int, "num_samples": int, "content": str}]


def describe_shards(urls: Sequence[str], cache: CopyFolder | None = None) -> Shards:
    """Return name, size, number of samples and content of each shard.

    Raises:
        DataError: A shard is missing, truncated, or does not match its index.
    """
    shards = index_shards(urls, cache)
    names = [url.rpartition("/")[2] for url in urls]
    if shards is None:  # behind a URL without an index: everything would have to be read
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
    """Return what distinguishes two shards of equal size. The first word names the method."""
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
    """List the differences between two descriptions, one line for each of the first shards that differ."""
    if [shard["name"] for shard in then] != [shard["name"] for shard in now]:
        return [f"{_names(then)} before, {_names(now)} now"]
    lines = []
    for old, new in zip(then, now, strict=True):
        sizes = [(shard["num_samples"], shard["num_bytes"]) for shard in (old, new)]
        kinds = [shard["content"].partition(" ")[0] for shard in (old, new)]
        if -1 in sizes[0] or -1 in sizes[1]:
            continue
        if sizes[0] != sizes[1]:
            told = [f"{samples} samples in {size} bytes" for samples, size in sizes]
            lines.append(f"{old['name']}: {told[0]} before, {told[1]} now")
        elif kinds[0] == kinds[1] and old["content"] != new["content"]:
            lines.append(f"{old['name']}: same size, different content")
    more = [f"and {len(lines) - MOST_LISTED} more"] if len(lines) > MOST_LISTED else []
    return lines[:MOST_LISTED] + more


def _names(shards: Shards) -> str:
    names = [shard["name"] for shard in shards]
    return ", ".join(names[:MOST_LISTED]) + (
        f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    )


def read_record(path: Path, warn: Callable[[str], None]) -> dict[str, Shards] | None:
    """Read the record of an earlier call. Return None if there is none, or if it is damaged, after a warning."""
    if not path.exists():
        return None
    try:
        advice = "it is unknown whether the shards have changed since; the record is rewritten"
        found: dict[str, Shards] = read_json(
            path, {"train": _SHAPE, "validation": _SHAPE}, error=CheckpointError, advice=advice
        )
        return found
    except CheckpointError as error:
        warn(str(error))
        return None


def write_record(path: Path, shards: dict[str, Shards]) -> None:
    """Save the record of this call."""
    write_file(path, dump_json(shards, indent=1))
