"""What an evaluation takes from the kept parts of an earlier one of the same run, and what it computes again."""

from pathlib import Path

import attrs
import pytest

from shala_framework import load
from shala_framework.data.rows import load_rows
from shala_framework.data.splits import split_urls
from shala_framework.evaluation.attributes import find_attributes
from shala_framework.evaluation.judge_training import JudgeTraining
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.reference_rows import split_reference
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.evaluation.suite import evaluate
from shala_framework.support.progress import Silent
from shala_framework.training.precision import FLOAT32

pytestmark = pytest.mark.long


@pytest.fixture
def run(tmp_path, monkeypatch, finished_run):
    """A trained model with its training and validation rows."""
    monkeypatch.chdir(tmp_path)
    folder = finished_run("r")
    model = load(folder)
    urls = {split: split_urls(model.spec.data, split, folder) for split in ("train", "validation")}
    return model, *(load_rows(urls[split], model.modalities) for split in urls)


def test_more_time_gives_more_figures(run):
    """Counts that were fitted to little time are fitted again where there is more, and kept where there is as much."""
    model, train, held_out = run
    open_counts = dict.fromkeys(("num_samples", "num_rows", "calibration_rows", "likelihood_rows"))
    settings = attrs.evolve(model.spec.evaluate, num_seeds=1, judge_steps=4, **open_counts)
    parts = Parts(Path("parts"), "one context")
    Path("parts").mkdir()

    def measured(seconds):
        return evaluate(model, train, held_out, settings, seconds=seconds, parts=parts)

    short = measured(1e-3)
    assert (short.joint, short.conditional, short.calibration, short.log_likelihood) == ([], [], [], {})
    unlimited = measured(None)
    assert all((unlimited.joint, unlimited.conditional, unlimited.calibration, unlimited.log_likelihood))
    assert measured(1e-3).joint == []


def test_judges_learn_from_the_rows_that_the_groups_leave_them(run):
    """Other groups leave as many, but other rows to the judges: judges of the rows before would know the reference."""
    model, train, held_out = run
    Path("parts").mkdir()
    parts, described = Parts(Path("parts"), "one context"), []
    for pattern in (None, "[0-9]{2}$", None):
        seen, reference = split_reference(train, row_groups(train.keys, pattern))
        assert len(reference) == len(train) // 4
        training = JudgeTraining(model, seen, held_out, find_attributes(train), 4, 0, FLOAT32)
        first, _ = training.judges(Pace(None), parts, Silent(), [])
        described.append({name: judge.head[-1].weight.tolist() for name, judge in first.items()})
    assert described[0] == described[2]
    assert all(described[0][name] != described[1][name] for name in model.names)
