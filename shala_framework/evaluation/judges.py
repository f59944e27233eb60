"""Judges: classifiers of a modality, trained supervised on the training split.

The first judge of a modality has the plugin's own encoder, which the model has too. The second has `PlainEncoder`,
which differs from all networks of the model, and so detects samples that only look right to the first kind.
A judge's verdict on generated x is worth no more than its accuracy on real held-out x, which is always reported.
A judge has one head for each attribute that labels name; of a plain class it has one.
Shapes: N rows, K samples, F feature_dim, A attributes.
"""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.attributes import Attribute, as_one_class, is_plain
from shala_framework.evaluation.class_distribution import sampling_noise, total_variation
from shala_framework.evaluation.coherence import agreement
from shala_framework.evaluation.manifold import NUM_NEIGHBOURS
from shala_framework.evaluation.plain_encoder import PlainEncoder
from shala_framework.evaluation.real_features import RealFeatures
from shala_framework.evaluation.spread import class_spread, relative_class_spread, spread
from shala_framework.plugin.modality import Modality
from shala_framework.support.machine import to_device

LEAST_ACCURACY = 0.8  # of a judge that can tell an attribute, as a share of the best judge's
LEAST_SKILL = 0.25  # of the same judge: how far its accuracy is on the way from chance to 1
NEGLIGIBLE_SPREAD = 0.01  # share of the distance between rows of any class
Architecture = Literal["plugin", "plain"]


class Judge(nn.Module):
    """An encoder with a linear layer over the classes of each attribute.

    Attributes:
        attributes: Attributes, whose classes are in the order of the outputs; the same for the judges of all
            modalities, so that their verdicts are comparable.
        known: Classes of each attribute that it was trained on; some may have no row with the modality.
        steps: Number of optimiser steps of its training.
    """

    def __init__(
        self,
        modality: Modality,
        attributes: Sequence[Attribute],
        known: Sequence[Collection[str]],
        feature_dim: int = 128,
        architecture: Architecture = "plugin",
    ) -> None:
        super().__init__()
        self.attributes, self.known = tuple(attributes), tuple(map(frozenset, known))
        self.sizes = [len(attribute.classes) for attribute in attributes]
        self.steps = 0
        self.encoder = (
            modality.encoder(feature_dim)
            if architecture == "plugin"
            else PlainEncoder(modality.shape, modality.dtype, feature_dim)
        )
        # One layer holds the heads of all attributes, side by side.
        self.head = nn.Sequential(nn.LayerNorm(feature_dim), nn.SiLU(), nn.Linear(feature_dim, sum(self.sizes)))

    @property
    def device(self) -> torch.device:
        """Device of its weights. Rows and results of the methods below are on the CPU."""
        return next(self.parameters()).device

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each attribute's classes."""
        return self._by_attribute(self.head(self.encoder(x)))

    @torch.no_grad()
    def features(self, x: Tensor, batch_size: int = 128) -> Tensor:
        """Return the normalised input of the last layer for each x [N, ...]: float [N, F]."""
        self.eval()
        return torch.cat([self.head[0](self.encoder(batch)).cpu() for batch in self._batches(x, batch_size)])

    @torch.no_grad()
    def classify(self, x: Tensor, batch_size: int = 128) -> Tensor:
        """Return the class index of each attribute for each x [N, ...]: int64 [N, A]."""
        self.eval()
        return torch.cat([_largest(self(batch)).cpu() for batch in self._batches(x, batch_size)])

    @torch.no_grad()
    def verdicts(self, features: Tensor) -> Tensor:
        """Return the class index of each attribute for each output of `features` [..., F]: int64 [..., A]."""
        return _largest(self._by_attribute(self.head[1:](to_device(features, self.device)))).cpu()

    def targets(self, labels: Sequence[str | None]) -> Tensor:
        """Return the class index of each attribute of labels, -1 if the judge does not know it: int64 [N, A]."""
        pairs = zip(self.attributes, self.known, strict=True)
        return torch.stack([attribute.indices(labels, known) for attribute, known in pairs], 1)

    def _batches(self, x: Tensor, batch_size: int) -> Iterator[Tensor]:
        return (to_device(batch, self.device) for batch in x.split(batch_size))

    def _by_attribute(self, logits: Tensor) -> tuple[Tensor, ...]:
        return tuple(logits.split(self.sizes, -1))


def _largest(logits: Sequence[Tensor]) -> Tensor:
    return torch.stack([of_attribute.argmax(-1) for of_attribute in logits], -1)


def balanced_accuracy(verdicts_N: Tensor, targets_N: Tensor) -> float:
    """Return the accuracy on rows of each class, averaged over the classes of the rows; NaN without a known class.

    A judge that always names the most frequent class has 1 / (number of these classes).
    """
    known = targets_N >= 0
    right_N, classes_N = (verdicts_N == targets_N)[known].float(), targets_N[known]
    shares = [float(right_N[classes_N == label].mean()) for label in classes_N.unique().tolist()]
    return fmean(shares) if shares else math.nan


def all_known(values_NA: Tensor) -> Tensor:
    """Return 1 where all known values of a row are 1, else 0, and NaN in rows without any: float [N].

    Args:
        values_NA: 1, 0, or NaN where unknown; the last dimension may be empty.
    """
    known_NA = ~values_NA.isnan()
    least_N = (values_NA.nan_to_num(nan=1.0) == 1).all(-1).float()
    return torch.where(known_NA.any(-1), least_N, math.nan)


class Panel:
    """The judges of all modalities, and their features of real rows.

    Attributes:
        judges: Judges by modality.
        held_out: Rows that samples are compared with.
        groups_N: Groups of held-out rows that are resampled together, or None.
        real: Modality to its judge's features of the held-out rows that have it.
        real_classes: Modality to the classes that its judge names for those rows, int64 [N, A].
        reference: Modality to its judge's features of training rows that no judge was trained on, float [N, F]; in a
            random but fixed order, so that parts of them have all classes also where a training set is sorted by class.
        attributes: Attributes that the judges name; empty without judges.
        able: For each attribute, the modalities whose judges can tell it: with at least 0.8 of the balanced accuracy of
            the best judge, and clearly better than by chance. A word for a digit does not tell where the digit lies.
        told: Modality to the attributes, by index, in which its judge's verdicts count: those that it can tell, or the
            class of plain labels, in which every verdict counts.
    """

    def __init__(
        self,
        judges: Mapping[str, Judge],
        held_out: Rows,
        reference: Rows | None = None,
        groups_N: Tensor | None = None,
    ) -> None:
        self.judges, self.held_out, self.groups_N = dict(judges), held_out, groups_N
        self.real = {
            name: RealFeatures(judge.features(held_out.having([name]).x[name])) for name, judge in judges.items()
        }
        self.real_classes = {name: judge.verdicts(self.real[name].features) for name, judge in judges.items()}
        self.reference = {
            name: _shuffled(judge.features(reference.having([name]).x[name]))
            for name, judge in judges.items()
            if reference is not None and len(reference.index_having([name]))
        }
        self.attributes: tuple[Attribute, ...] = next((judge.attributes for judge in judges.values()), ())
        self.able = [self._able(a) for a in range(len(self.attributes))]
        plain = is_plain(self.attributes)
        self.told = {name: [a for a, able in enumerate(self.able) if plain or name in able] for name in judges}

    def _able(self, a: int) -> frozenset[str]:
        accuracy, skilled = {}, {}
        for name, judge in self.judges.items():
            if len(judge.known[a]) < 2:
                continue
            targets_N = judge.targets(self.held_out.having([name]).labels)[:, a]
            found = balanced_accuracy(self.real_classes[name][:, a], targets_N)
            if not math.isnan(found):
                # A judge that always names one class is right on the held-out rows of this class alone.
                chance = 1 / len(targets_N[targets_N >= 0].unique())
                accuracy[name], skilled[name] = found, chance + LEAST_SKILL * (1 - chance)
        least = LEAST_ACCURACY * max(accuracy.values(), default=0.0)
        return frozenset(name for name, value in accuracy.items() if value >= max(least, skilled[name]))

    def agreed(self, verdicts: Mapping[str, Tensor]) -> Tensor:
        """Return whether the judges that can tell an attribute name one class: float [K, A], NaN if fewer than two can.

        Args:
            verdicts: Modality to class indices [K, A].
        """
        columns = []
        for a in range(len(self.attributes)):
            judged = {name: value[:, a] for name, value in verdicts.items() if a in self.told[name]}
            count = len(next(iter(verdicts.values())))
            columns.append(agreement(judged).float() if len(judged) > 1 else torch.full((count,), math.nan))
        return torch.stack(columns, 1)

    def coherent(self, verdicts: Mapping[str, Tensor]) -> Tensor:
        """Return whether the judges agree in every attribute that two of them can tell: float [K], NaN without one."""
        return all_known(self.agreed(verdicts))

    def by_attribute(self, values_KA: Tensor) -> dict[str, Tensor]:
        """Return the columns with known values by the names of their attributes; empty for plain labels."""
        named = [(a, attribute.name) for a, attribute in enumerate(self.attributes) if attribute.name]
        return {name: values_KA[:, a] for a, name in named if not values_KA[:, a].isnan().all()}

    def description(self) -> dict[str, str]:
        """Return a hash of each judge's weights, as JSON values, which identifies the judges."""
        return {name: _digest(judge) for name, judge in self.judges.items()}

    def class_spreads(self, name: str, labels: Sequence[str | None]) -> Tensor:
        """Return the mean distance between two real rows of the class of each label, in a judge's features: float [K].

        NaN if no two real rows have the class, and for all labels if rows of a class are nearly equal, like the word
        for it.
        """
        judge, told, features_NF = self.judges[name], self.told[name], self.real[name].features
        targets_NA, asked_KA = (judge.targets(rows)[:, told] for rows in (self.held_out.having([name]).labels, labels))
        known_N = (targets_NA >= 0).all(1)
        found_K = torch.full((len(asked_KA),), math.nan)
        if not self._varies(name, class_spread(features_NF[known_N], as_one_class(targets_NA[known_N]))):
            return found_K
        for class_A in asked_KA[(asked_KA >= 0).all(1)].unique(dim=0) if told else ():
            members_CF = features_NF[(targets_NA == class_A).all(1)]
            if len(members_CF) > 1:
                found_K[(asked_KA == class_A).all(1)] = float(spread(members_CF[None]))
        return found_K

    @property
    def compared_reference(self) -> dict[str, Tensor]:
        """`reference` without the modalities that too few of its rows have for every figure."""
        return {name: features for name, features in self.reference.items() if len(features) > NUM_NEIGHBOURS}

    def set_size(self, name: str, num_samples: int) -> int:
        """Return the size of sets for distances that depend on it: the smaller number of samples and reference rows."""
        features = self.compared_reference.get(name)
        return num_samples if features is None else min(num_samples, len(features))

    def compare(self, name: str, samples_KF: Tensor, size: int | None = None) -> dict[str, float]:
        """Return every figure of samples' features compared with those of held-out rows; empty if sets are too small.

        Frechet distance, precision and recall depend on the number of samples. They are means over sets of one size,
        and so comparable with those of other samples and of the reference rows.

        Args:
            name: The modality.
            samples_KF: Features of the samples.
            size: Size of the sets; by default that of `set_size` for these samples.

        Returns:
            "frechet", "kernel", "precision", "recall", "spread" (relative to real rows of a class), "classes" (total
            variation) and "classes_noise" (total variation by chance alone), both means over attributes.
        """
        real, judge = self.real[name], self.judges[name]
        size = self.set_size(name, len(samples_KF)) if size is None else size
        sets = [samples_KF[start : start + size] for start in range(0, len(samples_KF) - size + 1, size)]
        found = {}
        if min(size, len(real)) >= 2:
            found["frechet"] = fmean(real.frechet(part_KF) for part_KF in sets)
            found["kernel"] = real.kernel(samples_KF)
        if min(size, len(real)) > NUM_NEIGHBOURS:
            precisions, recalls = zip(*(real.precision_recall(part_KF) for part_KF in sets), strict=True)
            found["precision"], found["recall"] = fmean(precisions), fmean(recalls)
        if len(samples_KF) and len(real):
            told = self.told[name]
            classes_KA, classes_NA = judge.verdicts(samples_KF)[:, told], self.real_classes[name][:, told]
            classes_K, classes_N = as_one_class(torch.cat([classes_KA, classes_NA])).split([len(samples_KF), len(real)])
            within = relative_class_spread(samples_KF, classes_K, real.features, classes_N)
            if self._varies(name, class_spread(real.features, classes_N)) and not math.isnan(within):
                found["spread"] = within
            columns = [(classes_KA[:, i], classes_NA[:, i], judge.sizes[a]) for i, a in enumerate(told)]
            if columns:
                found["classes"] = fmean(total_variation(*column) for column in columns)
                found["classes_noise"] = fmean(sampling_noise(*column) for column in columns)
        return found

    def _varies(self, name: str, within: float) -> bool:
        """Return whether a distance within classes is more than negligible beside that between rows of any class."""
        return within > NEGLIGIBLE_SPREAD * self.real[name].spread


def _shuffled(features_NF: Tensor) -> Tensor:
    return features_NF[torch.randperm(len(features_NF), generator=torch.Generator().manual_seed(0))]


def _digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
