"""What `shala check` says of samples that need what modalities learn from other samples."""

import json
from pathlib import Path

import pytest
from two_floats import Made

from shala_framework.cli import trial_fit
from shala_framework.cli.main import main
from shala_framework.data.packing import pack
from shala_framework.plugin import Sample


class Numbered(Made):
    """400 training rows whose first number is 0, and 1, 2, ... in every fortieth; some validation rows."""

    validation = ("0", "3", "0", "7")

    def samples(self, source, account):
        for number in range(400):
            first = number // 40 if number % 40 == 13 else 0
            yield self.sample("train", number, str(first))
        for number, first in enumerate(self.validation):
            yield self.sample("validation", number, first)

    def sample(self, split, number, first):
        fields = {"a": f"[{first}, 1.0]".encode(), "b": json.dumps([number, 2.0]).encode()}
        return Sample(key=f"{split}_{number:04d}", split=split, fields=fields)


@pytest.fixture
def check(two_spec, capsys, monkeypatch):
    """Pack validation rows of these first numbers, check the spec, and return status, output and errors."""
    two_spec.write_text(two_spec.read_text().replace('"two-floats"', '"known-floats"', 1))

    def check(*validation, limit=20_000):
        monkeypatch.setattr(Numbered, "validation", validation)
        monkeypatch.setattr(trial_fit, "FIT_SAMPLES", limit)
        pack(Numbered(Made.Options()), None, Path("".join(filter(str.isalnum, "s".join(validation)))))
        folder = "".join(filter(str.isalnum, "s".join(validation)))
        sets = (f"data.train={folder}/train-*.tar", f"data.validation={folder}/validation-*.tar")
        with pytest.raises(SystemExit) as leaving:
            main(["check", "two.toml", *(text for line in sets for text in ("--set", line))])
        return (leaving.value.code, *capsys.readouterr())

    return check


def test_a_quick_set_is_fitted_completely(check):
    """Rare categories of a set of 400 rows are all known, in every split, and nothing is left open."""
    status, out, err = check("0", "3", "9")
    assert status == 0, err
    assert "could not be read" not in out
    assert "was fitted to" not in out


def test_a_category_that_no_training_row_has_is_a_problem(check):
    """All training rows are known, so a run would stop at this row."""
    status, _, err = check("0", "11")
    assert status == 2
    assert "data.validation" in err
    assert "expected a known number, got 11" in err


def test_what_could_not_be_known_is_said(check):
    """A set that is too large to be read completely: a row whose category may be in the rest is no problem."""
    status, out, err = check("0", "11", "0", limit=50)
    assert status == 0, err
    assert "train: first was fitted to 200 samples from all over the shards; a run fits it to all of them" in out
    assert "validation: 1 of 3 samples could not be read, such as: " in out
    assert "got 11. A run may read them" in out
    assert "this check fitted 'first' to 200 and 'second' to 200 of them" in out
    assert "train: 1 of" not in out  # the rows that are looked at are among those that it is fitted to


def test_damage_is_a_problem_in_large_sets_too(check):
    """A row that cannot be read by a modality which has learned from it as well is damaged."""
    status, out, err = check("0", "]", "11", limit=50)
    assert status == 2
    assert "expected a JSON array" in err
    assert "expected a known number" not in err
    assert "1 of 3 samples could not be read" in out


def test_splits_are_not_read_by_modalities_that_could_not_learn(check, two_spec):
    """If the training shards cannot be used, the other splits are only looked up, and nothing crashes."""
    two_spec.write_text(two_spec.read_text().replace('options = { field = "a" }', 'options = { field = "z" }'))
    status, out, err = check("0")
    assert status == 2
    assert "data.train: none of the first" in err
    assert "data.validation" not in err
    assert "validation: 1 shards; first sample 'validation_0000' has a, b" in out


def test_every_bad_file_of_a_modality_that_learns_is_a_problem(check, monkeypatch):
    """Fitting goes on without them, each is named once, and no field counts as unread."""
    sample = Numbered.sample

    def damaged(self, split, number, first):
        return sample(self, split, number, "]" if split == "train" and number in (5, 250) else first)

    monkeypatch.setattr(Numbered, "sample", damaged)
    status, out, err = check("0", "3")
    assert status == 2
    assert err.count("expected a JSON array") == 2
    assert err.count("sample 'train_0005'") == err.count("sample 'train_0250'") == 1
    assert "data.validation" not in err
    assert "no modality reads" not in out


def test_a_modality_that_cannot_be_fitted_leaves_the_others_checked(check, monkeypatch):
    """With every file damaged, some are named, and neither its fields nor samples without the others are blamed."""
    sample = Numbered.sample
    monkeypatch.setattr(Numbered, "sample", lambda self, split, number, _: sample(self, split, number, "]"))
    status, out, err = check("0")
    assert status == 2
    assert err.count("expected a JSON array") == 3
    assert "present: second 100%" in out
    assert "no modality reads" not in out
    assert "expected a field of a modality" not in err
