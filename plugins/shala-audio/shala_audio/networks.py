"""Convolutional encoder and decoder of mel spectrograms: 1D networks over time, with bands as channels.

All convolutions run at a quarter of the frame rate or less, and both networks have as many levels as are needed to
leave about 8 positions at most, so their cost is proportional to the length of the sound. Levels are standardised with
each band's mean and a common scale, but the likelihood is a density of decibels.

Shapes: B batch, M mel bands, T frames, C channels, S positions in time, F feature_dim, D latent_dim.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    LOCATION_SCALE,
    ConditionedResidual,
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

FOLD = 4  # frames that the first layer folds into channels and the last one unfolds
FEWEST = 8  # positions in time are halved until at most this many remain
COARSE_BANDS = 10  # bands of the coarse spectrogram that bypasses the norms


def halvings(num_frames: int) -> int:
    """Return how often the folded frames are halved, at least once."""
    return max(1, math.ceil(math.log2(num_frames / FOLD / FEWEST)))


def padding(num_frames: int) -> int:
    """Return the number of frames to add so that folding and every halving divide evenly."""
    together: int = FOLD * 2 ** halvings(num_frames)
    return -num_frames % together


def residual(width: int) -> Residual:
    return Residual(nn.Conv1d(width, width, 3, padding=1))


class SpectrumEncoder(nn.Module):
    """Encodes mel spectrograms [B, M, T] in decibels as features [B, F]."""

    def __init__(self, standardise: Standardise, num_frames: int, width: int, feature_dim: int) -> None:
        super().__init__()
        self.standardise, self.padding = standardise, padding(num_frames)
        num_mels, levels = len(standardise.mean), halvings(num_frames)
        positions = (num_frames + self.padding) // (FOLD * 2**levels)
        layers: list[nn.Module] = [nn.Conv1d(num_mels, width, 2 * FOLD, stride=FOLD, padding=FOLD // 2)]
        for _ in range(levels):
            layers += [residual(width), group_norm(width), nn.SiLU()]
            layers += [nn.Conv1d(width, width, 4, stride=2, padding=1)]
        layers += [residual(width), group_norm(width), nn.SiLU(), nn.Flatten()]
        self.layers = nn.Sequential(*layers)
        # Group norm removes the level; a coarse spectrogram keeps it.
        bands = min(COARSE_BANDS, num_mels)
        self.coarse = nn.Sequential(nn.AdaptiveAvgPool2d((bands, positions)), nn.Flatten())
        self.head = nn.Linear((width + bands) * positions, feature_dim)
        initialise(self)

    def forward(self, x_BMT: Tensor) -> Tensor:
        x_BMT = self.standardise(x_BMT)
        if self.padding:
            x_BMT = nn.functional.pad(x_BMT, (0, self.padding), mode="replicate")
        h_BF: Tensor = self.head(torch.cat([self.layers(x_BMT), self.coarse(x_BMT[:, None])], dim=1))
        return h_BF.float()


class SpectrumDecoder(nn.Module):
    """Decodes latents [B, D] as a likelihood of mel spectrograms [B, M, T], a density of decibels."""

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
        num_mels, levels = len(standardise.mean), halvings(num_frames)
        padded = num_frames + padding(num_frames)
        positions = padded // (FOLD * 2**levels)
        self.condition = nn.Sequential(nn.Linear(latent_dim, width), nn.SiLU())
        self.to_time = nn.Sequential(nn.Linear(width, width * positions), nn.Unflatten(1, (width, positions)))
        self.lowest = ConditionedResidual(nn.Conv1d(width, width, 3, padding=1), width)
        self.enlarge = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in range(levels))
        # Two blocks per level learn faster than one in wider networks, at the same cost.
        self.first, self.second = (
            nn.ModuleList(ConditionedResidual(nn.Conv1d(width, width, 3, padding=1), width) for _ in range(levels))
            for _ in range(2)
        )
        self.norm, self.to_bands = group_norm(width), nn.Conv1d(width, FOLD * num_mels, 3, padding=1)
        # A coarse spectrogram, linear in z, is available from the first step.
        bands = min(COARSE_BANDS, num_mels)
        self.to_coarse = nn.Linear(latent_dim, bands * positions)
        self.enlarge_coarse = nn.Sequential(
            nn.Unflatten(1, (1, bands, positions)),
            nn.Upsample((num_mels, padded), mode="bilinear"),
            nn.Flatten(1, 2),
        )
        initialise(self)
        with torch.no_grad():
            self.to_bands.weight.mul_(0.1)
            self.to_coarse.weight.mul_(0.3)

    def forward(self, z_BD: Tensor) -> Normal | Laplace:
        condition_BC = self.condition(z_BD)
        h_BCS = self.lowest(self.to_time(condition_BC), condition_BC)
        for enlarge, first, second in zip(self.enlarge, self.first, self.second, strict=True):
            h_BCS = second(first(unfold_time(enlarge(h_BCS), 2), condition_BC), condition_BC)
        fine_BMT = unfold_time(self.to_bands(nn.functional.silu(self.norm(h_BCS))), FOLD)
        x_BMT = (fine_BMT.float() + self.enlarge_coarse(self.to_coarse(z_BD).float()))[:, :, : self.num_frames]
        return self.likelihood(self.standardise.inverse(x_BMT), self.log_scale() + self.standardise.scale.log())


class SpectrumRefiner(nn.Module):
    """The network of stage 3: a U-Net over bands and time, which sees the mean without its unit."""

    def __init__(self, standardise: Standardise, width: int, latent_dim: int) -> None:
        super().__init__()
        self.standardise = standardise
        self.network = RefinerUNet(1, latent_dim, width=width)

    def forward(self, noisy_BMT: Tensor, mean_BMT: Tensor, z_BD: Tensor, c_noise_B: Tensor) -> Tensor:
        maps_B1MT: Tensor = self.network(noisy_BMT[:, None], self.standardise(mean_BMT)[:, None], z_BD, c_noise_B)
        return maps_B1MT[:, 0]
