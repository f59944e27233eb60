"""Activation checkpointing: the backward pass computes a part of the network again instead of keeping its activations.

Reference: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def recomputed(compute: Callable[..., Result], *inputs: Any) -> Result:
    """Compute something, and again in the backward pass with the same random draws; without gradients only once.

    Args:
        compute: A function without side effects. What it returns may be any object that holds tensors.
        inputs: Its arguments.
    """
    if not torch.is_grad_enabled():
        return compute(*inputs)
    found: Result = checkpoint(compute, *inputs, use_reentrant=False)
    return found
