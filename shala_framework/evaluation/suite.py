"""All measurements of a trained model, each with its controls."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from shala_framework.data.labels import CLASS, labels_of
from shala_framework.data.latent_store import latents_of
from shala_framework.data.rows import Rows
from shala_framework.evaluation.attributes import Attribute, find_attributes
from shala_framework.evaluation.calibration import Calibration, CalibrationFigures
from shala_framework.evaluation.clusters import ClusterFigures, measure_clusters
from shala_framework.evaluation.conditional import ConditionalFigures, measure_conditional
from shala_framework.evaluation.cost import CostFigures
from shala_framework.evaluation.counts import Counts
from shala_framework.evaluation.intervals import FEW_UNITS, Figure, mean_figure, share_figure
from shala_framework.evaluation.joint import JointFigures, measure_joint, measure_real
from shala_framework.evaluation.judge_training import JudgeTraining
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.latents import active_dimensions, effective_dimensions, linear_probe
from shala_framework.evaluation.likelihood_figures import LikelihoodFigures, measure_log_likelihoods
from shala_framework.evaluation.manifold import NUM_NEIGHBOURS
from shala_framework.evaluation.one_to_many import OneToManyFigures, measure_one_to_many
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Part, Parts
from shala_framework.evaluation.reference_rows import split_reference
from shala_framework.evaluation.refinement import RefinedFigures, measure_refinement
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.model import ShaLa
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.prior import row_noise
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter, Silent
from shala_framework.support.seeds import mix_seed
from shala_framework.training.precision import FLOAT32, Precision

MULTIMODAL = "multimodal-vae"  # the suite of that field's papers
MOST_METRIC_ROWS = 2_000  # training rows whose latents define the metric of calibration
_NAMED_LABELS = 5  # largest number of labels in a note


@attrs.frozen(kw_only=True)
class AttributeFigures:
    """Accuracy of a judge in one attribute.

    Attributes:
        real: Accuracy on held-out rows.
        reconstructed: Accuracy on their reconstructions.
        counts: Whether the judge can tell the attribute, and so its verdicts count in the figures of samples.
    """

    real: Figure
    reconstructed: Figure
    counts: bool


@attrs.frozen(kw_only=True)
class JudgeFigures:
    """Accuracy of a judge, on real rows and on reconstructions.

    Attributes:
        real: Accuracy on held-out rows.
        reconstructed: Accuracy on their reconstructions from z ~ q(z | all present).
        second_real: Accuracy of the modality's second judge on held-out rows; None if it has none.
        second_reconstructed: The same on reconstructions.
        steps: Number of optimiser steps of the first judge's training; None in files of earlier versions.
        second_steps: The same of the second judge; None also if it has none.
        attributes: The same by attribute, of which the figures above are means; empty for plain labels.
    """

    real: Figure
    reconstructed: Figure
    second_real: Figure | None
    second_reconstructed: Figure | None
    steps: int | None = None
    second_steps: int | None = None
    attributes: dict[str, AttributeFigures] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class LatentFigures:
    """Figures of the shared latent.

    Where q(z | x) is a mixture, as in MMVAE and MoPoE, the figures are of one component of each row, picked at random.

    Attributes:
        probe: Accuracy of a linear classifier of the posterior mean on held-out rows, a mean over attributes; None
            without labels.
        dimensions: D.
        active: Number of dimensions whose posterior mean varies.
        effective: Participation ratio of the posterior means' covariance.
        kl: KL(q(z | x) || N(0, I)) of held-out rows, nats.
        attributes: Accuracy of the linear classifier of each attribute; empty for plain labels.
        clusters: In the suite "multimodal-vae", agreement of the clusters of posterior means with each attribute, by
            name; empty without labels.
    """

    probe: Figure | None
    dimensions: int
    active: int
    effective: float
    kl: Figure
    attributes: dict[str, Figure] = attrs.field(factory=dict)
    clusters: dict[str, ClusterFigures] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Evaluation:
    """Every figure of one evaluation; `attrs.asdict` makes it JSON.

    Attributes:
        rows: Number of held-out rows.
        judges: Judges by modality; empty if the data have no labels.
        joint: Figures of real rows and then of each method; empty without judges.
        conditional: Figures of each method and size of subset; empty without judges.
        calibration: Calibration of latents by method and size of subset; needs no classes.
        likelihood: Method of log-likelihoods: "elbo", "importance" or "annealed".
        log_likelihood: Figures by what is scored under which prior, such as "photo given caption, diffusion".
        reconstruction: Modality to log p(x | z), z ~ q(z | all present), in nats a value of x.
        latent: Figures of the shared latent.
        refinement: Refined modality to the density of its rows, with and without stage 3; empty without stage 3.
        notes: Sentences on what could not be measured, or not well, with the reason.
        one_to_many: Figures of each method and given modality, in the suite "multimodal-vae"; empty without judges of
            two other modalities.
        cost: Cost of the model, in that suite; otherwise None.
        conditional_real: In files of earlier versions "frechet" and "kernel" of training rows that no judge has seen,
            for all sizes of subset alike; otherwise empty, because `conditional` has them.
    """

    rows: int
    judges: dict[str, JudgeFigures]
    joint: list[JointFigures]
    conditional: list[ConditionalFigures]
    calibration: list[CalibrationFigures]
    likelihood: str
    log_likelihood: dict[str, LikelihoodFigures]
    reconstruction: dict[str, Figure]
    latent: LatentFigures
    notes: list[str]
    refinement: dict[str, RefinedFigures] = attrs.field(factory=dict)
    one_to_many: list[OneToManyFigures] = attrs.field(factory=list)
    cost: CostFigures | None = None
    conditional_real: dict[str, Figure] = attrs.field(factory=dict)


def evaluate(
    model: ShaLa,
    train: Rows,
    held_out: Rows,
    settings: Evaluate,
    *,
    seconds: float | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
    parts: Parts | None = None,
    precision: Precision = FLOAT32,
) -> Evaluation:
    """Measure a model. Under torchrun all processes call this together, with the same arguments but the reporter.

    Args:
        model: Model with both stages trained.
        train: Training rows, for judges and the linear probe.
        held_out: Held-out rows, on which everything is measured.
        settings: Settings of the evaluation.
        seconds: Time from which counts follow that the settings leave open; None is no limit.
        seed: Seed of judges and samples.
        reporter: Receives progress.
        parts: Keeps finished parts and provides them to a resumed call; None keeps nothing.
        precision: Number format in which judges are trained.

    Raises:
        CheckpointError: A stage is not trained.
        DataError: Some labels of the training rows name a class and others attributes.
    """
    reporter, parts, pace = reporter or Silent(), parts or Parts(), Pace(seconds)
    notes: list[str] = []
    attributes = find_attributes(train)
    notes += [note for attribute in attributes for note in _unseen_labels(attribute, held_out)]
    groups_N = row_groups(held_out.keys, settings.group)
    if groups_N is not None and len(groups_N.unique()) < FEW_UNITS:
        notes.append(_few_groups(len(groups_N.unique()), held_out.keys[0]))
    elif len(held_out) < FEW_UNITS:
        alone = "figures of a single held-out row have no intervals"
        notes.append(alone if len(held_out) == 1 else f"intervals over {len(held_out)} held-out rows are rough")
    # Parts of fixed cost come first; the rest is fitted to the time that is left.
    q = latents_of(model.autoencoder, held_out, model.device).posterior
    z_ND = q.mean_BD + (0.5 * q.log_var_BD).exp() * row_noise(
        mix_seed(seed, 4), range(len(held_out)), q.mean_BD.shape[1]
    )
    first: list[Part[Any]] = [
        Part(
            "reconstruction",
            settings.group,
            dict[str, Figure],
            partial(_reconstruction, model, held_out, z_ND, groups_N),
        ),
        Part(
            "refinement",
            [settings.group, unstructure(model.spec.refine)],
            dict[str, RefinedFigures],
            partial(measure_refinement, model, held_out, z_ND, groups_N),
        ),
        Part(
            "latent",
            [settings.group, settings.suite],
            LatentFigures,
            partial(_latent, model, train, held_out, q, attributes, groups_N, clustering=settings.suite == MULTIMODAL),
        ),
    ]
    reconstruction, refinement, latent = parts.values(first)
    seen, reference = split_reference(train, row_groups(train.keys, settings.group), seed=seed)
    training = JudgeTraining(model, seen, held_out, attributes, settings.judge_steps, seed, precision)
    judges, second_judges = training.judges(pace, parts, reporter, notes)
    panel = Panel(judges, held_out, reference, groups_N)
    second = Panel(second_judges, held_out, reference, groups_N)
    if rare := [name for name in judges if name not in panel.compared_reference]:
        notes.append(
            f"no distances of real rows with {' or '.join(rare)}, nor means over all modalities: {len(reference)} of "
            f"{len(train)} training rows were kept from the judges, who need half of each class, and all rows of a "
            f"group, and at most {NUM_NEIGHBOURS} of them have it"
        )
    judgements = parts.value(
        "judgements",
        [settings.group, panel.description(), second.description()],
        dict[str, JudgeFigures],
        partial(_judge_figures, model, panel, second, z_ND),
    )
    joint: list[JointFigures] = []
    conditional: list[ConditionalFigures] = []
    one_to_many: list[OneToManyFigures] = []
    counts = Counts(model, panel, second, settings, pace, parts, notes)
    if judges:
        num_samples = counts.joint_samples()
        if num_samples:
            joint = [
                measure_real(panel, second, num_samples),
                *measure_joint(model, panel, second, settings, num_samples, seed=seed, reporter=reporter, parts=parts),
            ]
        pace.finish("joint")
        num_rows = counts.conditional_rows()
        if num_rows:
            conditional = measure_conditional(
                model, panel, second, settings, num_rows, seed=seed, reporter=reporter, parts=parts
            )
            if settings.suite == MULTIMODAL:
                one_to_many = measure_one_to_many(
                    model, panel, train, settings, num_rows, seed=seed, reporter=reporter, parts=parts
                )
    for part in ("joint", "conditional"):
        pace.finish(part)
    metric = latents_of(model.autoencoder, train.spread(MOST_METRIC_ROWS), model.device).posterior
    calibration = Calibration(model, held_out, z_ND, metric, settings, groups_N, seed)
    num_rows = counts.calibration_rows(len(list(calibration.questions())))
    calibrated = calibration.measure(num_rows, reporter, parts) if num_rows else []
    pace.finish("calibration")
    return Evaluation(
        rows=len(held_out),
        judges=judgements,
        joint=joint,
        conditional=conditional,
        calibration=calibrated,
        likelihood=settings.likelihood,
        log_likelihood=measure_log_likelihoods(
            model, held_out, settings, seed=seed, reporter=reporter, notes=notes, pace=pace, parts=parts
        ),
        reconstruction=reconstruction,
        latent=latent,
        notes=notes,
        refinement=refinement,
        one_to_many=one_to_many,
    )


def _few_groups(num_groups: int, key: str) -> str:
    """Return a note on too few groups for intervals, with a row's key as an example."""
    found = f"evaluate.group finds no more in the keys of held-out rows (such as {key!r})"
    if num_groups == 1:
        return f"no intervals, because all rows are one group: {found}"
    return f"intervals resample only {num_groups} groups, as {found}: they are rough"


def _unseen_labels(attribute: Attribute, held_out: Rows) -> list[str]:
    """Return a note on held-out rows' labels that no training row has; empty if there are none."""
    classes, named = attribute.classes, f" of the attribute {attribute.name!r}" if attribute.name else ""
    labels = labels_of(held_out.labels, attribute.name)
    unseen = Counter(label for label in labels if label is not None and label not in classes)
    if not classes or not unseen:
        return []
    few = ", ".join(f"{label!r} ({number})" for label, number in sorted(unseen.items())[:_NAMED_LABELS])
    more = ", ..." if len(unseen) > _NAMED_LABELS else ""
    return [
        f"{unseen.total()} of {len(held_out)} held-out rows have labels{named} that no training row has, and count "
        f"neither for nor against: {few}{more}; training rows have {', '.join(map(repr, classes[:_NAMED_LABELS]))}"
        f"{', ...' if len(classes) > _NAMED_LABELS else ''}"
    ]


def _judge_figures(model: ShaLa, panel: Panel, second: Panel, z_ND: Tensor) -> dict[str, JudgeFigures]:
    figures = {}
    for name in panel.judges:
        real_NA, reconstructed_NA = _right(model, panel, name, z_ND)
        others = _right(model, second, name, z_ND) if name in second.judges else None
        index = panel.held_out.index_having([name])
        groups_N = None if panel.groups_N is None else panel.groups_N[index]
        by_attribute = panel.by_attribute(reconstructed_NA)
        figures[name] = JudgeFigures(
            real=share_figure(real_NA.nanmean(1)[None], groups_N),
            reconstructed=share_figure(reconstructed_NA.nanmean(1)[None], groups_N),
            second_real=None if others is None else share_figure(others[0].nanmean(1)[None], groups_N),
            second_reconstructed=None if others is None else share_figure(others[1].nanmean(1)[None], groups_N),
            steps=panel.judges[name].steps,
            second_steps=None if others is None else second.judges[name].steps,
            attributes={
                attribute.name: AttributeFigures(
                    real=share_figure(real_NA[None, :, a], groups_N),
                    reconstructed=share_figure(reconstructed_NA[None, :, a], groups_N),
                    counts=a in panel.told[name],
                )
                for a, attribute in enumerate(panel.attributes)
                if attribute.name in by_attribute
            },
        )
    return figures


def _right(model: ShaLa, panel: Panel, name: str, z_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether a judge is right on held-out rows and on their reconstructions: float [N, A], NaN if unknown."""
    judge = panel.judges[name]
    index = panel.held_out.index_having([name])
    targets_NA = judge.targets([panel.held_out.labels[i] for i in index.tolist()])
    decoded_NA = judge.classify(model.decode(z_ND[index])[name])
    real, reconstructed = (
        torch.where(targets_NA >= 0, (verdicts_NA == targets_NA).float(), math.nan)
        for verdicts_NA in (panel.real_classes[name], decoded_NA)
    )
    return real, reconstructed


@torch.no_grad()
def _reconstruction(
    model: ShaLa, held_out: Rows, z_ND: Tensor, groups_N: Tensor | None, batch_size: int = 64
) -> dict[str, Figure]:
    figures = {}
    for name in model.names:
        rows_K = held_out.index_having([name])
        if len(rows_K):
            log_prob_K = model.autoencoder.decoded_log_prob(
                held_out.x, name, z_ND[rows_K], rows_K, batch_size=batch_size
            )
            count_K = model.modalities[name].count_values(held_out.x[name][rows_K]).cpu().clamp_min(1)
            figures[name] = mean_figure(log_prob_K[None] / count_K, None if groups_N is None else groups_N[rows_K])
    return figures


def _latent(
    model: ShaLa,
    train: Rows,
    held_out: Rows,
    q: GaussianPosterior,
    attributes: Sequence[Attribute],
    groups_N: Tensor | None,
    *,
    clustering: bool,
) -> LatentFigures:
    right: dict[str, Tensor] = {}
    clusters: dict[str, ClusterFigures] = {}
    usable = [a for a in attributes if len(a.classes) > 1 and (a.indices(held_out.labels) >= 0).any()]
    mean_ND = latents_of(model.autoencoder, train, model.device).mean_ND if usable else q.mean_BD[:0]
    for attribute in usable:
        classes_N, targets_N = attribute.indices(train.labels), attribute.indices(held_out.labels)
        labelled = classes_N >= 0
        read_N = linear_probe(mean_ND[labelled], classes_N[labelled], q.mean_BD)
        right[attribute.name] = torch.where(targets_N >= 0, (read_N == targets_N).float(), math.nan)
        if clustering:
            clusters[attribute.name] = measure_clusters(mean_ND, q.mean_BD, targets_N, len(attribute.classes), groups_N)
    probe_N = torch.stack(list(right.values())).nanmean(0) if right else None
    return LatentFigures(
        probe=None if probe_N is None else share_figure(probe_N[None], groups_N),
        dimensions=q.mean_BD.shape[1],
        active=active_dimensions(q.mean_BD),
        effective=effective_dimensions(q.mean_BD),
        kl=mean_figure(q.kl_BD().sum(1)[None], groups_N),
        attributes={name: share_figure(values_N[None], groups_N) for name, values_N in right.items() if name != CLASS},
        clusters=clusters,
    )
