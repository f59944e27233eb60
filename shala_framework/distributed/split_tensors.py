"""Sharded tensors (DTensor), and conversions between them and replicated tensors."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def is_split(tensor: Tensor) -> bool:
    """Return whether a tensor is sharded, that is a DTensor, without importing DTensor."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Return a complete tensor. For a sharded tensor, all processes must call this."""
    split: Any = tensor
    full: Tensor = split.full_tensor() if is_split(tensor) else tensor
    return full


def own_part(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor."""
    split: Any = tensor
    local: Tensor = split.to_local() if is_split(tensor) else tensor
    return local


def split_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a replicated tensor like a parameter, if the parameter is sharded."""
    if not is_split(parameter):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(parameter, DTensor)
    replicated = DTensor.from_local(tensor, parameter.device_mesh, [Replicate()], run_check=False)
    return replicated.redistribute(placements=parameter.placements)


def by_kind(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group tensors into replicated and sharded ones, because fused operations do not mix them. No list is empty."""
    kinds = [[t for t in tensors if is_split(t) == split] for split in (False, True)]
    return [of_kind for of_kind in kinds if of_kind]
