"""Draw instances: all of them once in random order, then all of them again in another order."""

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


def draw(num_instances: int, num_draws: int, *seed: int) -> NDArray[np.intp]:
    """Draw indices of instances, none of them twice before all are drawn. More draws begin with the same indices.

    Args:
        num_instances: Number of instances, at least 1 unless num_draws is 0.
        num_draws: Number of draws.
        seed: Non-negative numbers that determine the order.

    Returns:
        Indices below num_instances, of shape [num_draws].
    """
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(num_instances) for _ in range(0, num_draws, max(1, num_instances))]
    return np.concatenate(passes)[:num_draws] if passes else np.empty(0, np.intp)
