"""Calibration of known conditionals: exact ones pass, and each kind of error is detected."""

import pytest
import torch
from torch import nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.calibration import (
    NUM_DRAWS,
    Calibration,
    interval_coverage,
    region_coverage,
    squared_distances,
)
from shala_framework.evaluation.methods import Method
from shala_framework.model import ShaLa
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.spec import read_spec

pytestmark = pytest.mark.long

NUM_ROWS, DIM = 600, 8


def forecasts(width=1.0, shift=0.0, seed=0):
    """Samples and truths of linear-Gaussian conditionals, each row with its own mean and covariance."""
    generator = torch.Generator().manual_seed(seed)
    mean = 3 * torch.randn(NUM_ROWS, 1, DIM, generator=generator)
    root = torch.randn(NUM_ROWS, DIM, DIM, generator=generator) / DIM**0.5
    noise = torch.randn(NUM_ROWS, NUM_DRAWS + 1, DIM, generator=generator)
    points = mean + torch.einsum("nij,ntj->nti", root, noise)
    samples, centre = points[:, 1:], mean
    return centre + width * (samples - centre) + shift, points[:, 0]


def figures(samples, truth):
    directions = torch.randn(16, DIM, generator=torch.Generator().manual_seed(1))
    between, beside = squared_distances(samples, truth)
    intervals, regions = (
        {share: float(covered.mean()) for share, covered in found.items()}
        for found in (interval_coverage(samples, truth, directions), region_coverage(samples, truth))
    )
    return float(between.sum() / beside.sum()), intervals, regions


def test_calibrated_conditionals_have_a_ratio_of_one_and_nominal_coverage():
    """For any means and widths, two samples are as far apart as a sample and the truth, up to chance."""
    ratio, intervals, regions = figures(*forecasts())
    assert ratio == pytest.approx(1, abs=0.03)
    for found, tolerance in ((intervals, 0.02), (regions, 0.05)):
        assert found == pytest.approx({"50": 0.5, "80": 0.8, "95": 0.95}, abs=tolerance)


def test_narrow_wide_and_shifted_samples_are_caught():
    """0.8 of the deviation gives the ratio 2 * 0.64 / 1.64; wide samples cover too much, shifted ones too little."""
    ratio, intervals, regions = figures(*forecasts(width=0.8))
    assert ratio == pytest.approx(2 * 0.64 / 1.64, abs=0.03)
    assert intervals["50"] < 0.46
    assert intervals["95"] < 0.91
    assert regions["50"] < 0.3
    ratio, intervals, regions = figures(*forecasts(width=1.3))
    assert ratio > 1.15
    assert intervals["50"] > 0.55
    assert regions["50"] > 0.65
    ratio, intervals, regions = figures(*forecasts(shift=1.0))
    assert ratio < 0.85
    assert intervals["80"] < 0.76
    assert regions["80"] < 0.75


def test_a_sampler_that_shows_one_of_two_modes_is_caught():
    """Each row's truth is in either of two places; samples that all choose one place are right half of the time."""
    generator = torch.Generator().manual_seed(0)
    places = torch.randn(NUM_ROWS, 2, DIM, generator=generator) * 3

    def drawn(which):
        mean = places.gather(1, which[..., None].expand(-1, -1, DIM))
        return mean + 0.1 * torch.randn(mean.shape, generator=generator)

    truth = drawn(torch.randint(2, (NUM_ROWS, 1), generator=generator))[:, 0]
    fair = drawn(torch.randint(2, (NUM_ROWS, NUM_DRAWS), generator=generator))
    narrow = drawn(torch.randint(2, (NUM_ROWS, 1), generator=generator).expand(-1, NUM_DRAWS))
    assert figures(fair, truth)[0] == pytest.approx(1, abs=0.08)
    ratio, intervals, regions = figures(narrow, truth)
    assert ratio < 0.05
    assert intervals["95"] < 0.6
    assert regions["95"] < 0.6


@pytest.fixture
def model(two_spec):
    """q(z | x) = N(0, I) for every x, and a stage-2 prior that equals N(0, scale^2) before training."""
    made = ShaLa.from_spec(read_spec(two_spec)).build()
    made.stages.update(("autoencoder", "prior"))
    for posterior in (made.autoencoder.method.posterior, made.autoencoder.method.subset_posterior):
        for layer in (posterior.head.mean, posterior.head.log_var):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return made


def scale_prior(model, scale):
    eye = torch.eye(model.autoencoder.latent_dim)
    model.prior.z_restore.copy_(scale * eye)
    model.prior.z_whiten.copy_(eye / scale)


def test_a_model_is_measured_given_nothing_and_given_one(model):
    """For latents from N(0, I), the prior is calibrated at scale 1 and rejected at 0.8.

    Missing modalities are never given, and the rows of one person are resampled together.
    """
    torch.manual_seed(0)
    x = {"first": torch.randn(200, 2), "second": torch.randn(200, 2)}
    presence = torch.ones(200, 2, dtype=torch.bool)
    presence[:50, 1] = False
    keys = tuple(f"p{n // 4} {n}" for n in range(200))
    rows = Rows(x=x, presence=presence, keys=keys, labels=(None,) * 200)
    dim = model.autoencoder.latent_dim
    q = GaussianPosterior(torch.zeros(200, dim), torch.zeros(200, dim))
    calibration = Calibration(model, rows, q.sample(), q, model.spec.evaluate, torch.arange(200) // 4, 0)
    for size, count in ((0, 200), (1, 150)):
        method = Method(prior="diffusion")
        scale_prior(model, 1.0)
        fair = calibration.figures(method, size, 500)
        assert fair.ratio.count == count
        assert fair.ratio.value == pytest.approx(1, abs=0.1)
        assert fair.intervals["80"].value == pytest.approx(0.8, abs=0.05)
        assert fair.ratio.low < 1 < fair.ratio.high
        scale_prior(model, 0.8)
        narrow = calibration.figures(method, size, 500)
        assert narrow.ratio.high < 0.95
        assert narrow.regions["80"].value < 0.7
    assert calibration.figures(Method(prior="posterior"), 1, 500).ratio.value == pytest.approx(1, abs=0.1)
    scale_prior(model, 1.0)
    model.prior.squared_temperatures = torch.tensor([[1.0, 0, 0], [1, -0.3, 0.3], [1, 0, 0]])
    uneven = calibration.figures(Method(prior="diffusion"), 1, 500)
    assert uneven.ratio.value == pytest.approx(1, abs=0.1)
    found = {title: figure.value for title, figure in uneven.by_subset.items()}
    assert found == pytest.approx({"given first": 2 * 0.7 / 1.7, "given second": 2 * 1.3 / 2.3}, abs=0.1)
    assert uneven.extremes() == tuple(f"{found[title]:.3f} {title}" for title in ("given first", "given second"))
    assert calibration.figures(Method(prior="diffusion"), 0, 500).by_subset == {}
    alone = Calibration(model, rows.take(torch.arange(40)), q.sample(), q, model.spec.evaluate, None, 0)
    assert alone.figures(Method(prior="diffusion"), 1, 500) is None
