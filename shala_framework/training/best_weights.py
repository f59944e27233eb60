"""The choice of a stage's weights by held-out rows, which all stages share.

A network can memorise a small training set: the loss of training falls, and that of held-out rows rises. Each
validation therefore compares the held-out loss with the lowest one so far, and the weights of the lowest are kept.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from shala_framework.spec.stages import Stage
from shala_framework.support.distributed.processes import any_process, copied_from_first, largest
from shala_framework.support.distributed.sharded_tensors import is_sharded, local_shard, shard_like

BEST, FIGURES = "best.", "figures"  # names in the extra state of a stage
# Share of the decline of the held-out loss since the first validation by which the last loss may exceed the lowest
# without counting as a turn: a stage that improves to its end hovers around its lowest loss.
TOLERANCE = 0.01


class BestWeights:
    """Copies of the weights that had the lowest loss on held-out rows, and a record of these losses.

    Without sharded layers, only the first process validates. It decides for all.

    Attributes:
        best: Weights of the lowest loss so far, by name; empty if they are not kept. Until the first validation, those
            that the stage began with.
    """

    def __init__(self, stage: str, settings: Stage, current: Mapping[str, Tensor], *, validated: bool) -> None:
        """Begin to keep.

        Args:
            stage: Name of the stage.
            settings: The stage's `keep`, `patience` and number of steps.
            current: The weights to choose from, by name.
            validated: Whether there are held-out rows.
        """
        self.stage, self.settings = stage, settings
        keeps = validated and settings.keep == "best"
        self.best = {name: value.detach().clone() for name, value in current.items()} if keeps else {}
        self._record = _Record()

    def after_step(self, step: int) -> None:
        """Count a step of this number."""
        self._record.step = step + 1

    @torch.no_grad()
    def add(self, loss: float, current: Mapping[str, Tensor]) -> None:
        """Add the loss of a validation, and keep the weights if it is the lowest. A step counts once.

        Args:
            loss: Loss of the held-out rows. With sharded weights, every process must call this.
            current: The weights that were measured.
        """
        sharded = [value for value in self.best.values() if is_sharded(value)]
        if sharded:  # processes must agree, whatever their rounding
            loss = largest(loss)
        if self._record.add(loss):
            for name, kept in self.best.items():
                local_shard(kept).copy_(local_shard(current[name]))

    def settled(self) -> bool:
        """Return whether held-out rows have not improved for `patience` validations."""
        return bool(self.best) and 0 < self.settings.patience <= self._record.num_since

    def chosen(self, current: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights to keep, which are the same in every process. All processes must call this.

        Args:
            current: The last weights.
        """
        if not current:
            return {}
        (turned,) = any_process((bool(self.best) and self._record.has_turned,))
        found = dict(self.best if turned else current)
        return found | copied_from_first({name: value for name, value in found.items() if not is_sharded(value)})

    @torch.no_grad()
    def finish(self, current: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str:
        """Copy the weights to keep into those that the model uses. All processes must call this.

        Args:
            current: The last weights.
            target: The model's weights, by the same names and maybe more.

        Returns:
            A sentence on which weights the held-out rows decided for; empty if there is nothing to report.
        """
        for name, value in self.chosen(current).items():
            local_shard(target[name]).copy_(local_shard(value))
        return self.sentence()

    def sentence(self) -> str:
        """Say when held-out rows turned and which weights are kept; empty if they improved to the end."""
        record = self._record
        if not record.has_turned:
            return ""
        turned = (
            f"stage {self.stage}: the loss of held-out rows was lowest, {record.best:.4g}, after step "
            f"{record.best_step:,} of {self.settings.steps:,}, and {record.last:.4g} after step {record.step:,}"
        )
        if not self.best:
            return f'{turned}; the last weights are kept, as train.{self.stage}.keep = "last" says'
        return f"{turned}; the weights of step {record.best_step:,} are kept"

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that resuming needs."""
        return {**{BEST + name: value for name, value in self.best.items()}, FIGURES: self._record.as_tensor()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`, in which sharded tensors may have been replaced by full ones."""
        for name, kept in self.best.items():
            value = tensors[BEST + name]
            same = value if is_sharded(value) else shard_like(value.to(kept.device), kept)
            local_shard(kept).copy_(local_shard(same))
        self._record.load(tensors[FIGURES])


class _Record:
    """Losses of held-out rows so far. Losses that are not finite count as high.

    Attributes:
        step: Number of steps taken.
        last_step: Number of steps at the last validation; 0 before the first.
        best_step: Number of steps at the lowest loss; 0 before the first validation.
        num_since: Number of validations since the lowest loss.
        first: Loss of the first validation.
        best: Lowest loss.
        last: Loss of the last validation.
    """

    COUNTS: ClassVar = ("step", "last_step", "best_step", "num_since")
    LOSSES: ClassVar = ("first", "best", "last")

    def __init__(self) -> None:
        self.step = self.last_step = self.best_step = self.num_since = 0
        self.first = self.best = self.last = 0.0

    def add(self, loss: float) -> bool:
        """Add the loss of another validation, once for each step, and return whether it is the lowest."""
        if self.last_step == self.step:
            return False
        self.last, self.last_step = loss, self.step
        lowest = math.isfinite(loss) and (not self.best_step or loss < self.best)
        if lowest:
            self.first = self.first if self.best_step else loss
            self.best, self.best_step = loss, self.step
        self.num_since = 0 if lowest else self.num_since + 1
        return lowest

    @property
    def has_turned(self) -> bool:
        """Whether the last loss is notably higher than the lowest."""
        as_good = self.last - self.best <= TOLERANCE * (self.first - self.best)
        return bool(self.best_step) and self.best_step != self.last_step and not as_good

    def as_tensor(self) -> Tensor:
        """Return the record as float64 numbers, which represent steps exactly."""
        return torch.tensor([getattr(self, name) for name in (*self.COUNTS, *self.LOSSES)], dtype=torch.float64)

    def load(self, values: Tensor) -> None:
        """Restore the record from the result of `as_tensor`."""
        for name, value in zip((*self.COUNTS, *self.LOSSES), values.tolist(), strict=True):
            setattr(self, name, int(value) if name in self.COUNTS else value)
