"""Sharded tensors (DTensor), and conversions between them and replicated tensors."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def is_sharded(tensor: Tensor) -> bool:
    """Return whether a tensor is sharded, that is a DTensor, without importing DTensor."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor. For a sharded tensor, all processes must call this."""
    maybe_sharded: Any = tensor
    full: Tensor = maybe_sharded.full_tensor() if is_sharded(tensor) else tensor
    return full


def local_shard(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor; a replicated tensor is returned as it is."""
    maybe_sharded: Any = tensor
    local: Tensor = maybe_sharded.to_local() if is_sharded(tensor) else tensor
    return local


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Shard a replicated tensor like a parameter, if the parameter is sharded."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import DTensor, Replicate

    assert isinstance(parameter, DTensor)
    replicated = DTensor.from_local(tensor, parameter.device_mesh, [Replicate()], run_check=False)
    return replicated.redistribute(placements=parameter.placements)


def group_by_sharding(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Group tensors into replicated and sharded ones, because fused operations do not mix them. No list is empty."""
    groups = [[t for t in tensors if is_sharded(t) == sharded] for sharded in (False, True)]
    return [group for group in groups if group]
