"""Precision and recall of samples: how many look real, and how much of the real data they cover.

Reference: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models", in the
features of a judge. Shapes: N real rows, K samples, F features.
"""

import torch
from torch import Tensor

NUM_NEIGHBOURS = 3
# Of the features, relative to the largest: a judge rounds equal x differently in batches of other sizes.
ROUNDING = 1e-5


def precision_recall(samples_KF: Tensor, real_NF: Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> tuple[float, float]:
    """Return the share of samples within the real set's manifold, and of real rows within the samples' manifold.

    A set's manifold is the union of balls around its points, each as wide as the distance to the point's k-th nearest
    neighbour in the set. Both figures depend on the sizes of the sets: compare only those of one evaluation.

    Args:
        samples_KF: Features of samples, more than num_neighbours of them.
        real_NF: Features of real rows, likewise.
        num_neighbours: k.

    Raises:
        ValueError: A set is too small.
    """
    if min(len(samples_KF), len(real_NF)) <= num_neighbours:
        raise ValueError(
            f"expected two sets of more than {num_neighbours} rows, got {len(samples_KF)} and {len(real_NF)}"
        )
    samples, real = samples_KF.double(), real_NF.double()
    return _covered(samples, real, num_neighbours), _covered(real, samples, num_neighbours)


def _covered(points_AF: Tensor, by_BF: Tensor, num_neighbours: int) -> float:
    """Return the share of points within the manifold of another set."""
    radius_B = torch.cdist(by_BF, by_BF).kthvalue(num_neighbours + 1, dim=1).values  # the nearest is the point itself
    # Where many points are equal, as those of a label, balls have no width of their own.
    radius_B = radius_B + ROUNDING * by_BF.norm(dim=1).max()
    return float((torch.cdist(points_AF, by_BF) <= radius_B).any(1).double().mean())
