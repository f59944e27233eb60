"""Prepared shards: the tensors that reading gives, and refusal of those made for something else."""

import json

import attrs
import pytest
import torch
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.cli.main import main
from shala_framework.data.prepared import PREPARED_FILE, Preparation, load_preparation
from shala_framework.data.rows import load_rows
from shala_framework.data.shards import pack
from shala_framework.errors import DataError
from shala_framework.experiment import Experiment
from shala_framework.spec import read_spec


def modalities(width=32):
    return {name: TwoFloats(TwoFloatsOptions(field=name, width=width)) for name in "ab"}


class Damaged(Made):
    """The same samples, of which one has an undecodable field, and one has neither."""

    def samples(self, source):
        for sample in super().samples(source):
            if sample.key == "validation_0003":
                yield attrs.evolve(sample, fields={**sample.fields, "b": b"["})
            elif sample.key == "validation_0004":
                yield attrs.evolve(sample, fields={"c": b"1"})
            else:
                yield sample


def test_prepared_shards_hold_what_reading_gives(tmp_path):
    """Tensors, presence, keys and labels of prepared shards are those of raw shards read by the fitted modalities."""
    made = MadeOptions(train=40, missing=0.3)
    raw = [str(path) for path in pack(Made(made), None, tmp_path / "raw").shards]
    report = pack(Made(made), None, tmp_path / "prepared", preparation=Preparation(modalities()))
    prepared = [str(path) for path in report.shards]
    fresh = modalities()
    assert load_preparation(prepared, fresh)
    assert not load_preparation(raw, modalities())
    assert fresh["a"].mean != [0.0, 0.0]
    expected, got = load_rows(raw, fresh), load_rows(prepared, fresh)
    assert (got.keys, got.labels) == (expected.keys, expected.labels)
    assert torch.equal(got.presence, expected.presence)
    assert all(torch.equal(got.x[name], expected.x[name]) for name in "ab")
    assert set(report.fields["train"]) == {"a.prepared.npy", "b.prepared.npy", "cls"}


def test_what_cannot_be_read_is_noted(tmp_path):
    """A damaged field is missing, a sample without any is left out, and both are named; one to fit on is an error."""
    report = pack(Damaged(MadeOptions(train=20)), None, tmp_path / "s", preparation=Preparation(modalities()))
    assert report.samples == {"train": 20, "validation": 15}
    assert report.fields["validation"]["b.prepared.npy"] == 14
    assert any("'validation_0003', modality 'b'" in note for note in report.notes)
    assert any("'validation_0004'" in note for note in report.notes)


def test_shards_prepared_for_something_else_are_refused(tmp_path):
    """Other options, a modality that was not prepared and a damaged tensor each say what is wrong."""
    report = pack(Made(MadeOptions(train=20)), None, tmp_path, preparation=Preparation(modalities()))
    urls = [str(path) for path in report.shards]
    with pytest.raises(DataError, match=r"other options of 'a' .*'width': \(32, 8\)"):
        load_preparation(urls, modalities(width=8))
    with pytest.raises(DataError, match=r"prepared for 'c' too, got only \['a', 'b'\]"):
        load_preparation(urls, {**modalities(), "c": TwoFloats(TwoFloatsOptions(field="c"))})

    class Longer(TwoFloats):
        shape = (3,)

    with pytest.raises(DataError, match=r"expected float32 \[3\], got float32 \[2\]"):
        load_rows(urls, {"a": Longer(TwoFloatsOptions(field="a"))})


def test_a_run_on_prepared_shards_learns_the_same(two_spec, tmp_path, capsys):
    """`shala pack --for SPEC` changes where reading happens and nothing that is learned from it."""
    tensors = []
    for name, extra in (("raw", []), ("ready", ["--for", str(two_spec)])):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["pack", "two-floats-made", "-", str(tmp_path / name), "--set", "train=60", *extra])
        for in_memory in ("true", "false"):
            overrides = [f'data.train="{tmp_path / name}/train-*.tar"', f"data.in_memory={in_memory}"]
            experiment = Experiment(read_spec(two_spec, overrides), tmp_path / f"run-{name}-{in_memory}", None)
            experiment.run()
            tensors.append(experiment.model.autoencoder.state_dict())
    capsys.readouterr()
    assert json.loads((tmp_path / "ready" / PREPARED_FILE).read_text())["first"]["state"]["mean"]
    for first, second in ((0, 2), (1, 3)):
        assert all(torch.equal(value, tensors[second][key]) for key, value in tensors[first].items())
