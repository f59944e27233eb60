"""How often training sees each row: by the weight of its shards, and by the number of rows of its class."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.shards import LABEL_FIELD
from shala_framework.support.errors import DataError


def balanced_weights(weights_N: Tensor, labels: Sequence[str | None], balance: float) -> Tensor:
    """Raise the weights of rows of rare classes, and lower those of frequent ones.

    Args:
        weights_N: Weight of each row, float64.
        labels: Class of each row; rows without one keep their weight.
        balance: 0 changes nothing; with 1, the rows of each class have the same sum of weights.

    Returns:
        float64 tensor [N]; the sum over the rows that have a class stays the same.

    Raises:
        DataError: No row has a class.
    """
    if not balance:
        return weights_N
    names = {label: number for number, label in enumerate(sorted({label for label in labels if label is not None}))}
    if not names:
        raise DataError(
            f"data.balance: expected training rows with a class (field {LABEL_FIELD}), got none among {len(labels)}; "
            "pack the classes too, or remove data.balance"
        )
    class_N = torch.tensor([-1 if label is None else names[label] for label in labels])
    known_N = class_N >= 0
    sums_K = torch.zeros(len(names), dtype=torch.float64).index_add_(0, class_N[known_N], weights_N[known_N])
    factors_K = sums_K**-balance
    factors_K = factors_K * sums_K.sum() / (factors_K * sums_K).sum()
    return torch.where(known_N, weights_N * factors_K[class_N.clamp_min(0)], weights_N)


def normalised_weights(weights_N: Tensor) -> Tensor | None:
    """Scale weights to a mean of 1; return None if all are equal."""
    if bool((weights_N == weights_N[0]).all()):
        return None
    return weights_N * (len(weights_N) / weights_N.sum())


def read_labels(shards: IndexedShards, on_sample: Callable[[int], None] = lambda _: None) -> list[str | None]:
    """Read the class of every sample, without its other fields.

    Raises:
        DataError: A shard or a class cannot be read.
    """
    labels: list[str | None] = []
    for shard, count in enumerate(shards.counts):
        labels += [raw.label for raw in shards.read_many([(shard, n) for n in range(count)], {LABEL_FIELD})]
        on_sample(len(labels))
    return labels


def describe_classes(labels: Sequence[str | None]) -> str:
    """Describe how many rows classes have, such as "3 classes of 5 to 200 rows"."""
    counts = Counter(label for label in labels if label is not None)
    return f"{len(counts)} classes of {min(counts.values())} to {max(counts.values())} rows"
