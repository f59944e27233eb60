"""Shard the weights, gradients and moments of large layers over the processes (FSDP2).

A process holds a complete layer only while it uses it. Only linear and convolutional layers are sharded, each
separately: their inputs and outputs are tensors, whereas a decoder returns a likelihood, which FSDP2 cannot inspect.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from shala_framework.support.distributed.processes import world_size
from shala_framework.support.distributed.sharded_tensors import (
    full_tensor,
    group_by_sharding,
    is_sharded,
    local_shard,
)

MATRIX_LAYERS = (  # layers whose weights map vectors to vectors
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
LEAST_VALUES = 2**16  # of a weight; gathering smaller ones costs more than it saves


def shard_layers(modules: Iterable[nn.Module], device: torch.device) -> int:
    """Shard the large layers of some modules over the processes, and return their number; 0 in a single process.

    Args:
        modules: Modules with the layers; they have the same weights in every process.
        device: Device of the modules.
    """
    if world_size() == 1:
        return 0
    # These imports take half a second, which other runs avoid.
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world_size(),))
    count = 0
    for layer in dict.fromkeys(layer for module in modules for layer in module.modules()):
        weight = layer.weight if type(layer) in MATRIX_LAYERS else None
        if isinstance(weight, Tensor) and weight.numel() >= LEAST_VALUES:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
            count += 1
    return count


def has_sharded_layers(module: nn.Module) -> bool:
    """Return whether any of its parameters is sharded."""
    return any(map(is_sharded, module.state_dict().values()))  # which using a layer does not change


def clip_gradients(module: nn.Module, largest_norm: float) -> Tensor:
    """Scale gradients down to a norm over all of them, and return the original norm."""
    groups = group_by_sharding([p.grad for p in module.parameters() if p.grad is not None])
    norms = [full_tensor(nn.utils.get_total_norm(group)) for group in groups]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    factor = (largest_norm / (norm + 1e-6)).clamp_max(1.0)
    for group in groups:
        torch._foreach_mul_([local_shard(g) for g in group], factor)
    return norm
