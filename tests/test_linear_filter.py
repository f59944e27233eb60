"""The linear part of stage 3's denoiser: its closed form, rows that lack the modality, and earlier checkpoints."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from two_floats import CorrelatedFloats, RefinedFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.rows import Rows
from shala_framework.plugin import Normal
from shala_framework.refiner import LinearFilter, Refiner, ResidualUnit
from shala_framework.refiner.linear import PRESUMED
from shala_framework.refiner.model import skip_and_out
from shala_framework.spec.schema import Posterior, Refine, RefinerStage
from shala_framework.support.checkpoint import load_module
from shala_framework.support.errors import PluginError
from shala_framework.training.refinement import RefinerTraining

SHAPE, LATENT_DIM = (4, 3), 2
NUM_ROWS = 20_000


def correlated_rows() -> tuple[Normal, Tensor, Tensor, Tensor]:
    """Return a likelihood, x, and slope and covariance of the flattened residual, whose covariance is separable."""
    generator = torch.Generator().manual_seed(0)
    time, place = torch.randn(4, 4, generator=generator), torch.randn(3, 3, generator=generator)
    root = torch.kron(time, place)
    covariance = root @ root.T
    covariance, root = covariance / covariance.diagonal().mean(), root / covariance.diagonal().mean().sqrt()
    axes = torch.linalg.eigh(covariance)[1]
    slope = axes @ torch.diag(torch.tensor([0.0] * 6 + [0.5] * 6)) @ axes.T
    mean = 5 + torch.randn(NUM_ROWS, *SHAPE, generator=generator)
    scale = 0.1
    residual = (mean.flatten(1) - 5) / scale @ slope.T * 0.1
    residual = residual + torch.randn(NUM_ROWS, 12, generator=generator) @ root.T
    return Normal(mean, torch.tensor(scale).log()), mean + scale * residual.view_as(mean), 0.1 * slope, covariance


def test_it_is_the_wiener_filter_of_what_was_measured():
    """With a share of the covariance, so that the network's prediction has a place; u is filtered around B m."""
    likelihood, x, slope, covariance = correlated_rows()
    residual, linear = ResidualUnit(likelihood.residual_space(), torch.ones(())), LinearFilter(SHAPE)
    r = residual.of(x)
    linear.set_axes(linear.axis_sums(residual.mean, r), NUM_ROWS)
    linear.set_moments(linear.moment_sums(linear.offset(residual), r), NUM_ROWS)
    torch.testing.assert_close(linear.centre, residual.mean.mean(0))
    for level in (0.1, 1.0, 10.0):
        u = r + level * torch.randn(r.shape, generator=torch.Generator().manual_seed(1))
        expected = linear.offset(residual).flatten(1) @ slope.T
        filtered = covariance * PRESUMED @ (covariance * PRESUMED + level**2 * torch.eye(12)).inverse()
        best = expected + (u.flatten(1) - expected) @ filtered.T
        found = linear(u, torch.tensor(level), residual).flatten(1)
        assert float((found - best).square().mean() / (best.square().mean())) < 1e-3


@pytest.mark.parametrize("num_rows", [1, 2, 8, 200])
def test_few_rows_neither_find_a_slope_by_chance_nor_a_variance_of_none(num_rows):
    """Where the residual does not follow the mean, on new rows the filter is no worse than the scalar."""
    found = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x, mean = (torch.randn(num_rows + 500, *SHAPE, generator=generator) for _ in range(2))
        linear = LinearFilter(SHAPE)
        one, new = (
            ResidualUnit(Normal(m, torch.zeros(())).residual_space(), torch.ones(()))
            for m in (mean[:num_rows], mean[num_rows:])
        )
        linear.set_axes(linear.axis_sums(one.mean, x[:num_rows]), num_rows)
        linear.set_moments(linear.moment_sums(linear.offset(one), x[:num_rows]), num_rows)
        noise = torch.randn(500, *SHAPE, generator=generator)
        error = (linear(x[num_rows:] + 0.1 * noise, torch.tensor(0.1), new) - x[num_rows:]).square().mean()
        found.append([float((linear.slope != 0).float().mean()), float(error) / 0.1**2])
    chance, error = torch.tensor(found).mean(0)
    assert chance <= (0 if num_rows < 10 else 0.01)
    assert error < (3.0 if num_rows < 8 else 1.5)


def test_it_refuses_an_axis_whose_square_would_fill_a_checkpoint():
    """With the name of the modality."""

    class Wave(CorrelatedFloats):
        shape = (16_000,)  # type: ignore[assignment]

    with pytest.raises(PluginError, match=r"modality 'x' has correlated_residuals: expected at most 4,096 values"):
        Refiner({"x": Wave(TwoFloatsOptions())}, latent_dim=LATENT_DIM)


def test_before_it_is_measured_it_is_the_scalar_skip():
    likelihood, *_ = correlated_rows()
    residual = ResidualUnit(likelihood.residual_space(), torch.ones(()))
    u, sigma = torch.randn(NUM_ROWS, *SHAPE), torch.tensor(0.7)
    torch.testing.assert_close(LinearFilter(SHAPE)(u, sigma, residual), skip_and_out(sigma)[0] * u)


def stage(lacking: int) -> tuple[RefinerTraining, Rows]:
    """Return stage 3 of a modality that some of its rows lack, and the rows."""
    torch.manual_seed(0)
    modalities = {"a": CorrelatedFloats(TwoFloatsOptions()), "b": RefinedFloats(TwoFloatsOptions())}
    autoencoder = Autoencoder(modalities, Posterior(latent_dim=LATENT_DIM, feature_dim=8, hidden_dim=16)).eval()
    refiner = Refiner(modalities, latent_dim=LATENT_DIM)
    presence = torch.ones(64, 2, dtype=torch.bool)
    presence[64 - lacking :, 0] = False
    x = {name: torch.randn(64, 2, generator=torch.Generator().manual_seed(0)).cumsum(1) for name in modalities}
    rows = Rows(x=x, presence=presence, keys=tuple(map(str, range(64))), labels=(None,) * 64)
    return RefinerTraining(refiner, autoencoder, Refine(), RefinerStage(steps=1), torch.device("cpu")), rows


def test_rows_that_lack_the_modality_are_not_measured():
    """Whatever stands in their place; and if every row lacks it, the filter stays as it was."""
    training, rows = stage(lacking=16)
    found = []
    for filler in (0.0, 1e3):
        rows.x["a"][48:] = filler
        for measure in training.measurements:
            torch.manual_seed(0)
            measure([rows.take(torch.arange(i, i + 32)) for i in (0, 32)])
        found.append({name: value.clone() for name, value in training.refiner.filters["a"].state_dict().items()})
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())
    nowhere, rows = stage(lacking=64)
    before = {name: value.clone() for name, value in nowhere.refiner.filters.state_dict().items()}
    assert not torch.equal(before["a.variance"], found[0]["variance"])
    for measure in nowhere.measurements:
        measure([rows])
    assert all(torch.equal(before[name], value) for name, value in nowhere.refiner.filters.state_dict().items())


def test_a_checkpoint_without_a_filter_denoises_as_it_did(tmp_path):
    """The scalar skip stays where an earlier version trained with it."""
    earlier = Refiner({"a": RefinedFloats(TwoFloatsOptions())}, latent_dim=LATENT_DIM)
    later = Refiner({"a": CorrelatedFloats(TwoFloatsOptions())}, latent_dim=LATENT_DIM)
    load_module(later, earlier.state_dict(), Path("refiner.safetensors"))
    residual = earlier.residual("a", Normal(torch.zeros(5, 2), torch.zeros(())))
    u, sigma, z = torch.randn(5, 2), torch.full((5,), 0.7), torch.randn(5, LATENT_DIM)
    assert torch.equal(later.denoise("a", residual, u, sigma, z), earlier.denoise("a", residual, u, sigma, z))
