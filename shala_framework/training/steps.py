"""One training step of a stage, with the learning rate of its schedule."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from shala_framework.spec.schema import Stage
from shala_framework.support.distributed.sharded_layers import clip_gradients
from shala_framework.training.schedules import learning_rate_factor
from shala_framework.training.trainable import Loss, Trainable

Batch = TypeVar("Batch")


def set_rate(optimizers: Sequence[torch.optim.Optimizer], settings: Stage, step: int) -> None:
    """Set the learning rate of every group of parameters; a tensor is changed in place, because graphs read it."""
    rate = settings.learning_rate * learning_rate_factor(settings, step)
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
    """Take one step with the learning rate of its schedule. Arguments and result are those of `change_weights`."""
    set_rate(optimizers, settings, step)
    terms = change_weights(stage, settings, optimizers, step_loss, batch, step, before_change)
    stage.after_step(step)
    return terms


def change_weights(
    stage: Trainable[Batch],
    settings: Stage,
    optimizers: Sequence[torch.optim.Optimizer],
    step_loss: Loss,
    batch: Batch,
    step: int | Tensor,
    before_change: Callable[[], None] = lambda: None,
) -> dict[str, Tensor]:
    """Do the device's part of a step: compute the gradients of a batch, clip them, and update the weights.

    Args:
        stage: The stage.
        settings: Micro-batches and the gradient's largest norm.
        optimizers: Optimisers with their learning rates set.
        step_loss: Function made by `shared_loss`.
        batch: Batch of this process.
        step: Number of the step, on which the stage's schedules depend.
        before_change: Called when the gradients are ready, before weights change.

    Returns:
        The loss, the gradient's norm and the stage's terms, detached.
    """
    loss, terms = step_loss(batch, step, settings.micro_batches)
    norm = clip_gradients(stage.module, settings.gradient_clip)
    before_change()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {"loss": loss, "gradient_norm": norm.detach(), **terms}
