"""The residual r = (x - mean) / scale of one modality, and the variational bound of its density.

Shapes: B batch, N elements of x, L noise levels; an ellipsis is the shape of one x.
Reference: Kingma et al. 2021, "Variational Diffusion Models", whose bound in continuous time this is, in the unit of
Karras et al. 2022 (EDM): u = r + sigma * noise, with the signal-to-noise ratio 1 / sigma^2.
"""

import math
from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from shala_framework.plugin.refining import ResidualSpace
from shala_framework.prior.sampling import Denoise

_Noise = Callable[[], Tensor]
REACH = 7.0  # standard deviations beyond which the mass of a Gaussian is negligible


@attrs.frozen(eq=False)
class ResidualUnit:
    """One modality's residual space, in which r has a standard deviation of about 1.

    Attributes:
        space: Residual space of the likelihood.
        spread: Standard deviation of the data around the mean, in units of the likelihood's own scale.
    """

    space: ResidualSpace
    spread: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of x in the space, float [B, ...]."""
        return self.space.mean.float()

    @property
    def scale(self) -> Tensor:
        """Unit of r, which broadcasts to the mean."""
        return torch.exp(self.space.log_scale.float()) * self.spread

    def of(self, x: Tensor) -> Tensor:
        """Return the residual of x [B, ...]."""
        return (self.space.to_space(x).float() - self.mean) / self.scale

    def restore(self, r: Tensor) -> Tensor:
        """Convert r back to x in its space, neither rounded nor clamped."""
        return self.mean + self.scale * r

    def x(self, r: Tensor) -> Tensor:
        """Convert to observations x in the dtype and range of `Modality.read`."""
        return self.space.from_space(self.restore(r))

    def bound(
        self,
        denoise: Denoise,
        x: Tensor,
        *,
        sigma_min: float,
        sigma_max: float,
        num_levels: int,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """An unbiased estimate of a lower bound of log p(x | z), in nats: [B].

        It is the reconstruction term at the lowest level, less the divergence from the prior at the highest one, less
        the integral of |r - D(r + sigma noise; sigma)|^2 / sigma^2 over log sigma between them. Of discrete x it is the
        log mass. Levels are stratified, with an offset of each row's own.

        Args:
            denoise: D(u; sigma), row by row.
            x: As `Modality.read` returns it, [B, ...].
            sigma_min: Lowest level, in units of r; discrete x takes half the distance of two values instead.
            sigma_max: Highest level.
            num_levels: Levels at which a row is denoised.
            generator: Generator of the noise and levels.
        """
        r = self.of(x)
        levels = self.space.levels
        lowest = sigma_min if levels is None else 0.5 * levels.step * float((1 / self.scale).mean())

        def noise() -> Tensor:
            return torch.randn(r.shape, generator=generator, device=r.device)

        log_prob_B = self._reconstruction(r, lowest, noise) - _prior_divergence(r, sigma_max)
        offset_B = torch.rand(len(r), generator=generator, device=r.device)
        width = math.log(sigma_max / lowest)
        for level in range(num_levels):
            sigma_B = lowest * torch.exp((level + offset_B) / num_levels * width)
            shaped = sigma_B.view(-1, *(1,) * (r.ndim - 1))
            error = (r - denoise(r + shaped * noise(), sigma_B)) / shaped
            log_prob_B = log_prob_B - error.square().flatten(1).sum(1) * (width / num_levels)
        return log_prob_B

    def _reconstruction(self, r: Tensor, sigma: float, noise: _Noise) -> Tensor:
        """E log p(x | u) at the lowest level; p(x | u) is N(x; u, sigma^2), normalised if x is discrete: [B]."""
        levels = self.space.levels
        if levels is None:
            one = -0.5 * (1 + math.log(2 * math.pi * sigma**2)) - self.scale.log()
            return one.expand_as(r).flatten(1).sum(1)
        value, gap, step = self.restore(r), noise(), levels.step / self.scale / sigma
        reach = min(int(REACH / float(step.min())) + 1, round((levels.highest - levels.lowest) / levels.step))
        total = torch.zeros_like(r)  # the sum over values of N(value; u, sigma^2) relative to that of x
        for away in range(-reach, reach + 1):
            other = value + away * levels.step
            known = (other > levels.lowest - 0.5 * levels.step) & (other < levels.highest + 0.5 * levels.step)
            total = total + torch.exp(-away * step * (gap + 0.5 * away * step)) * known
        return -total.log().flatten(1).sum(1)


def _prior_divergence(r: Tensor, sigma_max: float) -> Tensor:
    """KL(N(r, sigma_max^2) || N(0, sigma_max^2 + 1)): [B]."""
    total = sigma_max**2 + 1
    one = (sigma_max**2 + r.square()) / total - 1 + math.log(total / sigma_max**2)
    return 0.5 * one.flatten(1).sum(1)
