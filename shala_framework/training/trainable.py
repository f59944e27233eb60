"""What the training loop requires of a stage."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

Batch = TypeVar("Batch")

Loss = Callable[[Any, int | Tensor, int], tuple[Tensor, dict[str, Tensor]]]
"""Given a batch, the step and a number of parts: the mean loss and terms, detached, with gradients left behind."""


class Trainable(Protocol[Batch]):
    """One stage as the training loop uses it."""

    name: str
    module: nn.Module
    beta_1: float  # decay of AdamW's average of gradients
    can_be_captured: bool  # whether a step may become a CUDA graph

    def loss(self, batch: Batch, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and detached terms to log: means over rows, some of them weighted (see `weighted`).

        The step is a tensor inside a CUDA graph, so that each replay has its own value.
        """
        ...

    def placed(self, batch: Batch, *, copy: bool = False) -> Batch:
        """Return a batch on the stage's device; with `copy`, in new memory."""
        ...

    def refill(self, placed: Batch, batch: Batch) -> bool:
        """Copy a batch into a placed one. If shapes differ, copy nothing and return False."""
        ...

    def after_step(self, step: int) -> None:
        """Called after the optimiser's step."""

    def validate(self) -> dict[str, float]:
        """Return figures on held-out rows; empty if there are none."""
        ...

    def split(self, batch: Batch, parts: int) -> Sequence[Batch]:
        """Split a batch into equal micro-batches."""
        ...

    def extra_state(self) -> dict[str, Tensor]:
        """Return the tensors that resuming needs beside the module's."""
        ...

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the tensors."""


def refilled(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Copy the second tensor of each pair into the first. If shapes differ, copy nothing and return False."""
    if any(mine.shape != theirs.shape for mine, theirs in pairs):
        return False
    for mine, theirs in pairs:
        mine.copy_(theirs, non_blocking=True)
    return True
