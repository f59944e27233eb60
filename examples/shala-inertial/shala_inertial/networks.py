"""Convolutional encoder and decoder of a signal over time.

Networks see channels standardised by the statistics of training samples. The likelihood is one of the values in their
own unit: the mean and log-scale of the Gaussian are transformed back.

Shapes: B batch, T steps, C channels, F feature_dim, D latent_dim, W width.
"""

import torch
from torch import Tensor, nn

from shala_framework.plugin import LogScale, Normal, Residual, Standardise, group_norm, initialise


class SeriesEncoder(nn.Module):
    """Maps values [B, T, C] to features [B, F]; the convolutions reduce 4 steps to 1."""

    def __init__(self, standardise: Standardise, steps: int, width: int, feature_dim: int) -> None:
        super().__init__()
        self.standardise, self.padding = standardise, -steps % 4
        channels = len(standardise.mean)
        self.layers = nn.Sequential(
            *(nn.Conv1d(channels, width, 4, stride=2, padding=1), group_norm(width), nn.SiLU()),
            nn.Conv1d(width, width, 4, stride=2, padding=1),
            Residual(nn.Conv1d(width, width, 3, padding=1)),
            *(group_norm(width), nn.SiLU(), nn.Flatten()),
        )
        # Each channel's mean bypasses the norms, which would remove it.
        self.head = nn.Linear(width * ((steps + self.padding) // 4) + channels, feature_dim)
        initialise(self)

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BCT = self.standardise(x_BTC).transpose(1, 2)
        level_BC = x_BCT.mean(2)
        x_BCT = nn.functional.pad(x_BCT, (0, self.padding), mode="replicate")
        h_BF: Tensor = self.head(torch.cat([self.layers(x_BCT), level_BC], dim=1))
        return h_BF.float()


class SeriesDecoder(nn.Module):
    """Maps latents [B, D] to a Gaussian over values [B, T, C] with one learned scale, in deviations of each channel."""

    def __init__(self, standardise: Standardise, steps: int, width: int, latent_dim: int) -> None:
        super().__init__()
        self.standardise, self.steps = standardise, steps
        quarter, channels = (steps + -steps % 4) // 4, len(standardise.mean)
        self.layers = nn.Sequential(
            *(nn.Linear(latent_dim, width), nn.SiLU()),
            *(nn.Linear(width, width * quarter), nn.Unflatten(1, (width, quarter))),
            Residual(nn.Conv1d(width, width, 3, padding=1)),
            nn.Upsample(scale_factor=2),
            Residual(nn.Conv1d(width, width, 3, padding=1)),
            nn.Upsample(scale_factor=2),
            *(group_norm(width), nn.SiLU(), nn.Conv1d(width, channels, 3, padding=1)),
        )
        self.level = nn.Linear(latent_dim, channels)
        self.log_scale = LogScale()
        initialise(self)

    def forward(self, z_BD: Tensor) -> Normal:
        x_BTC = self.layers(z_BD).float().transpose(1, 2)[:, : self.steps] + self.level(z_BD).float()[:, None]
        return Normal(self.standardise.inverse(x_BTC), self.log_scale() + self.standardise.scale.log())
