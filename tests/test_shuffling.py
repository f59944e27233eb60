"""Packed sets whose samples are mixed across shards, and batches of the shipped specs, mixed like uniform ones."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.cli.main import main
from shala_framework.data import shuffling
from shala_framework.data.order import default_window
from shala_framework.data.packing import pack
from shala_framework.data.prepared import PREPARED_FILE, Preparation
from shala_framework.data.random_access import read_in_order
from shala_framework.data.shuffling import pack_shuffled
from shala_framework.spec import read_spec
from shala_framework.support.errors import DataError

ROOT = Path(__file__).parent.parent
MADE = MadeOptions(train=120, missing=0.3)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def samples(report):
    return {
        split: [(s.key, s.fields) for s in read_in_order([str(p) for p in report.shards if p.name.startswith(split)])]
        for split in report.samples
    }


def preparation():
    return Preparation({name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"})


@pytest.mark.parametrize("prepared", [False, True])
def test_samples_are_mixed_across_shards_and_else_the_same(tmp_path, prepared):
    """The set and what it says of itself are those of an ordinary pack; each shard has samples from all over."""
    ready = {"preparation": preparation()} if prepared else {}
    plain = pack(Made(MADE), None, tmp_path / "plain", shard_samples=20, **ready)
    mixed = pack_shuffled(Made(MADE), None, tmp_path / "mixed", shard_samples=20, **ready)
    for split, before in samples(plain).items():
        assert sorted(before) == sorted(samples(mixed)[split])
    train = [key for key, _ in samples(mixed)["train"]]
    number = {key: place for place, (key, _) in enumerate(samples(plain)["train"])}
    for begin in range(0, 120, 20):
        places = torch.tensor([number[key] for key in train[begin : begin + 20]], dtype=torch.float32)
        assert places.std() > 20  # of 20 neighbours, it is 6; of all, 35
    assert (mixed.samples, mixed.fields, mixed.notes, mixed.complete) == (
        *(plain.samples, plain.fields, plain.notes),
        True,
    )
    assert set(contents(tmp_path / "mixed")) == set(contents(tmp_path / "plain"))
    if prepared:
        assert contents(tmp_path / "mixed")[PREPARED_FILE] == contents(tmp_path / "plain")[PREPARED_FILE]


class StopError(Exception):
    """A stop from outside."""


@pytest.mark.parametrize("phase", ["on_sample", "on_shuffle"])
def test_either_pack_resumes_with_the_same_bytes(tmp_path, phase):
    """A stop in the first or the second pack changes nothing; another seed or size is refused while it lasts."""
    pack_shuffled(Made(MADE), None, tmp_path / "whole", shard_samples=20)

    def stop(done):
        if done > 70:
            raise StopError

    out = tmp_path / "out"
    with pytest.raises(StopError):
        pack_shuffled(Made(MADE), None, out, shard_samples=20, **{phase: stop})
    with pytest.raises(DataError, match="other settings"):
        pack_shuffled(Made(MADE), None, out, shard_samples=30)
    if phase == "on_shuffle":
        with pytest.raises(DataError, match="other settings"):
            pack_shuffled(Made(MADE), None, out, shard_samples=20, seed=1)
    pack_shuffled(Made(MADE), None, out, shard_samples=20)
    assert contents(out) == contents(tmp_path / "whole")
    with pytest.raises(DataError, match="already holds"):
        pack_shuffled(Made(MADE), None, out, shard_samples=20)


def test_shuffled_parts_make_one_set(tmp_path):
    """Parts in one folder have every sample once, and the last one completes the index."""
    out = tmp_path / "parts"
    reports = [pack_shuffled(Made(MADE), None, out, shard_samples=20, part=(number, 3)) for number in (2, 0, 1)]
    assert [report.complete for report in reports] == [False, False, True]
    found = read_in_order(sorted(str(path) for path in out.glob("train-*.tar")))
    plain = pack(Made(MADE), None, tmp_path / "plain")
    assert sorted((s.key, s.fields) for s in found) == sorted(samples(plain)["train"])
    assert not list(out.glob("unshuffled*"))
    assert not list(out.glob("unfinished*"))


@pytest.mark.parametrize(
    ("flag", "window", "mixed"),
    [("--shuffle", 4_096, True), ("--no-shuffle", 50, False), (None, 4_096, False), (None, 50, True)],
)
def test_the_command_shuffles_what_a_window_does_not_mix(tmp_path, monkeypatch, flag, window, mixed):
    """Sets that are sorted by key and larger than a window are mixed by default; both flags decide for any set."""
    monkeypatch.setattr(shuffling, "REMOTE_WINDOW", window)
    function = pack_shuffled if mixed else pack
    function(Made(MADE), None, tmp_path / "expected", shard_samples=20)
    options = ("--set", "train=120", "--set", "missing=0.3", "--shard-samples", "20", *([flag] if flag else []))
    with pytest.raises(SystemExit, match="0"):
        main(["pack", "two-floats-made", "-", str(tmp_path / "out"), *options])
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_batches_of_shipped_specs_are_within_5_percent_of_uniform(monkeypatch):
    """Simulated on sets sorted by class or person: on a disk with any set, behind URLs with shuffled ones."""
    for plugin in ("shala_video", "shala_audio", "shala_image", "shala_text", "shala_skeleton"):
        pytest.importorskip(plugin)
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT / "benchmarks")])
    script = importlib.import_module("batch_mixing")
    streamed = [
        path.stem
        for path in sorted((ROOT / "specs").glob("*.toml"))
        if not read_spec(path, use_stand_in=False).spec.data.in_memory
    ]
    assert sorted(script.SETS) == streamed
    for name, (num_samples, num_groups) in script.SETS.items():
        spec = read_spec(ROOT / "specs" / f"{name}.toml", use_stand_in=False).spec
        batch_size = spec.train.autoencoder.batch_size
        expected = script.uniform(num_groups, batch_size)
        for remote in (False, True):
            groups, shared = script.mixing(
                num_samples,
                num_groups,
                batch_size,
                window=spec.data.shuffle_buffer or default_window(remote=remote),
                interleave=spec.data.interleave,
                shuffled=remote,
                batches=90,
            )
            assert abs(groups / expected[0] - 1) < 0.05, (name, remote)
            assert abs(shared - expected[1]) < 0.05 * max(1.0, expected[1]), (name, remote)
