"""Modalities that training does not see: how many, which, and that nothing else changes."""

from pathlib import Path

import attrs
import pytest
import torch

from shala_framework.data.hiding import hide_modalities
from shala_framework.data.rows import Rows
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.support.errors import DataError, SpecError

COUNT, NAMES = 4_000, "abc"


def rows_of(presence):
    return Rows(
        x={name: torch.rand(len(presence), 2) + 1 for name in NAMES},
        presence=presence,
        keys=tuple(f"k{n}" for n in range(len(presence))),
        labels=(None,) * len(presence),
    )


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_share_is_hidden_and_a_row_keeps_one(share):
    """Each modality is hidden as often as asked, apart from rows that would lose all; hidden values are zeros."""
    presence = torch.ones(COUNT, 3, dtype=torch.bool)
    presence[::2, 0] = False
    rows = rows_of(presence)
    hidden = hide_modalities(rows, share, 0)
    assert hidden.presence.any(1).all()
    assert not (hidden.presence & ~presence).any()
    kept = 3 * (1 - share) + share**3  # of complete rows
    assert float(hidden.presence[1::2].sum(1).float().mean()) == pytest.approx(kept, abs=0.06)
    for i, name in enumerate(NAMES):
        assert not hidden.x[name][~hidden.presence[:, i]].any()
        assert torch.equal(hidden.x[name][hidden.presence[:, i]], rows.x[name][hidden.presence[:, i]])
    one_of_two = hidden.presence[::2, 1:].float().mean(0)
    assert float(one_of_two[0]) == pytest.approx(float(one_of_two[1]), abs=0.05)


def test_a_row_lacks_the_same_in_every_batch():
    """It depends on key and seed alone, so that workers, epochs and resumed runs agree; a larger share hides more."""
    rows = rows_of(torch.ones(COUNT, 3, dtype=torch.bool))
    hidden = hide_modalities(rows, 0.5, 0)
    order = torch.randperm(COUNT)
    assert torch.equal(hide_modalities(rows.take(order), 0.5, 0).presence, hidden.presence[order])
    assert not torch.equal(hide_modalities(rows, 0.5, 1).presence, hidden.presence)
    assert not (hide_modalities(rows, 0.8, 0).presence & ~hidden.presence).any()
    assert hide_modalities(rows, 0.0, 0) is rows


@pytest.mark.parametrize("in_memory", [True, False])
def test_training_sees_hidden_rows_and_held_out_rows_are_whole(two_spec, in_memory):
    """Batches and latents of both ways of reading lack the same; the rows that judges learn from lack nothing."""
    overrides = (f"data.in_memory={str(in_memory).lower()}", "data.hidden_share=0.5", "data.hidden_seed=3")
    overrides = (*overrides, "data.stand_in.options.missing=0.0")
    experiment = Experiment(read_spec(two_spec, overrides), Path("r"))
    experiment.run()
    data = experiment.data
    assert data.held_out().presence.all()
    assert data.train().presence.all()
    expected = hide_modalities(data.train(), 0.5, 3)
    lacking = dict(zip(expected.keys, expected.presence.tolist(), strict=True))
    assert 0.6 < float((~expected.presence).float().sum(1).mean()) < 0.9  # one row in four keeps its last
    seen = [next(data.batches(0)), *data.in_order(64)]
    assert all(lacking[key] == row for rows in seen for key, row in zip(rows.keys, rows.presence.tolist(), strict=True))
    assert sum(len(rows) for rows in seen[1:]) == len(expected)


def test_methods_of_complete_rows_say_why_and_wrong_shares_are_refused(two_spec):
    pytest.importorskip("shala_baselines")
    overrides = ("posterior.method='jmvae'", "data.hidden_share=0.2", "data.stand_in.options.missing=0.0")
    with pytest.raises(DataError, match=r"trains on complete rows alone.* lacks .*set data\.hidden_share to 0"):
        Experiment(read_spec(two_spec, overrides), Path("r")).run()
    with pytest.raises(SpecError, match=r"hidden_share: expected .* got 1"):
        read_spec(two_spec, ("data.hidden_share=1.0",))
    assert attrs.asdict(read_spec(two_spec).spec.data)["hidden_share"] == 0
