"""Rows of one person vary together: groups by key, and intervals of figures over them."""

import pytest
import torch

from shala_framework.evaluation.intervals import mean_figure, ratio_figure
from shala_framework.evaluation.row_groups import row_groups


def test_groups_are_what_the_pattern_finds():
    """Rows with the same text form a group, only parts in parentheses count, and rows without a match stand alone."""
    keys = ["S001P003R1", "S002P003R1", "S001P004R2", "other", "more"]
    assert row_groups(keys, r"P\d+").tolist() == [0, 0, 1, 2, 3]
    assert row_groups(keys[:3], r"S(\d+)P\d+R(\d)").tolist() == [0, 1, 2]
    assert row_groups(keys, None) is None


@pytest.mark.parametrize("pattern", [r"other|P(\d+)", r"(P\d+)?", "(?:P[0-9]+)?"])
def test_rows_in_which_nothing_is_found_are_no_group(pattern):
    """A match whose parentheses take no part, or without text, says nothing about the row."""
    assert row_groups(["P3 a", "other", "P3 b", "other too"], pattern).tolist() == [0, 1, 0, 2]


def test_rows_that_say_the_same_of_a_person_do_not_narrow_an_interval():
    """With twelve equal rows for each of thirty people, the interval is that of thirty rows, not of 360."""
    people = torch.bernoulli(torch.full((30,), 0.4), generator=torch.Generator().manual_seed(0))
    rows, groups = people.repeat_interleave(12), torch.arange(30).repeat_interleave(12)
    alone, grouped = mean_figure(people[None]), mean_figure(rows[None], groups)
    assert (grouped.low, grouped.high) == pytest.approx((alone.low, alone.high))
    assert grouped.value == pytest.approx(alone.value)
    by_row = mean_figure(rows[None])
    assert by_row.high - by_row.low < 0.4 * (grouped.high - grouped.low)


def test_a_ratio_is_of_means_and_its_interval_resamples_both():
    """Proportional values give a ratio with an interval of zero width; NaN leaves a row out."""
    under = torch.rand(200, generator=torch.Generator().manual_seed(0)) + 0.1
    figure = ratio_figure(2 * under, under)
    assert (figure.value, figure.low, figure.high) == pytest.approx((2, 2, 2))
    over = torch.tensor([1.0, float("nan"), 3.0])
    assert ratio_figure(over, torch.tensor([1.0, 5.0, 3.0])).value == 1
    assert ratio_figure(over, torch.tensor([1.0, 5.0, 3.0])).count == 2
    with pytest.raises(ValueError, match="a positive one"):
        ratio_figure(over, torch.zeros(3))
