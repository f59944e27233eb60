"""Precision and recall of samples: how many look real, and how much of the real data they cover.

Reference: Kynkaanniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models", in the
features of a judge. Shapes: N real rows, K samples, F features.
"""

import torch
from torch import Tensor

NUM_NEIGHBOURS = 3
# Of the features, relative to the largest: a judge rounds equal x differently in batches of other sizes.
ROUNDING = 1e-5


def precision_recall(
    samples_KF: Tensor, real_NF: Tensor, num_neighbours: int = NUM_NEIGHBOURS, *, real_radius_N: Tensor | None = None
) -> tuple[float, float]:
    """Return the share of samples within the real set's manifold, and of real rows within the samples' manifold.

    A set's manifold is the union of balls around its points, each as wide as the distance to the point's k-th nearest
    neighbour in the set. Both figures depend on the sizes of the sets: compare only those of one evaluation.

    Args:
        samples_KF: Features of samples, more than num_neighbours of them.
        real_NF: Features of real rows, likewise.
        num_neighbours: k.
        real_radius_N: `ball_radii` of the real rows, which are computed if they are not given.

    Raises:
        ValueError: A set is too small.
    """
    if min(len(samples_KF), len(real_NF)) <= num_neighbours:
        raise ValueError(
            f"expected two sets of more than {num_neighbours} rows, got {len(samples_KF)} and {len(real_NF)}"
        )
    samples, real = samples_KF.double(), real_NF.double()
    distances_KN = torch.cdist(samples, real)
    radius_N = ball_radii(real, num_neighbours) if real_radius_N is None else real_radius_N
    radius_K = ball_radii(samples, num_neighbours)
    return (
        float((distances_KN <= radius_N).any(1).double().mean()),
        float((distances_KN <= radius_K[:, None]).any(0).double().mean()),
    )


def ball_radii(features_NF: Tensor, num_neighbours: int = NUM_NEIGHBOURS) -> Tensor:
    """Return the radius of the ball around each point of a set: float64 [N].

    Args:
        features_NF: Features, of more than num_neighbours points.
        num_neighbours: k; the radius is the distance to the k-th nearest other point.
    """
    features = features_NF.double()
    nearest = torch.cdist(features, features).topk(num_neighbours + 1, dim=1, largest=False).values
    radius_N: Tensor = nearest[:, -1]  # the nearest is the point itself
    # Where many points are equal, as those of a label, balls have no width of their own.
    return radius_N + ROUNDING * float(features.norm(dim=1).max())
