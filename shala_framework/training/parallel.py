"""A stage's loss and gradient, of this process's rows or of those of all that train together."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shala_framework.support.distributed.processes import world_size
from shala_framework.support.distributed.sharded_tensors import is_sharded
from shala_framework.training.trainable import Loss, Trainable

_SYNC_BUFFERS = (  # its name up to torch 2.13, deprecated since
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class _LossModule(nn.Module):
    """A stage as a module whose forward is its loss, which is what DistributedDataParallel wants."""

    def __init__(self, stage: Trainable[Any]) -> None:
        super().__init__()
        self.module = stage.module
        self._loss = stage.loss

    def forward(self, batch: Any, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss(batch, step)


def shared_loss(stage: Trainable[Any], device: torch.device, *, exchange_gradients: bool = True) -> Loss:
    """What computes a step: given a batch, the step and a number of parts, it leaves gradients behind.

    The parts of a batch are gone through one by one, which takes less memory; gradients are those of the parts' mean,
    and of the mean over processes, exchanged once.

    Args:
        stage: Whose loss it is.
        device: Device of its parameters.
        exchange_gradients: False keeps each process's own gradients, for steps that are measured and undone.

    Returns:
        A function to the mean loss and terms of this process's parts, detached.
    """
    compute: Any = stage.loss
    exchanged = exchange_gradients and world_size() > 1
    if exchanged:
        module = _LossModule(stage)
        # Sharded layers reduce their gradients themselves.
        sharded = [name for name, p in module.named_parameters() if is_sharded(p)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, sharded)
        options: Any = {_SYNC_BUFFERS: False}
        compute = DistributedDataParallel(
            module, device_ids=[device.index] if device.type == "cuda" else None, **options
        )

    def step_loss(batch: Any, step: int | Tensor, parts: int) -> tuple[Tensor, dict[str, Tensor]]:
        totals: dict[str, Tensor] = {}
        loss_sum: Tensor | None = None
        pieces = stage.split(batch, parts) if parts > 1 else [batch]
        for number, piece in enumerate(pieces, 1):
            alone = exchanged and number < len(pieces)
            with compute.no_sync() if alone else nullcontext():
                loss, terms = compute(piece, step)
                (loss / len(pieces)).backward()
            loss_sum = loss.detach() if loss_sum is None else loss_sum + loss.detach()
            for name, value in terms.items():
                totals[name] = totals[name] + value if name in totals else value
        assert loss_sum is not None
        return loss_sum / len(pieces), {name: value / len(pieces) for name, value in totals.items()}

    return step_loss
