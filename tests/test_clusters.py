"""Clusters of latents compared with classes."""

import pytest
import torch

from shala_framework.evaluation.clusters import measure_clusters


def test_clusters_are_compared_whatever_their_numbers():
    """Separate classes are found; noise is chance, with a Rand index of 0; merged classes lose the smaller one."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(900) % 3
    centres = 20 * torch.tensor([[0.0, 1], [1, 0], [-1, -1]])
    z = centres[classes] + torch.randn(900, 2, generator=generator)
    known = torch.where(torch.arange(300) < 30, -1, classes[600:])
    found = measure_clusters(z[:600], z[600:], known, 3, None)
    assert (found.accuracy.value, found.accuracy.count) == (1, 270)
    assert found.mutual_information.value == pytest.approx(1)
    assert found.rand.value == pytest.approx(1)
    noise = torch.randn(900, 2, generator=generator)
    chance = measure_clusters(noise[:600], noise[600:], classes[600:], 3, None)
    assert chance.accuracy.value == pytest.approx(1 / 3, abs=0.08)
    assert abs(chance.rand.value) < 0.02
    assert chance.mutual_information.value < 0.03
    same = measure_clusters(torch.zeros(10, 2), torch.zeros(300, 2), classes[600:], 3, None)
    assert same.accuracy.value == pytest.approx(1 / 3)
