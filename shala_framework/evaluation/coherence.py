"""Coherence: whether modalities that were generated together, or from each other, show the same class.

Shapes: N rows, S samples a row, K joint samples.
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
