"""Blocks of a pre-norm transformer over packed tokens.

Layers that process each token separately run on the real tokens of all rows, packed one after another. Rows are padded
only for attention. Lengths of texts vary widely, and a row without a text costs almost nothing. On a CUDA device,
padding is computed too: shapes that do not depend on the texts allow a step to be captured as a graph, which is worth
more there.

Shapes: B batch, L tokens of x, T tokens of the longest row, S tokens seen so far, N real tokens of all rows, W width,
H heads, K values of a head's key, C condition_dim.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from shala_text.vocabulary import PAD


def computes_padding(tensor: Tensor) -> bool:
    """Return whether padding is computed: on CUDA, on the meta device (it has no values), in exported programs."""
    return tensor.is_cuda or tensor.is_meta or torch.compiler.is_exporting()


def without_common_padding(x_BL: Tensor) -> Tensor:
    """Keep the leading positions, at least one, that hold all tokens but padding: [B, T]. Keep everything on CUDA."""
    if computes_padding(x_BL):
        return x_BL
    used_L = (x_BL != PAD).any(0)
    positions_L = torch.arange(1, len(used_L) + 1, device=x_BL.device)
    return x_BL[:, : max(1, int((used_L * positions_L).max()))]


class Packing:
    """Positions of the real tokens in a padded batch.

    Attributes:
        real_BT: True for real tokens.
        dense: Whether padding is packed too; N is then B * T.
        row_N: Row of each packed token.
        position_N: Position of each packed token in its row.
    """

    def __init__(self, real_BT: Tensor) -> None:
        num_positions = real_BT.shape[1]
        self.real_BT = real_BT
        self.dense = computes_padding(real_BT)
        self._index_N = (
            torch.arange(real_BT.numel(), device=real_BT.device) if self.dense else real_BT.flatten().nonzero()[:, 0]
        )
        self.row_N, self.position_N = self._index_N // num_positions, self._index_N % num_positions

    def pack(self, padded: Tensor) -> Tensor:
        """Pack [B, T, ...] to [N, ...]."""
        flat = padded.flatten(0, 1)
        return flat if self.dense else flat.index_select(0, self._index_N)

    def row_sums(self, packed_N: Tensor) -> Tensor:
        """Sum over each row's real tokens: [B]."""
        if self.dense:
            sums_B: Tensor = (packed_N.view(self.real_BT.shape) * self.real_BT).sum(1)
            return sums_B
        return packed_N.new_zeros(len(self.real_BT)).index_add(0, self.row_N, packed_N)

    def pad(self, packed: Tensor) -> Tensor:
        """Unpack [N, ...] to [B, T, ...]. Other positions hold finite values, or zeros unless dense."""
        if self.dense:
            return packed.view(*self.real_BT.shape, *packed.shape[1:])
        flat = packed.new_zeros(self.real_BT.numel(), *packed.shape[1:]).index_copy(0, self._index_N, packed)
        return flat.view(*self.real_BT.shape, *packed.shape[1:])


class Past:
    """Keys and values of the tokens that an attention layer has processed, for generating one token at a time."""

    def __init__(self) -> None:
        self._keys_and_values: tuple[Tensor, Tensor] | None = None

    def extend(self, keys_BHTK: Tensor, values_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of the next tokens; return all of them, each [B, H, S, K]."""
        if self._keys_and_values is not None:
            keys_BHSK, values_BHSK = self._keys_and_values
            keys_BHTK, values_BHTK = torch.cat([keys_BHSK, keys_BHTK], 2), torch.cat([values_BHSK, values_BHTK], 2)
        self._keys_and_values = keys_BHTK, values_BHTK
        return self._keys_and_values


class Attention(nn.Module):
    """Self-attention among each row's real tokens, optionally causal.

    Padding follows the real tokens, so causal attention needs no other mask.
    """

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.to_qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h_NW: Tensor, packing: Packing, past: Past | None = None) -> Tensor:
        """Attend. With a past, one new token of each row attends to all earlier tokens."""
        qkv = packing.pad(self.to_qkv(h_NW)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BHTK, k_BHTK, v_BHTK = qkv.unbind()
        if past is not None:
            k_BHSK, v_BHSK = past.extend(k_BHTK, v_BHTK)
            h_BHTK = scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK)
        elif self.causal:
            h_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        else:
            h_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, packing.real_BT[:, None, None])
        out_NW: Tensor = self.out(packing.pack(h_BHTK.transpose(1, 2).flatten(2)))
        return out_NW


class Norm(nn.Module):
    """Layer norm of each token. A condition, if any, sets its scale and shift (adaptive layer norm)."""

    def __init__(self, width: int, condition_dim: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=condition_dim is None)
        self.modulation = nn.Linear(condition_dim, 2 * width) if condition_dim is not None else None

    def forward(self, h_NW: Tensor, packing: Packing, condition_BC: Tensor | None) -> Tensor:
        """Normalise packed tokens."""
        normal_NW: Tensor = self.norm(h_NW)
        if self.modulation is None:
            return normal_NW
        scale_NW, shift_NW = self.modulation(condition_BC).index_select(0, packing.row_N).chunk(2, 1)
        return torch.addcmul(shift_NW, normal_NW, 1 + scale_NW)


class Block(nn.Module):
    """Attention, then two layers for each token, each preceded by a norm and added to its input."""

    def __init__(self, width: int, heads: int, *, causal: bool, condition_dim: int | None = None) -> None:
        super().__init__()
        self.first_norm, self.second_norm = Norm(width, condition_dim), Norm(width, condition_dim)
        self.attention = Attention(width, heads, causal=causal)
        self.each_token = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(
        self, h_NW: Tensor, packing: Packing, condition_BC: Tensor | None = None, past: Past | None = None
    ) -> Tensor:
        """Transform packed tokens; with a past, one new token of each row."""
        h_NW = h_NW + self.attention(self.first_norm(h_NW, packing, condition_BC), packing, past)
        changed_NW: Tensor = self.each_token(self.second_norm(h_NW, packing, condition_BC))
        return h_NW + changed_NW
