"""The temperature of sampling: the deviation of the noise that samples of p(z | h_S) begin with.

If it is T in place of 1, each cluster's Gaussian becomes T times as wide about the same mean, at no cost. Its square is
a sum over the given modalities, with terms of their own for each number of them, within limits:

    T(S)^2 = a_n + sum of b_nm over the given m, with n = |S| and b_n1 + ... + b_nM = 0

Shapes: B rows, M modalities.
"""

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.8, 1.25
SMALLEST_RANGE = 0.01  # that is worth words


def temperature_of(squares: Tensor, subset_BM: Tensor) -> Tensor:
    """Return T of each row: [B].

    Args:
        squares: a and b of each number of given modalities: [M + 1, 1 + M].
        subset_BM: bool, the given modalities.
    """
    of_size = squares[subset_BM.sum(1)]
    square_B = of_size[:, 0] + (of_size[:, 1:] * subset_BM).sum(1)
    return square_B.clamp(LOWEST**2, HIGHEST**2).sqrt()


def without_temperature(num_modalities: int, like: Tensor) -> Tensor:
    """Return the squares for which T is 1, on a tensor's device."""
    squares = like.new_zeros(num_modalities + 1, 1 + num_modalities)
    squares[:, 0] = 1.0
    return squares


def describe_temperatures(squares: Tensor) -> str:
    """Say for each number of given modalities what T is, and between which limits if it depends on them."""
    parts = []
    for size in range(1, len(squares)):
        a, b_M = squares[size, 0], squares[size, 1:].sort().values
        sums = torch.stack([a, a + b_M[:size].sum(), a + b_M[len(b_M) - size :].sum()])
        average, low, high = sums.clamp(LOWEST**2, HIGHEST**2).sqrt().tolist()
        among = f" ({low:.2f} to {high:.2f})" if high - low >= SMALLEST_RANGE else ""
        parts.append(f"{average:.3f} given {size}{among}")
    return ", ".join(parts)
