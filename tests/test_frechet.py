"""Tests of the Frechet distance against the closed form for two Gaussians."""

import pytest
import torch

from shala_framework.evaluation.frechet import frechet_distance


def test_shift_and_scale_have_their_closed_form():
    """A shift adds its squared length, scaling by a adds (a - 1)^2 of the total variance, and a rotation matters."""
    torch.manual_seed(0)
    x = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64)
    shift = torch.arange(6.0)
    assert frechet_distance(x, x) < 1e-9
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift.square().sum()))
    centred = x - x.mean(0)
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * float(x.var(0).sum()))
    assert frechet_distance(x, x.flip(1)) == pytest.approx(frechet_distance(x.flip(1), x))
    assert frechet_distance(x, x.flip(1)) > 0.1


def test_fewer_rows_than_features():
    """Covariances without full rank give a finite distance, also if one set is constant."""
    torch.manual_seed(0)
    few, constant = torch.randn(5, 20), torch.ones(7, 20)
    expected = (few.mean(0) - 1).square().sum() + few.var(0).sum()
    assert frechet_distance(few, constant) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4))])
def test_unusable_sets_are_refused(shapes):
    """A single row has no covariance, and features of different sizes cannot be compared."""
    with pytest.raises(ValueError, match="at least 2 equal features"):
        frechet_distance(*(torch.zeros(shape) for shape in shapes))
