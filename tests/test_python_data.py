"""Rows from Python: what identifies a data set, and what a failed call leaves."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from own_floats import Items, Pair
from two_floats import TwoFloatsOptions

import shala_framework as shala
from shala_framework.support.errors import CheckpointError, DataError

SETTINGS = {"device": "cpu", "precision": "float32", "batch_size": 16, "steps": 3}


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(1)
    first = torch.randn(60, 2, generator=generator)
    return {"a": first, "b": first + 0.1 * torch.randn(60, 2, generator=generator)}


def pair_model():
    return shala.ShaLa({n: Pair(TwoFloatsOptions(field=n)) for n in "ab"}, latent_dim=4, feature_dim=8, hidden_dim=16)


class Noisy(Items):
    """Items with noise of torch's generator, as those of a data set that augments its rows."""

    def __getitem__(self, number):
        return {name: value[number] + torch.randn(2) for name, value in self.x.items()}


def test_a_changed_dataset_of_the_same_length_is_refused(x, tmp_path, caplog):
    """Any modality of the first and the last item counts; the same data set finds the finished run, which is said."""
    caplog.set_level(logging.INFO, "shala_framework")
    first = shala.train(pair_model(), Items(x), out=tmp_path / "r", **SETTINGS)
    assert "nothing is trained" not in caplog.text
    again = shala.train(pair_model(), Items(x), out=tmp_path / "r", **SETTINGS)
    assert "holds a finished run of the same model, data and settings" in caplog.text
    assert torch.equal(first.generate(2)["a"], again.generate(2)["a"])
    for name, row in (("a", 0), ("a", 59), ("b", 59)):
        other = {n: v.clone() for n, v in x.items()}
        other[name][row] += 1
        with pytest.raises(CheckpointError, match=r"data\.train: 'memory: Items of 60 items, .* in the folder"):
            shala.train(pair_model(), Items(other), out=tmp_path / "r", **SETTINGS)
    with pytest.raises(CheckpointError, match=r"data\.train"):
        shala.train(pair_model(), Items({n: v.flip(0) for n, v in x.items()}), out=tmp_path / "r", **SETTINGS)


def test_a_dataset_with_random_items_can_be_resumed(x, tmp_path, caplog):
    """Values that differ from reading to reading cannot identify it; the run says so."""
    for _ in range(2):
        shala.train(pair_model(), Noisy(x), out=tmp_path / "r", **SETTINGS)
    assert "its items differ each time they are read" in caplog.text


def test_a_list_of_rows_trains_as_a_dataset_does(x):
    rows = [{"a": a, "b": None if n % 3 == 0 else b} for n, (a, b) in enumerate(zip(*x.values(), strict=True))]
    torch.set_num_threads(1)
    first = shala.train(pair_model(), rows, validation=rows[:20], **SETTINGS)
    second = shala.train(pair_model(), Items(x), validation=Items({n: v[:20] for n, v in x.items()}), **SETTINGS)
    assert torch.equal(first.generate(3)["b"], second.generate(3)["b"])


@pytest.mark.parametrize("data", [{"a": "tensor of one modality"}, "nowhere/*.tar", "items"])
def test_a_failed_call_leaves_a_trained_model_as_it_was(x, data):
    """Errors before training and in the middle of it give weights, stages and spec back."""
    model = shala.train(pair_model(), x, **SETTINGS)
    before, spec = model.generate(4), model.spec
    bad = {n: v.clone() for n, v in x.items()}
    given = {"a": x["a"]} if isinstance(data, dict) else data
    reads = [0]

    class Failing(Items):
        def __getitem__(self, number):
            reads[0] += 1
            if reads[0] > 90:  # after the items that identify it, and a step of training
                raise DataError("the disk is gone")
            return super().__getitem__(number)

    with pytest.raises((ValueError, DataError), match=r"expected tensors|no such shards|the disk is gone"):
        shala.train(model, Failing(bad) if data == "items" else given, **SETTINGS | {"steps": 40})
    assert model.stages == {"autoencoder", "prior"}
    assert model.spec == spec
    assert torch.equal(model.generate(4)["a"], before["a"])


@pytest.mark.parametrize("name", ["exp.v2", "my exp", "grün"])
def test_a_run_may_have_any_folder_name(x, tmp_path, name):
    """The command line takes any folder, and so does out; the same call resumes there."""
    shala.train(pair_model(), x, out=tmp_path / name, **SETTINGS)
    shala.train(pair_model(), x, out=tmp_path / name, **SETTINGS)
    assert shala.load(tmp_path / name, classes=[Pair]).spec.name == re.sub("[. ]", "_", name)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, m: shala.train(x, m), TypeError, r"expected a ShaLa as the model, got dict.*train\(model, data\)"),
        (
            lambda x, m: shala.train(m, x, learning_rate=1e-3),
            TypeError,
            r"setting of autoencoder and prior and refiner: put it into autoencoder=\{'learning_rate': \.\.\.\}",
        ),
        (
            lambda x, m: shala.train(m, {**x, "a": np.zeros((60, 2))}),
            ValueError,
            "tensor of 'a', got ndarray; torch.from_numpy makes a tensor of it",
        ),
        (
            lambda x, m: shala.train(m, [{"a": x["a"][0], "b": np.zeros(2)}]),
            DataError,
            "item 0, 'b': expected a tensor or None, got ndarray; torch.from_numpy",
        ),
        (lambda x, m: m.embed({"a": np.zeros((60, 2))}), ValueError, "got ndarray; torch.from_numpy"),
        (lambda x, m: shala.train(m, x, out=__file__), CheckpointError, "expected a folder for the run"),
    ],
)
def test_ordinary_mistakes_are_named(x, call, error, message):
    with pytest.raises(error, match=message):
        call(x, pair_model())


def test_a_folder_in_place_of_shards_names_its_shards(tmp_path):
    """The names of its shards are proposed; a folder of files is to be packed."""
    with pytest.raises(DataError, match="is a folder without shards; `shala pack folder "):
        shala.train(pair_model(), tmp_path)
    Path(tmp_path / "train-000000.tar").touch()
    with pytest.raises(DataError, match=r"data\.train: .* is a folder; did you mean '.*/train-\*\.tar'\?"):
        shala.train(pair_model(), tmp_path)


def test_modalities_that_never_occur_together_are_named(x, caplog):
    """A data set whose rows have one modality each is warned about, and one with a single complete row is not."""
    alone = [{"a": a} if n % 2 else {"b": b} for n, (a, b) in enumerate(zip(*x.values(), strict=True))]
    shala.train(pair_model(), alone, **SETTINGS)
    assert "none of 60 rows has both 'a' and 'b': what they have in common cannot be learned" in caplog.text
    caplog.clear()
    shala.train(pair_model(), [*alone[:-1], {n: v[0] for n, v in x.items()}], **SETTINGS)
    assert "has both" not in caplog.text
