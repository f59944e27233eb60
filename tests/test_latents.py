"""The linear probe and the dimensions of known latents."""

import pytest
import torch

from shala_framework.evaluation.latents import active_dimensions, effective_dimensions, linear_probe


def test_the_probe_reads_what_is_linear_and_nothing_else():
    """The probe finds a class that is a direction, and not one that is the product of two signs."""
    z = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 20, 0.1, 1, 1, 1])
    direction = (z[:, 0] + z[:, 1] / 20 > 0).long()
    product = (z[:, 0] * z[:, 3] > 0).long()
    for classes, low, high in ((direction, 0.98, 1.0), (product, 0.4, 0.6)):
        read = linear_probe(z[:2000], classes[:2000], z[2000:])
        assert low <= float((read == classes[2000:]).float().mean()) <= high


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_the_probe_reads_few_rows_classes_and_iterations(num_classes):
    """Classes keep their numbers, a single class is predicted everywhere, and missing convergence is silent."""
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1, 1, 0])
    classes = 7 * (torch.arange(6) % num_classes)
    read = linear_probe(z, classes, z, max_iterations=1)
    assert read.dtype == torch.int64
    assert set(read.tolist()) <= set(classes.tolist())


def test_dimensions_that_vary_are_counted():
    """Three equal dimensions of five count as three; a line has one effective dimension."""
    z = torch.randn(20_000, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 1, 1, 0.01, 0])
    assert active_dimensions(z) == 3
    assert effective_dimensions(z) == pytest.approx(3, abs=0.05)
    assert effective_dimensions(torch.linspace(0, 1, 50)[:, None] * torch.ones(1, 4)) == pytest.approx(1)
