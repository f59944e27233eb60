"""Variants of the prior that the framework does not have, for prior_study.py.

Shapes: B batch, D latent_dim.
"""

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from shala_framework.prior import DiffusionPrior


class UncertaintyWeight(DiffusionPrior):
    """The loss of each noise level divided by a learned scale (Karras et al. 2024, EDM2, equation 21)."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.log_scale = nn.Linear(16, 1)
        nn.init.zeros_(self.log_scale.weight)
        nn.init.zeros_(self.log_scale.bias)
        self.register_buffer("frequencies", torch.linspace(0.25, 3, 8))

    def _errors(self, clean_BD: Tensor, sigma_B: Tensor, *inputs: Any) -> list[Tensor]:
        angles = sigma_B.log()[:, None] * self.frequencies
        u_B = self.log_scale(torch.cat([angles.cos(), angles.sin()], 1))[:, 0]
        return [error_B / u_B.exp() + u_B for error_B in super()._errors(clean_BD, sigma_B, *inputs)]


class Coupling(DiffusionPrior):
    """Noise is assigned to the latents of a batch that it is nearest to (Tong et al. 2024), in parts of 64 rows."""

    def _errors(self, clean_BD: Tensor, sigma_B: Tensor, noise_BD: Tensor, *inputs: Any) -> list[Tensor]:
        parts = []
        for clean, noise in zip(clean_BD.split(64), noise_BD.split(64), strict=True):
            _, order = linear_sum_assignment(torch.cdist(clean, noise).square().numpy())
            parts.append(noise[torch.from_numpy(order)])
        return super()._errors(clean_BD, sigma_B, torch.cat(parts), *inputs)


PRIORS: dict[str, type[DiffusionPrior]] = {
    "diffusion": DiffusionPrior,
    "uncertainty": UncertaintyWeight,
    "coupling": Coupling,
}
