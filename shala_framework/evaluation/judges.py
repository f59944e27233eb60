"""Judges: classifiers of a modality, trained supervised on the training split.

The first judge of a modality has the plugin's own encoder, which the model has too. The second has `PlainEncoder`,
which differs from all networks of the model, and so detects samples that only look right to the first kind.
A judge's verdict on generated x is worth no more than its accuracy on real held-out x, which is always reported.
Shapes: N rows, K samples, F feature_dim.
"""

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.class_distribution import sampling_noise, total_variation
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.kernel import kernel_distance
from shala_framework.evaluation.manifold import NUM_NEIGHBOURS, precision_recall
from shala_framework.evaluation.plain_encoder import PlainEncoder
from shala_framework.evaluation.spread import class_spread, relative_class_spread
from shala_framework.plugin.modality import Modality

NEGLIGIBLE_SPREAD = 0.01  # share of the distance between rows of any class
Architecture = Literal["plugin", "plain"]


class Judge(nn.Module):
    """An encoder with a linear layer over classes.

    Attributes:
        classes: Class names, in the order of the outputs; the same for the judges of all modalities, so that their
            verdicts are comparable.
        known: Classes that it was trained on; some classes may have no row with the modality.
        steps: Number of optimiser steps of its training.
    """

    def __init__(
        self,
        modality: Modality,
        classes: Sequence[str],
        known: Collection[str],
        feature_dim: int = 128,
        architecture: Architecture = "plugin",
    ) -> None:
        super().__init__()
        self.classes, self.known = tuple(classes), frozenset(known)
        self.steps = 0
        self.encoder = (
            modality.encoder(feature_dim)
            if architecture == "plugin"
            else PlainEncoder(modality.shape, modality.dtype, feature_dim)
        )
        self.head = nn.Sequential(nn.LayerNorm(feature_dim), nn.SiLU(), nn.Linear(feature_dim, len(self.classes)))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x))
        return logits

    @torch.no_grad()
    def features(self, x: Tensor, batch_size: int = 128) -> Tensor:
        """Return the normalised input of the last layer for each x [N, ...]: float [N, F]."""
        self.eval()
        return torch.cat([self.head[0](self.encoder(batch)) for batch in x.split(batch_size)])

    @torch.no_grad()
    def classify(self, x: Tensor, batch_size: int = 128) -> Tensor:
        """Return the class index of each x [N, ...]: int64 [N]."""
        self.eval()
        return torch.cat([self(batch).argmax(1) for batch in x.split(batch_size)])

    @torch.no_grad()
    def verdicts(self, features: Tensor) -> Tensor:
        """Return the class index of each output of `features` [..., F]: int64 [...]."""
        classes: Tensor = self.head[1:](features).argmax(-1)
        return classes

    def targets(self, labels: Sequence[str | None]) -> Tensor:
        """Return the class index of each label, -1 if the judge does not know it: int64 [N]."""
        return class_indices([label if label in self.known else None for label in labels], self.classes)

    def accuracy(self, rows: Rows, name: str) -> float:
        """Return the accuracy on labelled rows that have the modality."""
        targets = self.targets(rows.labels)
        usable = rows.presence[:, list(rows.x).index(name)] & (targets >= 0)
        return float((self.classify(rows.x[name][usable]) == targets[usable]).float().mean())


def class_indices(labels: Sequence[str | None], classes: Sequence[str]) -> Tensor:
    """Return the index of each label among the classes, -1 if it is none of them: int64 [N]."""
    index = {name: i for i, name in enumerate(classes)}
    return torch.tensor([-1 if label is None else index.get(label, -1) for label in labels], dtype=torch.int64)


class Panel:
    """The judges of all modalities, and their features of real rows.

    Attributes:
        judges: Judges by modality.
        held_out: Rows that samples are compared with.
        groups_N: Groups of held-out rows that are resampled together, or None.
        real: Modality to its judge's features of the held-out rows that have it, float [N, F].
        real_classes: Modality to the classes that its judge names for those rows, int64 [N].
        reference: Modality to its judge's features of training rows that no judge was trained on, float [N, F].
    """

    def __init__(
        self,
        judges: Mapping[str, Judge],
        held_out: Rows,
        reference: Rows | None = None,
        groups_N: Tensor | None = None,
    ) -> None:
        self.judges, self.held_out, self.groups_N = dict(judges), held_out, groups_N
        self.real = {name: judge.features(held_out.having([name]).x[name]) for name, judge in judges.items()}
        self.real_classes = {name: judge.verdicts(self.real[name]) for name, judge in judges.items()}
        self.reference = {
            name: judge.features(reference.having([name]).x[name])
            for name, judge in judges.items()
            if reference is not None and len(reference.index_having([name]))
        }

    def description(self) -> dict[str, str]:
        """Return a hash of each judge's weights, as JSON values, which identifies the judges."""
        return {name: _digest(judge) for name, judge in self.judges.items()}

    def class_spread(self, name: str) -> float:
        """Return the mean distance between two real rows of one class in a judge's features.

        NaN if no two rows share a class, or if those that do are nearly equal, like the word for a class.
        """
        targets_N = self.judges[name].targets(self.held_out.having([name]).labels)
        known = targets_N >= 0
        within = class_spread(self.real[name][known], targets_N[known])
        return within if self._varies(name, within) else math.nan

    def set_size(self, name: str, num_samples: int) -> int:
        """Return the size of sets for distances that depend on it: that of samples or reference rows."""
        num_reference = len(self.reference.get(name, ()))
        return min(num_samples, num_reference) if num_reference > NUM_NEIGHBOURS else num_samples

    def compare(self, name: str, samples_KF: Tensor) -> dict[str, float]:
        """Return every figure of samples' features compared with those of held-out rows; empty if sets are too small.

        Frechet distance, precision and recall depend on the number of samples. They are means over sets as large as the
        reference rows, and so comparable with these.

        Returns:
            "frechet", "kernel", "precision", "recall", "spread" (relative to real rows of a class), "classes" (total
            variation) and "classes_noise" (total variation by chance alone).
        """
        real_NF, judge = self.real[name], self.judges[name]
        size = self.set_size(name, len(samples_KF))
        sets = [samples_KF[start : start + size] for start in range(0, len(samples_KF) - size + 1, size)]
        found = {}
        if min(size, len(real_NF)) >= 2:
            found["frechet"] = fmean(frechet_distance(part_KF, real_NF) for part_KF in sets)
            found["kernel"] = kernel_distance(samples_KF, real_NF)
        if min(size, len(real_NF)) > NUM_NEIGHBOURS:
            precisions, recalls = zip(*(precision_recall(part_KF, real_NF) for part_KF in sets), strict=True)
            found["precision"], found["recall"] = fmean(precisions), fmean(recalls)
        if len(samples_KF) and len(real_NF):
            classes_K, classes_N = judge.verdicts(samples_KF), self.real_classes[name]
            spread = relative_class_spread(samples_KF, classes_K, real_NF, classes_N)
            if self._varies(name, class_spread(real_NF, classes_N)) and not math.isnan(spread):
                found["spread"] = spread
            found["classes"] = total_variation(classes_K, classes_N, len(judge.classes))
            found["classes_noise"] = sampling_noise(classes_K, classes_N, len(judge.classes))
        return found

    def _varies(self, name: str, within: float) -> bool:
        """Return whether a distance within classes is more than negligible beside that between rows of any class."""
        all_rows = class_spread(self.real[name], torch.zeros(len(self.real[name])))
        return within > NEGLIGIBLE_SPREAD * all_rows


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
