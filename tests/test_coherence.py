"""Agreement, votes and diversity on verdicts and features that are known."""

import math

import pytest
import torch

from shala_framework.evaluation.coherence import agreement, class_spread, spread, votes
from shala_framework.evaluation.subsets import cyclic_subsets


def test_agreement_counts_unanimous_samples():
    """One judge that differs is enough."""
    verdicts = {"a": torch.tensor([1, 2, 3, 4]), "b": torch.tensor([1, 2, 0, 0]), "c": torch.tensor([1, 0, 3, 4])}
    assert agreement(verdicts).tolist() == [True, False, False, False]


def test_the_vote_is_the_most_frequent_class():
    """Whatever the order, and the first of equals."""
    assert votes(torch.tensor([[9, 1, 1], [2, 9, 2], [3, 3, 3], [7, 5, 6]])).tolist() == [1, 2, 3, 7]


def test_samples_as_different_as_a_class_have_its_spread():
    """The mean distance between two samples of a row, and between two rows of a class; equal samples have none."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 30, 8, generator=generator)
    within = spread(features)
    assert within.shape == (40,)
    rows = torch.randn(2000, 8, generator=generator)
    rows[1000:] += 100.0
    of_class = class_spread(rows, torch.arange(2000) // 1000)
    assert float(within.mean()) == pytest.approx(of_class, rel=0.02)
    assert not spread(torch.ones(3, 4, 8)).any()
    assert math.isnan(class_spread(rows[:3], torch.arange(3)))


def test_cyclic_subsets_give_every_modality_equally_often():
    """As many subsets as modalities, each name in as many as their size; all names are one subset."""
    names = tuple("abcde")
    for size in range(1, 5):
        subsets = list(cyclic_subsets(names, size))
        assert len(set(subsets)) == 5
        assert all(sum(name in subset for subset in subsets) == size for name in names)
        assert all(list(subset) == sorted(subset) for subset in subsets)
    assert list(cyclic_subsets(names, 5)) == [names]
    with pytest.raises(ValueError, match="from 1 to 5, got 6"):
        list(cyclic_subsets(names, 6))
