"""Samples of all other modalities given one that leaves something open, such as the digit of a picture its place.

The targets of one sample have to agree in what is open, and over many samples each possibility has to occur as often as
in the data. The control draws a separate latent for each target, so that its targets agree only by chance.

Each attribute that labels name has figures of its own.

Shapes: N rows, S samples a row, V rows of one value.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean

import attrs
import torch
from torch import Tensor

from shala_framework.data.labels import CLASS, labels_of
from shala_framework.data.rows import Rows
from shala_framework.evaluation.attributes import Attribute
from shala_framework.evaluation.class_distribution import sampling_noise, total_variation
from shala_framework.evaluation.coherence import agreement
from shala_framework.evaluation.conditional import given_rows
from shala_framework.evaluation.intervals import Figure, share_figure
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.methods import Method, conditional_methods
from shala_framework.evaluation.parts import Part, Parts
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.model import ShaLa
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter

LEAST_ROWS_OF_A_VALUE = 10  # training rows of one value of a modality, for a distribution of their classes


@attrs.frozen(kw_only=True)
class OneToManyFigures:
    """Samples of all other modalities, given one, by one method.

    Attributes:
        method: "diffusion", with its guidance scales, or "posterior": q(z | x_given) of stage 1.
        given: The given modality.
        targets: The other modalities whose judges can tell the classes: with at least 0.8 of the best judge's balanced
            accuracy, and clearly better than by chance.
        coherence: Share of samples in which the judges of all targets name one class, whether or not it is the row's.
        independent: Coherence of the control, which takes each target from another sample of the row.
        real: Coherence of the held-out rows' own targets; None without complete rows.
        num_values: Number of values of the given modality that leave the class open. Such a value has at least 10
            training rows, of more than one class.
        variation: Total variation between the judged classes of samples and the labels of the training rows with the
            same given value, averaged over values (weighted by their rows) and targets. The judges' errors add to it.
            None if no value leaves the class open.
        variation_by_chance: Mean total variation between two random sets of these sizes from one distribution.
        attribute: Attribute that the targets have to agree in; empty for the class of plain labels.
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
    attribute: str = CLASS


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
    """Return figures of each attribute, given modality and method, if the judges of two or more others can tell it.

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
    chosen = {
        given: [a for a, able in enumerate(panel.able) if len(able - {given}) > 1]
        for given in model.names
        if len(rows.index_having([given]))
    }
    chosen = {given: told for given, told in chosen.items() if told}
    if not chosen:
        return []
    depends = [num_rows, settings.num_row_samples, settings.group, panel.description()]
    methods = list(conditional_methods(model, settings))
    reporter.begin("one to many", len(chosen) * len(methods), "sampling")
    rows_of = {given: _rows_of_values(train, given) for given in chosen}
    questions = [
        Part(
            f"one to many, {given}, {method.title}",
            [*depends, *method.settings(model.spec)],
            list[OneToManyFigures],
            partial(_measure, model, panel, train.labels, rows_of[given], told, rows, settings, method, given, seed),
        )
        for given, told in chosen.items()
        for method in methods
    ]
    figures = [one for found in parts.values(questions, reporter.advance) for one in found]
    reporter.finish()
    return sorted(figures, key=lambda found: (list(chosen).index(found.given), found.attribute))


def _measure(
    model: ShaLa,
    panel: Panel,
    labels: Sequence[str | None],
    rows_of: Mapping[str, Sequence[int]],
    told: Sequence[int],
    rows: Rows,
    settings: Evaluate,
    method: Method,
    given: str,
    seed: int,
) -> list[OneToManyFigures]:
    """Return the figures of each attribute among `told`, by index.

    Args:
        model: With both stages trained.
        panel: The judges.
        labels: Labels of the training rows.
        rows_of: Training rows of each value of the given modality.
        told: Attributes that two targets can tell.
        rows: Held-out rows to generate from.
        settings: Samples for each row, and the pattern of groups.
        method: How z is sampled.
        given: The given modality.
        seed: Seed of the samples.
    """
    index = rows.index_having([given])
    able = [panel.able[a] - {given} for a in told]
    # The control needs as many samples of a row as there are targets.
    num_samples = max(settings.num_row_samples, *map(len, able))
    x = model.generate(
        num_samples,
        given={given: rows.x[given][index]},
        prior=method.prior,
        guidance_scale=method.guidance_scale,
        autoguidance_scale=method.autoguidance_scale,
        refine=method.refine,
        seed=seed,
    )
    shape = (len(index), num_samples)
    verdicts_NSA = {
        name: judge.classify(x[name].flatten(0, 1)).unflatten(0, shape)
        for name, judge in panel.judges.items()
        if any(name in targets for targets in able)
    }
    figures = []
    for a, targets in zip(told, able, strict=True):
        values = _open_values(rows.x[given][index], rows_of, labels_of(labels, panel.attributes[a].name))
        verdicts_NS = {name: value[..., a] for name, value in verdicts_NSA.items() if name in targets}
        figures.append(_figures(panel, a, rows, index, settings.group, method.title, given, list(values), verdicts_NS))
    return figures


def _figures(
    panel: Panel,
    a: int,
    rows: Rows,
    index: Tensor,
    group: str | None,
    method: str,
    given: str,
    values: Sequence[tuple[Tensor, Sequence[str]]],
    verdicts_NS: Mapping[str, Tensor],
) -> OneToManyFigures:
    """Return the figures of one attribute, from what the judges of its targets name in it."""
    shifted_NS = {name: value.roll(shift, 1) for shift, (name, value) in enumerate(verdicts_NS.items())}
    groups_N = row_groups([rows.keys[i] for i in index.tolist()], group)
    coherence, independent = (
        share_figure(agreement({n: v.flatten() for n, v in found.items()}).view(len(index), -1).T.float(), groups_N)
        for found in (verdicts_NS, shifted_NS)
    )
    complete = rows.having(list(verdicts_NS))
    real = None
    if len(complete):
        own = agreement({name: panel.judges[name].classify(complete.x[name])[:, a] for name in verdicts_NS})
        real = share_figure(own.float()[None], row_groups(complete.keys, group))
    attribute = panel.attributes[a]
    known = {name: panel.judges[name].known[a] for name in verdicts_NS}
    variation, by_chance = _variations(attribute, known, values, verdicts_NS)
    return OneToManyFigures(
        method=method,
        given=given,
        targets=list(verdicts_NS),
        coherence=coherence,
        independent=independent,
        real=real,
        num_values=len(values),
        variation=variation,
        variation_by_chance=by_chance,
        attribute=attribute.name,
    )


def _variations(
    attribute: Attribute,
    known: Mapping[str, Collection[str]],
    values: Sequence[tuple[Tensor, Sequence[str]]],
    verdicts_NS: Mapping[str, Tensor],
) -> tuple[Figure | None, Figure | None]:
    """Return the mean total variation over values and targets, and its value by chance; None without values."""
    if not values:
        return None, None
    found, chance, weights = [], [], []
    for rows_V, labels in values:
        count, sets = len(attribute.classes), []
        for name, verdicts in verdicts_NS.items():
            true = [attribute.classes.index(label) for label in labels if label in known[name]]
            if true:
                sets.append((verdicts[rows_V].flatten(), torch.tensor(true), count))
        if sets:
            found.append(fmean(total_variation(*both) for both in sets))
            chance.append(fmean(sampling_noise(*both) for both in sets))
            weights.append(len(rows_V))
    if not weights:
        return None, None
    num_samples = sum(weights) * next(iter(verdicts_NS.values())).shape[1]
    variation, by_chance = (
        Figure(value=fmean(values, weights=weights), count=num_samples) for values in (found, chance)
    )
    return variation, by_chance


def _rows_of_values(train: Rows, name: str) -> dict[str, list[int]]:
    """Group the training rows by the value of a modality."""
    found: dict[str, list[int]] = {}
    for i in train.index_having([name]).tolist():
        found.setdefault(_digest(train.x[name][i]), []).append(i)
    return found


def _open_values(
    x: Tensor, rows_of: Mapping[str, Sequence[int]], labels: Sequence[str | None]
) -> Iterator[tuple[Tensor, Sequence[str]]]:
    """Yield the rows of each value that leaves the class open, and the labels of the training rows with this value."""
    same: dict[str, list[int]] = {}
    for i, value in enumerate(x):
        same.setdefault(_digest(value), []).append(i)
    for digest, rows in same.items():
        known = [label for label in (labels[i] for i in rows_of.get(digest, ())) if label is not None]
        if len(known) >= LEAST_ROWS_OF_A_VALUE and len(set(known)) > 1:
            yield torch.tensor(rows), known


def _digest(x: Tensor) -> str:
    return hashlib.sha256((x + 0).contiguous().numpy().tobytes()).hexdigest()  # -0.0 + 0 is 0.0
