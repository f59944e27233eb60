"""Guidance: how far samples are moved away from the output of a weaker denoiser for the same noise.

References: Ho and Salimans 2022 for guidance towards given modalities; Karras et al. 2024, "Guiding a Diffusion Model
    with a Bad Version of Itself", for autoguidance; Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval
    Improves Sample and Distribution Quality in Diffusion Models", for the limits. Both kinds share one extent, which is
    this project's choice: each alone sharpens the same distribution, and their sum would do so twice. Shapes: N rows.
"""

import math
from typing import Final

import attrs
import torch
from torch import Tensor


@attrs.frozen(kw_only=True)
class Guidance:
    """Scales and limits of both kinds of guidance.

    Attributes:
        guidance_scale: w in D_uncond + w (D_cond - D_uncond), towards the given modalities; 1 disables it.
        autoguidance_scale: v in D_guide + v (D - D_guide), away from the guide's errors; 1 disables it.
        sigma_min: Lowest noise level with guidance.
        sigma_max: Highest noise level with guidance.
    """

    guidance_scale: float = 1.0
    autoguidance_scale: float = 1.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def extents(self, *, any_given: bool = True) -> tuple[float, float]:
        """Return the factors of D - D_uncond and D - D_guide: w - 1 and v - 1 if one of them is 0.

        If both have an effect, the larger one is the total, which they share in proportion.

            >>> Guidance(guidance_scale=2.0).extents(), Guidance(guidance_scale=2.0, autoguidance_scale=2.0).extents()
            ((1.0, 0.0), (0.5, 0.5))

        Args:
            any_given: Whether any modality is given. Otherwise only autoguidance has an effect.
        """
        first, second = self.guidance_scale - 1 if any_given else 0.0, self.autoguidance_scale - 1
        total = abs(first) + abs(second)
        share = max(abs(first), abs(second)) / total if total else 0.0
        return first * share, second * share

    def share(self, sigma_N: Tensor) -> Tensor:
        """Return 1 at noise levels within the limits and 0 at others: [N]."""
        return ((sigma_N >= self.sigma_min) & (sigma_N <= self.sigma_max)).to(sigma_N.dtype)

    def has_effect(self, sigma_N: Tensor) -> bool:
        """Return whether a noise level is within the limits. It waits for the device only if there are limits."""
        limited = self.sigma_min > 0 or math.isfinite(self.sigma_max)
        return not limited or bool(torch.any(self.share(sigma_N) > 0))


NO_GUIDANCE: Final = Guidance()
