"""One step of a stage, at its place in the schedule."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from shala_framework.spec.schema import Stage
from shala_framework.support.distributed.sharded_layers import clip_gradients
from shala_framework.training.trainable import Loss, Trainable

Batch = TypeVar("Batch")


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
    """One optimiser step at its place in the schedule; arguments and result as of `change_weights`."""
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
    """What a step does on the device: gradients of a batch, clipped, and the optimisers' change by them.

    Args:
        stage: Whose weights.
        settings: Micro-batches and the gradient's largest norm.
        optimizers: With their learning rates set.
        step_loss: As `shared_loss` makes it.
        batch: Batch of this process.
        step: Its number, on which the stage's schedules depend.
        before_change: Called once the gradients are there, before weights change.

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
