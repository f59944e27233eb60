"""Tensors of which each process has a part (DTensor), and how they meet those that every process has whole."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def is_split(tensor: Tensor) -> bool:
    """Whether this process has a part of it only: a DTensor, told without importing it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece; of a split one, a question that all processes have to ask."""
    split: Any = tensor
    full: Tensor = split.full_tensor() if is_split(tensor) else tensor
    return full


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor."""
    split: Any = tensor
    local: Tensor = split.to_local() if is_split(tensor) else tensor
    return local


def split_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor that every process has whole, split as a parameter is, if it is."""
    if not is_split(parameter):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(parameter, DTensor)
    replicated = DTensor.from_local(tensor, parameter.device_mesh, [Replicate()], run_check=False)
    return replicated.redistribute(placements=parameter.placements)


def by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Whole tensors and split ones, which fused operations do not take together; no empty list."""
    kinds = [[t for t in tensors if is_split(t) == split] for split in (False, True)]
    return [of_kind for of_kind in kinds if of_kind]
