"""Self-attention among the features of the present modalities.

Shapes: B batch, M modalities, F feature_dim, W hidden_dim, T tokens: a query and one for each modality.
"""

import math

import torch
from torch import Tensor, nn


class FeatureAttention(nn.Module):
    """One vector [B, W] from any subset of the modalities' features, including the empty one.

    Features are not normalised at the entry, because their length carries information.
    """

    NUM_LAYERS, NUM_HEADS = 2, 4

    def __init__(self, num_modalities: int, feature_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(feature_dim, hidden_dim), nn.SiLU(), nn.Linear(hidden_dim, hidden_dim))
            for _ in range(num_modalities)
        )
        self.query = nn.Parameter(0.02 * torch.randn(hidden_dim))
        layer = nn.TransformerEncoderLayer(
            hidden_dim,
            math.gcd(hidden_dim, self.NUM_HEADS),
            dim_feedforward=2 * hidden_dim,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, self.NUM_LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, h_MBF: list[Tensor], presence_BM: Tensor) -> Tensor:
        """Attend to the features of the present modalities.

        Args:
            h_MBF: One feature tensor [B, F] for each modality; rows that lack it may hold anything finite.
            presence_BM: Present modalities of each row, bool or float [B, M].
        """
        present_BM = presence_BM.bool()
        # A row's absent modalities are masked, and set to zero so that their content has no effect.
        tokens = [
            project(h * present_BM[:, i, None])
            for i, (project, h) in enumerate(zip(self.projections, h_MBF, strict=True))
        ]
        tokens_BTW = torch.stack([self.query.expand(len(present_BM), -1), *tokens], 1)
        absent_BT = nn.functional.pad(~present_BM, (1, 0), value=False)
        hidden_BTW = self.layers(tokens_BTW, src_key_padding_mask=absent_BT)
        vector_BW: Tensor = self.norm(hidden_BTW[:, 0])
        return vector_BW
