"""Count what a training step costs without computing it: operations, launches and memory, on the meta device.

Tensors of the meta device have shapes and no values, so that a step of any size takes as long to count as torch takes
to dispatch its operators. A step that depends on values cannot be counted; one that CUDA graphs can hold does not.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

META = torch.device("meta")


@attrs.frozen(kw_only=True)
class StepCount:
    """What one step costs.

    Attributes:
        operations: Floating-point operations of matrix products and convolutions; an addition and a multiplication are
            two.
        launches: Number of operators that compute something, about the number of kernels that a CUDA device is given.
        peak_bytes: Most memory in use at a time, weights included.
    """

    operations: int
    launches: int
    peak_bytes: int


class Memory(TorchDispatchMode):
    """Adds up the tensors that are in use, each piece of memory once, and counts operators.

    Attributes:
        now: Bytes in use.
        peak: Largest number of bytes in use so far.
        launches: Number of operators that did more than return a view.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.launches = 0
        self._known: Any = WeakIdKeyDictionary()

    def add(self, tensor: Tensor) -> None:
        """Add a tensor that is in use."""
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator, and add the tensors that it makes."""
        found = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        if not any(value.alias_info is not None and not value.alias_info.is_write for value in returns):
            self.launches += 1
        tree_map_only(Tensor, self.add, found)
        return found


def count_step(take: Callable[[], Any], tensors: Iterable[Tensor]) -> StepCount:
    """Count a step.

    Args:
        take: Takes the step. Its first call makes the optimiser's moments; the second is counted.
        tensors: Weights and other tensors that are in use from the start.
    """
    memory = Memory()
    for tensor in tensors:
        memory.add(tensor)
    with memory:
        take()
        memory.launches = 0
        with FlopCounterMode(display=False) as operations:
            take()
    return StepCount(operations=operations.get_total_flops(), launches=memory.launches, peak_bytes=memory.peak)
