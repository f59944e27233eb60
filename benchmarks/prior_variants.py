"""Variants of the prior that the framework does not have, or not by default, for prior_study.py.

Shapes: B batch, D latent_dim.
"""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from shala_framework.autoencoder.posterior import random_subsets
from shala_framework.prior import DiffusionPrior


class StudiedPrior(DiffusionPrior):
    """The framework's prior."""

    def noise(self, clean_BD: Tensor) -> Tensor:
        """Return the noise that is added to latents in training."""
        return torch.randn_like(clean_BD)

    def weighted(self, error_B: Tensor, sigma_B: Tensor) -> Tensor:
        """Return the loss of rows from their squared errors."""
        return error_B * (sigma_B.square() + 1) / sigma_B.square()

    def loss(
        self,
        z_BD: Tensor,
        h_MBF: Sequence[Tensor],
        presence_BM: Tensor,
        *,
        unconditional_share: float,
        log_sigma_mean: float,
        log_sigma_std: float,
        feature_noise: float = 0.0,
        guide: bool = False,
    ) -> Tensor:
        clean_BD = self.standardise(z_BD)
        kept_B1 = torch.rand(len(z_BD), 1) >= unconditional_share
        subset_BM = random_subsets(presence_BM) & kept_B1
        sigma_B = (log_sigma_mean + log_sigma_std * torch.randn(len(z_BD))).exp()
        noisy_BD = clean_BD + sigma_B[:, None] * self.noise(clean_BD)
        condition_BW = self.condition(h_MBF, subset_BM, guide=guide, feature_noise=feature_noise)
        denoised_BD = self.denoise(noisy_BD, sigma_B, condition_BW, guide=guide)
        return self.weighted((denoised_BD - clean_BD).square().mean(1), sigma_B)


class UngatedSkip(StudiedPrior):
    """A skip connection whose components keep their probabilities, whatever is given."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.gate.requires_grad_(False)


class UncertaintyWeight(StudiedPrior):
    """The loss of each noise level divided by a learned scale (Karras et al. 2024, EDM2, equation 21)."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__(**sizes)
        self.log_scale = nn.Sequential(nn.Linear(16, 1))
        nn.init.zeros_(self.log_scale[0].weight)
        nn.init.zeros_(self.log_scale[0].bias)
        self.register_buffer("frequencies", torch.linspace(0.25, 3, 8))

    def weighted(self, error_B: Tensor, sigma_B: Tensor) -> Tensor:
        angles = sigma_B.log()[:, None] * self.frequencies
        u_B = self.log_scale(torch.cat([angles.cos(), angles.sin()], 1))[:, 0]
        return super().weighted(error_B, sigma_B) / u_B.exp() + u_B


class Coupling(StudiedPrior):
    """Assigns noise to the nearest latents of a batch (Tong et al. 2024), in groups of 64 rows."""

    def noise(self, clean_BD: Tensor) -> Tensor:
        noise_BD = torch.randn_like(clean_BD)
        parts = []
        for clean, noise in zip(clean_BD.split(64), noise_BD.split(64), strict=True):
            _, order = linear_sum_assignment(torch.cdist(clean, noise).square().numpy())
            parts.append(noise[torch.from_numpy(order)])
        return torch.cat(parts)


PRIORS: dict[str, type[StudiedPrior]] = {
    "diffusion": StudiedPrior,
    "ungated": UngatedSkip,
    "uncertainty": UncertaintyWeight,
    "coupling": Coupling,
}
