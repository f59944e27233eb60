"""The raw network F inside the denoiser: a residual MLP with adaptive layer norm.

Shapes: B batch, M modalities, F feature_dim, D latent_dim, W hidden_dim.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.attention import FeatureAttention
from shala_framework.plugin.layers import RowDropout


class NoiseEmbedding(nn.Module):
    """Sinusoidal features [B, W] of c_noise [B]."""

    frequencies: Tensor

    def __init__(self, dim: int, lowest: float = 0.5, highest: float = 32.0) -> None:
        super().__init__()
        steps = torch.linspace(math.log(lowest), math.log(highest), dim // 2)
        self.register_buffer("frequencies", steps.exp(), persistent=False)
        self.net = nn.Linear(2 * (dim // 2), dim)

    def forward(self, c_noise_B: Tensor) -> Tensor:
        angles = c_noise_B[:, None] * self.frequencies
        embedded: Tensor = self.net(torch.cat([angles.cos(), angles.sin()], dim=1))
        return embedded


class FeatureCondition(nn.Module):
    """Sums a projection of each modality's feature over the members of a subset S. An empty S has its own vector."""

    def __init__(self, num_modalities: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(feature_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim))
            for _ in range(num_modalities)
        )
        self.nothing = nn.Parameter(torch.zeros(hidden_dim))

    def forward(self, h_MBF: list[Tensor], subset_BM: Tensor) -> Tensor:
        members_BM = subset_BM.to(h_MBF[0].dtype)
        total = (1 - members_BM.amax(1, keepdim=True)) * self.nothing
        for i, (project, h) in enumerate(zip(self.projections, h_MBF, strict=True)):
            total = total + members_BM[:, i, None] * project(h)
        return total


CONDITIONS: Final[dict[str, type[FeatureCondition] | type[FeatureAttention]]] = {
    "sum": FeatureCondition,
    "attention": FeatureAttention,
}
"""Ways in which features enter the denoiser, by their names in a spec."""


class ResidualBlock(nn.Module):
    """x + gate(c) * MLP(scale(c) * norm(x) + shift(c)), the identity at initialisation."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 3 * dim)
        self.net = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), RowDropout(dropout), nn.Linear(2 * dim, dim))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BW: Tensor, c_BW: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(c_BW).chunk(3, dim=1)
        change_BW: Tensor = gate * self.net(self.norm(x_BW) * (1 + scale) + shift)
        return x_BW + change_BW


class PriorNetwork(nn.Module):
    """F(c_in z; c_noise, h_S, cluster) of EDM, [B, D] to [B, D]."""

    def __init__(
        self,
        *,
        latent_dim: int,
        num_modalities: int,
        feature_dim: int,
        hidden_dim: int,
        num_blocks: int,
        dropout: float,
        condition: str = "sum",
        max_clusters: int = 1,
    ) -> None:
        super().__init__()
        self.noise = NoiseEmbedding(hidden_dim)
        self.features = CONDITIONS[condition](num_modalities, feature_dim, hidden_dim)
        self.clusters = nn.Embedding.from_pretrained(torch.zeros(max_clusters, hidden_dim), freeze=False)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU())
        self.enter = nn.Linear(latent_dim, hidden_dim)
        self.blocks = nn.ModuleList(ResidualBlock(hidden_dim, dropout) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(hidden_dim)
        self.leave = nn.Linear(hidden_dim, latent_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z_BD: Tensor, c_noise_B: Tensor, condition_BW: Tensor, cluster_B: Tensor) -> Tensor:
        c_BW = self.mix(self.noise(c_noise_B) + condition_BW + self.clusters(cluster_B))
        x_BW = self.enter(z_BD)
        for block in self.blocks:
            x_BW = block(x_BW, c_BW)
        raw: Tensor = self.leave(self.norm(x_BW))
        return raw


class ClusterNetwork(nn.Module):
    """Logits of the clusters given the features of a subset: [B, K]. Initially 0, whatever is given."""

    def __init__(self, *, num_modalities: int, feature_dim: int, hidden_dim: int, max_clusters: int) -> None:
        super().__init__()
        self.features = FeatureCondition(num_modalities, feature_dim, hidden_dim)
        self.enter = nn.Linear(hidden_dim, hidden_dim)
        self.leave = nn.Linear(hidden_dim, max_clusters)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, h_MBF: list[Tensor], subset_BM: Tensor) -> Tensor:
        hidden_BW = self.enter(nn.functional.silu(self.features(h_MBF, subset_BM)))
        logits: Tensor = self.leave(nn.functional.silu(hidden_BW))
        return logits
