"""Drawing instances: all of them once in a random order, then all of them again in another."""

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "validation", "test")


def draw(num_instances: int, num_draws: int, *seed: int) -> NDArray[np.intp]:
    """Indices of instances, none of which comes again before all have come; more draws begin with the same ones.

    Args:
        num_instances: How many there are, at least 1 unless num_draws is 0.
        num_draws: How many to draw.
        seed: Non-negative numbers that the order depends on.

    Returns:
        Indices below num_instances, of shape [num_draws].
    """
    rng = np.random.default_rng(seed)
    passes = [rng.permutation(num_instances) for _ in range(0, num_draws, max(1, num_instances))]
    return np.concatenate(passes)[:num_draws] if passes else np.empty(0, np.intp)
