"""Frechet distance between samples and real rows in a judge's features.

Reference: Heusel et al. 2017 (FID), with the features of a modality's own judge in place of Inception's. Distances
depend on the number of rows and on the judge: compare only those of one evaluation, and always state n.
Shapes: N rows, F features.
"""

import torch
from torch import Tensor


def frechet_distance(x_NF: Tensor, y_NF: Tensor) -> float:
    """Squared Wasserstein distance between Gaussians fitted to two sets of features.

    Args:
        x_NF: Features of one set, float, at least 2 rows.
        y_NF: Features of the other set; the numbers of rows may differ.

    Raises:
        ValueError: A set has fewer than two rows, or the features differ in number.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [4.0]])
        >>> round(frechet_distance(x, x + 3), 6)  # another mean
        9.0
        >>> round(frechet_distance(x, 2 * x - 2), 6)  # the same mean, a deviation of 4 in place of 2
        4.0
    """
    if min(len(x_NF), len(y_NF)) < 2 or x_NF.shape[1:] != y_NF.shape[1:]:
        raise ValueError(f"expected two sets of at least 2 equal features, got {list(x_NF.shape)}, {list(y_NF.shape)}")
    x, y = x_NF.double(), y_NF.double()
    spread_x, spread_y = (torch.atleast_2d(features.T.cov()) for features in (x, y))
    # The trace of the root of A B is that of the root of the symmetric A^1/2 B A^1/2.
    root = _root(spread_x)
    overlap = torch.linalg.eigvalsh(root @ spread_y @ root).clamp_min(0).sqrt().sum()
    distance = (x.mean(0) - y.mean(0)).square().sum() + spread_x.trace() + spread_y.trace() - 2 * overlap
    return float(distance.clamp_min(0))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root
