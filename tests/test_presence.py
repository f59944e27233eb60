"""Modalities that no row has together are named by runs and checks."""

import json

import pytest
import torch
from two_floats import Made

from shala_framework.cli.main import main
from shala_framework.data.packing import pack
from shala_framework.data.presence import never_together
from shala_framework.plugin import Sample


class Apart(Made):
    """Samples of which each has one field, as files whose names differ."""

    def samples(self, source, account):
        for number in range(40):
            fields = {"ab"[number % 2]: json.dumps([number % 3, 1.0]).encode()}
            yield Sample(key=f"{number:04d}", split="train", fields=fields)


def test_each_pair_without_a_common_row_is_named():
    presence_NM = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]).bool()
    (sentence,) = never_together(presence_NM, list("abcde"))  # e is in no row, which is another problem
    assert sentence.startswith("none of 3 rows has both 'a' and 'c', or 'a' and 'd', or 'b' and 'd' and 1 more pairs: ")
    assert never_together(presence_NM[:1], list("abcde")) == []


@pytest.mark.parametrize("in_memory", ["true", "false"])
def test_check_and_run_name_modalities_that_never_occur_together(two_spec, tmp_path, capsys, in_memory):
    """A pairing by names that went wrong is no error, because rows of one modality train."""
    pack(Apart(Made.Options()), None, tmp_path / "shards")
    changes = [f"data.train={tmp_path}/shards/train-*.tar", 'data.validation=""', f"data.in_memory={in_memory}"]
    sets = [word for change in changes for word in ("--set", change)]

    def said(*arguments):
        with pytest.raises(SystemExit) as leaving:
            main([*arguments, *sets])
        assert leaving.value.code == 0
        return "".join(capsys.readouterr())

    sentence = "none of 40 rows has both 'first' and 'second': what they have in common cannot be learned"
    assert f"train: {sentence}" in said("check", "two.toml")
    steps = ["--set", "train.autoencoder.steps=2", "--set", "train.prior.steps=2"]
    assert f"data.train: {sentence}" in said("run", "two.toml", "--out", "r", *steps)
