"""The benchmark of skeletons' smoothness: closed forms of jerk, of the standing foot and of an absent body."""

from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_jerk_and_standing_foot_have_their_closed_forms(monkeypatch):
    """x = t^3 has the jerk 6; of two feet, the one that stands counts; a body of zeros does not."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from smoothness import figures

    t_T = torch.arange(20, dtype=torch.float64) / 10
    x = torch.zeros(3, 20, 2, 3, 2, dtype=torch.float64)
    x[:, :, 0, 0, 0] = t_T**3 + 1
    x[:, :, 0, 1, 1] = 2 * t_T
    x[:, :, 0, 2, :] = 0.5 + 0.3 * t_T[:, None]
    jerk, standing, apart = figures(x, [[1], [2]], 10.0)
    assert jerk == pytest.approx((36 / 3) ** 0.5)  # one of three joints
    assert standing == pytest.approx(0.3 * 2**0.5)
    assert apart == 0
