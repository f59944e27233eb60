"""Statistics of the maps that an encoder's convolutions output.

Shapes: B batch, T frames, C channels.
Reference: Gatys et al. 2015, "Texture Synthesis Using Convolutional Neural Networks", for statistics of maps; means and
standard deviations of channels are those of Huang and Belongie 2017 (AdaIN).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shala_framework.plugin.pretrained import PretrainedEncoder

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MapRecorder:
    """Records the output [B, C, ...] of each convolution of an encoder, in order, on request.

    The hooks stay registered, because a compiled encoder ignores hooks that are added later.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self._maps: list[Tensor] | None = None
        self._caching = [layer for layer in encoder.modules() if isinstance(layer, PretrainedEncoder) and layer.caching]
        for layer in encoder.modules():
            if isinstance(layer, CONVOLUTIONS):
                layer.register_forward_hook(self._record)

    def _record(self, _: nn.Module, __: Any, output: Tensor) -> None:
        if self._maps is not None:
            self._maps.append(output)

    @contextmanager
    def recording(self) -> Iterator[list[Tensor]]:
        """Append maps to a list for the duration of a context, in which no features come from a cache."""
        maps: list[Tensor] = []
        self._maps = maps
        for layer in self._caching:
            layer.caching = False
        try:
            yield maps
        finally:
            self._maps = None
            for layer in self._caching:
                layer.caching = True


def map_statistics(maps: list[Tensor], num_rows: int) -> list[Tensor]:
    """Return mean and standard deviation of each channel over all places, for each map: [B, 2 C].

    Args:
        maps: [B, C, ...], or [B * T, C, ...] with T frames of each row, over which statistics are averaged.
        num_rows: B.
    """
    found = []
    for channels in maps:
        places = channels.float().flatten(2)
        # Sums of products are faster on a CPU than torch's variance.
        mean = places.sum(2) / places.shape[2]
        centred = places - mean[:, :, None]
        variance = (centred * centred).sum(2) / places.shape[2]
        statistics = torch.cat([mean, (variance + 1e-4).sqrt()], 1)
        found.append(statistics.unflatten(0, (num_rows, -1)).mean(1))
    return found
