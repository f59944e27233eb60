"""Tests of likelihoods against torch.distributions and against properties of densities."""

import math

import pytest
import torch

from shala_framework.plugin.likelihoods import Laplace, LogScale, Normal, Pixels, pixels_to_unit, unit_to_pixels


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Normal, torch.distributions.Normal), (Laplace, torch.distributions.Laplace)]
)
def test_log_prob_is_the_sum_over_values(ours, theirs):
    """log_prob equals torch's density summed over everything but the batch."""
    torch.manual_seed(0)
    mean, log_scale, x = torch.randn(3, 4, 5), torch.tensor(0.3), torch.randn(3, 4, 5)
    expected = theirs(mean, log_scale.exp()).log_prob(x).sum((1, 2))
    torch.testing.assert_close(ours(mean, log_scale).log_prob(x), expected)


@pytest.mark.parametrize(("ours", "variance"), [(Normal, 4.0), (Laplace, 8.0)])
def test_draws_have_the_distributions_moments(ours, variance):
    """Samples at scale 2 have the closed form's mean and variance, and repeat with the generator's seed."""
    likelihood = ours(torch.full((200_000, 1), 1.5), torch.tensor(math.log(2.0)))
    draws = likelihood.sample(torch.Generator().manual_seed(0))
    assert abs(draws.mean() - 1.5) < 0.03
    assert abs(draws.var() / variance - 1) < 0.03
    assert torch.equal(draws, likelihood.sample(torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_uniform_draws_are_no_outliers(uniform, monkeypatch):
    """The farthest of the 2 ** 24 draws that there are lies where a Laplace distribution has about its rarest value."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform))
    assert 15 < float(Laplace(torch.zeros(1, 1), torch.zeros(())).sample().abs()) < 24 * math.log(2) + 1e-3


def test_pixel_density_sums_to_one_over_the_levels():
    """Over all 256 levels, exp(log_prob) of one pixel sums to 1 if the scale is well inside the range."""
    levels = torch.arange(256, dtype=torch.uint8)[:, None]
    likelihood = Pixels(Normal(torch.zeros(256, 1), torch.tensor(math.log(0.1))))
    assert abs(likelihood.log_prob(levels).exp().sum() - 1) < 1e-4


def test_pixels_survive_the_way_there_and_back():
    """Converting uint8 to [-1, 1] and back is the identity."""
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(unit_to_pixels(pixels_to_unit(levels)), levels)


def test_learned_scale_finds_the_data_s():
    """Maximum likelihood over LogScale alone reaches the data's standard deviation within a few hundred steps."""
    torch.manual_seed(0)
    data = 0.05 * torch.randn(512, 8)
    scale = LogScale(initial=0.5)
    optimizer = torch.optim.Adam(scale.parameters(), lr=2e-3)
    for _ in range(300):
        loss = -Normal(torch.zeros_like(data), scale()).log_prob(data).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert abs(float(scale().detach().exp()) - 0.05) < 0.005


def test_fixed_scale_has_no_parameter():
    """A fixed scale is exact and has no parameter."""
    scale = LogScale(fixed=0.75)
    assert not list(scale.parameters())
    assert abs(float(scale().exp()) - 0.75) < 1e-6
