"""Total variation of classes, and the part of it that is due to chance."""

import pytest
import torch

from shala_framework.evaluation.class_distribution import sampling_noise, total_variation


def test_a_dropped_class_shows_and_chance_does_not():
    """Samples of nine of ten classes have distance 0.1; samples of all ten have the distance of chance, at any size."""
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(10, (400,), generator=generator)
    for size in (64, 2000):
        noise = sampling_noise(torch.randint(10, (size,), generator=generator), real, 10)
        seen = [total_variation(torch.randint(10, (size,), generator=generator), real, 10) for _ in range(50)]
        fair = [total_variation(torch.randint(10, (size,), generator=generator), torch.randint(10, (400,)), 10)]
        assert sum(seen) / 50 == pytest.approx(noise, rel=0.25)
        assert fair[0] < 3 * noise
    dropped = total_variation(torch.randint(9, (100_000,), generator=generator), torch.arange(100_000) % 10, 10)
    assert dropped == pytest.approx(0.1, abs=0.01)
    assert total_variation(torch.zeros(5).long(), torch.ones(7).long(), 3) == 1
