"""Layers that the networks of several modalities share.

Group norm everywhere: without it such networks reconstruct little more than the mean of their training data within a
small budget. Shapes: N rows, C channels, T positions in time, an ellipsis for dimensions of time or space.
"""

import math

import torch
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm over at most 8 groups, as many as divide the channels."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def initialise(network: nn.Module) -> None:
    """Draw weights that keep the variance of what passes SiLU, with biases of zero.

    PyTorch's default shrinks it at each layer while biases stay: at the start the output of a deep decoder then
    hardly depends on z, and hundreds of steps pass before it does.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def unfold_time(h_NCT: Tensor, factor: int) -> Tensor:
    """[N, factor * C, T] to [N, C, factor * T]: each position's shares of the channels become positions.

    Every one has weights of its own in the layer before, so that they differ from the start.
    """
    return h_NCT.unflatten(1, (factor, -1)).permute(0, 2, 3, 1).flatten(2)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """x + f(x), where f is norm, SiLU and a convolution of 1 or 2 dimensions that keeps the shape."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.norm, self.convolution = group_norm(convolution.in_channels), convolution

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [N, C, ...]."""
        changed: Tensor = self.convolution(nn.functional.silu(self.norm(x)))
        return x + changed


class ConditionedResidual(nn.Module):
    """x + f(x; condition), where f scales and shifts its normalised channels as the condition says."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d, condition_dim: int) -> None:
        super().__init__()
        self.norm, self.convolution = group_norm(convolution.in_channels), convolution
        self.modulation = nn.Linear(condition_dim, 2 * convolution.in_channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Transform x [N, C, ...] under a condition [N, condition_dim]."""
        spatial = (1,) * (x.ndim - 2)
        scale, shift = self.modulation(condition).unflatten(1, (2, -1, *spatial)).unbind(1)
        changed: Tensor = self.convolution(nn.functional.silu(torch.addcmul(shift, self.norm(x), 1 + scale)))
        return x + changed
