"""Training rows that judges are not trained on."""

import torch

from shala_framework.data.rows import Rows
from shala_framework.evaluation.reference_rows import MOST_ROWS, split_reference


def rows_of(labels):
    count = len(labels)
    return Rows(
        x={"a": torch.arange(float(count))[:, None]},
        presence=torch.ones(count, 1, dtype=torch.bool),
        keys=tuple(map(str, range(count))),
        labels=tuple(labels),
    )


def test_a_quarter_of_the_rows_is_kept_from_judges():
    """Each row is on one side, judges keep half of rare classes, and at most 1,000 rows are the reference."""
    labels = [*("often",) * 395, *("rare",) * 4, "once"]
    judges, reference = split_reference(rows_of(labels), None)
    assert len(reference) == 100
    assert sorted((*judges.keys, *reference.keys), key=int) == [str(n) for n in range(400)]
    assert judges.labels.count("rare") >= 2
    assert judges.labels.count("once") == 1
    assert split_reference(rows_of(labels), None)[1].keys == reference.keys
    assert split_reference(rows_of(labels), None, seed=1)[1].keys != reference.keys
    assert len(split_reference(rows_of(["one"] * 9000), None)[1]) == MOST_ROWS
    assert len(split_reference(rows_of(["one"] * 3), None)[1]) == 0


def test_a_person_is_on_one_side():
    """Of thirty people with twelve rows each, seven are the reference; a single person stays with the judges."""
    people = torch.arange(30).repeat_interleave(12)
    judges, reference = split_reference(rows_of(["a", "b"] * 180), people)
    sides = [{people[int(key)].item() for key in side.keys} for side in (judges, reference)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 7
    assert len(split_reference(rows_of(["a", "b"] * 180), torch.zeros(360).long())[1]) == 0
