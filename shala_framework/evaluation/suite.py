"""All measurements of a trained model, each with its controls."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from shala_framework.data.latent_store import latents_of
from shala_framework.data.rows import Rows
from shala_framework.evaluation.calibration import Calibration, CalibrationFigures
from shala_framework.evaluation.conditional import ConditionalFigures, conditional_reference, measure_conditional
from shala_framework.evaluation.cost import CostFigures
from shala_framework.evaluation.counts import Counts
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.evaluation.joint import JointFigures, measure_joint, measure_real
from shala_framework.evaluation.judge_training import JudgeTraining
from shala_framework.evaluation.judges import Panel, class_indices
from shala_framework.evaluation.latents import active_dimensions, effective_dimensions, linear_probe
from shala_framework.evaluation.likelihood_figures import LikelihoodFigures, measure_log_likelihoods
from shala_framework.evaluation.manifold import NUM_NEIGHBOURS
from shala_framework.evaluation.one_to_many import OneToManyFigures, measure_one_to_many
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Parts
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

MOST_METRIC_ROWS = 2_000  # training rows whose latents define the metric of calibration
FEW_GROUPS = 10  # a bootstrap over fewer groups is unreliable
_NAMED_LABELS = 5  # largest number of labels in a note


@attrs.frozen(kw_only=True)
class JudgeFigures:
    """Accuracy of a judge, on real rows and on reconstructions.

    Attributes:
        real: Accuracy on held-out rows.
        reconstructed: Accuracy on their reconstructions from z ~ q(z | all present).
        second_real: Accuracy of the modality's second judge on held-out rows; None if it has none.
        second_reconstructed: The same on reconstructions.
        steps: Number of optimiser steps of the first judge's training; None in files of earlier versions.
    """

    real: Figure
    reconstructed: Figure
    second_real: Figure | None
    second_reconstructed: Figure | None
    steps: int | None = None


@attrs.frozen(kw_only=True)
class LatentFigures:
    """Figures of the shared latent.

    Attributes:
        probe: Accuracy of a linear classifier of the posterior mean on held-out rows; None without labels.
        dimensions: D.
        active: Number of dimensions whose posterior mean varies.
        effective: Participation ratio of the posterior means' covariance.
        kl: KL(q(z | x) || N(0, I)) of held-out rows, nats.
    """

    probe: Figure | None
    dimensions: int
    active: int
    effective: float
    kl: Figure


@attrs.frozen(kw_only=True)
class Evaluation:
    """Every figure of one evaluation; `attrs.asdict` makes it JSON.

    Attributes:
        rows: Number of held-out rows.
        judges: Judges by modality; empty if the data have no labels.
        joint: Figures of real rows and then of each method; empty without judges.
        conditional: Figures of each method and size of subset; empty without judges.
        conditional_real: "frechet" and "kernel" of as many training rows that no judge has seen, means over
            modalities, for comparison with `conditional`; empty without such rows.
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
    """

    rows: int
    judges: dict[str, JudgeFigures]
    joint: list[JointFigures]
    conditional: list[ConditionalFigures]
    conditional_real: dict[str, Figure]
    calibration: list[CalibrationFigures]
    likelihood: str
    log_likelihood: dict[str, LikelihoodFigures]
    reconstruction: dict[str, Figure]
    latent: LatentFigures
    notes: list[str]
    refinement: dict[str, RefinedFigures] = attrs.field(factory=dict)
    one_to_many: list[OneToManyFigures] = attrs.field(factory=list)
    cost: CostFigures | None = None


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
    """Measure a model.

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
    """
    reporter, parts, pace = reporter or Silent(), parts or Parts(), Pace(seconds)
    notes: list[str] = []
    classes = sorted({label for label in train.labels if label is not None})
    notes += _unseen_labels(classes, held_out)
    groups_N = row_groups(held_out.keys, settings.group)
    if groups_N is not None and len(groups_N.unique()) < FEW_GROUPS:
        notes.append(
            f"intervals resample only {len(groups_N.unique())} groups, as evaluate.group finds no more in the keys of "
            f"held-out rows (such as {held_out.keys[0]!r}): they are rough, and rather too narrow"
        )
    # Parts of fixed cost come first; the rest is fitted to the time that is left.
    q = latents_of(model.autoencoder, held_out, model.device).posterior
    z_ND = q.mean_BD + (0.5 * q.log_var_BD).exp() * row_noise(
        mix_seed(seed, 4), range(len(held_out)), q.mean_BD.shape[1]
    )
    reconstruction = parts.value(
        "reconstruction",
        settings.group,
        dict[str, Figure],
        partial(_reconstruction, model, held_out, z_ND, groups_N),
    )
    refinement = parts.value(
        "refinement",
        unstructure(model.spec.refine),
        dict[str, RefinedFigures],
        partial(measure_refinement, model, held_out, z_ND),
    )
    latent = parts.value(
        "latent", settings.group, LatentFigures, partial(_latent, model, train, held_out, q, classes, groups_N)
    )
    seen, reference = split_reference(train, row_groups(train.keys, settings.group), seed=seed)
    training = JudgeTraining(model, seen, held_out, classes, settings.judge_steps, seed, precision)
    judges, second_judges = training.judges(pace, parts, reporter, notes)
    panel = Panel(judges, held_out, reference, groups_N)
    second = Panel(second_judges, held_out, reference, groups_N)
    if judges and any(len(panel.reference.get(name, ())) <= NUM_NEIGHBOURS for name in judges):
        notes.append(
            f"no distances of real rows for all modalities: {len(reference)} of {len(train)} training rows were kept "
            "from the judges, who need half of each class, and all rows of a group"
        )
    judgements = parts.value(
        "judgements",
        [settings.group, panel.description(), second.description()],
        dict[str, JudgeFigures],
        partial(_judge_figures, model, panel, second, z_ND),
    )
    joint: list[JointFigures] = []
    conditional: list[ConditionalFigures] = []
    conditional_real: dict[str, Figure] = {}
    one_to_many: list[OneToManyFigures] = []
    counts = Counts(model, panel, second, settings, pace, parts, notes)
    if judges:
        num_samples = counts.joint_samples()
        if num_samples:
            joint = [
                measure_real(panel, second),
                *measure_joint(model, panel, second, settings, num_samples, seed=seed, reporter=reporter, parts=parts),
            ]
        pace.finish("joint")
        num_rows = counts.conditional_rows()
        if num_rows:
            conditional = measure_conditional(
                model, panel, second, settings, num_rows, seed=seed, reporter=reporter, parts=parts
            )
            conditional_real = conditional_reference(panel, num_rows) if conditional else {}
            if settings.suite == "multimodal-vae":
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
        conditional_real=conditional_real,
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


def _unseen_labels(classes: Sequence[str], held_out: Rows) -> list[str]:
    """Return a note on held-out rows' labels that no training row has; empty if there are none."""
    unseen = Counter(label for label in held_out.labels if label is not None and label not in classes)
    if not classes or not unseen:
        return []
    few = ", ".join(f"{label!r} ({number})" for label, number in sorted(unseen.items())[:_NAMED_LABELS])
    more = ", ..." if len(unseen) > _NAMED_LABELS else ""
    return [
        f"{unseen.total()} of {len(held_out)} held-out rows have labels that no training row has, and count neither "
        f"for nor against: {few}{more}; training rows have {', '.join(map(repr, classes[:_NAMED_LABELS]))}"
        f"{', ...' if len(classes) > _NAMED_LABELS else ''}"
    ]


def _judge_figures(model: ShaLa, panel: Panel, second: Panel, z_ND: Tensor) -> dict[str, JudgeFigures]:
    figures = {}
    for name in panel.judges:
        real, reconstructed = _accuracies(model, panel, name, z_ND)
        others = _accuracies(model, second, name, z_ND) if name in second.judges else (None, None)
        figures[name] = JudgeFigures(
            real=real,
            reconstructed=reconstructed,
            second_real=others[0],
            second_reconstructed=others[1],
            steps=panel.judges[name].steps,
        )
    return figures


def _accuracies(model: ShaLa, panel: Panel, name: str, z_ND: Tensor) -> tuple[Figure, Figure]:
    """Return a judge's accuracy on held-out rows and on their reconstructions."""
    judge = panel.judges[name]
    index = panel.held_out.index_having([name])
    targets_N = judge.targets([panel.held_out.labels[i] for i in index.tolist()])
    groups_N = None if panel.groups_N is None else panel.groups_N[index]
    decoded_N = judge.classify(model.decode(z_ND[index])[name])
    real, reconstructed = (
        mean_figure(torch.where(targets_N >= 0, (verdicts_N == targets_N).float(), math.nan)[None], groups_N)
        for verdicts_N in (panel.real_classes[name], decoded_N)
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
    classes: Sequence[str],
    groups_N: Tensor | None,
) -> LatentFigures:
    probe = None
    targets_N = class_indices(held_out.labels, classes)
    if len(classes) > 1 and (targets_N >= 0).any():
        classes_N = class_indices(train.labels, classes)
        labelled = torch.nonzero(classes_N >= 0)[:, 0]
        z_ND = latents_of(model.autoencoder, train.take(labelled), model.device).mean_ND
        read_N = linear_probe(z_ND, classes_N[labelled], q.mean_BD)
        probe = mean_figure(torch.where(targets_N >= 0, (read_N == targets_N).float(), math.nan)[None], groups_N)
    return LatentFigures(
        probe=probe,
        dimensions=q.mean_BD.shape[1],
        active=active_dimensions(q.mean_BD),
        effective=effective_dimensions(q.mean_BD),
        kl=mean_figure(q.kl_BD().sum(1)[None], groups_N),
    )
