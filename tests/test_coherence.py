"""Coherence of what a model generates, against models whose samples are known."""

import torch

from shala_framework.data.rows import Rows
from shala_framework.evaluation.coherence import agreement, conditional_coherence


class Oracle:
    """Reads the class that a fake sample is."""

    def classify(self, x):
        return x[:, 0].long()

    def targets(self, labels):
        return torch.tensor([int(label) for label in labels])


class TwoInThree:
    """Of each row's samples every third shows class 9, the first among them, the others the class of the row."""

    def generate(self, num_samples=1, *, given, prior, guidance_scale, seed):
        x = given["a"].expand(-1, num_samples).clone()
        x[:, ::3] = 9
        return {"a": given["a"][:, None].expand(-1, num_samples, -1), "b": x[:, :, None]}


def test_agreement_counts_unanimous_samples():
    """One judge that differs is enough."""
    assert agreement({"a": torch.tensor([1, 2, 3, 4]), "b": torch.tensor([1, 2, 0, 0])}) == 0.5


def test_votes_give_the_likeliest_class():
    """Single samples are as often right as the model is sure; the vote of many is right where most of them are."""
    rows = Rows(
        x={"a": torch.tensor([[0.0], [1.0], [2.0], [5.0]]), "b": torch.zeros(4, 1)},
        presence=torch.tensor([[True, True]] * 3 + [[False, True]]),
        keys=tuple("abcd"),
        labels=tuple("0125"),
    )
    judges = {"a": Oracle(), "b": Oracle()}
    assert conditional_coherence(TwoInThree(), judges, rows, "a") == {"b": 0.0}
    assert conditional_coherence(TwoInThree(), judges, rows, "a", num_votes=6) == {"b": 1.0}
