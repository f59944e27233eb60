"""Moving averages of weights, from which the model samples in place of the last step's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shala_framework.support.distributed.sharded_tensors import is_sharded, local_shard, shard_like

_PREFIX = "average."  # in the names of the state


class MovingAverage:
    """Exponential moving average of a module's parameters. Of sharded ones, each process averages its shards.

    The half-life grows with the number of steps, up to its setting, so that early weights are soon forgotten.
    Reference: Karras et al. 2022 (EDM), whose training code ramps the half-life in the same way.
    """

    RAMP = 0.05

    def __init__(self, module: nn.Module, halflife_steps: float, *, trained_only: bool = False) -> None:
        """Begin with the present weights.

        Args:
            module: The module.
            halflife_steps: Half-life of the average.
            trained_only: Whether frozen parameters, which never change, are left out.
        """
        self.module, self.halflife_steps = module, halflife_steps
        self._averaged = {n: p for n, p in module.named_parameters() if p.requires_grad or not trained_only}
        self.shadow = {name: p.detach().clone() for name, p in self._averaged.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after a step."""
        halflife = min(self.halflife_steps, max(1.0, step * self.RAMP))
        decay = 0.5 ** (1 / halflife)
        averages = [local_shard(self.shadow[name]) for name in self._averaged]
        current = [local_shard(p.detach()) for p in self._averaged.values()]
        torch._foreach_lerp_(averages, current, 1 - decay)

    def copy_to_module(self) -> None:
        """Copy the averaged weights into the module."""
        with torch.no_grad():
            for name, parameter in self._averaged.items():
                local_shard(parameter).copy_(local_shard(self.shadow[name]))

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that resuming needs."""
        return {_PREFIX + name: value for name, value in self.shadow.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`, in which sharded tensors may have been replaced by full ones."""
        for name, kept in self.shadow.items():
            value = tensors[_PREFIX + name]
            same = value if is_sharded(value) else shard_like(value.to(kept.device), kept)
            local_shard(kept).copy_(local_shard(same))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the module the averaged weights for the duration of a context."""
        kept = {name: p.detach().clone() for name, p in self._averaged.items()}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._averaged.items():
                    local_shard(parameter).copy_(local_shard(kept[name]))
