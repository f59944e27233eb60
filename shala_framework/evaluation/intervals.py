"""Figures with what is known of their chance: bootstrap intervals over rows, and the spread over seeds.

Shapes: S seeds, N rows.
"""

import attrs
import torch
from torch import Tensor

NUM_RESAMPLES = 2_000


@attrs.frozen(kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        value: The figure.
        low: Lower end of its interval, if it has one.
        high: Upper end.
        count: Rows or samples that it is of, those of all seeds.
        seeds: Its value under each seed of the samples.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int
    seeds: tuple[float, ...] = ()


def mean_figure(values_SN: Tensor, *, seed: int = 0) -> Figure:
    """A mean over seeds and rows, with the 95 % percentile interval of a bootstrap that draws whole rows.

    What the seeds say of one row stays together, because its difficulty is common to them.

    Args:
        values_SN: What each row gave under each seed, float; NaN where a row gave nothing.
        seed: Of the resampling.

    Raises:
        ValueError: There is no value.
    """
    known_SN = ~values_SN.isnan()
    if not known_SN.any():
        raise ValueError("expected at least one value, got none")
    some_N = known_SN.any(0)  # rows without any value are drawn by no resample
    values_SN, known_SN = values_SN[:, some_N], known_SN[:, some_N]
    values_SN = torch.where(known_SN, values_SN.double(), 0.0)
    total_N, count_N = values_SN.sum(0), known_SN.sum(0).double()
    generator = torch.Generator().manual_seed(seed)
    num_rows = len(total_N)
    means = []
    for _ in range(NUM_RESAMPLES):
        rows = torch.randint(num_rows, (num_rows,), generator=generator)
        means.append(total_N[rows].sum() / count_N[rows].sum())
    low, high = torch.stack(means).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    per_seed = values_SN.sum(1) / known_SN.sum(1).clamp_min(1)
    return Figure(
        value=float(total_N.sum() / count_N.sum()),
        low=low,
        high=high,
        count=int(known_SN.sum()),
        seeds=tuple(per_seed.tolist()),
    )


def spread_figure(values: list[float], count: int) -> Figure:
    """The mean of a figure that has no value of a single row, such as a distance, with the least and greatest seed's.

    Args:
        values: One a seed.
        count: Rows or samples behind each.
    """
    low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Figure(value=sum(values) / len(values), low=low, high=high, count=count, seeds=tuple(values))
