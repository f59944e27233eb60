"""Distances of samples from given modalities to real rows that they were not generated from.

A sample shares with its own row the class and whatever else is given. Compared with these very rows, samples would look
nearer to the data than independent draws of the true distribution do, and too narrow ones nearer than real rows. Every
set of samples is therefore compared with the held-out rows outside the groups of its own rows, and so are the real rows
of the control, in sets of the same size.
Shapes: N given rows, H held-out rows, K rows of a part, S samples a row, F features.
"""

from collections.abc import Iterator, Sequence
from statistics import fmean

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.real_features import RealFeatures
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.evaluation.subsets import cyclic_subsets

LEAST_ROWS = 20  # subsets and modalities that fewer rows have do not decide on the size of all sets


@attrs.frozen(eq=False)
class _Fold:
    """Given rows, by number in a random order, and the features of the real rows that they are compared with."""

    rows_K: Tensor
    real: dict[str, RealFeatures]


@attrs.frozen(kw_only=True)
class Distances:
    """Distances of sets of samples to real rows.

    Attributes:
        frechet: Mean Frechet distance of sets of one size.
        kernel: Mean kernel distance.
    """

    frechet: float
    kernel: float


class UnpairedDistances:
    """Measures distances of samples to real rows other than their own.

    If most held-out rows are not given, all samples are compared with those. Otherwise the given rows form two parts,
    and each is compared with the rows outside it.

    Attributes:
        size: Rows of each set, the same for all subsets of given modalities and for the control: 0 if there are too few
            rows for distances.
    """

    def __init__(self, panel: Panel, given_N: Tensor, names: Sequence[str], group: str | None) -> None:
        """Divide the given rows.

        Args:
            panel: Judges and held-out rows.
            given_N: Numbers of the held-out rows that samples are generated from.
            names: Modalities of the model.
            group: Pattern of the groups of rows that are not independent.
        """
        self.panel, held_out = panel, panel.held_out
        groups_H = row_groups(held_out.keys, group)
        if groups_H is None:
            groups_H = torch.arange(len(held_out))
        generator = torch.Generator().manual_seed(0)
        order_N = torch.randperm(len(given_N), generator=generator)
        apart_H = ~torch.isin(groups_H, groups_H[given_N])
        parts = [order_N]
        if int(apart_H.sum()) < len(given_N):
            known = groups_H[given_N].unique()
            first = known[torch.randperm(len(known), generator=generator)[: len(known) // 2]]
            in_first_N = torch.isin(groups_H[given_N[order_N]], first)
            parts = [order_N[in_first_N], order_N[~in_first_N]]
        self._folds = [
            _Fold(rows_K, self._features(~torch.isin(groups_H, groups_H[given_N[rows_K]]))) for rows_K in parts
        ]
        self._of_real: dict[str, Distances | None] = {}
        self.size = self._common_size(held_out.take(given_N), names)

    def _features(self, chosen_H: Tensor) -> dict[str, RealFeatures]:
        """Return the judges' features of some held-out rows."""
        return {
            name: RealFeatures(real.features[chosen_H[self.panel.held_out.index_having([name])]])
            for name, real in self.panel.real.items()
        }

    def _common_size(self, given: Rows, names: Sequence[str]) -> int:
        """Return the smallest number of rows of a subset, a part and the control, but for those that are rare."""
        subsets = [subset for size in range(1, len(names)) for subset in cyclic_subsets(names, size)] or [()]
        having = [given.index_having(subset) if subset else torch.arange(len(given)) for subset in subsets]
        counts = [int(torch.isin(fold.rows_K, index).sum()) for fold in self._folds for index in having]
        enough = min(LEAST_ROWS, max(counts, default=0))
        counts = [count for count in counts if count >= enough]
        of_reference = [len(features) for features in self.panel.compared_reference.values()]
        enough = min(LEAST_ROWS, max(of_reference, default=0))
        counts += [count for count in of_reference if count >= enough]
        size = min(counts, default=0)
        return size if size > 1 else 0

    def of_samples(self, name: str, index_K: Tensor, features_KSF: Tensor) -> Distances | None:
        """Return the distances of samples of some given rows; None if there are too few.

        Args:
            name: Generated modality.
            index_K: Numbers of the rows among the given ones.
            features_KSF: Features of each row's samples.
        """
        place = {row: k for k, row in enumerate(index_K.tolist())}
        pairs: list[Distances] = []
        for fold in self._folds:
            chosen = [place[row] for row in fold.rows_K.tolist() if row in place]
            for s in range(features_KSF.shape[1]):
                pairs += self._pairs(features_KSF[chosen, s], fold.real[name])
        return mean_distances(pairs)

    def of_real(self, name: str) -> Distances | None:
        """Return the distances of training rows that no judge has seen, in sets as large; None if there are too few.

        Args:
            name: The modality.
        """
        if name not in self._of_real:
            features = self.panel.compared_reference.get(name)
            pairs = () if features is None else (self._pairs(features, fold.real[name]) for fold in self._folds)
            self._of_real[name] = mean_distances([pair for of_fold in pairs for pair in of_fold])
        return self._of_real[name]

    def _pairs(self, features_KF: Tensor, real: RealFeatures) -> Iterator[Distances]:
        """Return the distances of sets of one size; the rest of the rows, fewer than a set, is left out."""
        for part_KF in features_KF.split(self.size) if self.size and len(real) > 1 else ():
            if len(part_KF) == self.size:
                yield Distances(frechet=real.frechet(part_KF), kernel=real.kernel(part_KF))


def mean_distances(pairs: Sequence[Distances]) -> Distances | None:
    """Return the mean of each distance; None without any."""
    if not pairs:
        return None
    return Distances(frechet=fmean(pair.frechet for pair in pairs), kernel=fmean(pair.kernel for pair in pairs))
