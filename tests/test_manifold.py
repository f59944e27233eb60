"""Precision and recall on sets whose overlap is known."""

import pytest
import torch

from shala_framework.evaluation.manifold import precision_recall


def cloud(count, centre, seed):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + centre


def test_equal_sets_cover_each_other_and_distant_ones_do_not():
    """Equal sets give 1 and 1, distant ones 0 and 0."""
    real = cloud(200, 0.0, 0)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(cloud(200, 100.0, 1), real) == (0.0, 0.0)


def test_a_lost_mode_costs_recall_and_an_invented_one_precision():
    """Samples of one of two real modes are precise and cover half. With an invented third mode it is the reverse."""
    real = torch.cat([cloud(300, 0.0, 0), cloud(300, 50.0, 1)])
    precision, recall = precision_recall(cloud(300, 0.0, 2), real)
    assert precision > 0.85
    assert 0.4 < recall <= 0.5
    precision, recall = precision_recall(
        torch.cat([cloud(300, 0.0, 2), cloud(300, 50.0, 3), cloud(300, 99.0, 4)]), real
    )
    assert 0.5 < precision <= 2 / 3
    assert recall > 0.85


def test_a_set_without_enough_neighbours_is_refused():
    with pytest.raises(ValueError, match="more than 3 rows, got 3 and 10"):
        precision_recall(cloud(3, 0.0, 0), cloud(10, 0.0, 1))


def test_equal_rows_are_covered_whatever_their_rounding():
    """Features of equal labels differ by rounding in batches of other sizes, and still count as equal."""
    labels, noise = torch.randn(10, 128, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    rounded = labels[torch.arange(129) % 9] * (1 + 2e-7 * torch.randn(129, 128, generator=noise))
    assert precision_recall(rounded, labels[torch.arange(400) % 10]) == (1.0, 0.9)
