"""The texture term of stage 1: what is decoded has the statistics that the encoder's convolutions see in the data.

A likelihood of independent pixels is best served by a blur where the latent cannot tell where a stripe is. That there
are stripes, how many and how strong, it can tell: means and standard deviations over all places of each channel of an
encoder's convolutional maps say it, whatever the places. No other network is asked, and no label.

Shapes: B batch, C channels.
Reference: Gatys et al. 2015, "Texture Synthesis Using Convolutional Neural Networks", for statistics of maps; means and
standard deviations of channels are those of Huang and Belongie 2017 (AdaIN).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shala_framework.distributed.processes import gather_rows

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


def texture_distance(decoded: list[Tensor], real: list[Tensor], present_B: Tensor, *, gathered: bool = False) -> Tensor:
    """Squared distance of the statistics of two sets of maps, in the deviations of the real ones over rows.

    Args:
        decoded: `map_statistics` of what was decoded.
        real: Of the data, without gradient; as many rows.
        present_B: Which rows have the modality; the others do not count.
        gathered: Whether deviations are over the rows of all processes, which then have to ask together.

    Returns:
        Scalar, a mean over rows, channels and maps.
    """
    distances = []
    weight_B1 = present_B.float()[:, None]
    for mine, theirs in zip(decoded, real, strict=True):
        scale = _deviation(*(gather_rows(rows) if gathered else rows for rows in (theirs, weight_B1))) + 1e-2
        distances.append((((mine - theirs) / scale).square().mean(1) * present_B).mean())
    return torch.stack(distances).mean()


def _deviation(values_BK: Tensor, weight_B1: Tensor) -> Tensor:
    """Standard deviation [K] over the rows of weight 1; 0 where there is none."""
    count = weight_B1.sum().clamp_min(1)
    mean_K = (values_BK * weight_B1).sum(0) / count
    return (((values_BK - mean_K).square() * weight_B1).sum(0) / count).sqrt()
