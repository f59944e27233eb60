"""Samples of absent modalities from given ones, for subsets of every size, beside q(z | x_given) without diffusion.

Shapes: N rows, S samples a row, F features.
"""

import math
from collections.abc import Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.evaluation.coherence import spread, votes
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.methods import Method, conditional_methods
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.subsets import cyclic_subsets
from shala_framework.model import ShaLa
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter


@attrs.frozen(kw_only=True)
class ConditionalFigures:
    """Samples by one method, given subsets of one size; means over subsets and generated modalities.

    Attributes:
        method: "diffusion", with its guidance scales, or "posterior": q(z | x_given) of stage 1.
        num_given: Size of the subsets.
        coherence: Share of samples that show the class of the row that they were generated from.
        vote_coherence: The same of the most frequent class of a row's samples.
        frechet: Distance of the first sample of each row from the held-out rows in the judges' features.
        diversity: Mean distance between two samples of one row, over that between two real rows of its class; None
            where a row has one sample.
        pairs: Where one modality is given: given and then generated modality, to the coherence.
    """

    method: str
    num_given: int
    coherence: Figure
    vote_coherence: Figure
    frechet: Figure
    diversity: Figure | None
    pairs: dict[str, dict[str, Figure]]


def measure_conditional(
    model: ShaLa, panel: Panel, settings: Evaluate, num_rows: int, *, seed: int, reporter: Reporter, parts: Parts
) -> list[ConditionalFigures]:
    """Figures of each method for each size of subset; a size that no labelled row has is left out.

    Args:
        model: With both stages trained.
        panel: The judges.
        settings: Scales of guidance, and samples for each row.
        num_rows: Most held-out rows whose modalities are given.
        seed: Of the samples.
        reporter: Receives progress.
        parts: Where the figures of each method and size are kept.
    """
    spread_of = {name: panel.class_spread(name) for name in panel.judges}
    rows = panel.held_out.take(
        torch.nonzero(torch.tensor([label is not None for label in panel.held_out.labels]))[:, 0]
    )
    rows = rows.spread(num_rows)
    figures = []
    for method in conditional_methods(settings, model.spec.generate, refined=bool(model.refined_names)):
        reporter.begin(f"samples from given modalities, {method.title}", len(model.names) - 1, "size")
        for size in range(1, len(model.names)):
            found = parts.value(
                f"given {size}, {method.title}",
                [num_rows, settings.num_row_samples, *method.settings(model.spec), panel.description()],
                ConditionalFigures | None,
                partial(_measure_size, model, panel, rows, method, size, settings.num_row_samples, spread_of, seed),
            )
            if found is not None:
                figures.append(found)
            reporter.advance(size)
        reporter.finish()
    return figures


def _measure_size(
    model: ShaLa,
    panel: Panel,
    rows: Rows,
    method: Method,
    size: int,
    num_samples: int,
    spread_of: dict[str, float],
    seed: int,
) -> ConditionalFigures | None:
    """One method, given subsets of one size."""
    tally = _Tally(rows, panel, spread_of)
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
        for name in panel.judges:
            if name not in given:
                tally.add(given, name, index, x[name])
    return tally.figures(method.title, size) if tally.hits else None


class _Tally:
    """What the judges say of samples, by subset and generated modality; NaN in rows that lack what is given."""

    def __init__(self, rows: Rows, panel: Panel, spread_of: dict[str, float]) -> None:
        self.rows, self.panel, self.spread_of = rows, panel, spread_of
        self.pairs: dict[str, dict[str, Figure]] = {}
        self.hits: list[Tensor] = []
        self.vote_hits: list[Tensor] = []
        self.ratios: list[Tensor] = []
        self.distances: list[float] = []

    def add(self, given: Sequence[str], name: str, index: Tensor, x_NS: Tensor) -> None:
        """Judge samples [N, S, ...] of a modality, made from the rows of an index; of classes that the judge knows."""
        judge, num_samples = self.panel.judges[name], x_NS.shape[1]
        targets_N = judge.targets([self.rows.labels[i] for i in index.tolist()])
        if not (targets_N >= 0).any():
            return
        features_NSF = judge.features(x_NS.flatten(0, 1)).unflatten(0, (len(index), num_samples))
        verdicts_NS = judge.verdicts(features_NSF)
        hits_SN = self._spread_out(_hits(verdicts_NS.T, targets_N), index)
        self.hits.append(hits_SN)
        self.vote_hits.append(self._spread_out(_hits(votes(verdicts_NS)[None], targets_N), index))
        self.distances.append(frechet_distance(features_NSF[:, 0], self.panel.real[name]))
        if num_samples > 1:
            self.ratios.append(self._spread_out((spread(features_NSF) / self.spread_of[name])[None], index))
        if len(given) == 1:
            self.pairs.setdefault(given[0], {})[name] = mean_figure(hits_SN)

    def figures(self, method: str, size: int) -> ConditionalFigures:
        """Means over subsets and modalities."""
        return ConditionalFigures(
            method=method,
            num_given=size,
            coherence=mean_figure(torch.stack(self.hits).nanmean(0)),
            vote_coherence=mean_figure(torch.stack(self.vote_hits).nanmean(0)),
            frechet=Figure(value=sum(self.distances) / len(self.distances), count=len(self.rows)),
            diversity=_diversity(self.ratios),
            pairs=self.pairs,
        )

    def _spread_out(self, values_SN: Tensor, index: Tensor) -> Tensor:
        """Values of some rows in the columns of all: float [S, all rows]."""
        wide = torch.full((len(values_SN), len(self.rows)), math.nan)
        wide[:, index] = values_SN
        return wide


def _hits(verdicts_SN: Tensor, targets_N: Tensor) -> Tensor:
    """Whether a verdict is the row's class: float [S, N], NaN where the judge does not know that class."""
    return torch.where(targets_N >= 0, (verdicts_SN == targets_N).float(), math.nan)


def _diversity(ratios: Sequence[Tensor]) -> Figure | None:
    known = [ratio for ratio in ratios if not ratio.isnan().all()]  # no class has two real rows, or one sample a row
    return mean_figure(torch.stack(known).nanmean(0)) if known else None
