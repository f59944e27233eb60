"""Batches of rows, for the stages that train on rows of data rather than on stored latents."""

from collections.abc import Callable

import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.training.metrics import weighted
from shala_framework.training.optimizers import BETA_1
from shala_framework.training.trainable import refilled


class RowBatches:
    """The part of a stage that handles its batches.

    Args:
        device: Device of the computation.
    """

    beta_1: float = BETA_1
    can_be_captured: bool = True

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def placed(self, batch: Rows, *, copy: bool = False) -> Rows:
        return batch.to(self.device, copy=copy)

    def refill(self, placed: Rows, batch: Rows) -> bool:
        if placed.corrupted.keys() != batch.corrupted.keys():
            return False
        pairs = [(placed.presence, batch.presence), *((placed.x[name], value) for name, value in batch.x.items())]
        return refilled([*pairs, *((placed.corrupted[name], value) for name, value in batch.corrupted.items())])

    def split(self, batch: Rows, parts: int) -> list[Rows]:
        return [batch.take(index) for index in torch.arange(len(batch)).chunk(parts)]

    def means(
        self, rows: Rows, batch_size: int, terms: Callable[[Rows], dict[str, Tensor]], *, passes: int = 1
    ) -> dict[str, float]:
        """Return the means of terms over rows, each over the rows that count (see `weighted`).

        Args:
            rows: The rows.
            batch_size: Number of rows at a time.
            terms: Computes the terms of some rows on the stage's device.
            passes: Number of passes over the rows.
        """
        totals: dict[str, float] = {}
        for _ in range(passes):
            for index in torch.arange(len(rows)).split(batch_size):
                for name, value in terms(self.placed(rows.take(index))).items():
                    totals[name] = totals.get(name, 0.0) + float(value) * len(index)
        return weighted({name: total / (passes * len(rows)) for name, total in totals.items()})
