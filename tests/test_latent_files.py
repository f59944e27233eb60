"""Latents in files are read as written, by any number of processes and after any interruption, or refused."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
import torch

from shala_framework.data import latent_files
from shala_framework.data.latent_files import DESCRIPTION, LatentFiles, finish_latents, taken_ahead, write_latents
from shala_framework.data.latent_store import LatentStore, latent_statistics
from shala_framework.run import latents as run_latents
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.support.checkpoint import read_checkpoint
from shala_framework.support.errors import CheckpointError

pytestmark = pytest.mark.long

NUM_ROWS = 53


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_files, "BATCH_ROWS", 4)
    monkeypatch.setattr(latent_files, "FILE_ROWS", 12)


@pytest.fixture
def rows() -> LatentStore:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(NUM_ROWS, *shape, generator=generator) for shape in ((2,), (2,), (3, 5))]
    return LatentStore(*draws, torch.rand(NUM_ROWS, 3, generator=generator) < 0.6)


def share(rows: LatentStore, rank: int, world_size: int, num_rows: int, start: int) -> Iterator[LatentStore]:
    batches = torch.arange(len(rows)).split(num_rows)[rank::world_size]
    return (rows.take(index) for index in batches[start:])


def write(folder: Path, rows: LatentStore, world_size: int) -> LatentFiles:
    for rank in range(world_size):
        write_latents(folder, rank, world_size, partial(share, rows, rank, world_size))
    finish_latents(folder, world_size)
    return LatentFiles(folder)


def assert_equal(a: LatentStore, b: LatentStore) -> None:
    for one, other in zip(attrs.astuple(a, recurse=False), attrs.astuple(b, recurse=False), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("world_size", [1, 3, 20])
def test_any_rows_are_read_for_any_number_of_writers(tmp_path, rows, world_size):
    """Rows are read in any order and repeatedly; statistics equal those of rows in memory to the last bit."""
    files = write(tmp_path / "latents", rows, world_size)
    assert len(files) == NUM_ROWS
    assert_equal(files.take(torch.arange(NUM_ROWS)), rows)
    chosen = torch.randint(NUM_ROWS, (200,), generator=torch.Generator().manual_seed(1))
    assert_equal(files.take(chosen), rows.take(chosen))
    assert files.presence_counts() == rows.presence_NM.sum(0).tolist()
    assert files.num_bytes == NUM_ROWS * (4 * (2 + 2 + 15) + 3)
    for one, other in zip(latent_statistics(files)[:-1], latent_statistics(rows)[:-1], strict=True):
        assert torch.equal(one, other)


def test_what_is_written_is_not_encoded_again(tmp_path, rows):
    """A stopped process resumes after its complete files; files begun by another number of processes are removed."""
    folder = tmp_path / "latents"
    write_latents(folder, 1, 2, partial(share, rows, 1, 2))
    starts = []

    def encode(num_rows: int, start: int, most: int = NUM_ROWS) -> Iterator[LatentStore]:
        starts.append(start)
        for number, batch in enumerate(share(rows, 0, 1, num_rows, start)):
            if number == most:
                raise KeyboardInterrupt
            yield batch

    with pytest.raises(KeyboardInterrupt):
        write_latents(folder, 0, 1, partial(encode, most=8))
    assert not LatentFiles.exist(folder)
    write_latents(folder, 0, 1, encode)
    finish_latents(folder, 1)
    assert starts == [0, 3]  # each file has three batches, and the second file may have been the end
    assert_equal(LatentFiles(folder).take(torch.arange(NUM_ROWS)), rows)
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["0-of-1"]


@pytest.mark.parametrize("damage", ["absent", "cut", "foreign", "swapped", "description"])
def test_damaged_files_are_named(tmp_path, rows, damage):
    """The error says what to do; other rows than the written ones are never read."""
    folder = tmp_path / "latents"
    write(folder, rows, 1)
    path = folder / "0-of-1" / "000002.safetensors"
    if damage == "absent":
        path.unlink()
        expected = (
            r"0-of-1: expected 53 rows, 12 in each .*, got \[12, 12, 12, 5\]; remove .*latents and repeat the run"
        )
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-10])
        expected = r"000002\.safetensors is damaged"
    elif damage == "foreign":
        latent_files.write_checkpoint(path, {"weight": torch.zeros(3)}, {"kind": "model"})
        expected = r"000002\.safetensors belongs to another run: .*remove .*latents and repeat"
    elif damage == "swapped":
        last = path.with_name("000004.safetensors")
        path.rename(tmp_path / "kept")
        last.rename(path)
        shutil.move(tmp_path / "kept", last)
        expected = r"000002\.safetensors holds the latents of '0-of-1/000004\.safetensors', not those"
    else:
        (folder / DESCRIPTION).write_text("{")
        expected = r"latents\.json is damaged: .*remove .*latents and repeat"
    with pytest.raises(CheckpointError, match=expected):
        LatentFiles(folder)


def test_large_sets_store_features_in_half_the_bytes(tmp_path, rows):
    """Only features are rounded, and rows that are taken are float32 again; a thread loads the rows of each batch."""
    rows = attrs.evolve(rows, h_NMF=torch.randn(NUM_ROWS, 3, 64))
    folder = tmp_path / "latents"
    sizes, fraction = [], 2**-8  # of a value, by which bfloat16 rounds at most
    for dtype in (torch.float32, torch.bfloat16):
        shutil.rmtree(folder, ignore_errors=True)
        write_latents(folder, 0, 1, partial(share, rows, 0, 1), features_dtype=dtype)
        finish_latents(folder, 1)
        sizes.append(sum(path.stat().st_size for path in folder.rglob("*.safetensors")))
    assert sizes[1] < 0.6 * sizes[0]
    files = LatentFiles(folder)
    assert files.num_bytes == NUM_ROWS * (4 * (2 + 2 + 3 * 64) + 3)  # as they would take in memory
    batches = [torch.tensor([5, 50, 5]), torch.arange(7), torch.tensor([0]), torch.arange(NUM_ROWS)]
    for index, found in zip(batches, taken_ahead(files, iter(batches)), strict=True):
        exact = rows.take(index)
        assert found.h_NMF.dtype == torch.float32
        assert found.h_NMF.ne(exact.h_NMF).any()
        assert ((found.h_NMF - exact.h_NMF).abs() <= fraction * exact.h_NMF.abs()).all()
        assert_equal(attrs.evolve(found, h_NMF=exact.h_NMF), exact)


def test_a_prior_from_files_is_that_from_memory(two_spec, monkeypatch):
    """Training is the same bit for bit if latents are too many for memory and workers decode the rows."""
    found = []
    for name, most_bytes, workers in (("memory", 2**30, 0), ("files", 0, 2)):
        monkeypatch.setattr(run_latents, "MOST_LATENT_BYTES", most_bytes)
        monkeypatch.setattr(run_latents, "FEATURES_DTYPE", torch.float32)
        settings = ("data.in_memory=false", "data.shuffle_buffer=50", f"data.num_workers={workers}")
        Experiment(read_spec(two_spec, settings), Path(name)).run()
        found.append(read_checkpoint(Path(name) / "prior.safetensors")[0])
        fingerprint = json.loads((Path(name) / "state" / "latents" / DESCRIPTION).read_text())["fingerprint"]
        assert len(LatentFiles(Path(name) / "state" / "latents", fingerprint=fingerprint)) == 200
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
