"""Temporal convolutional encoder and decoder of joints.

The encoder standardises joints with the mean pose and scale of the training samples. The likelihood is a density of the
original coordinates: the decoder transforms mean and log-scale back instead.

Shapes: B batch, T frames, P bodies, J joints, C coordinates (or channels, before T), F feature_dim, D latent_dim.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    LOCATION_SCALE,
    Laplace,
    LogScale,
    Normal,
    RefinerUNet,
    Residual,
    Standardise,
    group_norm,
    initialise,
    unfold_time,
)


class SkeletonEncoder(nn.Module):
    """Encodes joints [B, T, P, J, C] as features [B, F]; convolutions reduce the frames by a factor of 4."""

    def __init__(self, standardise: Standardise, num_frames: int, width: int, feature_dim: int) -> None:
        super().__init__()
        self.standardise = standardise
        self.padding = -num_frames % 4
        quarter = (num_frames + self.padding) // 4
        num_coordinates = standardise.mean.numel()
        self.layers = nn.Sequential(
            nn.Conv1d(num_coordinates, width, 4, stride=2, padding=1),
            group_norm(width),
            nn.SiLU(),
            nn.Conv1d(width, width, 4, stride=2, padding=1),
            Residual(nn.Conv1d(width, width, 3, padding=1)),
            group_norm(width),
            nn.SiLU(),
            nn.Flatten(),
        )
        # The mean pose and the first frame bypass the norms, which would remove a person's position and size.
        self.head = nn.Linear(width * quarter + 2 * num_coordinates, feature_dim)
        initialise(self)

    def forward(self, x_BTPJC: Tensor) -> Tensor:
        x_BCT = self.standardise(x_BTPJC).flatten(2).transpose(1, 2)
        static_BC = torch.cat([x_BCT.mean(2), x_BCT[:, :, 0]], dim=1)
        if self.padding:
            x_BCT = torch.cat([x_BCT, x_BCT[:, :, -1:].expand(-1, -1, self.padding)], dim=2)
        h_BF: Tensor = self.head(torch.cat([self.layers(x_BCT), static_BC], dim=1))
        return h_BF.float()


class SkeletonDecoder(nn.Module):
    """Decodes latents [B, D] as a likelihood of joints [B, T, P, J, C], a density in the units of the coordinates."""

    def __init__(
        self,
        standardise: Standardise,
        num_frames: int,
        width: int,
        latent_dim: int,
        likelihood: Literal["normal", "laplace"],
        scale: float | None,
    ) -> None:
        super().__init__()
        self.standardise, self.num_frames = standardise, num_frames
        self.likelihood = LOCATION_SCALE[likelihood]
        self.log_scale = LogScale(fixed=None if scale is None else scale / standardise.scale.item())
        quarter, num_coordinates = math.ceil(num_frames / 4), standardise.mean.numel()
        self.to_time = nn.Sequential(
            nn.Linear(latent_dim, width),
            nn.SiLU(),
            nn.Linear(width, width * quarter),
            nn.Unflatten(1, (width, quarter)),
        )
        self.coarse, self.fine = (
            Residual(nn.Conv1d(width, width, 3, padding=1)),
            Residual(nn.Conv1d(width, width, 3, padding=1)),
        )
        self.to_fine = nn.Conv1d(width, 2 * width, 1)
        self.fine_condition = nn.Linear(latent_dim, width)
        # Two frames from one position: a layer at the full frame rate would cost the most.
        self.norm, self.to_joints = group_norm(width), nn.Conv1d(width, 2 * num_coordinates, 3, padding=1)
        self.mean_pose = nn.Linear(latent_dim, num_coordinates)
        initialise(self)
        with torch.no_grad():
            self.to_joints.weight.mul_(0.1)
            self.mean_pose.weight.mul_(0.1)

    def forward(self, z_BD: Tensor) -> Normal | Laplace:
        h_BCT = self.to_time(z_BD)
        h_BCT = unfold_time(self.to_fine(self.coarse(h_BCT)), 2)
        h_BCT = self.fine(h_BCT + self.fine_condition(z_BD)[:, :, None])
        x_BCT: Tensor = self.to_joints(nn.functional.silu(self.norm(h_BCT)))
        x_BTC = unfold_time(x_BCT, 2).transpose(1, 2)[:, : self.num_frames].float()
        x_BTC = x_BTC + self.mean_pose(z_BD).float()[:, None]
        mean_BTPJC = self.standardise.inverse(x_BTC.unflatten(2, self.standardise.mean.shape))
        return self.likelihood(mean_BTPJC, self.log_scale() + self.standardise.scale.log())


class SkeletonRefiner(nn.Module):
    """The network of stage 3: a U-Net over time, which sees the mean pose by pose without its unit."""

    def __init__(self, standardise: Standardise, width: int, latent_dim: int) -> None:
        super().__init__()
        self.standardise = standardise
        self.network = RefinerUNet(standardise.mean.numel(), latent_dim, dims=1, width=width, fold=1)

    def forward(self, noisy_BTPJC: Tensor, mean_BTPJC: Tensor, z_BD: Tensor, c_noise_B: Tensor) -> Tensor:
        noisy, mean = (x.flatten(2).transpose(1, 2) for x in (noisy_BTPJC, self.standardise(mean_BTPJC)))
        x_BTC: Tensor = self.network(noisy, mean, z_BD, c_noise_B).transpose(1, 2)
        return x_BTC.reshape(*x_BTC.shape[:2], *self.standardise.mean.shape)
