"""Encoder of texts: a small transformer, plus a bag of words.

Shapes: B batch, L tokens of x, T tokens of the longest row, N real tokens of all rows, W width, F feature_dim.
"""

import torch
from torch import Tensor, nn

from shala_framework.plugin import initialise
from shala_text.transformer import Block, Packing, without_common_padding
from shala_text.vocabulary import PAD


class TextEncoder(nn.Module):
    """Encodes tokens, int64 [B, L], as features [B, F]. A row without tokens has its own feature."""

    def __init__(
        self, num_tokens: int, max_tokens: int, width: int, num_layers: int, heads: int, feature_dim: int
    ) -> None:
        super().__init__()
        # Padding's embedding precedes every text; what attention gathers there summarises the text.
        self.embedding = nn.Embedding(num_tokens, width)
        self.position = nn.Parameter(0.1 * torch.randn(1 + max_tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads, causal=False) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(4 * width, feature_dim)
        initialise(self)

    def forward(self, x_BL: Tensor) -> Tensor:
        x_BT = nn.functional.pad(without_common_padding(x_BL), (1, 0), value=PAD)
        word_BT = x_BT != PAD
        seen_BT = word_BT.clone()
        seen_BT[:, 0] = True
        packing = Packing(seen_BT)
        words_BTW = self.embedding(x_BT)
        h_NW = packing.pack(words_BTW + self.position[: x_BT.shape[1]])
        for block in self.blocks:
            h_NW = block(h_NW, packing)
        h_BTW = packing.pad(self.norm(h_NW))
        word_BT1 = word_BT[:, :, None]
        count_B1 = word_BT.sum(1, keepdim=True).clamp_min(1)
        mean_BW = (h_BTW * word_BT1).sum(1) / count_B1
        # The fill is finite, because a row without tokens has nothing else.
        most_BW = h_BTW.masked_fill(~word_BT1, -100.0).amax(1) * word_BT.any(1, keepdim=True)
        # The bag of words bypasses all layers and norms.
        bag_BW = (words_BTW * word_BT1).sum(1) / count_B1.sqrt()
        h_BF: Tensor = self.head(torch.cat([h_BTW[:, 0], mean_BW, most_BW, bag_BW], 1))
        return h_BF.float()
