"""Judges: one classifier a modality, trained supervised on the training split with the modality's own encoder.

A judge's verdict on generated x counts for no more than its accuracy on real held-out x, which is always shown.
Shapes: N rows, F feature_dim.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.errors import DataError
from shala_framework.modality import Modality
from shala_framework.seeds import mix_seed


class Judge(nn.Module):
    """A modality's encoder with a linear layer over classes.

    Attributes:
        classes: Class names, in the order of the outputs.
    """

    def __init__(self, modality: Modality, classes: Sequence[str], feature_dim: int = 128) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.encoder = modality.encoder(feature_dim)
        self.head = nn.Sequential(nn.LayerNorm(feature_dim), nn.SiLU(), nn.Linear(feature_dim, len(self.classes)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor, batch_size: int = 128) -> Tensor:
        """What the last layer sees of each x [N, ...]: float [N, F], normalised."""
        self.eval()
        return torch.cat([self.head[0](self.encoder(batch)) for batch in x.split(batch_size)])

    @torch.no_grad()
    def classify(self, x: Tensor, batch_size: int = 128) -> Tensor:
        """Index of the class of each x [N, ...]: int64 [N]."""
        self.eval()
        return torch.cat([self(batch).argmax(1) for batch in x.split(batch_size)])

    def targets(self, labels: Sequence[str | None]) -> Tensor:
        """Class index of each label, -1 for one that was not in the training set: int64 [N]."""
        index = {name: i for i, name in enumerate(self.classes)}
        return torch.tensor([index.get(label, -1) if label is not None else -1 for label in labels])

    def accuracy(self, rows: Rows, name: str) -> float:
        """Share of labelled rows that have the modality and are classified as their label."""
        targets = self.targets(rows.labels)
        usable = rows.presence[:, list(rows.x).index(name)] & (targets >= 0)
        return float((self.classify(rows.x[name][usable]) == targets[usable]).float().mean())


def train_judge(
    modality: Modality,
    name: str,
    rows: Rows,
    *,
    steps: int = 400,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Judge:
    """Train a judge by cross-entropy.

    Args:
        modality: Whose x it looks at.
        name: Of the modality in rows.
        rows: Training rows; those without the modality or a label are passed over.
        steps: Optimiser steps.
        batch_size: Rows a step.
        learning_rate: Peak of a one-cycle schedule.
        seed: Of initialisation and order.

    Raises:
        DataError: Fewer than two classes are labelled.
    """
    classes = sorted({label for label in rows.labels if label is not None})
    if len(classes) < 2:
        raise DataError(
            f"expected labels of at least two classes to train a judge, got {classes}; labels are the field cls"
        )
    with torch.random.fork_rng():
        torch.manual_seed(mix_seed(seed, 3))
        judge = Judge(modality, classes)
        targets = judge.targets(rows.labels)
        usable = torch.nonzero(rows.presence[:, list(rows.x).index(name)] & (targets >= 0))[:, 0]
        optimizer = torch.optim.AdamW(judge.parameters(), learning_rate, weight_decay=1e-2, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
        judge.train()
        batches = shuffled_batches(len(usable), batch_size, seed)
        for _ in range(steps):
            chosen = usable[next(batches)]
            loss = nn.functional.cross_entropy(judge(rows.x[name][chosen]), targets[chosen], label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()
