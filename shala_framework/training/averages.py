"""Moving averages of weights, from which the model samples in place of the last step's weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_PREFIX = "average."  # in the names of the state


class MovingAverage:
    """Exponential moving average of a module's parameters.

    The half-life grows with the number of steps, up to its setting, so that early weights are soon forgotten.
    Reference: Karras et al. 2022 (EDM), whose training code ramps the half-life in the same way.
    """

    RAMP = 0.05

    def __init__(self, module: nn.Module, halflife_steps: float) -> None:
        self.module, self.halflife_steps = module, halflife_steps
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the weights after a step."""
        halflife = min(self.halflife_steps, max(1.0, step * self.RAMP))
        decay = 0.5 ** (1 / halflife)
        names = [name for name, _ in self.module.named_parameters()]
        current = [p.detach() for p in self.module.parameters()]
        torch._foreach_lerp_([self.shadow[name] for name in names], current, 1 - decay)

    def copy_to_module(self) -> None:
        """Copy the averaged weights into the module."""
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(self.shadow[name])

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that resuming needs."""
        return {_PREFIX + name: value for name, value in self.shadow.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the result of `state`."""
        for name, value in self.shadow.items():
            value.copy_(tensors[_PREFIX + name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the module the averaged weights for the duration of a context."""
        kept = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.module.named_parameters():
                    parameter.copy_(kept[name])
