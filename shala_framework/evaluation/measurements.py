"""The metrics of an evaluation as one flat list, for comparisons of runs and seeds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Literal

import attrs

from shala_framework.evaluation.clusters import ClusterFigures
from shala_framework.evaluation.cost import CostFigures
from shala_framework.evaluation.intervals import Figure
from shala_framework.evaluation.joint import JointFigures
from shala_framework.evaluation.one_to_many import OneToManyFigures
from shala_framework.evaluation.suite import Evaluation

Better = Literal["higher", "lower", ""]
JOINT, GIVEN, LIKELIHOOD, STAGE_1 = (
    "joint samples",
    "samples from given modalities",
    "log-likelihood, nats a row",
    "reconstruction and shared latent",
)
ONE_TO_MANY, COST = "all others from one modality", "cost"
SECTIONS = (JOINT, GIVEN, ONE_TO_MANY, LIKELIHOOD, STAGE_1, COST)
COHERENCE, DISTANCE = "coherence", "Frechet"
REAL_ROWS, RECONSTRUCTIONS = "real rows", "reconstructions"
"""Methods that generate nothing: real data as a reference, and rows reconstructed by stage 1."""
CHANCE, TRAINING, INDEPENDENT = "by chance", "training", "a latent for each target"
_REFERENCES = frozenset({REAL_ROWS, CHANCE, INDEPENDENT})


@attrs.frozen(kw_only=True)
class Metric:
    """A metric: one column of a comparison.

    Attributes:
        section: One of SECTIONS.
        name: Title of the column.
        better: Which values are better; empty if neither high nor low ones are.
        digits: Decimal places to show.
    """

    section: str
    name: str
    better: Better = ""
    digits: int = 3


@attrs.frozen(kw_only=True)
class Measurement:
    """One figure of an evaluation.

    Attributes:
        metric: The metric.
        method: What was measured: a way to sample z with its guidance, a control, or real rows.
        figure: The figure.
    """

    metric: Metric
    method: str
    figure: Figure


def is_reference(method: str) -> bool:
    """Return whether a method's figures are what others are compared with, so that they are never the best."""
    return method.rpartition(", ")[2] in _REFERENCES


def measurements(evaluation: Evaluation) -> Iterator[Measurement]:
    """Return every figure of an evaluation, in the order of the columns of a comparison."""
    means = {
        what: over_modalities(evaluation.joint, what, factor=1e3 if what == "kernel" else 1)
        for what in ("frechet", "kernel", "second_frechet", "precision", "recall", "spread")
    }
    for number, joint in enumerate(evaluation.joint):
        columns: tuple[tuple[str, Better, Figure | None], ...] = (
            (COHERENCE, "higher", joint.coherence),
            *((f"{COHERENCE} of {name}", "higher", figure) for name, figure in joint.attributes.items()),
            (DISTANCE, "lower", means["frechet"][number]),
            ("kernel x 1,000", "lower", means["kernel"][number]),
            ("2nd coherence", "higher", joint.second_coherence),
            ("2nd Frechet", "lower", means["second_frechet"][number]),
            ("precision", "higher", means["precision"][number]),
            ("recall", "higher", means["recall"][number]),
            ("spread, 1: as real rows", "", means["spread"][number]),
        )
        yield from _measured(JOINT, joint.method, columns)
        if joint.milliseconds is not None:
            for name, value, digits in (("evaluations", joint.evaluations, 0), ("ms", joint.milliseconds, 2)):
                metric = Metric(section=JOINT, name=name, digits=digits)
                yield Measurement(metric=metric, method=joint.method, figure=Figure(value=value, count=1))
    for size, distances in real_distances(evaluation).items():
        yield from _measured(GIVEN, REAL_ROWS, [(f"{DISTANCE}, {size} given", "lower", distances["frechet"])])
    for found in evaluation.conditional:
        columns = (
            (f"{COHERENCE}, {found.num_given} given", "higher", found.coherence),
            *(
                (f"{COHERENCE} of {name}, {found.num_given} given", "higher", figure)
                for name, figure in found.attributes.items()
            ),
            (f"{DISTANCE}, {found.num_given} given", "lower", found.frechet),
            (f"diversity, {found.num_given} given", "", found.diversity),
        )
        yield from _measured(GIVEN, found.method, columns)
    for calibrated in evaluation.calibration:
        column = f"spread / error of z, {calibrated.num_given} given"
        yield from _measured(GIVEN, calibrated.method, [(column, "", calibrated.ratio)])
    yield from _one_to_many(evaluation.one_to_many)
    for title, likelihood in evaluation.log_likelihood.items():
        question, _, prior = title.rpartition(", ")
        for name, figure in ((question, likelihood.estimate), (f"{question}, ELBO", likelihood.elbo)):
            if figure is not None:
                metric = Metric(section=LIKELIHOOD, name=name, better="higher", digits=1)
                yield Measurement(metric=metric, method=prior, figure=figure)
    for name, judge in evaluation.judges.items():
        yield from _measured(STAGE_1, REAL_ROWS, [(f"judge of {name}", "higher", judge.real)])
        yield from _measured(STAGE_1, RECONSTRUCTIONS, [(f"judge of {name}", "higher", judge.reconstructed)])
        for attribute, found_by in judge.attributes.items():
            column = f"judge of {name}, {attribute}"
            yield from _measured(STAGE_1, REAL_ROWS, [(column, "higher", found_by.real)])
            yield from _measured(STAGE_1, RECONSTRUCTIONS, [(column, "higher", found_by.reconstructed)])
    columns = tuple((f"{name}, nats a value", "higher", figure) for name, figure in evaluation.reconstruction.items())
    yield from _measured(STAGE_1, RECONSTRUCTIONS, columns)
    for name, refined in evaluation.refinement.items():
        columns = ((f"{name}, nats a value, refined (a bound)", "higher", refined.refined),)
        yield from _measured(STAGE_1, RECONSTRUCTIONS, columns)
    latent = evaluation.latent
    columns = (
        ("linear probe", "higher", latent.probe),
        *((f"linear probe of {name}", "higher", figure) for name, figure in latent.attributes.items()),
        *_clusters(latent.clusters),
        ("KL, nats", "", latent.kl),
        ("active dimensions", "", Figure(value=latent.active, count=evaluation.rows)),
    )
    yield from _measured(STAGE_1, RECONSTRUCTIONS, columns)
    if evaluation.cost is not None:
        yield from _cost(evaluation.cost)


def _clusters(clusters: Mapping[str, ClusterFigures]) -> Iterator[tuple[str, Better, Figure | None]]:
    for name, found in clusters.items():
        of = f" of {name}" if name else ""
        yield f"cluster accuracy{of}", "higher", found.accuracy
        yield f"cluster mutual information{of}", "higher", found.mutual_information
        yield f"cluster Rand index{of}", "higher", found.rand


def _one_to_many(found: Sequence[OneToManyFigures]) -> Iterator[Measurement]:
    seen = set()
    for many in found:
        of = f" of {many.attribute}" if many.attribute else ""
        coherence, variation = f"{COHERENCE}{of}, {many.given} given", f"total variation{of}, {many.given} given"
        if (many.given, of) not in seen:  # what all methods of a run have in common is one figure
            yield from _measured(ONE_TO_MANY, REAL_ROWS, [(coherence, "higher", many.real)])
            seen.add((many.given, of))
        columns: tuple[tuple[str, Better, Figure | None], ...] = (
            (coherence, "higher", many.coherence),
            (variation, "lower", many.variation),
        )
        yield from _measured(ONE_TO_MANY, many.method, columns)
        columns = ((variation, "lower", many.variation_by_chance),)
        yield from _measured(ONE_TO_MANY, f"{many.method}, {CHANCE}", columns)
        control = f"{many.method}, {INDEPENDENT}"
        yield from _measured(ONE_TO_MANY, control, [(coherence, "higher", many.independent)])


def _cost(cost: CostFigures) -> Iterator[Measurement]:
    columns = [("parameters, million", sum(cost.parameters.values()) / 1e6), ("hours of training", cost.hours)]
    for name, value in columns:
        if value is not None:
            metric = Metric(section=COST, name=name, better="lower")
            yield Measurement(metric=metric, method=TRAINING, figure=Figure(value=value, count=1))


def _measured(section: str, method: str, columns: Iterable[tuple[str, Better, Figure | None]]) -> Iterator[Measurement]:
    for name, better, figure in columns:
        if figure is not None:
            yield Measurement(metric=Metric(section=section, name=name, better=better), method=method, figure=figure)


def over_modalities(joint: Sequence[JointFigures], what: str, *, factor: float = 1.0) -> list[Figure | None]:
    """Return for each method the mean of a figure over modalities, which has no interval.

    All means are over the modalities of which any method's samples have the figure. A method, or real rows, without
    the figure of one of them have no mean, as means over different modalities are not comparable.

    Args:
        joint: Figures of each method.
        what: Attribute of `JointFigures` that holds the figure by modality.
        factor: Factor of each value.
    """
    by_method: list[dict[str, Figure]] = [getattr(found, what) for found in joint]
    names = {name for found, of in zip(joint, by_method, strict=True) if not is_reference(found.method) for name in of}
    return [
        Figure(
            value=factor * fmean(of[name].value for name in sorted(names)), count=min(of[name].count for name in names)
        )
        if names and names <= of.keys()
        else None
        for of in by_method
    ]


def real_distances(evaluation: Evaluation) -> dict[int, dict[str, Figure]]:
    """Return "frechet" and "kernel" of real rows beside samples from given modalities, by the number of these."""
    found = {}
    for f in evaluation.conditional:
        if f.real_frechet is not None and f.real_kernel is not None:
            found[f.num_given] = {"frechet": f.real_frechet, "kernel": f.real_kernel}
        elif evaluation.conditional_real:
            found[f.num_given] = evaluation.conditional_real
    return found
