"""Latents of sets of any size. Each process writes the files of its share, and all processes read all files.

Process r of W encodes the batches r, r + W, ... of BATCH_ROWS rows and writes them to safetensors files of FILE_ROWS
rows each. Files are read through memory maps, so no process holds more than the rows it requests, and processes of one
machine share the system's cache. A resumed process continues after its last complete file. Every file has a checksum
and the fingerprint of the run whose stage 1 made it.

Large sets store features in bfloat16, half of the bytes to write and to read. Means and log-variances of q(z | x) are
few and stay exact: the rounding of a mean may be as large as a narrow posterior.
"""

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from shala_framework.data.latent_store import Latents, LatentStore, join_latents
from shala_framework.support.checkpoint import read_checkpoint, write_checkpoint, write_file
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, read_json

BATCH_ROWS = 256
FILE_ROWS = 512 * BATCH_ROWS  # in memory while a file is written
BATCHES_AHEAD = 4  # of which a step's latents are loaded before it
DESCRIPTION = "latents.json"  # exists once all files are complete


def write_latents(
    folder: Path,
    rank: int,
    world_size: int,
    encode: Callable[[int, int], Iterator[LatentStore]],
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    fingerprint: str = "",
    features_dtype: torch.dtype = torch.float32,
) -> None:
    """Write the missing files of one process's share.

    Args:
        folder: Folder of all latents of a run.
        rank: Rank of this process.
        world_size: Number of processes.
        encode: Receives the number of rows of a batch and the number of this process's batches to skip. Returns the
            latents of the other batches in order. The last batch of the set may have fewer rows.
        on_rows: Called with the number of this process's rows so far.
        fingerprint: Fingerprint of the run, which every file records.
        features_dtype: Number format of stored features.
    """
    folder.mkdir(exist_ok=True)
    own = _part(folder, rank, world_size)
    sound = 0
    while _is_sound(_file(own, sound), fingerprint):
        sound += 1
    number = max(0, sound - 1)  # the last one may or may not have been the end of the share
    for path in _files(own):
        if path >= _file(own, number):
            path.unlink()
    done, waiting = number * FILE_ROWS, []
    for latents in encode(BATCH_ROWS, number * FILE_ROWS // BATCH_ROWS):
        waiting.append(latents)
        done += len(latents)
        on_rows(done)
        if sum(map(len, waiting)) >= FILE_ROWS:
            _write(_file(own, number), waiting, fingerprint, features_dtype)
            number, waiting = number + 1, []
    if waiting:
        _write(_file(own, number), waiting, fingerprint, features_dtype)


def finish_latents(folder: Path, world_size: int, *, fingerprint: str = "") -> None:
    """Record that all files are complete, and remove files that other numbers of processes began."""
    parts = [_part(folder, rank, world_size) for rank in range(world_size)]
    rows, presence = [], torch.zeros(())
    for part in parts:
        files = [_read(path, fingerprint) for path in _files(part)]
        rows.append(sum(map(len, files)))
        presence = sum((file.presence_NM.sum(0) for file in files), presence)
    content = {"fingerprint": fingerprint, "rows": rows, "presence": [int(n) for n in presence.flatten().tolist()]}
    write_file(folder / DESCRIPTION, dump_json(content))
    for other in folder.iterdir():
        if other.is_dir() and other not in parts:
            shutil.rmtree(other, ignore_errors=True)


def read_latent_counts(folder: Path) -> tuple[int, list[int]]:
    """Return the number of rows and how many of them have each modality, from the description alone.

    Raises:
        CheckpointError: The description is missing or damaged.
    """
    described = _describe(folder)
    return sum(described["rows"]), list(described["presence"])


class LatentFiles:
    """Latents in the files of a folder.

    Args:
        folder: Folder of all latents of a run.
        fingerprint: Fingerprint of the run that they must belong to.

    Raises:
        CheckpointError: A file is missing, damaged or belongs to another run.
    """

    def __init__(self, folder: Path, *, fingerprint: str = "") -> None:
        described = _describe(folder)
        if described["fingerprint"] != fingerprint:
            raise CheckpointError(f"{folder / DESCRIPTION} belongs to another run; {_advice(folder)}")
        self.counts: list[int] = described["rows"]
        self.world_size = len(self.counts)
        self.parts = [
            [_read(path, fingerprint) for path in _files(_part(folder, rank, self.world_size))]
            for rank in range(self.world_size)
        ]
        for rank, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
            found = [len(file) for file in part]
            if sum(found) != count or any(rows != FILE_ROWS for rows in found[:-1]):
                where = _part(folder, rank, self.world_size)
                expected = f"{count} rows, {FILE_ROWS} in each file but the last"
                raise CheckpointError(f"{where}: expected {expected}, got {found}; {_advice(folder)}")

    @classmethod
    def exist(cls, folder: Path) -> bool:
        """Return whether all files have been written."""
        return (folder / DESCRIPTION).exists()

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def num_bytes(self) -> int:
        """Number of bytes that all rows take in memory."""
        files = (file for part in self.parts for file in part)
        values = (value for file in files for value in attrs.astuple(file, recurse=False))
        return sum(value.numel() * (4 if value.is_floating_point() else value.itemsize) for value in values)

    def take(self, rows: Tensor) -> LatentStore:
        """Load some rows, by number in the order of the data, into memory, in float32."""
        batch_B = rows // BATCH_ROWS
        place_B = batch_B // self.world_size * BATCH_ROWS + rows % BATCH_ROWS  # within the part
        key_B = batch_B % self.world_size + self.world_size * (place_B // FILE_ROWS)
        found, positions = [], []
        for key in key_B.unique().tolist():
            (at,) = (key_B == key).nonzero(as_tuple=True)
            number, rank = divmod(key, self.world_size)
            found.append(self.parts[rank][number].take(place_B[at] % FILE_ROWS))
            positions.append(at)
        taken = join_latents(found).take(torch.cat(positions).argsort())
        return attrs.evolve(taken, h_NMF=taken.h_NMF.float(), hidden_NKHF=taken.hidden_NKHF.float())

    def presence_counts(self) -> list[int]:
        """Number of rows that have each modality."""
        return sum(file.presence_NM.sum(0) for part in self.parts for file in part).tolist()  # type: ignore[union-attr]


def taken_ahead(latents: Latents, batches: Iterator[Tensor]) -> Iterator[LatentStore]:
    """Load the rows of each batch of row numbers, in a thread that is ahead by some batches."""
    with ThreadPoolExecutor(1, "latents") as reader:
        waiting = deque(reader.submit(latents.take, rows) for rows in islice(batches, BATCHES_AHEAD))
        while waiting:
            taken = waiting.popleft().result()
            waiting.extend(reader.submit(latents.take, rows) for rows in islice(batches, 1))
            yield taken


def _part(folder: Path, rank: int, world_size: int) -> Path:
    return folder / f"{rank}-of-{world_size}"


def _file(part: Path, number: int) -> Path:
    return part / f"{number:06}.safetensors"


def _files(part: Path) -> list[Path]:
    return sorted(part.glob("*.safetensors"))


def _write(path: Path, latents: list[LatentStore], fingerprint: str, features_dtype: torch.dtype) -> None:
    description = {"kind": "latents", "file": _name(path), "fingerprint": fingerprint}
    tensors = attrs.asdict(join_latents(latents), recurse=False)
    for name in ("h_NMF", "hidden_NKHF"):
        tensors[name] = tensors[name].to(features_dtype)
    if not tensors["hidden_NKHF"].numel():
        del tensors["hidden_NKHF"]
    write_checkpoint(path, tensors, description)


def _read(path: Path, fingerprint: str) -> LatentStore:
    try:
        tensors, description = read_checkpoint(path, fingerprint)
        found: Any = description.get("file")
        if found != _name(path):
            raise CheckpointError(f"{path} holds the latents of {found!r}, not those that its name states")
        return LatentStore(**tensors)
    except (CheckpointError, TypeError) as error:
        raise CheckpointError(f"{error}; {_advice(path.parents[1])}") from error


def _is_sound(path: Path, fingerprint: str) -> bool:
    try:
        return bool(len(_read(path, fingerprint)))
    except CheckpointError:
        return False


def _name(path: Path) -> str:
    """Return the position of a file among the latents, which prevents swapped files from being accepted."""
    return f"{path.parent.name}/{path.name}"


def _describe(folder: Path) -> dict[str, Any]:
    shape = {"fingerprint": str, "rows": [int], "presence": [int]}
    described: dict[str, Any] = read_json(folder / DESCRIPTION, shape, error=CheckpointError, advice=_advice(folder))
    return described


def _advice(folder: Path) -> str:
    return f"remove {folder} and repeat the run's command, which encodes the training set again"
