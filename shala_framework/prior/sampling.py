"""Deterministic sampling of diffusion models: stateless functions over any denoiser.

Shapes: N rows, D latent_dim. Noise levels sigma are in standard deviations of the standardised latent.
Reference: Karras et al. 2022 (EDM).
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final, Protocol

import torch
from torch import Tensor

from shala_framework.support.cores import look_at_load
from shala_framework.support.seeds import mix_seed


class Denoise(Protocol):
    """D(z; sigma): the expected clean latent given z = clean + sigma * noise."""

    def __call__(self, z_ND: Tensor, sigma_N: Tensor) -> Tensor: ...


def karras_sigmas(num_steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Noise levels from sigma_max down to sigma_min, evenly spaced in sigma ** (1 / rho), and then 0.

    Args:
        num_steps: Number of sampler steps (intervals between levels), at least 2.
        sigma_min: Smallest non-zero level.
        sigma_max: Largest level.
        rho: Larger values put more steps near sigma_min.

    Returns:
        float64 tensor [num_steps + 1].

    Example:
        >>> [round(float(sigma), 3) for sigma in karras_sigmas(4, 0.01, 40.0)]
        [40.0, 6.338, 0.516, 0.01, 0.0]

    Raises:
        ValueError: Unless num_steps >= 2 and 0 < sigma_min < sigma_max.
    """
    if num_steps < 2 or not 0 < sigma_min < sigma_max:
        raise ValueError(
            f"expected num_steps >= 2 and 0 < sigma_min < sigma_max, got {num_steps}, {sigma_min}, {sigma_max}"
        )
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def row_noise(seed: int, rows: Sequence[int], dim: int) -> Tensor:
    """Standard Gaussian noise [N, dim] in which row n depends only on (seed, rows[n]).

    The n-th sample therefore does not depend on its batch.

    Example:
        >>> bool((row_noise(0, [4, 5, 6], 2)[1] == row_noise(0, [5], 2)[0]).all())
        True
    """
    generator = torch.Generator()
    return torch.stack([torch.randn(dim, generator=generator.manual_seed(mix_seed(seed, row))) for row in rows])


def sample_heun(
    denoise: Denoise,
    noise_ND: Tensor,
    sigmas: Tensor,
    *,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Solve the probability-flow ODE dz/dsigma = (z - D(z; sigma)) / sigma by Heun's second-order method.

    Args:
        denoise: D(z; sigma), called 2 * num_steps - 1 times.
        noise_ND: Standard Gaussian noise.
        sigmas: Decreasing levels [num_steps + 1] whose last is 0.
        callback: Called after each step with its index and the state.

    Returns:
        float tensor [N, D]: z at noise level 0.

    Example:
        The best denoiser of N(3, 1) is known, (z + 3 sigma^2) / (1 + sigma^2), so samples have mean 3:

        >>> def denoise(z, sigma):
        ...     return (z + 3 * sigma[:, None] ** 2) / (1 + sigma[:, None] ** 2)
        >>> z = sample_heun(denoise, row_noise(0, range(1000), 1), karras_sigmas(18, 0.01, 40.0))
        >>> round(float(z.mean())), round(float(z.std()), 1)
        (3, 1.0)

    Reference: Karras et al. 2022 (EDM), algorithm 1.
    """
    levels = [float(sigma) for sigma in sigmas]
    z_ND = noise_ND * levels[0]

    def slope(z_ND: Tensor, sigma: float) -> Tensor:
        return (z_ND - denoise(z_ND, z_ND.new_full((len(z_ND),), sigma))) / sigma

    for i, (sigma, following) in enumerate(pairwise(levels)):
        look_at_load()
        d_ND = slope(z_ND, sigma)
        euler_ND = z_ND + (following - sigma) * d_ND
        if following > 0:
            d_ND = 0.5 * (d_ND + slope(euler_ND, following))
            z_ND = z_ND + (following - sigma) * d_ND
        else:
            z_ND = euler_ND
        if callback is not None:
            callback(i, z_ND)
    return z_ND


def sample_dpm(
    denoise: Denoise,
    noise_ND: Tensor,
    sigmas: Tensor,
    *,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Solve the same ODE with DPM-Solver++(2M): second order from two successive evaluations, at half of Heun's cost.

    Args:
        denoise: D(z; sigma), called num_steps times.
        noise_ND: Standard Gaussian noise.
        sigmas: Decreasing levels [num_steps + 1] whose last is 0.
        callback: Called after each step with its index and the state.

    Returns:
        float tensor [N, D]: z at noise level 0.

    Reference: Lu et al. 2022, "DPM-Solver++", algorithm 2, with lambda = -log sigma.
    """
    levels = [float(sigma) for sigma in sigmas]
    z_ND = noise_ND * levels[0]
    before_ND, step_before = None, 0.0
    for i, (sigma, following) in enumerate(pairwise(levels)):
        look_at_load()
        denoised_ND = denoise(z_ND, z_ND.new_full((len(z_ND),), sigma))
        guess_ND = denoised_ND
        if following > 0:
            step = math.log(sigma / following)
            if before_ND is not None:
                guess_ND = denoised_ND + 0.5 * step / step_before * (denoised_ND - before_ND)
            step_before = step
        z_ND = following / sigma * z_ND + (1 - following / sigma) * guess_ND
        before_ND = denoised_ND
        if callback is not None:
            callback(i, z_ND)
    return z_ND


class Sampler(Protocol):
    """A solver of the probability-flow ODE; arguments as for `sample_heun`."""

    def __call__(
        self,
        denoise: Denoise,
        noise_ND: Tensor,
        sigmas: Tensor,
        *,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor: ...


SAMPLERS: Final[dict[str, Sampler]] = {"heun": sample_heun, "dpm": sample_dpm}
"""Samplers by their names in a spec."""


def num_evaluations(sampler: str, num_steps: int) -> int:
    """Return the number of evaluations of D(z; sigma) that a sampler makes."""
    return {"heun": 2 * num_steps - 1, "dpm": num_steps}[sampler]
