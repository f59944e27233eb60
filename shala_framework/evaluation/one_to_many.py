"""Samples of all other modalities given one that leaves something open, such as the digit of a picture its place.

The targets of one sample have to agree in what is open, and over many samples each possibility has to occur as often as
in the data. The control draws a separate latent for each target, so that its targets agree only by chance.

Shapes: N rows, S samples a row, V rows of one value.
"""

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.evaluation.class_distribution import sampling_noise, total_variation
from shala_framework.evaluation.coherence import agreement
from shala_framework.evaluation.conditional import given_rows
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.methods import Method, conditional_methods
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.model import ShaLa
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter

LEAST_ROWS_OF_A_VALUE = 10  # training rows of one value of a modality, for a distribution of their classes
LEAST_ACCURACY = 0.8  # of a target's judge on held-out rows, as a share of the best judge's


@attrs.frozen(kw_only=True)
class OneToManyFigures:
    """Samples of all other modalities, given one, by one method.

    Attributes:
        method: "diffusion", with its guidance scales, or "posterior": q(z | x_given) of stage 1.
        given: The given modality.
        targets: The other modalities whose judges can tell the classes: with at least 0.8 of the best judge's accuracy.
        coherence: Share of samples in which the judges of all targets name one class, whether or not it is the row's.
        independent: Coherence of the control, which takes each target from another sample of the row.
        real: Coherence of the held-out rows' own targets; None without complete rows.
        num_values: Number of values of the given modality that leave the class open. Such a value has at least 10
            training rows, of more than one class.
        variation: Total variation between the judged classes of samples and the labels of the training rows with the
            same given value, averaged over values (weighted by their rows) and targets. The judges' errors add to it.
            None if no value leaves the class open.
        variation_by_chance: Mean total variation between two random sets of these sizes from one distribution.
    """

    method: str
    given: str
    targets: list[str]
    coherence: Figure
    independent: Figure
    real: Figure | None
    num_values: int
    variation: Figure | None
    variation_by_chance: Figure | None


def measure_one_to_many(
    model: ShaLa,
    panel: Panel,
    train: Rows,
    settings: Evaluate,
    num_rows: int,
    *,
    seed: int,
    reporter: Reporter,
    parts: Parts,
) -> list[OneToManyFigures]:
    """Return figures of each method and given modality, if the judges of two or more others can tell the classes.

    Args:
        model: With both stages trained.
        panel: The judges.
        train: Training rows, whose labels give the true distribution for each value.
        settings: Scales of guidance, samples for each row, and the pattern of groups.
        num_rows: Largest number of held-out rows to generate from.
        seed: Seed of the samples.
        reporter: Receives progress.
        parts: Keeps the figures of each method and modality.
    """
    rows = given_rows(panel, num_rows)
    able = _able_judges(panel)
    chosen = [name for name in model.names if len(able - {name}) > 1 and len(rows.index_having([name]))]
    if not chosen:
        return []
    depends = [num_rows, settings.num_row_samples, settings.group, panel.description()]
    methods = list(conditional_methods(settings, model.guidance, refined=bool(model.refined_names)))
    reporter.begin("one to many", len(chosen) * len(methods), "figure")
    figures = []
    for given in chosen:
        labels_of = _labels_of_values(train, given)
        for method in methods:
            figures.append(
                parts.value(
                    f"one to many, {given}, {method.title}",
                    [*depends, *method.settings(model.spec)],
                    OneToManyFigures,
                    partial(_measure, model, panel, able - {given}, rows, labels_of, settings, method, given, seed),
                )
            )
            reporter.advance(len(figures))
    reporter.finish()
    return figures


def _able_judges(panel: Panel) -> set[str]:
    """Return the modalities whose judges are about as accurate as the best judge."""
    accuracy = {name: judge.accuracy(panel.held_out, name) for name, judge in panel.judges.items()}
    measured = {name: value for name, value in accuracy.items() if not math.isnan(value)}  # NaN without labelled rows
    best = max(measured.values(), default=0.0)
    return {name for name, value in measured.items() if value >= LEAST_ACCURACY * best}


def _measure(
    model: ShaLa,
    panel: Panel,
    able: Collection[str],
    rows: Rows,
    labels_of: Mapping[str, Sequence[str]],
    settings: Evaluate,
    method: Method,
    given: str,
    seed: int,
) -> OneToManyFigures:
    index = rows.index_having([given])
    targets = {name: judge for name, judge in panel.judges.items() if name in able}
    # The control needs as many samples of a row as there are targets.
    num_samples = max(settings.num_row_samples, len(targets))
    x = model.generate(
        num_samples,
        given={given: rows.x[given][index]},
        prior=method.prior,
        guidance_scale=method.guidance_scale,
        autoguidance_scale=method.autoguidance_scale,
        refine=method.refine,
        seed=seed,
    )
    verdicts_NS = {name: judge.classify(x[name].flatten(0, 1)).view(len(index), -1) for name, judge in targets.items()}
    shifted_NS = {name: value.roll(shift, 1) for shift, (name, value) in enumerate(verdicts_NS.items())}
    groups_N = row_groups([rows.keys[i] for i in index.tolist()], settings.group)
    coherence, independent = (
        mean_figure(agreement({n: v.flatten() for n, v in found.items()}).view(len(index), -1).T.float(), groups_N)
        for found in (verdicts_NS, shifted_NS)
    )
    complete = rows.having(list(targets))
    real = None
    if len(complete):
        own = agreement({name: judge.classify(complete.x[name]) for name, judge in targets.items()})
        real = mean_figure(own.float()[None], row_groups(complete.keys, settings.group))
    values = list(_open_values(rows.x[given][index], labels_of))
    variation, by_chance = _variations(panel, values, verdicts_NS)
    return OneToManyFigures(
        method=method.title,
        given=given,
        targets=list(targets),
        coherence=coherence,
        independent=independent,
        real=real,
        num_values=len(values),
        variation=variation,
        variation_by_chance=by_chance,
    )


def _variations(
    panel: Panel, values: Sequence[tuple[Tensor, Sequence[str]]], verdicts_NS: Mapping[str, Tensor]
) -> tuple[Figure | None, Figure | None]:
    """Return the mean total variation over values and targets, and its value by chance; None without values."""
    if not values:
        return None, None
    found, chance, weights = [], [], []
    for rows_V, labels in values:
        pairs = [(panel.judges[n].targets(labels), v[rows_V].flatten(), n) for n, v in verdicts_NS.items()]
        known = [(true[true >= 0], classes, len(panel.judges[name].classes)) for true, classes, name in pairs]
        known = [(true, classes, count) for true, classes, count in known if len(true)]
        if known:
            found.append(fmean(total_variation(classes, true, count) for true, classes, count in known))
            chance.append(fmean(sampling_noise(classes, true, count) for true, classes, count in known))
            weights.append(len(rows_V))
    if not weights:
        return None, None
    num_samples = sum(weights) * next(iter(verdicts_NS.values())).shape[1]
    variation, by_chance = (
        Figure(value=fmean(values, weights=weights), count=num_samples) for values in (found, chance)
    )
    return variation, by_chance


def _labels_of_values(train: Rows, name: str) -> dict[str, list[str]]:
    """Group the labels of the training rows by the value of a modality."""
    labels_of: dict[str, list[str]] = {}
    for i in train.index_having([name]).tolist():
        label = train.labels[i]
        if label is not None:
            labels_of.setdefault(_digest(train.x[name][i]), []).append(label)
    return labels_of


def _open_values(x: Tensor, labels_of: Mapping[str, Sequence[str]]) -> Iterator[tuple[Tensor, Sequence[str]]]:
    """Yield the rows of each value that leaves the class open, and the labels of the training rows with this value."""
    rows_of: dict[str, list[int]] = {}
    for i, value in enumerate(x):
        rows_of.setdefault(_digest(value), []).append(i)
    for digest, rows in rows_of.items():
        labels = labels_of.get(digest, ())
        if len(labels) >= LEAST_ROWS_OF_A_VALUE and len(set(labels)) > 1:
            yield torch.tensor(rows), labels


def _digest(x: Tensor) -> str:
    return hashlib.sha256((x + 0).contiguous().numpy().tobytes()).hexdigest()  # -0.0 + 0 is 0.0
