"""Run a training step on a CUDA device as one graph, instead of launching thousands of kernels one by one.

A step of five small networks launches 5,000 kernels. Launching them takes ten times as long as computing them.
The first steps run as usual. Then one step is captured, and each later step is a single launch. A step can be captured
if it never waits for the device and its shapes do not depend on the data; torch's debug mode for synchronisation finds
out whether it waits. If a stage cannot be captured, its kernels are launched one by one.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from shala_framework.spec.schema import Stage
from shala_framework.support.distributed.processes import world_size
from shala_framework.training.steps import change_weights, set_rate, take_step
from shala_framework.training.trainable import Loss, Trainable

Batch = TypeVar("Batch")
Notes = Callable[[str], None]


def can_capture(stage: Trainable[Any], settings: Stage) -> bool:
    """Return whether steps may be captured: on one CUDA device, without micro-batches and compiled networks.

    Nor may they be with activation checkpointing, which reads the state of the random generator.
    """
    modules = stage.module.modules()
    return (
        stage.can_be_captured
        and next(stage.module.parameters()).is_cuda
        and world_size() == 1
        and settings.micro_batches == 1
        and not getattr(stage.module, "recomputes", False)
        and not any(module._compiled_call_impl is not None for module in modules)
    )


class Steps(Generic[Batch]):
    """Takes the steps of a stage, as a CUDA graph as soon as possible.

    Attributes:
        num_untimed: Number of first steps that are slower than later ones.
    """

    WARM_UP = 3  # steps that set up memory and kernels; the last one is checked for waits

    def __init__(
        self,
        stage: Trainable[Batch],
        settings: Stage,
        optimizers: Sequence[torch.optim.Optimizer],
        step_loss: Loss,
        *,
        captured: bool,
        note: Notes = lambda _: None,
    ) -> None:
        self.stage, self.settings, self.optimizers, self.step_loss = stage, settings, optimizers, step_loss
        self.note, self.captured = note, captured
        self.num_untimed = self.WARM_UP + 2 if captured else 2
        self._num_taken = 0
        self._graph: _Graph[Batch] | None = None

    def take(self, batch: Batch, step: int, before_change: Callable[[], None] = lambda: None) -> dict[str, Tensor]:
        """Take one step. Arguments and result are those of `take_step`."""
        if not self.captured:
            return self._take_plainly(batch, step, before_change)
        batch = self.stage.placed(batch)
        if self._graph is None:
            self._num_taken += 1
            if self._num_taken < self.WARM_UP:
                return self._take_plainly(batch, step, before_change)
            if self._num_taken == self.WARM_UP:
                return self._take_watched(batch, step, before_change)
            self._graph = self._capture(batch)
            if self._graph is None:
                return self._take_plainly(batch, step, before_change)
        if not self.stage.refill(self._graph.batch, batch):
            return self._take_plainly(batch, step, before_change)
        set_rate(self.optimizers, self.settings, step)
        before_change()
        terms = self._graph.replay(step)
        self.stage.after_step(step)
        return terms

    def _take_plainly(self, batch: Batch, step: int, before_change: Callable[[], None]) -> dict[str, Tensor]:
        return take_step(self.stage, self.settings, self.optimizers, self.step_loss, batch, step, before_change)

    def _take_watched(self, batch: Batch, step: int, before_change: Callable[[], None]) -> dict[str, Tensor]:
        """Take a step in which waiting for the device is an error; if it waits, take the step again as usual.

        The check ends before the weights change, so that the step can be repeated. Capturing tests the remaining part
        of the step, and changes nothing.
        """

        def unwatched() -> None:
            torch.cuda.set_sync_debug_mode("default")
            before_change()

        try:
            with _waiting_is_an_error():
                return self._take_plainly(batch, step, unwatched)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            self._give_up("it waits for the device")
            torch.manual_seed(torch.initial_seed())
            return self._take_plainly(batch, step, before_change)

    def _capture(self, batch: Batch) -> "_Graph[Batch] | None":
        try:
            torch.cuda.empty_cache()  # the graph has memory of its own and cannot use that of the first steps
            return _Graph(
                self.stage, self.settings, self.optimizers, self.step_loss, self.stage.placed(batch, copy=True)
            )
        except RuntimeError as error:  # including too little memory
            self._give_up(str(error).splitlines()[0])
            torch.cuda.empty_cache()
            return None

    def _give_up(self, reason: str) -> None:
        self.captured = False
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.note(f"stage {self.stage.name}: its steps are launched kernel by kernel ({reason})")


class _Graph(Generic[Batch]):
    """A captured step.

    Attributes:
        batch: Input of the step; refill it before each replay.
    """

    def __init__(
        self,
        stage: Trainable[Batch],
        settings: Stage,
        optimizers: Sequence[torch.optim.Optimizer],
        step_loss: Loss,
        batch: Batch,
    ) -> None:
        self.batch = batch
        self.step = torch.zeros((), device=next(stage.module.parameters()).device, dtype=torch.float64)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            found = change_weights(stage, settings, optimizers, step_loss, batch, self.step)
            self.names, self.values = tuple(found), torch.stack([value.float() for value in found.values()])

    def replay(self, step: int) -> dict[str, Tensor]:
        """Take the step of this number on the current content of `batch`."""
        self.step.fill_(step)
        self.graph.replay()
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
