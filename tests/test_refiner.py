"""Stage 3: its bound against closed forms, what it does not change, and learning what decoders cannot express."""

import math
from collections.abc import Mapping

import attrs
import pytest
import torch
from torch import Tensor, nn
from two_floats import RefinedFloats, TwoFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.plugin import Laplace, Likelihood, Normal, Pixels, Refinable
from shala_framework.refiner import Refined, Refinement, Refiner, check_refiner
from shala_framework.refiner.model import skip_and_out
from shala_framework.spec.schema import Posterior, Refine, RefinerStage
from shala_framework.support.distributed import processes
from shala_framework.support.errors import PluginError
from shala_framework.training.loop import train
from shala_framework.training.refinement import RefinerTraining

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
LATENT_DIM = 2
NUM_ROWS = 20_000


class GaussianDenoiser(nn.Module):
    """The optimal network for r | z ~ N(A z, C), by Bayes' rule, in the form of any other network."""

    def __init__(self, weight: Tensor, covariance: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.variances, self.axes = torch.linalg.eigh(covariance)

    def forward(self, noisy: Tensor, mean: Tensor, z: Tensor, c_noise: Tensor) -> Tensor:
        sigma = torch.exp(4 * c_noise)[:, None]
        total = (sigma.square() + 1).sqrt()
        u, expected = (noisy * total).flatten(1), z @ self.weight.T
        share = self.variances / (self.variances + sigma.square())  # along each axis
        clean = expected + ((u - expected) @ self.axes * share) @ self.axes.T
        skip, out = skip_and_out(sigma)
        return ((clean - skip * u) / out).view_as(noisy)


class Best(TwoFloats):
    """A modality with the optimal refiner."""

    def __init__(self, weight: Tensor, covariance: Tensor) -> None:
        super().__init__(TwoFloatsOptions())
        self.weight, self.covariance = weight, covariance

    def refiner(self, latent_dim: int) -> nn.Module:
        return GaussianDenoiser(self.weight, self.covariance)


def linear_gaussian(dim: int, correlated: bool) -> tuple[Refiner, Tensor, Tensor, Tensor]:
    """Return a refiner that knows r | z ~ N(A z, C), with A, C and z of many rows."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    weight, z = (torch.randn(n, LATENT_DIM, generator=generator) for n in (dim, NUM_ROWS))
    root = torch.randn(dim, dim, generator=generator) / dim**0.5 if correlated else torch.eye(dim)
    covariance = root @ root.T + 0.3 * torch.eye(dim)
    return Refiner({"x": Best(weight, covariance)}, latent_dim=LATENT_DIM), weight, covariance, z


@pytest.mark.parametrize("make", [Normal, Laplace])
def test_the_bound_is_just_below_a_known_log_density(make):
    """With the optimal denoiser, the bound is within 2 % for a correlated residual that depends on z."""
    refiner, weight, covariance, z = linear_gaussian(8, correlated=True)
    mean, log_scale = torch.linspace(-1, 1, 8).expand(len(z), -1), torch.tensor(-0.7)
    likelihood = make(mean, log_scale)
    scale = likelihood.residual_space().log_scale.exp()
    r = torch.distributions.MultivariateNormal(z @ weight.T, covariance).sample()
    x = mean + scale * r
    truth = torch.distributions.MultivariateNormal(mean + scale * (z @ weight.T), scale**2 * covariance).log_prob(x)
    refined = Refined(likelihood, refiner, "x", z, Refinement(bound_sigma_min=0.1, bound_sigma_max=40.0, num_levels=64))
    gap = (truth - refined.log_prob(x)).mean()
    assert 0 < gap < 0.02 * truth.mean().abs()
    assert (refined.log_prob(x) - Refined(likelihood, refiner, "x", z.flip(0)).log_prob(x)).mean() > 1
    assert refined.is_bound


@pytest.mark.parametrize("log_scale", [-4.0, -2.5])
def test_the_bound_of_pixels_is_just_below_their_log_mass(log_scale):
    """8-bit values have probabilities, whatever the ratio of the scale to the distance of two levels."""
    refiner, weight, covariance, z = linear_gaussian(8, correlated=False)
    mean = torch.linspace(-0.3, 0.3, 8).expand(len(z), -1)
    likelihood = Pixels(Normal(mean, torch.tensor(log_scale)))
    centre, deviation = mean + math.exp(log_scale) * (z @ weight.T), math.exp(log_scale) * covariance.diagonal().sqrt()
    true = torch.distributions.Normal(centre.double(), deviation.double())
    x = likelihood.residual_space().from_space(true.sample().float())
    level = x.double() / 127.5 - 1
    above = true.cdf(level + 1 / 255).masked_fill(x == 255, 1)
    truth = (above - true.cdf(level - 1 / 255).masked_fill(x == 0, 0)).log().sum(1)
    refined = Refined(likelihood, refiner, "x", z, Refinement(bound_sigma_min=0.1, bound_sigma_max=40.0, num_levels=64))
    gap = (truth - refined.log_prob(x)).mean()
    assert 0 < gap < 0.02 * truth.mean().abs()


@pytest.mark.parametrize(("mean", "least"), [(0.0, 0.95), (0.9, 0.1)])
def test_the_log_masses_of_the_levels_add_up_to_at_most_one(mean, least):
    """Each level's bound is below its probability, also at the ends of the range, which hold half a Gaussian."""
    refiner, _, _, z = linear_gaussian(1, correlated=False)
    levels, repeats = torch.arange(256, dtype=torch.uint8)[:, None], 256
    likelihood = Pixels(Normal(torch.full((256 * repeats, 1), mean), torch.tensor(-1.8)))
    refined = Refined(likelihood, refiner, "x", z[:1].expand(256 * repeats, -1), Refinement(num_levels=64))
    log_mass = refined.log_prob(levels.repeat(repeats, 1)).view(repeats, 256).mean(0)
    assert least < float(log_mass.exp().sum()) < 1.02  # noise of the estimates adds half its variance


def stage_1(count: int = 2) -> tuple[dict[str, TwoFloats], Autoencoder]:
    torch.manual_seed(0)
    modalities: dict[str, TwoFloats] = {name: RefinedFloats(TwoFloatsOptions()) for name in "abc"[:count]}
    modalities["plain"] = TwoFloats(TwoFloatsOptions())
    return modalities, Autoencoder(modalities, Posterior(latent_dim=LATENT_DIM, feature_dim=8, hidden_dim=16)).eval()


def rows(count: int, names: Mapping[str, object]) -> Rows:
    return Rows(
        x={name: torch.randn(count, 2).sign() + 0.1 * torch.randn(count, 2) for name in names},
        presence=torch.ones(count, len(names), dtype=torch.bool),
        keys=tuple(map(str, range(count))),
        labels=(None,) * count,
    )


def training(modalities, autoencoder, **table) -> RefinerTraining:
    refiner = Refiner(modalities, latent_dim=LATENT_DIM)
    settings = RefinerStage(steps=600, batch_size=256, ema_halflife_steps=20.0, warmup_steps=20)
    return RefinerTraining(refiner, autoencoder, Refine(**table), settings, CPU, rows(64, modalities))


def test_it_learns_what_the_decoder_cannot_say():
    """A shared network learns elements that are -1 or 1; the bound exceeds the Gaussian's density."""
    modalities, autoencoder = stage_1()
    stage = training(modalities, autoencoder)
    assert stage.refiner.names == ("a", "b")
    assert len(stage.refiner.networks) == 1
    data = rows(512, modalities)
    before = {name: p.clone() for name, p in autoencoder.state_dict().items()}
    for measure in stage.measurements:
        measure([data])
    first = stage.validate()["denoising"]
    train(
        stage,
        stage.settings,
        lambda start: (data.take(i) for i in shuffled_batches(512, 256, 0, start)),
        seed=0,
        matrix_dtype=torch.float32,
    )
    stage.average.copy_to_module()
    assert stage.validate()["denoising"] < 0.8 * first
    assert all(torch.equal(p, before[name]) for name, p in autoencoder.state_dict().items())
    z = torch.zeros(400, LATENT_DIM)
    likelihood = autoencoder.decode(z)["a"]
    refined = Refined(likelihood, stage.refiner, "a", z, Refinement(num_steps=8, sigma_min=0.03, sigma_max=10.0))
    drawn = refined.sample(torch.Generator().manual_seed(0))
    assert ((drawn.abs() - 1).abs() < 0.4).float().mean() > 0.8
    held_out = data.x["a"][:400]
    assert refined.log_prob(held_out).mean() > likelihood.log_prob(held_out).mean() + 0.5


def test_draws_follow_their_generator_and_the_mode_stays():
    """A generator's seed determines the draw; the mode is the decoder's, to the bit."""
    modalities, autoencoder = stage_1(1)
    refiner = training(modalities, autoencoder).refiner
    z = torch.randn(3, LATENT_DIM)
    likelihood = autoencoder.decode(z)["a"]
    refined = Refined(likelihood, refiner, "a", z)
    assert isinstance(refined, Likelihood)
    first, again, other = (refined.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(refined.mode(), likelihood.mode())


@pytest.mark.parametrize("sigma_max", [0.8, 1.5, 10.0])
def test_draws_have_the_deviation_of_the_residual(sigma_max):
    """Whatever the level at which the sampler begins: a start of noise alone would lack the residual's own variance."""
    modality = Best(torch.zeros(1, LATENT_DIM), torch.eye(1))
    refiner = Refiner({"x": modality}, latent_dim=LATENT_DIM)
    z = torch.zeros(NUM_ROWS, LATENT_DIM)
    likelihood = Normal(torch.full((NUM_ROWS, 1), 3.0), torch.tensor(0.5).log())
    refined = Refined(likelihood, refiner, "x", z, Refinement(num_steps=12, sigma_max=sigma_max))
    drawn = refined.sample(torch.Generator().manual_seed(0))
    assert float(drawn.mean()) == pytest.approx(3, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.02)


def test_a_row_has_the_same_noise_in_any_number_of_processes(monkeypatch):
    """The loss of all rows is the mean of those of two processes with half of them each."""
    modalities, autoencoder = stage_1()
    stage, data = training(modalities, autoencoder), rows(16, modalities)

    def loss(part: Rows, number: int, size: int) -> float:
        monkeypatch.setattr(processes, "world_size", lambda: size)
        monkeypatch.setattr(processes, "rank", lambda: number)
        torch.manual_seed(5)
        return float(stage.loss(part, 0)[0].detach())

    halves = [loss(data.take(torch.arange(16)[number::2]), number, 2) for number in range(2)]
    assert sum(halves) / 2 == pytest.approx(loss(data, 0, 1), rel=1e-5)


def test_rows_that_lack_a_modality_do_not_matter():
    """Loss, gradients and statistics do not depend on the content of absent modalities."""
    found = []
    for filler in (0.0, 1e3):
        modalities, autoencoder = stage_1()
        data = rows(16, modalities)
        data.presence[:8, 0] = False
        data.x["a"][:8] = filler
        stage = training(modalities, autoencoder)
        torch.manual_seed(0)
        for measure in stage.measurements:
            measure([data])
        loss, terms = stage.loss(data, 0)
        loss.backward()
        gradients = [p.grad.clone() for p in stage.refiner.parameters() if p.grad is not None]
        found.append([loss.detach(), terms["denoising/a"], stage.refiner.spread.clone(), *gradients])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_guidance_moves_away_from_the_denoiser_without_a_latent():
    """At w = 0 the result is the denoiser without z, and at w = 2 it extrapolates by the same distance."""
    refiner, *_, z = linear_gaussian(3, correlated=True)
    residual = refiner.residual("x", Normal(torch.zeros(2, 3), torch.zeros(())))
    u, sigma = torch.randn(2, 3), torch.ones(2)
    none, plain, far = (refiner.denoiser("x", residual, z[:2], w)(u, sigma) for w in (0.0, 1.0, 2.0))
    torch.testing.assert_close(far - plain, plain - none)
    told = refiner.denoise("x", residual, u, sigma, refiner.dropped.expand(2, -1))
    torch.testing.assert_close(none, told)


def test_a_likelihood_without_a_residual_space_is_refused():
    """The error names the modality and what it lacks."""

    @attrs.frozen
    class Bare:
        mean: Tensor

    refiner, *_ = linear_gaussian(3, correlated=False)
    assert not isinstance(Bare(torch.zeros(1)), Refinable)
    with pytest.raises(TypeError, match="expected a Refinable likelihood of 'x', got Bare"):
        refiner.residual("x", Bare(torch.zeros(1)))  # type: ignore[arg-type]


def test_a_plugin_that_does_not_keep_the_contract_is_named():
    """A likelihood that cannot be refined and a network of another shape are refused."""

    class Short(RefinedFloats):
        def refiner(self, latent_dim: int) -> nn.Module:
            class Network(nn.Linear):
                def forward(self, noisy, mean, z, c_noise):
                    return super().forward(noisy)

            return Network(2, 1)

    class Unlikely(nn.Module):
        def forward(self, z):
            return z

    modalities: dict[str, TwoFloats] = {"a": Short(TwoFloatsOptions())}
    refiner = Refiner(modalities, latent_dim=LATENT_DIM)
    decoders = nn.ModuleDict({"a": modalities["a"].decoder(LATENT_DIM)})
    with pytest.raises(PluginError, match=r"modality 'a': its refiner returned \(2, 1\); expected \(2, 2\)"):
        check_refiner(refiner, decoders, modalities)
    with pytest.raises(PluginError, match="modality 'a': it offers a refiner, and its decoder returned Tensor"):
        check_refiner(refiner, nn.ModuleDict({"a": Unlikely()}), modalities)
