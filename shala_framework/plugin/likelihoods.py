"""Distributions p(x | z) for several plugins.

A learned scale follows sigma-VAE (Rybkin et al. 2021): each modality has one log-scale, trained with the decoder, so no
weight is needed to balance a video against a sentence. Shapes: B batch; an ellipsis stands for the shape of one x.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from shala_framework.plugin.refining import Levels, ResidualSpace


def _scaled_sum(values: Tensor, factor: Tensor, log_scale: Tensor) -> Tensor:
    """Sum values * factor + log_scale over each x, where both are one number or broadcast: [B]."""
    if log_scale.numel() == 1:  # avoids a pass over all values
        one_factor, one_scale = factor.reshape(()), log_scale.reshape(())
        return values.flatten(1).sum(1) * one_factor + values[0].numel() * one_scale
    return (values * factor + log_scale).flatten(1).sum(1)


class Normal:
    """Independent Gaussians with mean [B, ...] and a log_scale that broadcasts to it.

    Example:
        >>> standard = Normal(torch.zeros(1, 2), torch.zeros(()))
        >>> round(float(standard.log_prob(torch.zeros(1, 2))), 4)  # -log(2 pi), of two values at their mode
        -1.8379
    """

    is_bound = False

    def __init__(self, mean: Tensor, log_scale: Tensor) -> None:
        self.mean, self.log_scale = mean, log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x [B, ...] in nats: [B]."""
        gap = x - self.mean
        half_precision = 0.5 * torch.exp(-2 * self.log_scale)
        constant = 0.5 * math.log(2 * math.pi) * gap[0].numel()
        return -_scaled_sum(gap * gap, half_precision, self.log_scale) - constant

    def mode(self) -> Tensor:
        return self.mean

    def relaxed(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + torch.exp(self.log_scale) * noise

    def residual_space(self) -> ResidualSpace:
        return ResidualSpace(mean=self.mean, log_scale=self.log_scale)


class Laplace:
    """Independent Laplace distributions with location [B, ...] and a log_scale that broadcasts to it."""

    is_bound = False

    def __init__(self, location: Tensor, log_scale: Tensor) -> None:
        self.location, self.log_scale = location, log_scale

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of x [B, ...] in nats: [B]."""
        gap = x - self.location
        return -_scaled_sum(gap.abs(), torch.exp(-self.log_scale), self.log_scale) - gap[0].numel() * math.log(2)

    def mode(self) -> Tensor:
        return self.location

    def relaxed(self) -> Tensor:
        return self.location

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        loc = self.location
        uniform = torch.rand(loc.shape, generator=generator, dtype=loc.dtype, device=loc.device) - 0.5
        # 1 - 2|u| lies in [0, 1]. An exact 0 stands for all values below half of the step, 2 ** -23 in float32; a
        # smaller bound would make one in 16 million draws an outlier of 87 scales.
        tail = (1 - 2 * uniform.abs()).clamp_min(torch.finfo(loc.dtype).eps / 2)
        return loc - torch.exp(self.log_scale) * uniform.sign() * tail.log()

    def residual_space(self) -> ResidualSpace:
        return ResidualSpace(mean=self.location, log_scale=self.log_scale + 0.5 * math.log(2))


LOCATION_SCALE: Final[dict[str, type[Normal] | type[Laplace]]] = {"normal": Normal, "laplace": Laplace}
"""The likelihoods with a location and a log-scale, by their names in options."""


class Pixels:
    """8-bit values 0..255 under a continuous likelihood over [-1, 1].

    log_prob is the density per grey level, by change of variables. It approximates the log probability of a level.
    """

    def __init__(self, base: Normal | Laplace) -> None:
        self.base = base

    @property
    def is_bound(self) -> bool:
        return self.base.is_bound

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density of uint8 x [B, ...] in nats: [B]."""
        return self.base.log_prob(pixels_to_unit(x)) - x[0].numel() * math.log(127.5)

    def mode(self) -> Tensor:
        return unit_to_pixels(self.base.mode())

    def relaxed(self) -> Tensor:
        return unit_to_relaxed(self.base.relaxed())

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return unit_to_pixels(self.base.sample(generator))

    def residual_space(self) -> ResidualSpace:
        space = self.base.residual_space()
        return pixel_space(space.mean, space.log_scale)


def pixels_to_unit(x: Tensor) -> Tensor:
    """Map values 0..255, uint8 or relaxed, to float32 in [-1, 1]."""
    return x.float() / 127.5 - 1


def pixel_space(mean: Tensor, log_scale: Tensor) -> ResidualSpace:
    """The residual space of 8-bit pixels whose mean and log standard deviation are in [-1, 1] units."""
    return ResidualSpace(
        mean=mean,
        log_scale=log_scale,
        to_space=pixels_to_unit,
        from_space=unit_to_pixels,
        to_encoder=unit_to_relaxed,
        levels=Levels(lowest=-1.0, highest=1.0, step=1 / 127.5),
    )


def unit_to_relaxed(x: Tensor) -> Tensor:
    """Map floats in [-1, 1] to 0..255, neither rounded nor clamped, for `Relaxed` likelihoods of 8-bit values."""
    return (x + 1) * 127.5


def unit_to_pixels(x: Tensor) -> Tensor:
    """Map floats, clamped to [-1, 1], to uint8 0..255."""
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class LogScale(nn.Module):
    """A scalar log-scale, either learned or fixed.

    The parameter is multiplied by a gain. With optimisers of the Adam family, whose steps are as large as the learning
    rate, the scale then settles within the first few hundred steps.
    """

    GAIN = 10.0
    LOWEST = -6.0  # on noise-free data a tiny scale makes the gradient explode (Rybkin et al. 2021)

    def __init__(self, initial: float = 0.5, fixed: float | None = None) -> None:
        super().__init__()
        value = torch.tensor(math.log(fixed if fixed is not None else initial))
        self.learned = fixed is None
        if self.learned:
            self.scaled = nn.Parameter(value / self.GAIN)
        else:
            self.register_buffer("scaled", value / self.GAIN)

    def forward(self) -> Tensor:
        """Return the log-scale, a float tensor without dimensions."""
        value = self.GAIN * self.scaled
        return self.LOWEST + nn.functional.softplus(value - self.LOWEST) if self.learned else value
