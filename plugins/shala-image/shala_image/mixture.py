"""Mixtures of discretised logistic distributions over a pixel's 256 levels (Salimans et al. 2017, PixelCNN++).

Shapes: B batch, K components, C channels, H height, W width.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from shala_framework.plugin import ResidualSpace, pixel_space, pixels_to_unit, unit_to_pixels, unit_to_relaxed

HALF_STEP = 1 / 255  # half the distance between two levels, in [-1, 1] units


class LogisticMixture:
    """Mixtures over 8-bit pixels whose channels are independent given the pixel's component.

    Each pixel has one component for all its channels, so a few components represent a few colours. The conditional
    means between channels of PixelCNN++ are omitted. The probability of a level is that of the interval of +-1/255
    around it. The lowest level also has everything below it, the highest everything above it.
    """

    is_bound = False

    def __init__(self, logits: Tensor, means: Tensor, log_scales: Tensor) -> None:
        """Mix K components.

        Args:
            logits: Unnormalised log-weights, float [B, K, H, W].
            means: Centres in [-1, 1] units of pixel value, float [B, K, C, H, W]; they may lie outside.
            log_scales: Log-scales in the same units, float [B, K, C, H, W].
        """
        self.log_weights = logits.log_softmax(1)
        self.means, self.log_scales = means, log_scales

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log probability of uint8 x [B, C, H, W] in nats: [B]."""
        return self._log_mass(x).flatten(1).sum(1)

    def mode(self) -> Tensor:
        """Return, for each pixel, the component centre (to the nearest level) that is most likely under the mixture.

        For a single component this is the mode. For several overlapping components it may miss a mode between them. It
        decides between black and white: a thin, uncertain stroke is omitted rather than painted grey, as the mean of a
        normal likelihood would be.
        """
        return _pick(unit_to_pixels(self.means), self._likeliest_BHW())

    def relaxed(self) -> Tensor:
        """Return `mode` before rounding: float [B, C, H, W] in 0..255, with gradients.

        They reach the centre that is picked, and by a softmax in place of the choice also the weights and scales that
        decide it: both are straight-through estimates (Bengio et al. 2013), as is the gradient of a centre beyond the
        range of pixels.
        """
        means = self.means.detach()
        peaks_BKHW = _log_masses(unit_to_pixels(means), means, self.log_scales).sum(2)
        shares_BK1HW = (self.log_weights + peaks_BKHW).softmax(1)[:, :, None]
        picked = _pick(self.means, self._likeliest_BHW())
        within = picked + (picked.clamp(-1, 1) - picked).detach()
        # The difference is 0 and has the gradient of the shares.
        return unit_to_relaxed(within + ((shares_BK1HW - shares_BK1HW.detach()) * means.clamp(-1, 1)).sum(1))

    def first_rows(self, num_rows: int) -> "LogisticMixture":
        """Return the same of the first rows alone."""
        return LogisticMixture(self.log_weights[:num_rows], self.means[:num_rows], self.log_scales[:num_rows])

    @torch.no_grad()
    def _likeliest_BHW(self) -> Tensor:
        """Index of the component whose centre is most likely under the mixture, for each pixel."""
        centres = unit_to_pixels(self.means)
        return torch.stack([self._log_mass(centre) for centre in centres.unbind(1)], dim=1).argmax(1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw a component for each pixel, then a value for each of its channels: uint8 [B, C, H, W]."""
        # The argmax of log-weights plus Gumbel noise is a sample from the weights.
        gumbel = -_uniform(self.log_weights, generator).log().neg().log()
        component_BHW = (self.log_weights + gumbel).argmax(1)
        mean, log_scale = _pick(self.means, component_BHW), _pick(self.log_scales, component_BHW)
        return unit_to_pixels(mean + log_scale.exp() * _uniform(mean, generator).logit())

    def residual_space(self) -> ResidualSpace:
        """Its mean and standard deviation, pixel by pixel, in [-1, 1] units."""
        weight = self.log_weights.exp()[:, :, None]
        mean = (weight * self.means).sum(1)
        of_component = (self.log_scales.exp() * (math.pi / 3**0.5)).square() + (self.means - mean[:, None]).square()
        return pixel_space(mean, 0.5 * (weight * of_component).sum(1).log())

    def _log_mass(self, x: Tensor) -> Tensor:
        """Log probability of each pixel of uint8 x [B, C, H, W]: [B, H, W]."""
        log_mass_BKCHW = _log_masses(x[:, None], self.means, self.log_scales)
        return torch.logsumexp(self.log_weights + log_mass_BKCHW.sum(2), dim=1)


def _log_masses(x: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Log probability of each value of uint8 x [B, K or 1, C, H, W] under each component: [B, K, C, H, W]."""
    per_unit = torch.exp(-log_scales)
    centred = pixels_to_unit(x) - means
    # With s the logistic function and a > b, s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), which avoids a difference
    # that could round to 0. The lowest level has no b and the highest no a, so two of the factors drop out.
    below_upper = logsigmoid((centred + HALF_STEP) * per_unit)
    above_lower = logsigmoid((HALF_STEP - centred) * per_unit)
    between = torch.log(-torch.expm1(-2 * HALF_STEP * per_unit))
    lowest, highest = x == 0, x == 255
    return (
        below_upper.masked_fill(highest, 0)
        + above_lower.masked_fill(lowest, 0)
        + between.masked_fill(lowest | highest, 0)
    )


def lower_bounded(log_scales: Tensor, lowest: float = math.log(HALF_STEP / 4)) -> Tensor:
    """Bound log-scales smoothly from below by `lowest`. At the default, one level can have 96 % of the probability."""
    return lowest + torch.nn.functional.softplus(log_scales - lowest)


def _pick(values: Tensor, component_BHW: Tensor) -> Tensor:
    """Select one component of values [B, K, C, H, W] for each pixel: [B, C, H, W]."""
    index = component_BHW[:, None, None].expand(-1, 1, values.shape[2], -1, -1)
    return values.gather(1, index).squeeze(1)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw from (0, 1), excluding the ends, with the shape of `like`."""
    drawn = torch.rand(like.shape, generator=generator, dtype=torch.float32, device=like.device)
    return drawn.clamp_min(2**-25)
