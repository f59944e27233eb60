"""Clusters of latents by k-means, in the metric of the spread within clusters, which it finds as it goes.

Shapes: N rows, D latent_dim, K clusters.
Reference: Ding and Li 2007, "Adaptive dimension reduction using discriminant analysis and k-means clustering", for the
metric; Cui, Fern and Dy 2007, "Non-redundant multi-view clustering via orthogonalization", for clusters of what the
means of others leave.
"""

import warnings

import torch
from torch import Tensor

SMALLEST = 1e-6  # variance of a dimension
ROUNDS = 3  # of k-means, each in the metric that the one before has found


def k_means(z_ND: Tensor, count: int, *, seed: int, unit: float) -> Tensor:
    """Return the label of each row: int64 [N].

    Whitened rows have the same variance in each direction, and most directions tell nothing of the clusters. Once some
    clusters are found, the directions in which they lie apart have less variance within them, and count for more.

    Args:
        z_ND: Rows, float64.
        count: Number of clusters.
        seed: Seed of the first centres.
        unit: Rows, as those of `pooled_covariance`.
    """
    from sklearn.cluster import KMeans  # a second, which priors that are only sampled do not need
    from sklearn.exceptions import ConvergenceWarning

    label_N = torch.zeros(len(z_ND), dtype=torch.int64)
    for round_ in range(ROUNDS):
        precision_DD = torch.linalg.inv(pooled_covariance(z_ND, label_N, unit))
        metric_ND = (z_ND @ torch.linalg.cholesky(precision_DD)).float().numpy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
            found = KMeans(count, n_init=1, random_state=(seed + round_) % 2**32).fit_predict(metric_ND)
        label_N = torch.from_numpy(found).long()
    return label_N


def means_of(z_ND: Tensor, label_N: Tensor) -> Tensor:
    """Mean of the cluster of each row: [N, D]."""
    count = int(label_N.max()) + 1
    sums_KD = z_ND.new_zeros(count, z_ND.shape[1]).index_add_(0, label_N, z_ND)
    size_K = torch.bincount(label_N, minlength=count).clamp_min(1)
    return (sums_KD / size_K[:, None])[label_N]


def pooled_covariance(z_ND: Tensor, label_N: Tensor, unit: float) -> Tensor:
    """Covariance of rows around the means of their clusters, [D, D], never singular.

    It is drawn to that of all rows, which in turn is drawn to its diagonal, by `unit` rows each: the narrowest
    directions of latents have a fiftieth of the mean variance, so the identity would widen them.
    """
    inner_ND, offset_ND = z_ND - means_of(z_ND, label_N), z_ND - z_ND.mean(0)
    products_DD = offset_ND.T @ offset_ND
    diagonal_D = (products_DD.diagonal() / len(z_ND)).clamp_min(SMALLEST)
    whole_DD = (products_DD + unit * diagonal_D.diag()) / (len(z_ND) + unit)
    return (inner_ND.T @ inner_ND + unit * whole_DD) / (len(z_ND) + unit)


def numbered(value_N: Tensor) -> Tensor:
    """Number values by their first occurrence, without gaps: int64 [N].

    Example:
        >>> numbered(torch.tensor([7, 2, 7, 5])).tolist()
        [0, 1, 0, 2]
    """
    found, index_N = torch.unique(value_N, return_inverse=True)
    place_N = torch.arange(len(value_N))
    first_U = place_N.new_zeros(len(found)).scatter_reduce(0, index_N, place_N, "amin", include_self=False)
    number_N: Tensor = first_U.argsort().argsort()[index_N]
    return number_N


def joined(first_N: Tensor, second_N: Tensor) -> Tensor:
    """Labels of the pairs of two labels that occur, numbered without gaps: int64 [N]."""
    pair_N = first_N * (int(second_N.max()) + 1) + second_N
    label_N: Tensor = torch.unique(pair_N, return_inverse=True)[1]
    return label_N
