"""Figures with their uncertainty: intervals over rows or groups, and the spread over seeds.

Shapes: S seeds, N rows, G groups, R resamples.
"""

import math

import attrs
import torch
from torch import Tensor

NUM_RESAMPLES = 2_000
FEW_UNITS = 10  # intervals over fewer rows or groups are rough
DRAWN_AT_ONCE = 1 << 16  # rows of several resamples, drawn by one call


@attrs.frozen(kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        value: The figure.
        low: Lower end of its interval, if it has one.
        high: Upper end of its interval.
        count: Number of rows or samples behind it, over all seeds.
        seeds: Its value under each seed of the samples.
    """

    value: float
    low: float | None = None
    high: float | None = None
    count: int
    seeds: tuple[float, ...] = ()


def mean_figure(values_SN: Tensor, groups_N: Tensor | None = None, *, seed: int = 0) -> Figure:
    """Return a mean over seeds and rows, with a 95 % percentile interval from a bootstrap over rows or groups.

    The interval is at least as wide as Student's, because the percentiles of few rows are too near to the mean. A
    single row or group has no interval, because nothing says how far another one would be from it. The values of one
    row under all seeds stay together, because the row's difficulty affects all of them. The rows of one group, such as
    the recordings of one person, stay together too.

    Args:
        values_SN: Value of each row under each seed, float; NaN if a row has none.
        groups_N: Number of each row's group, int64; None if every row is a group of its own.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no value.
    """
    known_SN = ~values_SN.isnan()
    if not known_SN.any():
        raise ValueError("expected at least one value, got none")
    values_SN = torch.where(known_SN, values_SN.double(), 0.0)
    total_N, count_N = values_SN.sum(0), known_SN.sum(0).double()
    low, high = _interval(total_N, count_N, groups_N, seed)
    per_seed = values_SN.sum(1) / known_SN.sum(1).clamp_min(1)
    return Figure(
        value=float(total_N.sum() / count_N.sum()),
        low=low,
        high=high,
        count=int(known_SN.sum()),
        seeds=tuple(per_seed.tolist()),
    )


def share_figure(values_SN: Tensor, groups_N: Tensor | None = None, *, seed: int = 0) -> Figure:
    """Return a mean of values from 0 to 1, such as a share, with a 95 % interval that stays honest near 0 and 1.

    A bootstrap of values that are nearly all equal is too narrow, and of equal ones it has no width. The interval is
    Wilson's (1927), for as many independent answers as would have the variance that the values have over rows or
    groups, to which one more of unknown answer is added, but for no fewer than there are rows or groups.

    Args:
        values_SN: As for `mean_figure`, each from 0 to 1.
        groups_N: Likewise.
        seed: Seed of the resampling, by which a single row or group is told.

    Raises:
        ValueError: There is no value, or one is not from 0 to 1.

    Example:
        >>> found = share_figure(torch.ones(1, 20))
        >>> (found.value, round(found.low, 3), round(found.high, 3))
        (1.0, 0.839, 1.0)
    """
    known = values_SN[~values_SN.isnan()].double()
    if len(known) and not (float(known.min()) >= 0 and float(known.max()) <= 1):
        raise ValueError(f"expected values from 0 to 1, got some from {float(known.min()):g} to {float(known.max()):g}")
    figure = mean_figure(values_SN, groups_N, seed=seed)
    if figure.low is None:
        return figure
    known_SN = ~values_SN.isnan()
    over_G, under_G = _by_group(
        torch.where(known_SN, values_SN.double(), 0.0).sum(0), known_SN.sum(0).double(), groups_N
    )
    low, high = _wilson(figure.value, _independent_answers(figure.value, over_G, under_G))
    return attrs.evolve(figure, low=low, high=high)


def _independent_answers(share: float, over_G: Tensor, under_G: Tensor) -> float:
    """Return how many independent answers have the variance that a share has over rows or groups.

    The variance includes one more row that is half right. Without it, the few rows of several answers of which one is
    wrong would pass for many, as they have hardly any variance. Rows of one answer each count as they are, and so do
    rows that are all right.
    """
    count = float(len(under_G))
    squares = float((over_G - share * under_G).square().sum()) / float(under_G.sum()) ** 2
    if squares == 0 or not 0 < share < 1:
        return count
    supposed = (share * count + 0.5) / (count + 1)
    more = supposed * (1 - supposed) / count**2
    answers = share * (1 - share)
    return max(answers / (squares + more), min(answers / squares, count))


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of this many independent answers."""
    squared = 1.959964**2 / count
    centre = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * share * (1 - share) + squared**2 / 4) / (1 + squared)
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))  # whatever the rounding


def ratio_figure(over_N: Tensor, under_N: Tensor, groups_N: Tensor | None = None, *, seed: int = 0) -> Figure:
    """Return the ratio of two means over rows, with a bootstrap interval that draws a row's two values together.

    The interval is at least as wide as Student's, as for `mean_figure`.

    Args:
        over_N: Values of the numerator, float; NaN in either of a row's values leaves the row out.
        under_N: Values of the denominator, at least 0.
        groups_N: As for `mean_figure`.
        seed: Seed of the resampling.

    Raises:
        ValueError: No row has both values, or those of `under_N` are all 0.

    Example:
        >>> ratio_figure(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0])).value
        0.5
    """
    known_N = ~(over_N.isnan() | under_N.isnan())
    over_N, under_N = (torch.where(known_N, values.double(), 0.0) for values in (over_N, under_N))
    if not under_N.any():
        raise ValueError("expected a row with both values, and a positive one to divide by, got none")
    low, high = _interval(over_N, under_N, groups_N, seed)
    return Figure(value=float(over_N.sum() / under_N.sum()), low=low, high=high, count=int(known_N.sum()))


def _interval(
    over_N: Tensor, under_N: Tensor, groups_N: Tensor | None, seed: int
) -> tuple[float, float] | tuple[None, None]:
    """Return percentiles 2.5 and 97.5 of the ratio of sums over resampled groups; None of a single one.

    The interval is at least as wide as Student's.
    """
    over_N, under_N = _by_group(over_N, under_N, groups_N)
    generator = torch.Generator().manual_seed(seed)
    num_rows = len(over_N)
    if num_rows < 2:
        return None, None
    ratios = []
    most = max(1, DRAWN_AT_ONCE // num_rows)
    for done in range(0, NUM_RESAMPLES, most):
        rows_RN = torch.randint(num_rows, (min(most, NUM_RESAMPLES - done), num_rows), generator=generator)
        ratios.append(over_N[rows_RN].sum(1) / under_N[rows_RN].sum(1))
    drawn = torch.cat(ratios)
    drawn = drawn[drawn.isfinite()]  # a resample may have no row to divide by
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    by_t = _t_interval(over_N, under_N)
    return min(low, by_t[0]), max(high, by_t[1])


def _t_interval(over_N: Tensor, under_N: Tensor) -> tuple[float, float]:
    """Return Student's 95 % interval of a ratio of sums over at least two rows, not below 0 if no value is.

    A percentile interval of few rows is too narrow: of two rows, it ends at these rows.
    """
    from scipy.special import stdtrit

    count, ratio = len(over_N), float(over_N.sum() / under_N.sum())
    variance = float((over_N - ratio * under_N).square().sum() / under_N.sum().square()) * count / (count - 1)
    half = float(stdtrit(count - 1, 0.975)) * math.sqrt(variance)
    return max(ratio - half, 0.0 if bool((over_N >= 0).all()) else -math.inf), ratio + half


def _by_group(over_N: Tensor, under_N: Tensor, groups_N: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the sums of each group, or the values of rows without groups, but for those without any value."""
    if groups_N is not None:
        number_N = groups_N.unique(return_inverse=True)[1]
        zeros_G = over_N.new_zeros(int(number_N.max()) + 1)
        over_N, under_N = (zeros_G.index_add(0, number_N, values) for values in (over_N, under_N))
    some_N = (under_N > 0) | (over_N != 0)
    return over_N[some_N], under_N[some_N]


def spread_figure(values: list[float], count: int) -> Figure:
    """Return the mean of a figure that single rows do not have, such as a distance, with the range over seeds.

    Args:
        values: One value for each seed.
        count: Number of rows or samples behind each.
    """
    low, high = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Figure(value=sum(values) / len(values), low=low, high=high, count=count, seeds=tuple(values))
