"""Latents of sets of any size: every process writes the files of its share, and all of them read all files.

Process r of W encodes the batches r, r + W, ... of BATCH_ROWS rows and writes them to safetensors files of FILE_ROWS
rows each. Files are read where they lie, by memory maps, so that no process holds more than the rows it asks for, and
processes of one machine share what the system has cached. A process that is stopped goes on after its whole files.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from shala_framework.checkpoint import read_checkpoint, write_checkpoint, write_file
from shala_framework.data.latents import LatentStore, join_latents
from shala_framework.errors import CheckpointError

BATCH_ROWS = 256
FILE_ROWS = 512 * BATCH_ROWS  # held in memory while they are written
DESCRIPTION = "latents.json"  # is there once all files are


def write_latents(
    folder: Path,
    rank: int,
    world_size: int,
    encode: Callable[[int, int], Iterator[LatentStore]],
    on_rows: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the files of one process's share, those that are not there yet.

    Args:
        folder: Of all latents of a run.
        rank: Of this process.
        world_size: Number of processes.
        encode: Given the rows of a batch and how many of this process's batches to leave out, the latents of the others
            in order; the set's last batch may have fewer rows.
        on_rows: Told the number of this process's rows so far.
    """
    own = _part(folder, rank, world_size)
    number = 0
    while _file(own, number + 1).exists():  # the last one may have been the share's end, or not
        number += 1
    done, waiting = number * FILE_ROWS, []
    for latents in encode(BATCH_ROWS, number * FILE_ROWS // BATCH_ROWS):
        waiting.append(latents)
        done += len(latents)
        on_rows(done)
        if sum(map(len, waiting)) >= FILE_ROWS:
            _write(_file(own, number), waiting)
            number, waiting = number + 1, []
    if waiting:
        _write(_file(own, number), waiting)


def finish_latents(folder: Path, world_size: int) -> None:
    """Say that all files are there, and remove those that other numbers of processes began."""
    parts = [_part(folder, rank, world_size) for rank in range(world_size)]
    rows = [sum(len(_read(path)) for path in _files(part)) for part in parts]
    write_file(folder / DESCRIPTION, json.dumps({"rows": rows}).encode())
    for other in folder.iterdir():
        if other.is_dir() and other not in parts:
            shutil.rmtree(other, ignore_errors=True)


class LatentFiles:
    """Latents in the files of a folder.

    Raises:
        CheckpointError: A file is absent or damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.counts: list[int] = json.loads((folder / DESCRIPTION).read_text())["rows"]
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{folder / DESCRIPTION}: {error}; {_advice(folder)}") from error
        self.world_size = len(self.counts)
        self.parts = [
            [_read(path) for path in _files(_part(folder, rank, self.world_size))] for rank in range(self.world_size)
        ]
        for rank, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
            found = [len(file) for file in part]
            if sum(found) != count or any(rows != FILE_ROWS for rows in found[:-1]):
                where = _part(folder, rank, self.world_size)
                expected = f"{count} rows, {FILE_ROWS} in each file but the last"
                raise CheckpointError(f"{where}: expected {expected}, got {found}; {_advice(folder)}")

    @classmethod
    def exist(cls, folder: Path) -> bool:
        """Whether all have been written."""
        return (folder / DESCRIPTION).exists()

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def num_bytes(self) -> int:
        """Of all files' tensors."""
        files = (file for part in self.parts for file in part)
        return sum(value.nbytes for file in files for value in attrs.astuple(file, recurse=False))

    def take(self, rows: Tensor) -> LatentStore:
        """Some rows, by number in the order of the data, in memory."""
        batch_B = rows // BATCH_ROWS
        place_B = batch_B // self.world_size * BATCH_ROWS + rows % BATCH_ROWS  # within the part
        key_B = batch_B % self.world_size + self.world_size * (place_B // FILE_ROWS)
        found, positions = [], []
        for key in key_B.unique().tolist():
            (at,) = (key_B == key).nonzero(as_tuple=True)
            number, rank = divmod(key, self.world_size)
            found.append(self.parts[rank][number].take(place_B[at] % FILE_ROWS))
            positions.append(at)
        return join_latents(found).take(torch.cat(positions).argsort())

    def presence_counts(self) -> list[int]:
        """How many rows have each modality."""
        return sum(file.presence_NM.sum(0) for part in self.parts for file in part).tolist()  # type: ignore[union-attr]


def _part(folder: Path, rank: int, world_size: int) -> Path:
    return folder / f"{rank}-of-{world_size}"


def _file(part: Path, number: int) -> Path:
    return part / f"{number:06}.safetensors"


def _files(part: Path) -> list[Path]:
    return sorted(part.glob("*.safetensors"))


def _write(path: Path, latents: list[LatentStore]) -> None:
    write_checkpoint(path, attrs.asdict(join_latents(latents), recurse=False), {"kind": "latents"})


def _read(path: Path) -> LatentStore:
    tensors: dict[str, Any] = read_checkpoint(path)[0]
    try:
        return LatentStore(**tensors)
    except TypeError as error:
        raise CheckpointError(f"{path} holds no latents: {error}; {_advice(path.parents[1])}") from error


def _advice(folder: Path) -> str:
    return f"remove {folder} and repeat the run's command, which encodes the training set again"
