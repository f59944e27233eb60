"""Agreement and votes on known verdicts."""

import pytest
import torch

from shala_framework.evaluation.coherence import agreement, votes
from shala_framework.evaluation.subsets import cyclic_subsets


def test_agreement_counts_unanimous_samples():
    """A single judge that differs prevents agreement."""
    verdicts = {"a": torch.tensor([1, 2, 3, 4]), "b": torch.tensor([1, 2, 0, 0]), "c": torch.tensor([1, 0, 3, 4])}
    assert agreement(verdicts).tolist() == [True, False, False, False]


def test_the_vote_is_the_most_frequent_class():
    """The vote does not depend on the order; of equally frequent classes the first wins."""
    assert votes(torch.tensor([[9, 1, 1], [2, 9, 2], [3, 3, 3], [7, 5, 6]])).tolist() == [1, 2, 3, 7]


def test_cyclic_subsets_give_every_modality_equally_often():
    """There are as many subsets as modalities, each name is in as many as their size, and one has all names."""
    names = tuple("abcde")
    for size in range(1, 5):
        subsets = list(cyclic_subsets(names, size))
        assert len(set(subsets)) == 5
        assert all(sum(name in subset for subset in subsets) == size for name in names)
        assert all(list(subset) == sorted(subset) for subset in subsets)
    assert list(cyclic_subsets(names, 5)) == [names]
    with pytest.raises(ValueError, match="from 1 to 5, got 6"):
        list(cyclic_subsets(names, 6))
