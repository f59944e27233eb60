"""Confidence intervals are as wide as theory says, and computed over rows rather than values."""

import math

import pytest
import torch

from shala_framework.evaluation import intervals
from shala_framework.evaluation.intervals import mean_figure, ratio_figure, share_figure, spread_figure

pytestmark = pytest.mark.long


def test_the_interval_of_a_share_is_that_of_the_binomial():
    """400 coin flips give 1.96 standard errors on either side."""
    values = torch.cat([torch.ones(100), torch.zeros(300)])[None]
    figure = mean_figure(values)
    error = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert figure.value == 0.25
    assert figure.count == 400
    assert figure.low == pytest.approx(0.25 - error, abs=0.15 * error)
    assert figure.high == pytest.approx(0.25 + error, abs=0.15 * error)


def test_seeds_that_say_the_same_of_each_row_do_not_narrow_it():
    """Nine copies of one answer count as one answer."""
    one = torch.bernoulli(torch.full((1, 200), 0.4), generator=torch.Generator().manual_seed(0))
    alone, copies = mean_figure(one), mean_figure(one.repeat(9, 1))
    assert (copies.low, copies.high) == (alone.low, alone.high)
    assert copies.count == 9 * alone.count
    assert copies.seeds == (alone.value,) * 9


def test_resamples_are_the_same_however_many_are_drawn_at_once(monkeypatch):
    """One resample a call, some, and all of them give equal intervals."""
    over, under = torch.rand(2, 57, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = []
    for most in (1, 57 * 3 + 1, 57 * 3_000):
        monkeypatch.setattr(intervals, "DRAWN_AT_ONCE", most)
        found.append(ratio_figure(over, under))
    assert found[0].low < found[0].value < found[0].high
    assert found[1:] == found[:1] * 2


def test_rows_that_gave_nothing_count_for_nothing():
    """NaN is excluded from the mean, the seeds' means and the count; all NaN is refused."""
    values = torch.tensor([[1.0, math.nan, 0.0], [1.0, 1.0, math.nan]])
    figure = mean_figure(values)
    assert figure.value == 0.75
    assert figure.count == 4
    assert figure.seeds == (0.5, 1.0)
    few = torch.full((1, 200), math.nan)
    few[0, :2] = 1
    assert (mean_figure(few).low, mean_figure(few).high) == (1, 1)
    with pytest.raises(ValueError, match="at least one value"):
        mean_figure(torch.full((1, 3), math.nan))


def test_a_single_row_or_group_has_no_interval():
    """One row says nothing about others, however many seeds it has; two already do."""
    one = torch.tensor([[1.0], [0.0]])
    assert (mean_figure(one).low, mean_figure(one).high, mean_figure(one).value) == (None, None, 0.5)
    rows = torch.tensor([[1.0, 0.0, 1.0, math.nan]])
    assert mean_figure(rows, torch.tensor([5, 5, 5, 6])).low is None
    assert ratio_figure(rows[0], torch.ones(4), torch.zeros(4).long()).high is None
    found = mean_figure(rows - 9, torch.tensor([5, 5, 7, 6]))
    half = 12.7062 * math.sqrt(2 * (2 * (1 / 3) ** 2)) / 3  # by Student, of groups of two rows and one
    assert (found.low, found.high) == pytest.approx((-9 + 2 / 3 - half, -9 + 2 / 3 + half), abs=1e-4)


def test_the_interval_of_two_rows_is_students():
    """It ended at the two rows; that of values that are never negative ends at 0."""
    found = mean_figure(torch.tensor([[-1.0, 3.0]]))
    assert (found.low, found.high) == pytest.approx((1 - 2 * 12.7062, 1 + 2 * 12.7062), abs=1e-4)
    ratio = ratio_figure(torch.tensor([1.0, 3.0]), torch.ones(2))
    assert (ratio.low, ratio.high) == pytest.approx((0, 2 + 12.7062), abs=1e-4)
    equal = mean_figure(torch.full((1, 2), 3.0))
    assert (equal.low, equal.high) == (3, 3)


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16])
def test_the_interval_of_few_rows_holds_the_true_mean(count, monkeypatch):
    """In at least 93 % of 600 experiments, in which percentiles alone do so in 48 to 92 %."""
    monkeypatch.setattr(intervals, "NUM_RESAMPLES", 200)
    generator = torch.Generator().manual_seed(0)
    found = [mean_figure(torch.randn(1, count, generator=generator)) for _ in range(600)]
    assert sum(figure.low <= 0 <= figure.high for figure in found) >= 0.93 * 600


def test_a_figure_without_rows_has_the_spread_of_its_seeds():
    """The spread is from lowest to highest; one seed has none."""
    figure = spread_figure([3.0, 1.0, 2.0], 100)
    assert (figure.value, figure.low, figure.high) == (2.0, 1.0, 3.0)
    assert spread_figure([3.0], 100).low is None


@pytest.mark.parametrize("share", [0.5, 0.9, 0.97, 0.99])
@pytest.mark.parametrize("count", [20, 40, 200])
def test_the_interval_of_a_share_holds_the_true_one_also_near_1(share, count):
    """In at least 92 % of 400 experiments; the bootstrap's did so in 71 % of those with 40 rows and 0.97."""
    generator = torch.Generator().manual_seed(0)
    found = [share_figure(torch.bernoulli(torch.full((1, count), share), generator=generator)) for _ in range(400)]
    assert sum(figure.low <= share <= figure.high for figure in found) >= 0.92 * 400


def test_answers_that_agree_within_a_row_or_group_count_as_one():
    """Copies do not narrow it, and answers that are all right leave doubt, by the number of rows or groups."""
    one = torch.bernoulli(torch.full((1, 200), 0.9), generator=torch.Generator().manual_seed(0))
    alone, copies = share_figure(one), share_figure(one.repeat(5, 1))
    assert (copies.low, copies.high) == pytest.approx((alone.low, alone.high))
    grouped = share_figure(one.repeat(1, 5), torch.arange(200).repeat(5))
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    right = share_figure(torch.ones(3, 20))
    assert (right.value, right.high) == (1, 1)
    assert right.low == pytest.approx(20 / (20 + 1.96**2), abs=1e-4)
    assert share_figure(torch.ones(3, 20), torch.arange(20) // 4).low < right.low
    assert share_figure(torch.ones(1, 1)).low is None
    with pytest.raises(ValueError, match="from 0 to 1, got some from 0 to 3"):
        share_figure(torch.tensor([[0.0, 3.0]]))


@pytest.mark.parametrize("count", [5, 20, 60])
def test_the_interval_of_single_answers_is_wilsons(count):
    """Rows of one answer each are independent, and nothing widens the interval."""
    right = max(1, count // 5)
    figure, z = share_figure((torch.arange(count) < right).float()[None]), 1.959964
    share = right / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert (figure.low, figure.high) == pytest.approx((centre - half, centre + half))


@pytest.mark.parametrize("num_answers", [4, 64, 4096])
def test_one_wrong_answer_is_less_certain_than_independent_answers_would_be(num_answers):
    """A single row that differs says little about the variance; with many answers a row, it says no more than none."""
    values = torch.ones(num_answers, 20)
    right, values[0, 0] = share_figure(values), 0
    figure = share_figure(values)
    share = 1 - 1 / (20 * num_answers)
    squared = 1.959964**2 / (20 * num_answers)  # of Wilson's interval if all answers were independent
    centre = (share + squared / 2) / (1 + squared)
    naive = centre - math.sqrt(squared * share * (1 - share) + squared**2 / 4) / (1 + squared)
    assert right.low - 0.01 < figure.low < naive - 0.3 * (1 - naive)
    if num_answers > 4:
        assert figure.low == pytest.approx(right.low, abs=0.01)


def test_few_groups_of_unequal_difficulty_hold_the_true_share():
    """Of three people with thirty recordings; their variance alone gave intervals that hold it in 76 %."""
    torch.manual_seed(0)
    groups = torch.arange(3).repeat_interleave(30)
    shares = torch.distributions.Beta(8.0, 2.0).sample((300, 3))
    found = [share_figure(torch.bernoulli(share[groups])[None], groups) for share in shares]
    assert sum(figure.low <= 0.8 <= figure.high for figure in found) >= 0.95 * 300


def test_a_ratio_lies_in_its_interval_where_rows_have_nothing_to_divide_by():
    """Rows count in the interval as they do in the figure: two of six add 5 each to the numerator alone."""
    found = ratio_figure(torch.tensor([1, 1.1, 0.9, 1, 5, 5]), torch.tensor([1.0, 1, 1, 1, 0, 0]))
    assert found.value == 3.5
    assert found.low < 1.5 < 3.5 < 5 < found.high < 20
    without = ratio_figure(torch.tensor([1, 1.1, 0.9, 1, 0, 0]), torch.tensor([1.0, 1, 1, 1, 0, 0]))
    four = ratio_figure(torch.tensor([1, 1.1, 0.9, 1]), torch.tensor([1.0, 1, 1, 1]))
    assert (without.low, without.high) == (four.low, four.high)
