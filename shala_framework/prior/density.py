"""Densities of a diffusion model, by the change of variables along its probability-flow ODE.

Shapes: N rows, D latent_dim.
Reference: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential Equations"; in the form of
Karras et al. 2022 (EDM), whose ODE is dz/dsigma = (z - D(z; sigma)) / sigma.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor

from shala_framework.prior.sampling import Denoise


@torch.no_grad()
def log_density(denoise: Denoise, z_ND: Tensor, sigmas: Tensor, last_variance_N: Tensor | None = None) -> Tensor:
    """Compute the log density of z under sampling with the same denoiser and noise levels, with the exact divergence.

    This is the density of the data under noise of the lowest level. Heun's method solves the ODE from there to the
    highest level, where z is nearly Gaussian.

    Args:
        denoise: D(z; sigma), row by row: a row's output may depend only on its own z.
        z_ND: Standardised latents.
        sigmas: Decreasing noise levels of the sampler; the last one is 0.
        last_variance_N: Variance of each z at the highest level; sigma_max^2 + 1 by default.

    Returns:
        float tensor [N], nats.
    """
    levels = [float(sigma) for sigma in sigmas if sigma > 0][::-1]

    def slope(z_ND: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Return dz/dsigma and its divergence [N]."""
        sigma_N = z_ND.new_full((len(z_ND),), sigma)
        denoised_ND, trace_N = denoised_and_trace(denoise, z_ND, sigma_N)
        return (z_ND - denoised_ND) / sigma, (z_ND.shape[1] - trace_N) / sigma

    log_volume_N = z_ND.new_zeros(len(z_ND))
    for sigma, following in pairwise(levels):
        d_ND, divergence_N = slope(z_ND, sigma)
        step = following - sigma
        next_d_ND, next_divergence_N = slope(z_ND + step * d_ND, following)
        z_ND = z_ND + 0.5 * step * (d_ND + next_d_ND)
        log_volume_N = log_volume_N + 0.5 * step * (divergence_N + next_divergence_N)
    variance_N = z_ND.new_full((len(z_ND),), levels[-1] ** 2 + 1) if last_variance_N is None else last_variance_N
    log_prob_N = -0.5 * (z_ND.square().sum(1) / variance_N + z_ND.shape[1] * (2 * math.pi * variance_N).log())
    return log_prob_N + log_volume_N


def denoised_and_trace(denoise: Denoise, z_ND: Tensor, sigma_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return D(z; sigma) [N, D] and the trace of its Jacobian [N], with one derivative per dimension."""
    with torch.enable_grad():
        z_ND = z_ND.detach().requires_grad_()
        denoised_ND = denoise(z_ND, sigma_N)
        trace_N = z_ND.new_zeros(len(z_ND))
        for d in range(z_ND.shape[1]):
            (row_ND,) = torch.autograd.grad(denoised_ND[:, d].sum(), z_ND, retain_graph=True)
            trace_N += row_ND[:, d]
    return denoised_ND.detach(), trace_N
