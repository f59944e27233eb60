"""Coherence: whether modalities that were generated together, or from each other, show the same class.

Shapes: N rows, S samples a row, K joint samples.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def agreement(verdicts: Mapping[str, Tensor]) -> Tensor:
    """Return for which samples the judges of all modalities name one class: bool [K].

    Args:
        verdicts: Class indices [K] of each modality.
    """
    columns = torch.stack(list(verdicts.values()))
    return (columns == columns[0]).all(0)


def votes(verdicts_NS: Tensor) -> Tensor:
    """Return the most frequent class of each row's samples [N]; of equally frequent ones the first.

    Samples of p(x_i | x_given) also show how sure the model is, whereas a classifier names the likeliest class only.
    The vote of several samples is comparable with a classifier.
    """
    counts_NSS = (verdicts_NS[:, :, None] == verdicts_NS[:, None, :]).sum(2)
    return verdicts_NS.gather(1, counts_NSS.argmax(1, keepdim=True))[:, 0]
