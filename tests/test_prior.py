"""The diffusion prior, its sampler and its controls against closed forms."""

import math

import pytest
import torch

from shala_framework.prior import (
    SAMPLERS,
    DiffusionPrior,
    GaussianMixture,
    Guidance,
    karras_sigmas,
    num_evaluations,
    row_noise,
)
from shala_framework.prior.network import CONDITIONS
from shala_framework.prior.priors import DiffusedPrior, Given, MixturePrior, Sampling
from shala_framework.prior.whitening import whitening
from shala_framework.support.seeds import mix_seed
from shala_framework.training.averages import MovingAverage

pytestmark = pytest.mark.long

NO_CLUSTERS = torch.zeros(5000, dtype=torch.int64)
MEAN, STD = torch.tensor([1.0, -0.5]), torch.tensor([0.5, 2.0])


def ideal_denoiser(z, sigma):
    """E[clean | z] for clean ~ N(MEAN, diag STD^2)."""
    variance = sigma[:, None] ** 2
    return (STD**2 * z + variance * MEAN) / (STD**2 + variance)


def test_untrained_denoiser_is_ideal_for_standardised_gaussian_data():
    """With the network's output at its initial zero, D(z; sigma) = z / (1 + sigma^2), which is optimal for N(0, I)."""
    prior = DiffusionPrior(latent_dim=3, num_modalities=1, feature_dim=2, hidden_dim=16)
    z, sigma = torch.randn(50, 3), torch.logspace(-2, 1.6, 50)
    condition = prior.condition([torch.zeros(50, 2)], torch.zeros(50, 1, dtype=torch.bool))
    torch.testing.assert_close(prior.denoise(z, sigma, condition, NO_CLUSTERS[:50]), z / (1 + sigma[:, None] ** 2))


def clustered_prior(**sizes):
    """An untrained prior with two clusters of known, correlated Gaussians."""
    torch.manual_seed(0)
    prior = DiffusionPrior(latent_dim=3, num_modalities=1, feature_dim=2, hidden_dim=16, max_clusters=4)
    covariance = torch.eye(3) + (a := torch.randn(2, 3, 3)) @ a.mT
    variances, directions = torch.linalg.eigh(covariance)
    state = prior.mixture.state_dict()
    state["weights"].copy_(torch.tensor([0.7, 0.3, 0.0, 0.0]))
    state["means"][:2] = torch.randn(2, 3)
    state["variances"][:2], state["directions"][:2] = variances, directions
    prior.mixture.load_state_dict(state)
    return prior, covariance


@pytest.mark.parametrize("in_graph", [False, True])
def test_the_skip_connection_is_the_best_denoiser_of_the_cluster(in_graph, monkeypatch):
    """With the network's output at its initial zero, D is the conditional mean of the cluster's Gaussian.

    A graph, and a device, multiply each row by the matrices of all clusters.
    """
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: in_graph)
    prior, covariance = clustered_prior()
    z, sigma, cluster = 2 * torch.randn(6, 3), torch.logspace(-2, 1.6, 6), torch.tensor([0, 1, 1, 0, 0, 1])
    condition = prior.condition([torch.zeros(6, 2)], torch.zeros(6, 1, dtype=torch.bool))
    denoised = prior.denoise(z, sigma, condition, cluster)
    for n, k in enumerate(cluster.tolist()):
        mean, noisy = prior.mixture.means[k], covariance[k] + sigma[n] ** 2 * torch.eye(3)
        expected = mean + covariance[k] @ torch.linalg.solve(noisy, z[n] - mean)
        torch.testing.assert_close(denoised[n], expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_untrained_prior_is_its_mixture(sampler):
    """Densities and samples are the mixture's own, however few steps the solver takes."""
    prior, _ = clustered_prior()
    diffused = DiffusedPrior(prior, 0.002, 80.0)
    z = prior.mixture.sample(0, range(40))
    given = Given(
        h_MNF=[torch.zeros(1, 2)], subset_NM=torch.zeros(1, 1, dtype=torch.bool), row_K=torch.zeros(40).long()
    )
    expected = MixturePrior(prior).log_prob(z, given)
    torch.testing.assert_close(diffused.log_prob(z, given, 3), expected, atol=1e-3, rtol=1e-3)
    samples = diffused.sample(0, given, Sampling(num_steps=12, sampler=sampler))
    cluster = prior.draw_clusters(mix_seed(0, 7), [torch.zeros(40, 2)], torch.zeros(40, 1, dtype=torch.bool))
    assert 5 < int(cluster.sum()) < 20
    noise = row_noise(0, range(40), 3)
    torch.testing.assert_close(
        samples, prior.mixture.from_steady(noise, torch.zeros(40), cluster), atol=1e-4, rtol=1e-4
    )


def test_whitened_latents_have_the_identity_as_covariance():
    """Latents are restored exactly, the volume is the determinant's, and few rows inflate no direction."""
    torch.manual_seed(0)
    mixed = torch.randn(5, 5, dtype=torch.float64)
    covariance = mixed @ torch.diag(torch.tensor([4.0, 1.0, 1e-2, 1e-3, 1e-4], dtype=torch.float64)) @ mixed.T
    z = torch.randn(1000, 5, dtype=torch.float64) @ torch.linalg.cholesky(covariance).T + 3
    prior = DiffusionPrior(latent_dim=5, num_modalities=1, feature_dim=1, hidden_dim=8, whiten=True)
    prior.set_statistics(z.mean(0), z.T.cov(), torch.zeros(1, 1), torch.ones(1, 1), 10**9)
    unit = prior.standardise(z.float())
    torch.testing.assert_close(unit.T.cov(), torch.eye(5), atol=5e-3, rtol=0)
    torch.testing.assert_close(prior.restore(unit), z.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prior.log_volume().double(), 0.5 * z.T.cov().logdet(), atol=1e-2, rtol=0)
    few = z[:6]
    prior.set_statistics(few.mean(0), few.T.cov(), torch.zeros(1, 1), torch.ones(1, 1), 6)
    assert prior.standardise(z.float()).std(0).max() < 4
    scaled = DiffusionPrior(latent_dim=5, num_modalities=1, feature_dim=1, hidden_dim=8, whiten=False)
    scaled.set_statistics(z.mean(0), z.T.cov(), torch.zeros(1, 1), torch.ones(1, 1), 1000)
    torch.testing.assert_close(
        scaled.standardise(z.float()), ((z - z.mean(0)) / z.std(0)).float(), atol=1e-4, rtol=1e-4
    )


def test_trained_denoiser_reaches_the_ideal_of_correlated_gaussian_data():
    """Trained on N(0, C), D comes within a few per cent of the closed form C (C + sigma^2)^-1 z."""
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    data = torch.randn(4096, 2) @ torch.linalg.cholesky(covariance).T
    prior = DiffusionPrior(latent_dim=2, num_modalities=1, feature_dim=1, hidden_dim=64, num_blocks=2, whiten=False)
    average = train_prior(prior, data, [torch.zeros(4096, 1)], steps=1500)
    average.copy_to_module()
    z = data[:512] + 0.8 * torch.randn(512, 2)
    sigma = torch.full((512,), 0.8)
    condition = prior.condition([torch.zeros(512, 1)], torch.zeros(512, 1, dtype=torch.bool))
    ideal = z @ torch.linalg.inv(covariance + 0.64 * torch.eye(2)) @ covariance
    error = (prior.denoise(z, sigma, condition, NO_CLUSTERS[:512]) - ideal).square().mean().sqrt()
    assert error < 0.07 * ideal.std()


def train_prior(prior, z, h, *, steps, unconditional_share=0.3, batch_size=256):
    prior.set_statistics(
        z.mean(0),
        z.T.cov(),
        torch.stack([v.mean(0) for v in h]),
        torch.stack([v.std(0).clamp_min(1e-4) for v in h]),
        len(z),
    )
    optimizer = torch.optim.AdamW(prior.parameters(), lr=2e-3, betas=(0.9, 0.99))
    average = MovingAverage(prior.network, 100)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(z), (batch_size,))
        loss = prior.losses(
            z[rows],
            [v[rows] for v in h],
            torch.ones(batch_size, len(h), dtype=torch.bool),
            unconditional_share=unconditional_share,
            log_sigma_mean=-0.4,
            log_sigma_std=1.2,
        )["denoising"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(step)
    prior.eval()
    return average


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_with_the_ideal_denoiser_gives_the_data_distribution(sampler):
    """From the ideal denoiser of a Gaussian, samples have its mean and standard deviation."""
    noise = row_noise(0, range(20_000), 2)
    samples = SAMPLERS[sampler](ideal_denoiser, noise, karras_sigmas(32, 0.002, 80.0))
    torch.testing.assert_close(samples.mean(0), MEAN, atol=0.05, rtol=0)
    torch.testing.assert_close(samples.std(0), STD, atol=0, rtol=0.03)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_converge_with_order_two(sampler):
    """Against the ODE's closed-form solution, the error falls with the square of the step count."""
    high, low = 10.0, 0.2
    noise = row_noise(1, range(64), 2).double()
    std, mean = STD.double(), MEAN.double()
    exact = mean + (high * noise - mean) * ((std**2 + low**2) / (std**2 + high**2)).sqrt()
    counts = [8, 16, 32, 64, 128]
    errors = []
    for count in counts:
        # Levels that end above zero: the last step to zero is Euler's by design and would hide the order.
        levels = karras_sigmas(count + 1, low, high)[:-1]

        def denoise(z, sigma):
            variance = sigma[:, None] ** 2
            return (std**2 * z + variance * mean) / (std**2 + variance)

        errors.append(float((SAMPLERS[sampler](denoise, noise, levels) - exact).abs().max()))
    x, y = torch.tensor(counts).double().log(), torch.tensor(errors).double().log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert -2.2 < slope < -1.8


@pytest.mark.parametrize(("sampler", "expected"), [("heun", 17), ("dpm", 9)])
def test_samplers_evaluate_the_denoiser_as_often_as_documented(sampler, expected):
    """2 * num_steps - 1 evaluations of Heun, num_steps of DPM-Solver++, and one callback a step."""
    calls, steps = [], []

    def denoise(z, sigma):
        calls.append(float(sigma[0]))
        return torch.zeros_like(z)

    levels = karras_sigmas(9, 0.1, 10.0)
    SAMPLERS[sampler](denoise, torch.randn(2, 3), levels, callback=lambda i, z: steps.append(i))
    assert len(calls) == num_evaluations(sampler, 9) == expected
    assert steps == list(range(9))


def test_karras_levels():
    """Levels run from sigma_max to sigma_min and end in zero; invalid values are refused."""
    levels = karras_sigmas(10, 0.01, 50.0)
    assert len(levels) == 11
    assert levels[-1] == 0
    assert abs(float(levels[0]) - 50) < 1e-9
    assert abs(float(levels[-2]) - 0.01) < 1e-9
    assert (levels[:-1] > levels[1:]).all()
    for wrong in ((1, 0.01, 50.0), (5, 0.0, 1.0), (5, 2.0, 1.0)):
        with pytest.raises(ValueError, match="expected num_steps"):
            karras_sigmas(*wrong)


def test_noise_of_a_row_does_not_depend_on_its_batch():
    """Row 7 is the same alone and in a batch, and differs from row 8 and from another seed."""
    batch = row_noise(3, range(10), 5)
    assert torch.equal(row_noise(3, [7], 5)[0], batch[7])
    assert not torch.equal(batch[7], batch[8])
    assert not torch.equal(row_noise(4, [7], 5)[0], batch[7])
    assert abs(float(row_noise(0, range(4000), 5).std()) - 1) < 0.02


def test_every_conditional_of_a_toy_is_sampled():
    """p(z | x_S) of a toy model with known conditionals, one of them a mixture of two distant modes.

    z = (u, v), u ~ N(0, 1), v = s (1 + u / 4) + 0.1 e with s = +-1; modality A sees u, modality B sees v.
    """
    torch.manual_seed(0)
    rows = 8192
    u, sign = torch.randn(rows), torch.randint(2, (rows,)) * 2.0 - 1
    v = sign * (1 + u / 4) + 0.1 * torch.randn(rows)
    z, h = torch.stack([u, v], 1), [u[:, None], v[:, None]]
    prior = DiffusionPrior(latent_dim=2, num_modalities=2, feature_dim=1, hidden_dim=96, num_blocks=2)
    train_prior(prior, z, h, steps=2500).copy_to_module()

    def draw(given, count=4000):
        subset = torch.tensor([[value is not None for value in given]]).expand(count, -1)
        features = [torch.full((count, 1), 0.0 if value is None else value) for value in given]
        noise, levels = row_noise(0, range(count), 2), karras_sigmas(24, 0.01, 40.0)
        with torch.no_grad():
            return prior.sample(noise, features, subset, NO_CLUSTERS[:count], levels)

    for value in (-0.8, 0.8):
        samples = draw([value, None])
        mode = 1 + value / 4
        assert abs(samples[:, 0].mean() - value) < 0.08
        assert samples[:, 0].std() < 0.15
        assert abs(samples[:, 1].mean()) < 0.12
        assert abs(samples[:, 1].std() - (mode**2 + 0.01) ** 0.5) < 0.08
        share = [(samples[:, 1] > 0).float().mean(), (samples[:, 1].abs() < 0.3).float().mean()]
        assert 0.4 < share[0] < 0.6  # both modes occur
        assert share[1] < 0.03  # almost nothing lies between them, where a Gaussian would put most samples
        # With both given, one mode remains.
        both = draw([value, -mode])
        assert abs(both[:, 1].mean() + mode) < 0.08
        assert both[:, 1].std() < 0.2

    # With only v = 1.25 given, u has prior N(0, 1) and likelihood N(1.25; 1 + u/4, 0.1^2).
    precision = 1 + (0.25 / 0.1) ** 2
    expected_mean, expected_std = (0.25 * 0.25 / 0.01) / precision, precision**-0.5
    samples = draw([None, 1.25])
    assert abs(samples[:, 0].mean() - expected_mean) < 0.1
    assert abs(samples[:, 0].std() - expected_std) < 0.1

    joint = draw([None, None])
    torch.testing.assert_close(joint.T.cov(), z.T.cov(), atol=0.12, rtol=0)


@pytest.fixture
def guided():
    """A prior with random weights, features of five rows, nothing given in the first one, and noisy latents."""
    torch.manual_seed(0)
    prior = DiffusionPrior(latent_dim=3, num_modalities=2, feature_dim=4, hidden_dim=16)
    for parameter in prior.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    subset = torch.tensor([[False, False], *[[True, False]] * 4])
    return prior, [torch.randn(5, 4) for _ in range(2)], subset, torch.randn(5, 3)


def test_guidance_interpolates_and_extrapolates(guided):
    """Scale 0 is the poorer denoiser, 1 the plain one, and 2 extrapolates by the same distance, row by row."""
    prior, h, subset, z = guided
    sigma = torch.full((5,), 0.7)

    def denoised(**scales):
        return prior.denoiser(h, subset, NO_CLUSTERS[:5], Guidance(**scales))(z, sigma)

    plain = denoised()
    without = prior.denoiser(h, torch.zeros_like(subset), NO_CLUSTERS[:5])(z, sigma)
    guide = prior.denoise(z, sigma, prior.condition(h, subset, guide=True), NO_CLUSTERS[:5], guide=True)
    assert not torch.allclose(without[1:], plain[1:])
    assert not torch.allclose(guide, plain)
    torch.testing.assert_close(denoised(guidance_scale=0.0), without)
    torch.testing.assert_close(denoised(guidance_scale=2.0), 2 * plain - without)
    torch.testing.assert_close(denoised(autoguidance_scale=0.0), guide)
    torch.testing.assert_close(denoised(autoguidance_scale=2.0), 2 * plain - guide)


def test_both_kinds_of_guidance_share_the_greater_extent(guided):
    """w - 1 = 1 and v - 1 = 2 extrapolate by 2, a third and two thirds of it; a row with nothing given uses v."""
    prior, h, subset, z = guided
    sigma = torch.full((5,), 0.7)
    plain, without = (
        prior.denoiser(h, subset, NO_CLUSTERS[:5])(z, sigma),
        prior.denoiser(h, torch.zeros_like(subset), NO_CLUSTERS[:5])(z, sigma),
    )
    guide = prior.denoise(z, sigma, prior.condition(h, subset, guide=True), NO_CLUSTERS[:5], guide=True)
    both = prior.denoiser(h, subset, NO_CLUSTERS[:5], Guidance(guidance_scale=2.0, autoguidance_scale=3.0))(z, sigma)
    torch.testing.assert_close(both[1:], (plain + 2 / 3 * (plain - without) + 4 / 3 * (plain - guide))[1:])
    torch.testing.assert_close(both[0], (3 * plain - 2 * guide)[0])


def test_guidance_has_no_effect_outside_its_interval(guided):
    """Guidance applies within the interval, ends included; elsewhere D is plain, and no other denoiser is evaluated."""
    prior, h, subset, z = guided
    scales = {"guidance_scale": 3.0, "autoguidance_scale": 2.0}
    plain, everywhere = (
        prior.denoiser(h, subset, NO_CLUSTERS[:5]),
        prior.denoiser(h, subset, NO_CLUSTERS[:5], Guidance(**scales)),
    )
    limited = prior.denoiser(h, subset, NO_CLUSTERS[:5], Guidance(**scales, sigma_min=0.5, sigma_max=2.0))
    sigma = torch.tensor([0.49, 0.5, 1.0, 2.0, 2.01])
    inside = ((sigma >= 0.5) & (sigma <= 2))[:, None]
    assert not torch.allclose(plain(z, sigma), everywhere(z, sigma))
    torch.testing.assert_close(limited(z, sigma), torch.where(inside, everywhere(z, sigma), plain(z, sigma)))
    calls = []
    prior.network.register_forward_hook(lambda *_: calls.append(1))
    prior.guide.register_forward_hook(lambda *_: calls.append(1))
    limited(z, torch.full((5,), 3.0))
    assert len(calls) == 1
    limited(z, torch.full((5,), 1.0))
    assert len(calls) == 4


@pytest.mark.parametrize("count", [1, 3])
def test_a_mixture_finds_the_number_of_its_clusters(count):
    """Clusters, also of unequal size, are found with their moments; data that form none are a single Gaussian."""
    torch.manual_seed(0)
    weights = torch.tensor([0.5, 0.3, 0.2][:count])
    centres = torch.tensor([[0.0, 5.0], [4.0, 0.0], [-4.0, 0.0]])[:count]
    component = torch.multinomial(weights, 6000, replacement=True)
    z = centres[component] + torch.randn(6000, 2) * torch.tensor([1.0, 0.5])
    mixture = GaussianMixture(20, 2)
    mixture.fit(z)
    assert mixture.num_components == count
    torch.testing.assert_close(mixture.means[:count], centres, atol=0.1, rtol=0)
    torch.testing.assert_close(mixture.weights[:count], weights / weights.sum(), atol=0.02, rtol=0)
    assert (mixture.component_of(z) == component).float().mean() > 0.99
    draws = mixture.sample(0, range(6000))
    torch.testing.assert_close(draws.mean(0), z.mean(0), atol=0.2, rtol=0)
    torch.testing.assert_close(draws.T.cov(), z.T.cov(), atol=0.5, rtol=0)
    assert torch.equal(mixture.sample(0, [5])[0], draws[5])


@pytest.mark.parametrize("seed", [2, 3])
def test_clusters_of_unequal_length_are_each_found_whole(seed):
    """Some starts of k-means cut a long cluster in two and leave two short ones together."""
    torch.manual_seed(seed)
    centres, directions = 1.5 * torch.randn(8, 16), torch.nn.functional.normalize(torch.randn(8, 16))
    component = torch.randint(8, (3000,))
    z = centres[component] + 0.5 * torch.randn(3000, 16)
    z += 3 * torch.rand(8)[component, None] * torch.randn(3000, 1) * directions[component]
    mixture = GaussianMixture(30, 16)
    mixture.fit((z - z.mean(0)) / z.std(0), seed=seed)
    assert mixture.num_components == 8
    found = mixture.component_of((z - z.mean(0)) / z.std(0))
    pairs = torch.unique(torch.stack([component, found]), dim=1, return_counts=True)[1]
    assert pairs.topk(8).values.sum() > 0.998 * 3000


@pytest.mark.parametrize("seed", [0, 2])
def test_classes_that_differ_in_two_respects_are_found(seed):
    """Eight times four classes, whose offsets add up, in 12 of 48 dimensions: no start of k-means finds 32 at once."""
    torch.manual_seed(seed)
    one, other = torch.randint(8, (6000,)), torch.randint(4, (6000,))
    offsets, others = 3 * torch.randn(8, 48), 3 * torch.randn(4, 48)
    offsets[:, 8:], others[:, :8], others[:, 12:] = 0, 0, 0
    z = offsets[one] + others[other] + torch.randn(6000, 48)
    z = (z - z.mean(0)) @ whitening(torch.cov(z.T), 6000)[0]
    mixture = GaussianMixture(50, 48)
    mixture.fit(z)
    pairs = torch.stack([4 * one + other, mixture.component_of(z)])
    kinds, count = torch.unique(pairs, dim=1, return_counts=True)
    most = torch.zeros(50, dtype=torch.int64).scatter_reduce(0, kinds[1], count, "amax")
    assert most.sum() > 0.97 * 6000  # nearly every component is of one class


def test_weights_are_the_shares_by_which_stage_2_learns_a_cluster():
    """Also where a wide cluster and a narrow one overlap, which k-means divides elsewhere than their Gaussians do."""
    generator = torch.Generator().manual_seed(0)
    narrow, wide = torch.randn(2, 4000, 4, generator=generator)
    z = torch.cat([0.15 * narrow, torch.tensor([1.5, 0, 0, 0]) + 1.2 * wide])
    mixture = GaussianMixture(50, 4)
    mixture.fit((z - z.mean(0)) / z.std(0))
    count = mixture.num_components
    assert count > 1
    own = torch.bincount(mixture.component_of((z - z.mean(0)) / z.std(0)), minlength=count) / len(z)
    torch.testing.assert_close(mixture.weights[:count], own, atol=2e-3, rtol=0)


def test_several_draws_of_a_row_are_not_taken_for_rows():
    """Ten draws of each of 60 rows without clusters do not look like 60 clusters, nor are covariances too narrow."""
    torch.manual_seed(0)
    z = torch.randn(60, 4).repeat(10, 1) + 0.05 * torch.randn(600, 4)
    mixture = GaussianMixture(50, 4)
    mixture.fit(z, row_N=torch.arange(600) % 60)
    assert mixture.num_components == 1
    assert float(mixture.log_prob(torch.randn(1000, 4)).mean()) > -4 * 1.419 - 0.3


def test_the_covariance_of_a_mixture_is_that_within_and_between_its_components():
    prior, covariance = clustered_prior()
    means = prior.mixture.means[:2].double()
    apart = means[0] - means[1]
    expected = 0.7 * covariance[0].double() + 0.3 * covariance[1].double() + 0.21 * torch.outer(apart, apart)
    torch.testing.assert_close(prior.mixture.covariance(), expected, rtol=1e-5, atol=1e-5)


def test_mixture_density_is_the_closed_form():
    """log_prob equals torch's mixture of multivariate normals."""
    prior, covariance = clustered_prior()
    mixture = prior.mixture
    theirs = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights[:2]),
        torch.distributions.MultivariateNormal(mixture.means[:2], covariance),
    )
    z = torch.randn(10, 3)
    torch.testing.assert_close(mixture.log_prob(z), theirs.log_prob(z))


@pytest.mark.parametrize(
    "z",
    [
        torch.zeros(400, 3),  # a single point
        torch.eye(3).repeat(80, 1),  # fewer points than components
        torch.randn(5, 3),  # fewer rows than a cluster has
        torch.randn(1, 3),
        torch.randn(400, 1) * torch.tensor([1.0, 1.0, 0.0]),  # points on a line
        1e5 * torch.randn(400, 3),
    ],
)
def test_mixture_of_degenerate_data_is_finite(z):
    """Degenerate sets of points are fitted without an error or a warning."""
    mixture = GaussianMixture(5, 3)
    mixture.fit(z, seed=2**63 - 1)
    assert mixture.log_prob(z).isfinite().all()
    assert mixture.sample(0, range(20)).isfinite().all()


@pytest.mark.parametrize("condition", sorted(CONDITIONS))
def test_a_condition_tells_the_length_of_a_feature(condition):
    """Features that differ only by a factor are different conditions."""
    torch.manual_seed(0)
    net = CONDITIONS[condition](num_modalities=1, feature_dim=4, hidden_dim=16).eval()
    h, there = torch.randn(1, 4), torch.ones(1, 1, dtype=torch.bool)
    one, two = (net([scale * h], there) for scale in (1.0, 4.0))
    assert (one - two).abs().mean() > 0.05 * one.abs().mean()


def test_a_feature_that_hardly_varies_does_not_decide_alone():
    """Standardised features of usual size enter exactly, and those of a new row thousands of deviations away do not."""
    prior = DiffusionPrior(latent_dim=2, num_modalities=1, feature_dim=2, hidden_dim=8)
    prior.set_statistics(torch.zeros(2), torch.eye(2), torch.zeros(1, 2), torch.tensor([[1e-4, 1.0]]), 100)
    seen, given = [], torch.ones(3, 1, dtype=torch.bool)
    prior.network.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    prior.condition([torch.tensor([[5e-4, 9.5], [0.3, -2.0], [-1e9, 0.0]])], given)
    torch.testing.assert_close(seen[0][0], torch.tensor([5.0, 9.5]))
    assert 10 < seen[0][1, 0] < 20
    assert -60 < seen[0][2, 0] < -20
