"""The texture term of stage 1: decoded modalities have the same statistics of convolutional maps as the data.

If the latent does not determine the place of a stripe, a likelihood of independent pixels prefers a blur. But the
latent can determine that there are stripes, how many and how strong. Means and standard deviations over all places of
each channel of an encoder's convolutional maps measure this. The term needs no other network and no label.

Shapes: B batch, Q rows that are compared, C channels, K statistics.
"""

from typing import Self

import torch
from torch import Tensor

from shala_framework.autoencoder.stage_pass import Pass
from shala_framework.autoencoder.terms.base import Term
from shala_framework.plugin.posterior import MethodSizes
from shala_framework.spec.schema import Posterior
from shala_framework.support.distributed.processes import gather_rows

POOLED_ROWS = 2.0  # rows that the mean variance of a map's channels counts for beside a batch, over its number of rows


class TextureTerm(Term):
    """Squared distance between decoded modalities and the data in statistics of the encoders' maps."""

    name = "texture"
    needs_maps = True

    @classmethod
    def from_table(cls, table: Posterior, sizes: MethodSizes, others: dict[str, Term]) -> Self | None:
        return cls(table.texture_weight) if table.texture_weight else None

    def forward(self, batch: Pass) -> Tensor | None:
        distances = []
        for i, name in enumerate(batch.h):
            again = batch.reencode(name) if name in batch.statistics else None
            if again is not None:
                present_B = batch.presence_BM[:, i]
                # A single process validates.
                distances.append(
                    texture_distance(again.statistics, batch.statistics[name], present_B, gathered=batch.training)
                )
        return torch.stack(distances).mean() if distances else None


def texture_distance(decoded: list[Tensor], real: list[Tensor], present_B: Tensor, *, gathered: bool = False) -> Tensor:
    """Return the squared distance between statistics of two sets of maps, in deviations of the real ones over rows.

    The deviations are those of all B rows, also where only the first Q are compared: the inverse variance of a handful
    of rows has no finite variance itself. In a batch of a handful of rows, they are drawn towards the map's mean one.

    Args:
        decoded: `map_statistics` of the decoded first Q rows.
        real: Statistics of the data in all B rows, without gradient.
        present_B: Rows that have the modality; the others do not count.
        gathered: Whether deviations are over the rows of all processes, which must then call this together.

    Returns:
        Scalar, a mean over Q rows, channels and maps; 0 if fewer than two rows have the modality, as these have no
        deviations.
    """
    distances = []
    weight_B1 = present_B.float()[:, None]
    everyone_B1 = gather_rows(weight_B1) if gathered else weight_B1
    for mine, theirs in zip(decoded, real, strict=True):
        scale = _deviation(gather_rows(theirs) if gathered else theirs, everyone_B1) + 1e-2
        away_Q = ((mine - theirs[: len(mine)]) / scale).square().mean(1)
        distances.append((away_Q * present_B[: len(mine)]).mean())
    return torch.stack(distances).mean() * (everyone_B1.sum() > 1)


def _deviation(values_BK: Tensor, weight_B1: Tensor) -> Tensor:
    """Return the standard deviation [K] over the rows of weight 1, drawn towards the mean one."""
    count = weight_B1.sum().clamp_min(1)
    mean_K = (values_BK * weight_B1).sum(0) / count
    variance_K = ((values_BK - mean_K).square() * weight_B1).sum(0) / count
    pooled_rows = POOLED_ROWS / count
    return ((count * variance_K + pooled_rows * variance_K.mean()) / (count + pooled_rows)).sqrt()
