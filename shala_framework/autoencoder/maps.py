"""Statistics of the maps that an encoder's convolutions give.

Shapes: B batch, T frames, C channels.
Reference: Gatys et al. 2015, "Texture Synthesis Using Convolutional Neural Networks", for statistics of maps; means and
standard deviations of channels are those of Huang and Belongie 2017 (AdaIN).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MapRecorder:
    """Keeps what each convolution of an encoder gives, [B, C, ...], in order, while it is asked.

    The hooks stay, as a compiled encoder does not see those that come later.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self._maps: list[Tensor] | None = None
        for layer in encoder.modules():
            if isinstance(layer, CONVOLUTIONS):
                layer.register_forward_hook(self._record)

    def _record(self, _: nn.Module, __: Any, output: Tensor) -> None:
        if self._maps is not None:
            self._maps.append(output)

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """A context in which maps are put into the list."""
        maps: list[Tensor] = []
        self._maps = maps
        try:
            yield maps
        finally:
            self._maps = None


def map_statistics(maps: list[Tensor], num_rows: int) -> list[Tensor]:
    """Mean and standard deviation of each channel over all places, of each map: [B, 2 C].

    Args:
        maps: [B, C, ...], or [B * T, C, ...] of T frames of each row, over which statistics are averaged.
        num_rows: B.
    """
    found = []
    for channels in maps:
        places = channels.float().flatten(2)
        # Sums of products, as torch's own variance is slow on a CPU.
        mean = places.sum(2) / places.shape[2]
        centred = places - mean[:, :, None]
        variance = (centred * centred).sum(2) / places.shape[2]
        statistics = torch.cat([mean, (variance + 1e-4).sqrt()], 1)
        found.append(statistics.unflatten(0, (num_rows, -1)).mean(1))
    return found
