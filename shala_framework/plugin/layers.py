"""Layers for the networks of several modalities.

All networks use group norm. Without it, they reconstruct little more than the mean of their training data within a
small budget. Shapes: N rows, C channels, T positions in time; an ellipsis stands for dimensions of time or space.
"""

import math

import torch
from torch import Tensor, nn

from shala_framework.support.distributed.processes import rows_rand


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm with as many groups as divide the channels, at most 8."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def initialise(network: nn.Module) -> None:
    """Initialise weights to preserve the variance after SiLU, and biases to zero.

    PyTorch's default shrinks the variance at each layer but not the biases. The output of a deep decoder then hardly
    depends on z at the start, and training needs hundreds of steps to change that.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def unfold_time(h_NCT: Tensor, factor: int) -> Tensor:
    """Reshape [N, factor * C, T] to [N, C, factor * T]: groups of channels become positions in time.

    The layer before has separate weights for each of these positions, so they differ from the start.
    """
    return h_NCT.unflatten(1, (factor, -1)).permute(0, 2, 3, 1).flatten(2)  # type: ignore[no-any-return]


def random_mask(x: Tensor, share: float) -> Tensor:
    """Return a mask of the shape of x [B, ...] that is True for a random share of its values.

    Each row has draws of its own, which do not depend on the number of processes that train together. All processes
    must call it with rows of the same shape.
    """
    return rows_rand(*x.shape, device=x.device) < share


class RowDropout(nn.Module):
    """Dropout with masks of each row's own, which do not depend on the number of processes that train together.

    `torch.nn.Dropout` draws by the shape of a process's rows, so that all processes have the same masks.

    Args:
        rate: Share of the values that are set to 0 in training.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, ...] of which some values are 0 in training, and others larger, so that means stay."""
        if not self.training or not self.rate:
            return x
        return x * ~random_mask(x, self.rate) / (1 - self.rate)

    def extra_repr(self) -> str:
        """Return the rate, for `print`."""
        return f"rate={self.rate:g}"


class Residual(nn.Module):
    """x + f(x), where f consists of norm, SiLU and a 1-d or 2-d convolution that keeps the shape."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.norm, self.convolution = group_norm(convolution.in_channels), convolution

    def forward(self, x: Tensor) -> Tensor:
        """Transform x [N, C, ...]."""
        changed: Tensor = self.convolution(nn.functional.silu(self.norm(x)))
        return x + changed


class ConditionedResidual(nn.Module):
    """x + f(x; condition), where the condition determines scale and shift of the normalised channels."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d, condition_dim: int) -> None:
        super().__init__()
        self.norm, self.convolution = group_norm(convolution.in_channels), convolution
        self.modulation = nn.Linear(condition_dim, 2 * convolution.in_channels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Transform x [N, C, ...] given a condition [N, condition_dim]."""
        spatial = (1,) * (x.ndim - 2)
        scale, shift = self.modulation(condition).unflatten(1, (2, -1, *spatial)).unbind(1)
        changed: Tensor = self.convolution(nn.functional.silu(torch.addcmul(shift, self.norm(x), 1 + scale)))
        return x + changed
