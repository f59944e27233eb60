"""What a stage is to the loop that trains it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

Batch = TypeVar("Batch")

Loss = Callable[[Any, int | Tensor, int], tuple[Tensor, dict[str, Tensor]]]
"""Given a batch, the step and a number of parts: the mean loss and terms, detached, with gradients left behind."""


class Trainable(Protocol[Batch]):
    """One stage, as the loop sees it."""

    name: str
    module: nn.Module

    def loss(self, batch: Batch, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to minimise, and detached terms worth logging, which are means over rows (of some: `weighted`).

        The step is a tensor where a CUDA graph takes it, so that each replay has its own.
        """
        ...

    def placed(self, batch: Batch, *, copy: bool = False) -> Batch:
        """A batch on the device that computes; with `copy` in memory of its own."""
        ...

    def refill(self, placed: Batch, batch: Batch) -> bool:
        """Copy a batch into a placed one; False, and nothing copied, where its shapes are others."""
        ...

    def after_step(self, step: int) -> None:
        """Called once the optimiser has stepped."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out rows; empty where there are none."""
        ...

    def split(self, batch: Batch, parts: int) -> Sequence[Batch]:
        """A batch in equal parts, for a step that goes through them one by one."""
        ...

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beside the module's that going on needs."""
        ...

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take them back."""


def refilled(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Copy the second of each two tensors into the first; False, and nothing copied, where shapes differ."""
    if any(mine.shape != theirs.shape for mine, theirs in pairs):
        return False
    for mine, theirs in pairs:
        mine.copy_(theirs, non_blocking=True)
    return True
