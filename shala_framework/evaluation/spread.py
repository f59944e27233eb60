"""Diversity of samples: of one row, and of one class compared with real rows.

Shapes: N rows, S samples a row, K samples, F features.
"""

import torch
from torch import Tensor


def spread(features_NSF: Tensor) -> Tensor:
    """Return the mean distance between two samples of one row, in a judge's features: [N]; S is at least 2."""
    distances_NSS = torch.cdist(features_NSF, features_NSF)
    num_samples = features_NSF.shape[1]
    return distances_NSS.sum((1, 2)) / (num_samples * (num_samples - 1))


def class_spread(features_NF: Tensor, classes_N: Tensor) -> float:
    """Return the mean distance between two real rows of one class; NaN if no class has two rows."""
    total, count = 0.0, 0
    for label in classes_N.unique().tolist():
        members_CF = features_NF[classes_N == label]
        total += float(torch.cdist(members_CF, members_CF).sum())
        count += len(members_CF) * (len(members_CF) - 1)
    return total / count if count else float("nan")


def relative_class_spread(samples_KF: Tensor, classes_K: Tensor, real_NF: Tensor, real_classes_N: Tensor) -> float:
    """Return the spread of samples within a class divided by that of real rows: 1 if they vary alike.

    Each class is weighted by its number of real rows, so that the classes' shares among samples have no effect.

    Args:
        samples_KF: Features of samples.
        classes_K: Their classes, by a judge.
        real_NF: Features of real rows.
        real_classes_N: Their classes, by the same judge.

    Returns:
        The ratio; NaN if no class has two samples and two real rows.
    """
    over = under = 0.0
    for label in real_classes_N.unique().tolist():
        ours, theirs = samples_KF[classes_K == label], real_NF[real_classes_N == label]
        if min(len(ours), len(theirs)) >= 2:
            over += len(theirs) * float(spread(ours[None]))
            under += len(theirs) * float(spread(theirs[None]))
    return over / under if under else float("nan")
