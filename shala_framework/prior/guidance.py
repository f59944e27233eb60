"""How far samples are moved from what a poorer denoiser would make of the same noise.

References: Ho and Salimans 2022 for guidance towards what is given; Karras et al. 2024, "Guiding a Diffusion Model with
a Bad Version of Itself", for autoguidance; Kynkaanniemi et al. 2024, "Applying Guidance in a Limited Interval Improves
Sample and Distribution Quality in Diffusion Models", for the limits. That both kinds share one extent is this project's
choice: each alone sharpens the same distribution, and their sum would do so twice. Shapes: N rows.
"""

import math
from typing import Final

import attrs
import torch
from torch import Tensor


@attrs.frozen(kw_only=True)
class Guidance:
    """Scales and limits of both kinds.

    Attributes:
        guidance_scale: w in D_uncond + w (D_cond - D_uncond), towards what is given; 1 is no guidance.
        autoguidance_scale: v in D_guide + v (D - D_guide), away from the guide's errors; 1 is none.
        sigma_min: Lowest noise level at which there is any.
        sigma_max: Highest.
    """

    guidance_scale: float = 1.0
    autoguidance_scale: float = 1.0
    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def extents(self, *, any_given: bool = True) -> tuple[float, float]:
        """What D - D_uncond and D - D_guide are multiplied by: w - 1 and v - 1 where one of them is 0.

        Where both have an effect, the greater is the extent of the whole, which they share in proportion.

            >>> Guidance(guidance_scale=2.0).extents(), Guidance(guidance_scale=2.0, autoguidance_scale=2.0).extents()
            ((1.0, 0.0), (0.5, 0.5))

        Args:
            any_given: Whether anything is given; otherwise only autoguidance has an effect.
        """
        first, second = self.guidance_scale - 1 if any_given else 0.0, self.autoguidance_scale - 1
        total = abs(first) + abs(second)
        share = max(abs(first), abs(second)) / total if total else 0.0
        return first * share, second * share

    def share(self, sigma_N: Tensor) -> Tensor:
        """1 at the noise levels within the limits, 0 at others: [N]."""
        return ((sigma_N >= self.sigma_min) & (sigma_N <= self.sigma_max)).to(sigma_N.dtype)

    def has_effect(self, sigma_N: Tensor) -> bool:
        """Whether a noise level is within the limits; it waits for the device only where there are any."""
        limited = self.sigma_min > 0 or math.isfinite(self.sigma_max)
        return not limited or bool(torch.any(self.share(sigma_N) > 0))


NO_GUIDANCE: Final = Guidance()
