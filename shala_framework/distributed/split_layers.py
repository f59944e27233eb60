"""Large layers whose weights, gradients and moments are split among the processes (FSDP2).

A layer is whole in a process only while it is used. Only linear and convolutional layers are split, each by itself:
what goes in and comes out of them is a tensor, while a decoder gives a likelihood, which FSDP2 cannot look into.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from shala_framework.distributed.processes import world_size
from shala_framework.distributed.split_tensors import by_kind, is_split, own_part, whole

MATRIX_LAYERS = (  # whose weights map vectors to vectors
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
LEAST_VALUES = 2**16  # of a weight; smaller ones cost more to gather than they take


def shard_layers(modules: Iterable[nn.Module], device: torch.device) -> int:
    """Split the large layers of some modules among the processes, none for one alone; returns how many.

    Args:
        modules: Whose layers; they have the same weights in every process.
        device: Where they are.
    """
    if world_size() == 1:
        return 0
    # Half a second of imports that other runs do without.
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


def has_split_layers(module: nn.Module) -> bool:
    """Whether any of its parameters is split."""
    return any(map(is_split, module.state_dict().values()))  # which a layer's use does not change


def clip_gradients(module: nn.Module, largest_norm: float) -> Tensor:
    """Scale gradients down to a norm, counted over all of them; returns what it was."""
    kinds = by_kind([p.grad for p in module.parameters() if p.grad is not None])
    norms = [whole(nn.utils.get_total_norm(of_kind)) for of_kind in kinds]
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    factor = (largest_norm / (norm + 1e-6)).clamp_max(1.0)
    for of_kind in kinds:
        torch._foreach_mul_([own_part(g) for g in of_kind], factor)
    return norm
