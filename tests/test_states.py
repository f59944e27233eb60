"""The two latest states of a stage, and what happens if one of them is damaged."""

from pathlib import Path

import pytest
import torch

from shala_framework.support.errors import CheckpointError
from shala_framework.training.states import StateFiles


def test_the_last_two_states_are_kept_and_the_older_one_is_taken_where_the_last_is_damaged(tmp_path):
    """A warning names the damaged file; if both are damaged, the error does."""
    states, warnings = StateFiles(tmp_path / "prior.safetensors", "mine"), []
    assert not states.exist()
    for step in (1, 2, 3):
        states.write({"x": torch.full((2,), float(step))}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prior.previous.safetensors", "prior.safetensors"]
    tensors, description = states.read(warnings.append)
    assert (tensors["x"].tolist(), description["step"], warnings) == ([3.0, 3.0], 3, [])
    (tmp_path / "prior.safetensors").write_bytes(b"\0" * 100)
    tensors, description = states.read(warnings.append)
    assert (tensors["x"].tolist(), description["step"]) == ([2.0, 2.0], 2)
    assert "prior.safetensors is damaged" in warnings[0]
    assert "resuming from the state before it" in warnings[0]
    (tmp_path / "prior.safetensors").unlink()  # killed between the two renames
    assert states.exist()
    assert states.read(warnings.append)[1]["step"] == 2
    (tmp_path / "prior.safetensors").write_bytes(b"\0" * 100)
    states.read(warnings.append)
    states.write({"x": torch.full((2,), 4.0)}, {"step": 4})  # replaces the damaged state and keeps the sound one
    (tmp_path / "prior.safetensors").unlink()
    assert states.read(warnings.append)[1]["step"] == 2
    with pytest.raises(CheckpointError, match="belongs to another run"):
        StateFiles(tmp_path / "prior.safetensors", "other").read(warnings.append)
    for path in Path(tmp_path).iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        states.read(warnings.append)
