"""What reading leaves out of samples is counted and said by checks and runs."""

import json
import logging

import pytest
import torch
from own_floats import Pair
from two_floats import Made, TwoFloats, TwoFloatsOptions

import shala_framework as shala
from shala_framework.cli.main import main
from shala_framework.data.cut_off import CutOffs
from shala_framework.data.packing import pack
from shala_framework.plugin import CutOff, Sample

EXCESS = "have a first number above 0.5"


def cut_off(self, sample):
    first = json.loads(sample[self.options.field])[0]
    return CutOff(excess=EXCESS, amount=first, unit=" m", consequence="they are cut") if first > 0.5 else None


class Short(Pair):
    """Two floats of which the first is cut at 0.5."""

    cut_off = cut_off


class Long(Made):
    """Samples whose first number is 3 in every second row, which field a alone exceeds."""

    def samples(self, source, account):
        for number in range(40):
            fields = {"a": json.dumps([3 * (number % 2), 1.0]).encode(), "b": b"[0.0, 2.0]"}
            yield Sample(key=f"{number:04d}", split="train", fields=fields)


@pytest.fixture
def shards(tmp_path):
    pack(Long(Made.Options()), None, tmp_path / "shards")
    return str(tmp_path / "shards" / "train-*.tar")


def test_samples_are_counted_by_modality():
    """Only fields that are there and were read count, and the median is that of the samples that exceed the limit."""
    found, modalities = CutOffs(), {name: Short(TwoFloatsOptions(field=name)) for name in "ab"}
    x = {"a": torch.zeros(2), "b": torch.zeros(2)}
    for amount in (0.25, 2.0, 4.0, 9.0):
        found.add({"a": f"[{amount}, 0]".encode(), "b": b"[0, 0]"}, x, modalities)
    found.add({"b": b"[8, 0]"}, {"a": torch.zeros(2), "b": None}, modalities)  # a was prepared, b is missing
    assert found.sentences() == [f"a: 3 of 4 samples {EXCESS} (median 4 m); they are cut"]


def test_check_and_run_say_what_is_cut_off(shards, two_spec, capsys, monkeypatch):
    """Both name the modality, and a resumed run does not repeat it."""
    monkeypatch.setattr(TwoFloats, "cut_off", cut_off)
    sets = ["--set", f"data.train={shards}", "--set", 'data.validation=""']

    def said(*arguments):
        with pytest.raises(SystemExit) as leaving:
            main([*arguments, *sets])
        assert leaving.value.code == 0
        return "".join(capsys.readouterr())

    sentence = f"first: 20 of 40 samples {EXCESS} (median 3 m); they are cut"
    assert f"train: {sentence}" in said("check", "two.toml")
    steps = ["--set", "train.autoencoder.steps=2", "--set", "train.prior.steps=2"]
    assert f"data.train: {sentence}" in said("run", "two.toml", "--out", "r", *steps)
    assert sentence not in said("run", "two.toml", "--out", "r", *steps)


def test_training_from_python_says_what_is_cut_off(shards, caplog):
    caplog.set_level(logging.INFO, "shala_framework")
    model = shala.ShaLa({n: Short(TwoFloatsOptions(field=n)) for n in "ab"}, latent_dim=2, feature_dim=8, hidden_dim=8)
    shala.train(model, shards, steps=2, device="cpu", precision="float32", batch_size=8)
    assert f"data.train: a: 20 of 40 samples {EXCESS} (median 3 m); they are cut" in caplog.text
    assert "data.train: b:" not in caplog.text
