"""Judges: one classifier a modality, trained supervised on the training split with the modality's own encoder.

A judge's verdict on generated x counts for no more than its accuracy on real held-out x, which is always shown.
Shapes: N rows, F feature_dim.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.coherence import class_spread
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.manifold import NUM_NEIGHBOURS, precision_recall
from shala_framework.plugin.modality import Modality

NEGLIGIBLE_SPREAD = 0.01  # of the distance between rows of any class


class Judge(nn.Module):
    """A modality's encoder with a linear layer over classes.

    Attributes:
        classes: Class names, in the order of the outputs; the same for the judges of all modalities, so that their
            verdicts compare.
        known: Those of them that it has seen: some may have no row with the modality.
        steps: Number of optimiser steps of its training.
    """

    def __init__(
        self, modality: Modality, classes: Sequence[str], known: Collection[str], feature_dim: int = 128
    ) -> None:
        super().__init__()
        self.classes, self.known = tuple(classes), frozenset(known)
        self.steps = 0
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

    @torch.no_grad()
    def verdicts(self, features: Tensor) -> Tensor:
        """Index of the class by what `features` gave [..., F]: int64 [...]."""
        classes: Tensor = self.head[1:](features).argmax(-1)
        return classes

    def targets(self, labels: Sequence[str | None]) -> Tensor:
        """Class index of each label, -1 for one that the judge does not know: int64 [N]."""
        return class_indices([label if label in self.known else None for label in labels], self.classes)

    def accuracy(self, rows: Rows, name: str) -> float:
        """Share of labelled rows that have the modality and are classified as their label."""
        targets = self.targets(rows.labels)
        usable = rows.presence[:, list(rows.x).index(name)] & (targets >= 0)
        return float((self.classify(rows.x[name][usable]) == targets[usable]).float().mean())


def class_indices(labels: Sequence[str | None], classes: Sequence[str]) -> Tensor:
    """Place of each label among the classes, -1 for one that is none of them: int64 [N]."""
    index = {name: i for i, name in enumerate(classes)}
    return torch.tensor([-1 if label is None else index.get(label, -1) for label in labels], dtype=torch.int64)


class Panel:
    """The judges of all modalities, and what they see of the held-out rows.

    Attributes:
        judges: By modality.
        held_out: Rows that samples are compared with.
        real: Modality to its judge's features of the held-out rows that have it, float [N, F].
    """

    def __init__(self, judges: Mapping[str, Judge], held_out: Rows) -> None:
        self.judges, self.held_out = dict(judges), held_out
        self.real = {name: judge.features(held_out.having([name]).x[name]) for name, judge in judges.items()}

    def description(self) -> dict[str, str]:
        """What tells these judges from others, as JSON values: a hash of the weights of each."""
        return {name: _digest(judge) for name, judge in self.judges.items()}

    def class_spread(self, name: str) -> float:
        """Mean distance between two real rows of one class in a judge's features.

        NaN where no two rows share a class, or those that do are as good as equal, like the word for a class.
        """
        targets_N = self.judges[name].targets(self.held_out.having([name]).labels)
        known = targets_N >= 0
        within = class_spread(self.real[name][known], targets_N[known])
        all_rows = class_spread(self.real[name], torch.zeros_like(targets_N))
        return within if within > NEGLIGIBLE_SPREAD * all_rows else math.nan

    def compare(self, name: str, samples_KF: Tensor) -> dict[str, float]:
        """Frechet distance, precision and recall of samples' features; none of sets that are too small."""
        real_NF = self.real[name]
        found = {}
        if min(len(samples_KF), len(real_NF)) >= 2:
            found["frechet"] = frechet_distance(samples_KF, real_NF)
        if min(len(samples_KF), len(real_NF)) > NUM_NEIGHBOURS:
            found["precision"], found["recall"] = precision_recall(samples_KF, real_NF)
        return found


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
