"""Mixtures of discretised logistics: masses against closed forms, draws and modes against masses."""

import math

import pytest
import torch
from shala_image.mixture import HALF_STEP, LogisticMixture, lower_bounded
from torch import Tensor

LOWEST = lower_bounded(torch.tensor(-1e4)).item()


def one_pixel(weights: list[float], means: list[list[float]], log_scales: list[list[float]], n: int) -> LogisticMixture:
    """The same mixture, of K components over C channels, for each of n pixels of n pictures."""
    parameters = torch.tensor([means, log_scales])[:, None, :, :, None, None].expand(-1, n, -1, -1, -1, -1)
    logits = torch.tensor(weights).log()[None, :, None, None].expand(n, -1, -1, -1)
    return LogisticMixture(logits, *parameters)


def reference_mass(mean: float, scale: float) -> Tensor:
    """Masses of the 256 levels in float64 as differences of the distribution function: [256]."""
    edges = (torch.arange(1, 256, dtype=torch.float64) * 2 - 1) / 255 - 1
    inner = torch.sigmoid((edges - mean) / scale)
    return torch.diff(inner, prepend=torch.zeros(1), append=torch.ones(1))


ALL_LEVELS = torch.arange(256, dtype=torch.uint8).view(256, 1, 1, 1)


@pytest.mark.parametrize(
    ("weights", "means", "log_scales"),
    [
        ([1.0], [0.1], [-3.0]),
        ([1.0], [0.1], [5.0]),
        ([1.0], [-3.0], [-2.0]),
        ([1.0], [40.0], [-1.0]),
        ([1.0], [1.0], [LOWEST]),
        ([0.2, 0.5, 0.3], [-1.1, 0.0, 0.9], [-2.0, LOWEST, -4.0]),
    ],
)
def test_masses_sum_to_one_and_match_the_closed_form(
    weights: list[float], means: list[float], log_scales: list[float]
) -> None:
    """Over the 256 levels, both ends included, the masses are a distribution: that of the definition."""
    mixture = one_pixel(weights, [[m] for m in means], [[s] for s in log_scales], 256)
    mass = mixture.log_prob(ALL_LEVELS).double().exp()
    parts = zip(weights, means, log_scales, strict=True)
    expected = sum(weight * reference_mass(mean, math.exp(log_scale)) for weight, mean, log_scale in parts)
    assert abs(mass.sum().item() - 1) < 1e-4
    torch.testing.assert_close(mass, expected, rtol=1e-3, atol=1e-6)


def test_channels_share_the_component() -> None:
    """The mass of an RGB pixel is the mixture of products, not the product of mixtures."""
    means, log_scales = [[-0.5, 0.2, 0.9], [0.6, -0.7, 0.0]], [[-2.0, -3.0, -1.0], [-1.5, -2.5, -4.0]]
    mixture = one_pixel([0.3, 0.7], means, log_scales, 1)
    x = torch.tensor([180, 40, 130], dtype=torch.uint8).view(1, 3, 1, 1)
    products = [
        math.prod(reference_mass(mean[c], math.exp(scale[c]))[x[0, c].item()].item() for c in range(3))
        for mean, scale in zip(means, log_scales, strict=True)
    ]
    assert mixture.log_prob(x).item() == pytest.approx(math.log(0.3 * products[0] + 0.7 * products[1]), rel=1e-4)


@pytest.mark.parametrize("mean", [-30.0, -1.0, 30.0])
@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_hopeless_levels_keep_finite_gradients(mean: float, level: int) -> None:
    """If the mass is far below the range of a float, its logarithm and its gradient are still finite."""
    means = torch.full((1, 1, 1, 1, 1), mean, requires_grad=True)
    log_scales = torch.full((1, 1, 1, 1, 1), LOWEST, requires_grad=True)
    x = torch.full((1, 1, 1, 1), level, dtype=torch.uint8)
    log_prob = LogisticMixture(torch.zeros(1, 1, 1, 1), means, log_scales).log_prob(x)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert means.grad is not None
    assert log_scales.grad is not None
    assert means.grad.isfinite().all()
    assert log_scales.grad.isfinite().all()


def test_draws_follow_the_masses() -> None:
    """Frequencies of 200,000 draws pass a chi-square test against log_prob; levels of little mass are pooled."""
    n = 200_000
    mixture = one_pixel([0.25, 0.75], [[-1.0], [0.3]], [[-1.5], [-3.0]], n)
    drawn = mixture.sample(torch.Generator().manual_seed(0)).flatten()
    expected = n * one_pixel([0.25, 0.75], [[-1.0], [0.3]], [[-1.5], [-3.0]], 256).log_prob(ALL_LEVELS).exp()
    counts = torch.bincount(drawn.int(), minlength=256).float()
    common = expected >= 10
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    chi_square = ((counts - expected).square() / expected).sum().item()
    degrees = len(counts) - 1
    # Chi-square has mean `degrees` and variance 2 * degrees.
    assert abs(chi_square - degrees) < 4 * math.sqrt(2 * degrees)


def test_drawn_channels_share_the_component() -> None:
    """A black and a white component give black and white pixels in their shares, and never coloured ones."""
    n = 20_000
    mixture = one_pixel([0.3, 0.7], [[-1.0] * 3, [1.0] * 3], [[-4.0] * 3, [-4.0] * 3], n)
    bright = mixture.sample(torch.Generator().manual_seed(0)).view(n, 3) > 127
    assert (bright == bright[:, :1]).all()
    assert abs(bright[:, 0].float().mean() - 0.7) < 0.02


@pytest.mark.parametrize(
    ("weights", "means", "scale"),
    [([1.0], [0.31], -3.0), ([1.0], [-2.0], -1.0), ([1.0], [7.0], -1.0), ([0.4, 0.6], [-0.5, 0.5], -3.0),
     ([0.35, 0.35, 0.3], [-0.6, -0.6, 0.7], -3.0), ([0.5, 0.5], [-1.2, 0.2], -3.0)],
)  # fmt: skip
def test_mode_is_the_level_of_greatest_mass(weights: list[float], means: list[float], scale: float) -> None:
    """For one component, distant components and coinciding components, no level has more mass than the mode."""
    mixture = one_pixel(weights, [[m] for m in means], [[scale]] * len(means), 256)
    log_mass = mixture.log_prob(ALL_LEVELS)
    assert log_mass[mixture.mode()[0].long()].item() == pytest.approx(log_mass.max().item(), abs=1e-3)


def test_the_relaxed_form_is_the_mode_and_can_change_it() -> None:
    """It is the mode to the nearest level; of one component it is the mean; its gradient moves what the mode picks.

    The centre that is picked gets the whole gradient, also beyond the range of pixels, and the others none. Weights and
    scales get one that leads to another choice where this is nearer to what is asked for.
    """
    torch.manual_seed(0)
    logits, means, log_scales = torch.randn(4, 3, 5, 5), torch.randn(4, 3, 2, 5, 5), torch.randn(4, 3, 2, 5, 5) - 3
    mixture = LogisticMixture(logits, means, log_scales)
    torch.testing.assert_close(mixture.relaxed().round(), mixture.mode().float())
    torch.testing.assert_close(mixture.first_rows(2).relaxed(), mixture.relaxed()[:2])
    one = LogisticMixture(logits[:, :1], means[:, :1].clamp(-1, 1), log_scales[:, :1])
    torch.testing.assert_close(one.relaxed(), 127.5 * (one.residual_space().mean + 1))

    leaves = [
        torch.tensor([0.6, 0.3, 0.1]).log().view(1, 3, 1, 1).requires_grad_(),
        torch.tensor([-0.5, 0.9, 0.0]).view(1, 3, 1, 1, 1).requires_grad_(),
        torch.full((1, 3, 1, 1, 1), -3.0).requires_grad_(),
    ]
    chosen = []
    for _ in range(100):
        relaxed = LogisticMixture(*leaves).relaxed()
        chosen.append(float(relaxed.detach()))
        gradients = torch.autograd.grad((relaxed / 127.5 - 1 - 0.8).square().sum(), leaves)
        if len(chosen) == 1:
            assert gradients[1].flatten().tolist() == pytest.approx([2 * (-0.5 - 0.8), 0, 0])
            assert gradients[0][0, 0] > 0 > gradients[0][0, 1]
            assert gradients[2][0, 0] < 0 < gradients[2][0, 1]  # a wider component is less likely at its centre
        with torch.no_grad():
            leaves[0] -= 0.1 * gradients[0]
    assert chosen[0] == pytest.approx(127.5 * 0.5)
    assert chosen[-1] == pytest.approx(127.5 * 1.9)
    beyond = torch.full((1, 1, 1, 1, 1), 1.4, requires_grad=True)
    relaxed = LogisticMixture(torch.zeros(1, 1, 1, 1), beyond, torch.zeros(1, 1, 1, 1, 1)).relaxed()
    assert torch.autograd.grad(relaxed.sum(), beyond)[0].item() == pytest.approx(127.5)


def test_smallest_scale_leaves_a_level_its_mass() -> None:
    """At the smallest scale 96 % of the mass lies on the centre's level, and larger scales are hardly changed."""
    assert reference_mass(1 / 255, math.exp(LOWEST))[128].item() == pytest.approx(0.964, abs=1e-3)
    assert math.exp(LOWEST) == pytest.approx(HALF_STEP / 4, rel=1e-4)
    assert lower_bounded(torch.tensor(-2.0)).item() == pytest.approx(-2.0, abs=0.02)
