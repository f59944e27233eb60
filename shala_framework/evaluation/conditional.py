"""Cross-modal samples for given subsets of every size, and those of q(z | x_given) without diffusion.

Shapes: N rows, S samples a row, F features, A attributes.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from shala_framework.data.order import spread_positions
from shala_framework.data.rows import Rows
from shala_framework.evaluation.calibration import squared_distances
from shala_framework.evaluation.coherence import votes
from shala_framework.evaluation.intervals import Figure, ratio_figure, share_figure
from shala_framework.evaluation.judges import Panel, all_known
from shala_framework.evaluation.methods import Method, conditional_methods
from shala_framework.evaluation.parts import Part, Parts
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.evaluation.spread import spread
from shala_framework.evaluation.subsets import cyclic_subsets
from shala_framework.evaluation.unpaired import Distances, UnpairedDistances, mean_distances
from shala_framework.model import ShaLa
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter


@attrs.frozen(kw_only=True)
class ConditionalFigures:
    """Figures of one method's samples given subsets of one size; means over subsets and generated modalities.

    Attributes:
        method: "diffusion", with its guidance scales, or "posterior": q(z | x_given) of stage 1.
        num_given: Size of the subsets.
        coherence: Share of samples that show the class of the row that they were generated from. Where labels name
            several attributes, those that a given modality and the generated one can both tell.
        vote_coherence: The same for the most frequent class of a row's samples.
        second_coherence: As `coherence`, by the second judges.
        frechet: Distance between sets of one sample of each row and held-out rows other than these, in the judges'
            features; None if there are too few rows.
        kernel: The same by an unbiased kernel.
        diversity: Mean distance between two samples of one row, divided by that between two real rows of its class,
            both as means over rows; None if a row has one sample, as for all figures below.
        agreement: Share of samples in which the judges of all generated modalities name one class, whether or not it
            is the row's; None if only one is generated.
        changes: Share of pairs of samples of one row that show different classes, in any attribute.
        misses: Share of samples that show another class than the judge names for the row's own signal. Calibrated
            samples have as many changes as misses; overconfident ones have fewer changes.
        calibration: Mean squared distance between two samples of a row, divided by that between a sample and the row's
            own signal, in the judges' features: 1 for calibrated draws, less for narrow ones. Detail that decoders
            average away lowers it too.
        pairs: If one modality is given: given and then generated modality, to the coherence.
        attributes: Coherence in each attribute; empty for plain labels.
        real_frechet: As `frechet`, of as many training rows that no judge has seen, with the same weight for each
            modality; None unless each has enough such rows, and in files of earlier versions.
        real_kernel: As `kernel`, likewise.
    """

    method: str
    num_given: int
    coherence: Figure
    vote_coherence: Figure
    second_coherence: Figure | None
    frechet: Figure | None
    kernel: Figure | None
    diversity: Figure | None
    agreement: Figure | None
    changes: Figure | None
    misses: Figure | None
    calibration: Figure | None
    pairs: dict[str, dict[str, Figure]]
    attributes: dict[str, Figure] = attrs.field(factory=dict)
    real_frechet: Figure | None = None
    real_kernel: Figure | None = None


def measure_conditional(
    model: ShaLa,
    panel: Panel,
    second: Panel,
    settings: Evaluate,
    num_rows: int,
    *,
    seed: int,
    reporter: Reporter,
    parts: Parts,
) -> list[ConditionalFigures]:
    """Return figures of each method for each size of subset, except sizes that no labelled row has.

    Args:
        model: Model with both stages trained.
        panel: The judges.
        second: The second judges.
        settings: Scales of guidance, samples for each row, and the pattern of groups.
        num_rows: Largest number of held-out rows to generate from.
        seed: Seed of the samples.
        reporter: Receives progress.
        parts: Keeps the figures of each method and size.
    """
    given_N = given_index(panel, num_rows)
    unpaired = UnpairedDistances(panel, given_N, model.names, settings.group)
    real = _Real(panel.held_out.take(given_N), panel, second, settings.group, unpaired)
    depends = [
        num_rows,
        settings.num_row_samples,
        settings.group,
        panel.description(),
        second.description(),
    ]
    questions = [
        Part(
            f"given {size}, {method.title}",
            [*depends, *method.settings(model.spec)],
            ConditionalFigures | None,
            partial(_measure_size, model, real, method, size, settings.num_row_samples, seed),
        )
        for method in conditional_methods(model, settings)
        for size in range(1, len(model.names))
    ]
    reporter.begin("samples from given modalities", len(questions), "sampling")
    figures = parts.values(questions, reporter.advance)
    reporter.finish()
    return [found for found in figures if found is not None]


def given_index(panel: Panel, num_rows: int) -> Tensor:
    """Return the numbers of the held-out rows to generate from: int64 [N]; at most this many, all with a label."""
    labelled_N = torch.tensor([n for n, label in enumerate(panel.held_out.labels) if label is not None])
    return labelled_N[spread_positions(len(labelled_N), num_rows)].long()


def given_rows(panel: Panel, num_rows: int) -> Rows:
    """Return the held-out rows to generate from."""
    return panel.held_out.take(given_index(panel, num_rows))


class _Real:
    """Rows to generate from, and the judges' features of them."""

    def __init__(self, rows: Rows, panel: Panel, second: Panel, group: str | None, unpaired: UnpairedDistances) -> None:
        self.rows, self.panel, self.second, self.unpaired = rows, panel, second, unpaired
        self.groups_N = row_groups(rows.keys, group)
        self.spread_of = {name: panel.class_spreads(name, rows.labels) for name in panel.judges}
        self.features = {name: judge.features(rows.x[name]) for name, judge in panel.judges.items()}
        self.verdicts = {name: judge.verdicts(self.features[name]) for name, judge in panel.judges.items()}
        self.scale = {
            name: float(found.features.var(0, correction=0).sum()) or math.nan for name, found in panel.real.items()
        }


def _measure_size(
    model: ShaLa, real: _Real, method: Method, size: int, num_samples: int, seed: int
) -> ConditionalFigures | None:
    """Return the figures of one method, given subsets of one size."""
    rows, tally = real.rows, _Tally(real)
    for given in cyclic_subsets(model.names, size):
        index = rows.index_having(given)
        if len(index) < 2:
            continue
        x = model.generate(
            num_samples,
            given={name: rows.x[name][index] for name in given},
            prior=method.prior,
            guidance_scale=method.guidance_scale,
            autoguidance_scale=method.autoguidance_scale,
            refine=method.refine,
            seed=seed,
        )
        tally.add(given, index, {name: x[name] for name in model.names if name not in given})
    return tally.figures(method.title, size)


class _Tally:
    """Return the judges' figures by subset and generated modality; NaN in rows that lack what is given."""

    def __init__(self, real: _Real) -> None:
        self.real = real
        self.pairs: dict[str, dict[str, Figure]] = {}
        self.hits: list[Tensor] = []
        self.vote_hits: list[Tensor] = []
        self.attribute_hits: dict[str, list[Tensor]] = {}
        self.second_hits: list[Tensor] = []
        self.spreads: list[Tensor] = []
        self.real_spreads: list[Tensor] = []
        self.agreed: list[Tensor] = []
        self.changes: list[Tensor] = []
        self.misses: list[Tensor] = []
        self.between: list[Tensor] = []
        self.beside: list[Tensor] = []
        self.distances: list[Distances] = []
        self.real_distances: list[Distances | None] = []

    def add(self, given: Sequence[str], index: Tensor, x: Mapping[str, Tensor]) -> None:
        """Judge samples [N, S, ...] of the other modalities, generated from the rows of an index."""
        verdicts = {}
        for name, judge in self.real.panel.judges.items():
            if name in x:
                features_NSF = judge.features(x[name].flatten(0, 1)).unflatten(0, x[name].shape[:2])
                verdicts[name] = judge.verdicts(features_NSF)
                self._add_modality(given, name, index, features_NSF, verdicts[name])
        if len(verdicts) > 1:
            agreed = self.real.panel.coherent({name: value.flatten(0, 1) for name, value in verdicts.items()})
            self.agreed.append(self._spread_out(agreed.view(len(index), -1).T, index))
        for name, judge in self.real.second.judges.items():
            targets_NA, asked = self._targets(self.real.second, name, index), self._asked(self.real.second, given, name)
            if name in x and (targets_NA[:, asked] >= 0).any():
                verdicts_NSA = judge.classify(x[name].flatten(0, 1)).unflatten(0, x[name].shape[:2])
                hits_NSA = _hits(verdicts_NSA, targets_NA)
                self.second_hits.append(self._spread_out(all_known(hits_NSA[..., asked]).T, index))

    def _add_modality(
        self, given: Sequence[str], name: str, index: Tensor, features_NSF: Tensor, verdicts_NSA: Tensor
    ) -> None:
        """Return figures of one generated modality, for classes that the judge knows."""
        real, asked = self.real, self._asked(self.real.panel, given, name)
        targets_NA = self._targets(real.panel, name, index)
        if not (targets_NA >= 0).any():
            return
        num_samples = features_NSF.shape[1]
        hits_NSA = _hits(verdicts_NSA, targets_NA)
        if (targets_NA[:, asked] >= 0).any():
            hits_SN = self._spread_out(all_known(hits_NSA[..., asked]).T, index)
            self.hits.append(hits_SN)
            votes_NA = torch.stack([votes(verdicts_NS) for verdicts_NS in verdicts_NSA.unbind(2)], 1)
            voted_N = all_known(_hits(votes_NA[:, None], targets_NA)[:, 0, asked])
            self.vote_hits.append(self._spread_out(voted_N[None], index))
            if len(given) == 1:
                self.pairs.setdefault(given[0], {})[name] = share_figure(hits_SN, real.groups_N)
        for a in asked:
            title = real.panel.attributes[a].name
            if title and (targets_NA[:, a] >= 0).any():
                self.attribute_hits.setdefault(title, []).append(self._spread_out(hits_NSA[..., a].T, index))
        found = real.unpaired.of_samples(name, index, features_NSF)
        if found is not None:
            self.distances.append(found)
            self.real_distances.append(real.unpaired.of_real(name))
        if num_samples < 2:
            return
        scale = real.spread_of[name].nanmean()
        under_N = real.spread_of[name][index] / scale
        over_N = torch.where(under_N.isnan(), math.nan, spread(features_NSF) / scale)
        self.spreads.append(self._spread_out(over_N[None], index))
        self.real_spreads.append(self._spread_out(under_N[None], index))
        has_N = real.rows.presence[index, list(real.rows.x).index(name)]
        told = real.panel.told[name]
        told_NSA = verdicts_NSA[..., told]
        different_NSS = (told_NSA[:, :, None] != told_NSA[:, None]).any(-1)
        different_N = different_NSS.sum((1, 2)) / (num_samples * (num_samples - 1))
        missed_N = (told_NSA != real.verdicts[name][index][:, None, told]).any(-1).float().mean(1)
        if not told:  # the judge names nothing that counts
            different_N, missed_N = different_N * math.nan, missed_N * math.nan
        between_N, beside_N = squared_distances(features_NSF, real.features[name][index])
        for values, kept in (
            (different_N, self.changes),
            (missed_N, self.misses),
            (between_N / real.scale[name], self.between),
            (beside_N / real.scale[name], self.beside),
        ):
            kept.append(self._spread_out(torch.where(has_N, values, math.nan)[None], index))

    def figures(self, method: str, size: int) -> ConditionalFigures | None:
        """Return the means over subsets and modalities; None if nothing was added."""
        if not self.hits:
            return None
        groups_N = self.real.groups_N
        frechet, kernel = self._distance_figures(self.distances)
        known = [found for found in self.real_distances if found is not None]
        real_frechet, real_kernel = self._distance_figures(known if len(known) == len(self.real_distances) else [])
        return ConditionalFigures(
            method=method,
            num_given=size,
            coherence=share_figure(torch.stack(self.hits).nanmean(0), groups_N),
            vote_coherence=share_figure(torch.stack(self.vote_hits).nanmean(0), groups_N),
            second_coherence=_mean(self.second_hits, groups_N),
            frechet=frechet,
            kernel=kernel,
            diversity=_ratio(self.spreads, self.real_spreads, groups_N),
            agreement=_mean(self.agreed, groups_N),
            changes=_mean(self.changes, groups_N),
            misses=_mean(self.misses, groups_N),
            calibration=_ratio(self.between, self.beside, groups_N),
            pairs=self.pairs,
            attributes={
                name: share_figure(torch.stack(hits).nanmean(0), groups_N) for name, hits in self.attribute_hits.items()
            },
            real_frechet=real_frechet,
            real_kernel=real_kernel,
        )

    def _distance_figures(self, distances: Sequence[Distances]) -> tuple[Figure | None, Figure | None]:
        """Return the means of Frechet and kernel distance over subsets and modalities; None without any."""
        mean, count = mean_distances(distances), self.real.unpaired.size
        if mean is None:
            return None, None
        return Figure(value=mean.frechet, count=count), Figure(value=mean.kernel, count=count)

    def _asked(self, panel: Panel, given: Sequence[str], name: str) -> list[int]:
        """Return the attributes that a given modality and the generated one can both tell."""
        told = {a for other in given for a in panel.told.get(other, ())}
        return [a for a in panel.told[name] if a in told or not panel.attributes[a].name]

    def _targets(self, panel: Panel, name: str, index: Tensor) -> Tensor:
        return panel.judges[name].targets([self.real.rows.labels[i] for i in index.tolist()])

    def _spread_out(self, values_SN: Tensor, index: Tensor) -> Tensor:
        """Put values of some rows into the columns of all rows: float [S, all rows]."""
        wide = torch.full((len(values_SN), len(self.real.rows)), math.nan)
        wide[:, index] = values_SN
        return wide


def _hits(verdicts_NSA: Tensor, targets_NA: Tensor) -> Tensor:
    """Return whether verdicts are the row's classes: float [N, S, A], NaN if the judge does not know that class."""
    return torch.where(targets_NA[:, None] >= 0, (verdicts_NSA == targets_NA[:, None]).float(), math.nan)


def _known(values: Sequence[Tensor]) -> list[Tensor]:
    """Leave out values that are NaN throughout: no class has two real rows, or each row has one sample."""
    return [value for value in values if not value.isnan().all()]


def _mean(values: Sequence[Tensor], groups_N: Tensor | None) -> Figure | None:
    """Return the mean of known shares, over subsets and modalities first, then over samples and rows."""
    known = _known(values)
    return share_figure(torch.stack(known).nanmean(0), groups_N) if known else None


def _ratio(over: Sequence[Tensor], under: Sequence[Tensor], groups_N: Tensor | None) -> Figure | None:
    """Return the ratio of two means over rows, each over subsets and modalities first; None if none is positive."""
    if not _known(under):
        return None
    over_N, under_N = (torch.cat(list(values)).nanmean(0) for values in (over, under))
    return ratio_figure(over_N, under_N, groups_N) if float(under_N.nansum()) > 0 else None
