"""Diversity of samples compared with real rows, for known sets."""

import math

import pytest
import torch

from shala_framework.evaluation.spread import class_spread, relative_class_spread, spread


def test_samples_as_different_as_a_class_have_its_spread():
    """Distances are means over two samples of a row and two rows of a class; equal samples have none."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 30, 8, generator=generator)
    within = spread(features)
    assert within.shape == (40,)
    rows = torch.randn(2000, 8, generator=generator)
    rows[1000:] += 100.0
    of_class = class_spread(rows, torch.arange(2000) // 1000)
    assert float(within.mean()) == pytest.approx(of_class, rel=0.02)
    assert not spread(torch.ones(3, 4, 8)).any()
    assert math.isnan(class_spread(rows[:3], torch.arange(3)))


def test_spread_within_classes_is_relative_to_real_rows_whatever_the_classes_share():
    """With a wide and a narrow class, equal spread is 1 even if the wide one is too frequent; half of it is 0.5."""
    generator = torch.Generator().manual_seed(0)

    def classes(wide, narrow, factor):
        scale = torch.cat([torch.full((wide,), 5.0), torch.full((narrow,), 0.5)])[:, None]
        labels = torch.cat([torch.zeros(wide), torch.ones(narrow)]).long()
        return factor * scale * torch.randn(wide + narrow, 6, generator=generator) + 100.0 * labels[:, None], labels

    real = classes(500, 500, 1.0)
    assert relative_class_spread(*classes(500, 500, 1.0), *real) == pytest.approx(1, abs=0.03)
    assert relative_class_spread(*classes(900, 100, 1.0), *real) == pytest.approx(1, abs=0.03)
    assert relative_class_spread(*classes(500, 500, 0.5), *real) == pytest.approx(0.5, abs=0.02)
    assert math.isnan(relative_class_spread(*classes(1, 1, 1.0), *real))
