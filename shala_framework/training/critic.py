"""The critic of an adversarial stage 3: it tells refined samples of one modality from data, given the latent.

It judges each place of the maps of two encoders. The frozen one of stage 1 knows the data from the first step on. A
fresh one of the same layers is trained with the critic, and sees what the first has learned to ignore, such as grain.

Shapes: B batch, N rows of a map (B, or B * T for T frames), C channels, S places of a map, W width, D latent_dim.
Reference: Miyato et al. 2018 for spectral normalisation; Miyato and Koyama 2018 for the projection on what is given;
Sauer et al. 2021 (Projected GAN) for maps of a frozen network; Lim and Ye 2017 for the hinge loss.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from shala_framework.autoencoder.maps import MapRecorder

WIDTH = 64
LEAK = 0.2


class _Head(nn.Module):
    """Judges each place of a map by itself."""

    def __init__(self, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.enter, self.leave = spectral_norm(nn.Linear(channels, WIDTH)), spectral_norm(nn.Linear(WIDTH, 1))
        self.latent = spectral_norm(nn.Linear(latent_dim, WIDTH))

    def forward(self, map_NC: Tensor, told_BD: Tensor) -> Tensor:
        """Return a verdict for each place of each row, [B, T * S]; places of real maps are to be above 0."""
        places_NSC = nn.functional.silu(map_NC).flatten(2).transpose(1, 2)
        h_NSW = nn.functional.leaky_relu(self.enter(places_NSC), LEAK)
        told_BW = self.latent(told_BD)
        told_NW = told_BW.repeat_interleave(len(h_NSW) // len(told_BW), 0)
        matched_NS = torch.einsum("nsw,nw->ns", h_NSW, told_NW) / WIDTH**0.5
        verdict_NS: Tensor = self.leave(h_NSW)[..., 0] + matched_NS
        return verdict_NS.reshape(len(told_BD), -1)


class Critic(nn.Module):
    """Critic of one modality."""

    def __init__(self, encoder: nn.Module, frozen_maps: Sequence[Tensor], x: Tensor, latent_dim: int) -> None:
        """Make the critic.

        Args:
            encoder: A fresh encoder of the modality, which becomes the critic's own.
            frozen_maps: What `Critic.forward` gets of stage 1's encoder, of any rows.
            x: What the encoder takes, of the same rows.
            latent_dim: Number of dimensions of z.
        """
        super().__init__()
        for layer in list(encoder.modules()):
            weight = getattr(layer, "weight", None)
            is_matrix = isinstance(weight, nn.Parameter) and weight.ndim >= 2 and weight.requires_grad
            if is_matrix and not isinstance(layer, nn.Embedding):
                spectral_norm(layer)
        self.encoder, self._recorder = encoder, MapRecorder(encoder)
        with torch.no_grad():
            own_maps = self._maps(x)
        self.heads = nn.ModuleList(_Head(found.shape[1], latent_dim) for found in (*frozen_maps, *own_maps))

    def _maps(self, x: Tensor) -> list[Tensor]:
        with self._recorder.recording() as maps:
            h_BF = self.encoder(x)
        return maps or [h_BF[:, :, None]]

    def forward(self, x: Tensor, frozen_maps: Sequence[Tensor], told_BD: Tensor) -> list[Tensor]:
        """Return the verdicts of each map, [B, places].

        Args:
            x: What the encoder takes: data, or samples.
            frozen_maps: Maps [N, C, ...] of x in stage 1's encoder, or its features [B, F, 1] if it has no maps.
            told_BD: The latent in deviations.
        """
        maps = (*frozen_maps, *self._maps(x))
        return [head(found, told_BD) for head, found in zip(self.heads, maps, strict=True)]


def hinge_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Return the critic's loss of each row, [B]: verdicts of data are to exceed 1, those of samples to be below -1."""
    losses = [
        nn.functional.relu(1 - r).mean(1) + nn.functional.relu(1 + m).mean(1) for r, m in zip(real, made, strict=True)
    ]
    return torch.stack(losses).mean(0)


def mean_verdict(made: Sequence[Tensor]) -> Tensor:
    """Return the mean verdict of each row, [B], which samples are to raise."""
    return torch.stack([verdict.mean(1) for verdict in made]).mean(0)
