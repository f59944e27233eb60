"""Loss and gradient of a stage, for the rows of one process or of all processes that train together."""

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from shala_framework.support.distributed.processes import barrier, world_size
from shala_framework.support.distributed.sharded_tensors import is_sharded
from shala_framework.training.trainable import Loss, Trainable

_SYNC_BUFFERS = (  # its name up to torch 2.13, deprecated since
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


class _LossModule(nn.Module):
    """Wraps a stage as a module whose forward pass returns the loss, as DistributedDataParallel requires."""

    def __init__(self, stage: Trainable[Any]) -> None:
        super().__init__()
        self.module = stage.module
        self._loss = stage.loss

    def forward(self, batch: Any, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss(batch, step)


def shared_loss(stage: Trainable[Any], device: torch.device, *, exchange_gradients: bool = True) -> Loss:
    """Make the function that computes a step's loss and gradients.

    It processes the micro-batches of a batch one after the other, which takes less memory. Gradients are means over
    micro-batches and processes, and are exchanged once.

    Args:
        stage: The stage.
        device: Device of its parameters.
        exchange_gradients: False keeps each process's own gradients, for steps that are only counted.

    Returns:
        A function of a batch, the step and the number of micro-batches. It returns the mean loss and the terms of
        this process's rows, detached, and leaves gradients in the parameters.
    """
    compute: Any = stage.loss
    exchanged = exchange_gradients and world_size() > 1
    if exchanged:
        barrier()  # each process has prepared the stage at its own pace
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
