"""Coherence: whether modalities that were generated together, or from each other, show the same class.

Shapes: N rows, S samples a row, K joint samples, F features.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def agreement(verdicts: Mapping[str, Tensor]) -> Tensor:
    """Which samples the judges of all modalities name one class for: bool [K].

    Args:
        verdicts: Class indices [K] of each modality.
    """
    columns = torch.stack(list(verdicts.values()))
    return (columns == columns[0]).all(0)


def votes(verdicts_NS: Tensor) -> Tensor:
    """Most frequent class of each row's samples [N], the first of equally frequent ones.

    A sample of p(x_i | x_given) shows how sure the model is, where a classifier gives the likeliest class alone; the
    vote of several samples compares with it.
    """
    counts_NSS = (verdicts_NS[:, :, None] == verdicts_NS[:, None, :]).sum(2)
    return verdicts_NS.gather(1, counts_NSS.argmax(1, keepdim=True))[:, 0]


def spread(features_NSF: Tensor) -> Tensor:
    """Mean distance between two samples of one row, in a judge's features: [N]; S is at least 2."""
    distances_NSS = torch.cdist(features_NSF, features_NSF)
    num_samples = features_NSF.shape[1]
    return distances_NSS.sum((1, 2)) / (num_samples * (num_samples - 1))


def class_spread(features_NF: Tensor, classes_N: Tensor) -> float:
    """Mean distance between two real rows of one class; NaN where no class has two rows."""
    total, count = 0.0, 0
    for label in classes_N.unique().tolist():
        members_CF = features_NF[classes_N == label]
        total += float(torch.cdist(members_CF, members_CF).sum())
        count += len(members_CF) * (len(members_CF) - 1)
    return total / count if count else float("nan")
