"""The encoder of second judges: plain convolutions with max-pooling, for any modality.

It depends only on shape and dtype of a modality: axes of at least eight values are spatial, shorter ones are channels.
It has neither code nor structure in common with a plugin's encoder (those are residual, with group norm and strides),
and so only the blind spots of all convolutions. Shapes: B batch; an ellipsis is that of one x.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

SHORTEST_PLACES = 8  # axes with fewer values are channels
LONGEST_PLACES = {1: 8_192, 2: 128, 3: 32}  # by the number of such axes; longer ones are averaged in bins
WIDTHS = (16, 32, 64)  # channels after each layer; the last number repeats
KERNEL = {1: 9, 2: 5, 3: 3}
FEW_PLACES = 4  # an axis shorter than this is not pooled
NUM_TOKENS, TOKEN_DIM = 4_096, 32

_CONVOLUTIONS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOLS: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}


class PlainEncoder(nn.Module):
    """Maps x [B, ...] to features [B, feature_dim].

    Args:
        shape: Shape of one x.
        dtype: Type of x. Integers of more than eight bits are tokens, which are embedded by their remainder.
        feature_dim: Number of features.
    """

    def __init__(self, shape: Sequence[int], dtype: torch.dtype, feature_dim: int) -> None:
        super().__init__()
        has_tokens = not dtype.is_floating_point and dtype not in (torch.uint8, torch.int8, torch.bool)
        self.is_bytes = dtype == torch.uint8
        self.embedding = nn.Embedding(NUM_TOKENS, TOKEN_DIM) if has_tokens else None
        sizes = (*shape, TOKEN_DIM) if has_tokens else tuple(shape)
        long = [axis for axis in range(len(shape)) if shape[axis] >= SHORTEST_PLACES]
        self.places = sorted(sorted(long, key=lambda axis: -sizes[axis])[: max(LONGEST_PLACES)])
        self.channels = [axis for axis in range(len(sizes)) if axis not in self.places]
        self.num_channels = math.prod(sizes[axis] for axis in self.channels)
        longest = LONGEST_PLACES.get(len(self.places), 0)
        self.sizes = tuple(min(sizes[axis], longest) for axis in self.places)
        layers, width, left = [], self.num_channels, list(self.sizes)
        rank = len(left)
        for depth in range(32):
            if not left or max(left) < 2 * FEW_PLACES:
                break
            wider = WIDTHS[min(depth, len(WIDTHS) - 1)]
            pool = tuple(2 if size >= FEW_PLACES else 1 for size in left)
            layers += [
                _CONVOLUTIONS[rank](width, wider, KERNEL[rank], padding=KERNEL[rank] // 2),
                _NORMS[rank](wider),
                nn.ReLU(),
                _POOLS[rank](pool),
            ]
            width, left = wider, [size // by for size, by in zip(left, pool, strict=True)]
        self.net = nn.Sequential(*layers)
        flat = width * math.prod(left)
        self.head = nn.Sequential(nn.Linear(flat, feature_dim), nn.ReLU(), nn.Linear(feature_dim, feature_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of x [B, ...]: float [B, feature_dim]."""
        x = x.float() if self.embedding is None else self.embedding(x.long().remainder(NUM_TOKENS))
        if self.is_bytes:
            x = x / 127.5 - 1
        x = x.permute(0, *(axis + 1 for axis in (*self.channels, *self.places)))
        x = x.reshape(len(x), self.num_channels, *x.shape[len(self.channels) + 1 :])
        for axis, size in enumerate(self.sizes):
            if x.shape[axis + 2] > size:
                x = _binned(x, axis + 2, size)
        features: Tensor = self.head(self.net(x).flatten(1))
        return features


def _binned(x: Tensor, axis: int, size: int) -> Tensor:
    """Return means of a number of bins along an axis, none of them empty."""
    moved = x.movedim(axis, -1)
    binned = nn.functional.adaptive_avg_pool1d(moved.reshape(-1, 1, moved.shape[-1]), size)
    return binned.reshape(*moved.shape[:-1], size).movedim(-1, axis)
