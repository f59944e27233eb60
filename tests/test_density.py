"""Tests of densities along the probability-flow ODE against a mixture with known denoiser and density."""

import math

import torch

from shala_framework.prior import karras_sigmas, log_density
from shala_framework.prior.density import denoised_and_trace

MEANS = torch.tensor([[0.8, -0.3, 0.5], [-0.8, 0.3, -0.5]], dtype=torch.float64)
VARIANCE = 0.2


def denoise(z, sigma):
    """E[clean | z] of two equal Gaussians."""
    total = sigma[:, None].square() + VARIANCE
    share = (-0.5 * (z[:, None] - MEANS).square().sum(2) / total).softmax(1)
    guesses = MEANS + (VARIANCE / total)[:, None] * (z[:, None] - MEANS)
    return (share[:, :, None] * guesses).sum(1)


def exact(z):
    squared = (z[:, None] - MEANS).square().sum(2)
    log_prob = -0.5 * squared / VARIANCE - 1.5 * math.log(2 * math.pi * VARIANCE)
    return log_prob.logsumexp(1) - math.log(2)


def points():
    return 0.7 * torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_density_is_exact_in_the_limit_at_second_order():
    """Twice the steps give a quarter of the error."""
    z = points()
    errors = [
        float((log_density(denoise, z, karras_sigmas(steps, 1e-4, 200.0)) - exact(z)).abs().max())
        for steps in (40, 80, 160)
    ]
    assert errors[-1] < 0.05
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.5 < errors[1] / errors[2] < 4.5


def test_the_trace_is_that_of_the_jacobian():
    """The trace is right for each row at its own noise level."""
    z, sigma = points(), torch.linspace(0.1, 3, 6, dtype=torch.float64)
    denoised, trace = denoised_and_trace(denoise, z, sigma)
    assert torch.equal(denoised, denoise(z, sigma))
    for n in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda v, n=n: denoise(v[None], sigma[n : n + 1])[0], z[n])
        torch.testing.assert_close(trace[n], jacobian.trace())
