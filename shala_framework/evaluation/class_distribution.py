"""Distance between the classes of samples and of real rows, and the distance that chance alone would give.

Shapes: N rows, K samples.
"""

import torch
from torch import Tensor

MOST_DRAWS, MOST_VALUES = 200, 4_000_000  # number of random sets, and of classes in all of them


def total_variation(classes_K: Tensor, real_N: Tensor, num_classes: int) -> float:
    """Return half the sum of absolute differences between two sets' class shares: 0 if equal, 1 if disjoint.

    Args:
        classes_K: Classes of samples, int64.
        real_N: Classes of real rows, named by the same judge so that its errors cancel.
        num_classes: Number of classes.

    Example:
        >>> total_variation(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2)
        0.3333333333333333
    """
    return float(0.5 * (_shares(classes_K, num_classes) - _shares(real_N, num_classes)).abs().sum())


def sampling_noise(classes_K: Tensor, real_N: Tensor, num_classes: int, *, seed: int = 0) -> float:
    """Return the mean total variation between two random sets of these sizes, both drawn from the two sets' mean.

    Args:
        classes_K: Classes of samples, int64.
        real_N: Classes of real rows.
        num_classes: Number of classes.
        seed: Seed of the random sets.
    """
    common_C = 0.5 * (_shares(classes_K, num_classes) + _shares(real_N, num_classes))
    generator = torch.Generator().manual_seed(seed)

    num_draws = max(2, min(MOST_DRAWS, MOST_VALUES // max(len(classes_K), len(real_N))))

    def drawn(size: int) -> Tensor:
        classes = torch.multinomial(common_C, num_draws * size, replacement=True, generator=generator)
        return torch.stack([_shares(part, num_classes) for part in classes.split(size)])

    return float(0.5 * (drawn(len(classes_K)) - drawn(len(real_N))).abs().sum(1).mean())


def _shares(classes_N: Tensor, num_classes: int) -> Tensor:
    return torch.bincount(classes_N, minlength=num_classes).double() / len(classes_N)
