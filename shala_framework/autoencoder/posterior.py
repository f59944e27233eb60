"""The architectural inference model of ShaLa: deterministic features, fused into one Gaussian q(z | x_present).

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
Reference: ShaLa (Cui et al. 2025, arXiv 2508.17376), which fuses by concatenation and linear layers. That absent
modalities enter as zeros together with presence bits is this project's choice, and so is attention.
"""

from typing import Final

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.attention import FeatureAttention
from shala_framework.plugin.posterior import GaussianHead, GaussianPosterior
from shala_framework.support.distributed.processes import rows_rand


class ConcatenationPosterior(nn.Module):
    """Fuses the features of the present modalities into one Gaussian over z by concatenation and linear layers."""

    def __init__(self, num_modalities: int, feature_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.normalise = nn.ModuleList(nn.LayerNorm(feature_dim) for _ in range(num_modalities))
        self.net = nn.Sequential(
            nn.Linear(num_modalities * (feature_dim + 1), hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.SiLU(),
        )
        self.head = GaussianHead(hidden_dim, latent_dim)

    def forward(self, h_MBF: list[Tensor], presence_BM: Tensor) -> GaussianPosterior:
        """Fuse features.

        Args:
            h_MBF: One feature tensor [B, F] for each modality; rows that lack it may hold anything finite.
            presence_BM: Modalities to use in each row, bool or float [B, M].
        """
        bits_BM = presence_BM.to(h_MBF[0].dtype)
        seen = [norm(h) * bits_BM[:, i, None] for i, (norm, h) in enumerate(zip(self.normalise, h_MBF, strict=True))]
        posterior: GaussianPosterior = self.head(self.net(torch.cat([*seen, bits_BM], dim=1)))
        return posterior


class AttentionPosterior(nn.Module):
    """Fuses by self-attention among the present modalities.

    It grows by one projection for each modality, whereas the first layer of concatenation grows in width.
    """

    def __init__(self, num_modalities: int, feature_dim: int, hidden_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.normalise = nn.ModuleList(nn.LayerNorm(feature_dim) for _ in range(num_modalities))
        self.attention = FeatureAttention(num_modalities, feature_dim, hidden_dim)
        self.head = GaussianHead(hidden_dim, latent_dim)

    def forward(self, h_MBF: list[Tensor], presence_BM: Tensor) -> GaussianPosterior:
        """Fuse features. Arguments are those of ConcatenationPosterior."""
        seen = [norm(h) for norm, h in zip(self.normalise, h_MBF, strict=True)]
        posterior: GaussianPosterior = self.head(self.attention(seen, presence_BM))
        return posterior


FUSIONS: Final[dict[str, type[ConcatenationPosterior] | type[AttentionPosterior]]] = {
    "concatenation": ConcatenationPosterior,
    "attention": AttentionPosterior,
}
"""The ways to fuse features, by the name that a spec gives them."""


def random_subsets(presence_BM: Tensor) -> Tensor:
    """Return a random non-empty subset of each row's present modalities: size uniform, then members uniform.

    Rows without present modalities get an empty subset.
    """
    num_B1 = presence_BM.sum(1, keepdim=True)
    size_B1 = (rows_rand(len(presence_BM), 1, device=presence_BM.device) * num_B1).floor().long() + 1
    return random_subsets_of_size(presence_BM, size_B1)


def random_subsets_of_size(presence_BM: Tensor, size_B1: Tensor | int) -> Tensor:
    """Return a random subset of this size of each row's present modalities; all of them if there are fewer."""
    order = rows_rand(*presence_BM.shape, device=presence_BM.device).masked_fill(~presence_BM, 2.0)
    rank_BM = order.argsort(1).argsort(1)
    return presence_BM & (rank_BM < size_B1)
