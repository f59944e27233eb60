"""What a stage is to the loop that trains it, and one step of it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from shala_framework.distributed.split_layers import clip_gradients
from shala_framework.spec.schema import Stage
from shala_framework.training.parallel import Loss

Batch = TypeVar("Batch")


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


def learning_rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine from 1 to 0 over what remains; step counts from 0."""
    warmup = min(1.0, (step + 1) / (warmup_steps + 1))
    remaining = max(1, num_steps - warmup_steps)
    progress = min(1.0, max(0.0, (step - warmup_steps) / remaining))
    return warmup * 0.5 * (1 + math.cos(math.pi * progress))


def set_rate(optimizers: Sequence[torch.optim.Optimizer], settings: Stage, step: int) -> None:
    """Give every group of parameters the learning rate of a step; in place where it is a tensor, which graphs read."""
    rate = settings.learning_rate * learning_rate_factor(step, settings.steps, settings.warmup_steps)
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def take_step(
    stage: Trainable[Batch],
    settings: Stage,
    optimizers: Sequence[torch.optim.Optimizer],
    step_loss: Loss,
    batch: Batch,
    step: int,
    before_change: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """One optimiser step at its place in the schedule; returns the loss, the gradient's norm and the stage's terms.

    `before_change` is called once the gradients are there, before weights change.
    """
    set_rate(optimizers, settings, step)
    loss, terms = step_loss(batch, step, settings.micro_batches)
    norm = clip_gradients(stage.module, settings.gradient_clip)
    before_change()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    stage.after_step(step)
    return {"loss": loss, "gradient_norm": norm.detach(), **terms}
