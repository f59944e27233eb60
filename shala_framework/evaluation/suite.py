"""Everything that is measured of a trained model, each figure beside its controls."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from shala_framework.autoencoder.posterior import GaussianPosterior
from shala_framework.data.rows import Rows
from shala_framework.evaluation.annealing import annealed_log_likelihood
from shala_framework.evaluation.calibration import Calibration, CalibrationFigures
from shala_framework.evaluation.conditional import ConditionalFigures, conditional_reference, measure_conditional
from shala_framework.evaluation.counts import Counts
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.evaluation.joint import JointFigures, measure_joint, measure_real
from shala_framework.evaluation.judge_training import JudgeTraining
from shala_framework.evaluation.judges import Panel, class_indices
from shala_framework.evaluation.latents import active_dimensions, effective_dimensions, linear_probe
from shala_framework.evaluation.likelihood import effective_samples, log_mean_weight, log_weights
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Parts
from shala_framework.evaluation.reference_rows import split_reference
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.model import PriorName, ShaLa
from shala_framework.prior import row_noise
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter, Silent
from shala_framework.support.seeds import mix_seed
from shala_framework.training.precision import FLOAT32, Precision

Question = tuple[str, tuple[str, ...], tuple[str, ...], PriorName]
FEW_SAMPLES = 2.0  # effective ones, with which a weighted estimate says little
MOST_LIKELIHOOD_ROWS = 16
_NAMED_LABELS = 5  # in a note


@attrs.frozen(kw_only=True)
class JudgeFigures:
    """What a judge is worth, and what it says of reconstructions.

    Attributes:
        real: Accuracy on held-out rows.
        reconstructed: Accuracy on their reconstructions from z ~ q(z | all present).
        second_real: Accuracy of the modality's second judge on held-out rows; None where it has none.
        second_reconstructed: The same on reconstructions.
    """

    real: Figure
    reconstructed: Figure
    second_real: Figure | None
    second_reconstructed: Figure | None


@attrs.frozen(kw_only=True)
class LatentFigures:
    """The shared latent itself.

    Attributes:
        probe: Share of held-out rows whose class a linear classifier reads off the posterior mean; None without labels.
        dimensions: D.
        active: Dimensions whose posterior mean varies.
        effective: Participation ratio of the posterior means' covariance.
        kl: KL(q(z | x) || N(0, I)) of held-out rows, nats.
    """

    probe: Figure | None
    dimensions: int
    active: int
    effective: float
    kl: Figure


@attrs.frozen(kw_only=True)
class LikelihoodFigures:
    """A log-likelihood of held-out rows.

    Attributes:
        elbo: The evidence lower bound, nats a row.
        estimate: The importance-weighted bound or the annealed estimate, by the evaluation's method; None of "elbo".
        gap: How far the estimate is above the bound, nats a row.
        effective_samples: Samples or chains on which the estimate of the median row rests.
    """

    elbo: Figure
    estimate: Figure | None
    gap: Figure | None
    effective_samples: float | None


@attrs.frozen(kw_only=True)
class Evaluation:
    """Every figure of one evaluation; `attrs.asdict` makes it JSON.

    Attributes:
        rows: Held-out rows.
        judges: By modality; empty where the data have no labels.
        joint: Real rows, and then one a method; empty without judges.
        conditional: One a method and size of subset; empty without judges.
        conditional_real: "frechet" and "kernel" of as many training rows that no judge has seen, means over
            modalities, beside which those of `conditional` are to be read; empty without such rows.
        calibration: Latents, one a method and size of subset; needs no classes.
        likelihood: How log-likelihoods are estimated: "elbo", "importance" or "annealed".
        log_likelihood: What is scored under which prior, such as "photo given caption, diffusion".
        reconstruction: Modality to log p(x | z), z ~ q(z | all present), in nats a value of x.
        latent: Of the shared latent.
        notes: What could not be measured or not well, and why.
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
        model: With both stages trained.
        train: Training rows, for judges and the linear probe.
        held_out: Rows that every figure is of.
        settings: How much is drawn and given.
        seconds: That counts which the settings leave open are fitted to; None is without a limit.
        seed: Of judges and samples.
        reporter: Receives progress.
        parts: Where finished parts are kept, and taken from; None keeps none.
        precision: In which judges are trained.

    Raises:
        CheckpointError: A stage is not trained.
    """
    reporter, parts, pace = reporter or Silent(), parts or Parts(), Pace(seconds)
    notes: list[str] = []
    classes = sorted({label for label in train.labels if label is not None})
    notes += _unseen_labels(classes, held_out)
    groups_N = row_groups(held_out.keys, settings.group)
    # What always takes its time comes first, so that the rest is fitted to what is left.
    q = _posteriors(model, held_out)
    z_ND = q.mean_BD + (0.5 * q.log_var_BD).exp() * row_noise(
        mix_seed(seed, 4), range(len(held_out)), q.mean_BD.shape[1]
    )
    reconstruction = parts.value(
        "reconstruction",
        settings.group,
        dict[str, Figure],
        partial(_reconstruction, model, held_out, z_ND, groups_N),
    )
    latent = parts.value(
        "latent", settings.group, LatentFigures, partial(_latent, model, train, held_out, q, classes, groups_N)
    )
    seen, reference = split_reference(train, row_groups(train.keys, settings.group), seed=seed)
    training = JudgeTraining(model, seen, held_out, classes, settings.judge_steps, seed, precision)
    judges, second_judges = training.judges(pace, parts, reporter, notes)
    panel = Panel(judges, held_out, reference, groups_N)
    second = Panel(second_judges, held_out, reference, groups_N)
    judgements = parts.value(
        "judgements",
        [settings.group, panel.description(), second.description()],
        dict[str, JudgeFigures],
        partial(_judge_figures, model, panel, second, z_ND),
    )
    joint: list[JointFigures] = []
    conditional: list[ConditionalFigures] = []
    conditional_real: dict[str, Figure] = {}
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
    for part in ("joint", "conditional"):
        pace.finish(part)
    calibration = Calibration(model, held_out, q, z_ND, settings, groups_N, seed)
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
        log_likelihood=_log_likelihood(model, held_out, settings, seed, reporter, notes, pace, parts),
        reconstruction=reconstruction,
        latent=latent,
        notes=notes,
    )


def _unseen_labels(classes: Sequence[str], held_out: Rows) -> list[str]:
    """A note of the held-out rows' labels that no training row has, if there are any."""
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
            real=real, reconstructed=reconstructed, second_real=others[0], second_reconstructed=others[1]
        )
    return figures


def _accuracies(model: ShaLa, panel: Panel, name: str, z_ND: Tensor) -> tuple[Figure, Figure]:
    """A judge's accuracy on held-out rows and on their reconstructions."""
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


def _questions(names: tuple[str, ...]) -> Iterator[Question]:
    """Title, targets, given modalities and prior of each log-likelihood."""
    for prior in _JOINT_PRIORS:
        yield f"all together, {prior}", names, (), prior
    for i, name in enumerate(names):
        yield f"{name}, diffusion", (name,), (), "diffusion"
        others = names[:i] + names[i + 1 :]
        for given in sorted({others[i % len(others) :][:1], others}, key=len) if others else ():
            for prior in _CONDITIONAL_PRIORS:
                yield f"{name} given {' and '.join(given)}, {prior}", (name,), given, prior


_JOINT_PRIORS: tuple[PriorName, ...] = ("diffusion", "mixture", "normal")
_CONDITIONAL_PRIORS: tuple[PriorName, ...] = ("diffusion", "posterior")


def _log_likelihood(
    model: ShaLa,
    held_out: Rows,
    settings: Evaluate,
    seed: int,
    reporter: Reporter,
    notes: list[str],
    pace: Pace,
    parts: Parts,
) -> dict[str, LikelihoodFigures]:
    rows = held_out.having(model.names)
    if not len(rows):
        notes.append("no log-likelihoods: no held-out row has every modality")
        return {}
    questions = list(_questions(model.names))
    method, num_samples = settings.likelihood, settings.importance_samples

    def scored(rows: Rows, question: Question) -> LikelihoodFigures:
        _, targets, given, prior = question
        weights = log_weights(
            model,
            rows,
            targets,
            given,
            prior=prior,
            num_samples=num_samples,
            mixture=method == "importance",
            seed=seed,
        )
        weight_NS = weights.mixture_NS
        if method == "annealed":
            weight_NS = annealed_log_likelihood(
                model,
                rows,
                targets,
                given,
                prior=prior,
                num_chains=num_samples,
                num_steps=settings.annealing_steps,
                seed=seed,
            )
        groups_N = row_groups(rows.keys, settings.group)
        elbo = mean_figure(weights.elbo()[None], groups_N)
        if weight_NS is None:
            return LikelihoodFigures(elbo=elbo, estimate=None, gap=None, effective_samples=None)
        estimate_N = log_mean_weight(weight_NS)
        return LikelihoodFigures(
            elbo=elbo,
            estimate=mean_figure(estimate_N[None], groups_N),
            gap=mean_figure((estimate_N - weights.elbo())[None], groups_N),
            effective_samples=float(effective_samples(weight_NS).median()),
        )

    def row_seconds() -> float:
        few = rows.spread(1)
        scored(few, questions[0])
        start = time.perf_counter()
        scored(few, questions[0])
        return (time.perf_counter() - start) * len(questions)

    most = min(MOST_LIKELIHOOD_ROWS, len(rows))
    asked = settings.likelihood_rows
    count = (
        asked
        if asked is not None
        else parts.value("number for likelihood", None, int, lambda: pace.count("likelihood", most, 1, row_seconds))
    )
    if not count:
        notes.append(
            "no log-likelihoods: evaluate.likelihood_rows is 0"
            if asked is not None
            else "no log-likelihoods: those of one row take longer than their share of the time; raise "
            "evaluate.minutes, or set evaluate.likelihood_rows"
        )
        return {}
    rows = rows.spread(count)
    figures = {}
    reporter.begin("log-likelihoods", len(questions), "figure")
    for done, question in enumerate(questions, 1):
        title = question[0]
        figures[title] = parts.value(
            f"log-likelihood, {title}",
            [count, method, num_samples, settings.annealing_steps, settings.group, unstructure(model.spec.generate)],
            LikelihoodFigures,
            partial(scored, rows, question),
        )
        reporter.advance(done)
    reporter.finish()
    notes += _loose(figures, settings)
    return figures


def _loose(figures: dict[str, LikelihoodFigures], settings: Evaluate) -> list[str]:
    """A note of estimates that rest on too few samples, with what can help."""
    loose = [
        title
        for title, found in figures.items()
        if found.effective_samples is not None and found.effective_samples < FEW_SAMPLES
    ]
    if not loose:
        return []
    what, cure = {
        "importance": (
            "samples",
            "they are hardly above the ELBO, and more samples do not change that; evaluate.likelihood = 'annealed' is "
            "closer, and takes longer",
        ),
        "annealed": ("chains", "they are lower bounds in the mean; raise evaluate.annealing_steps"),
    }[settings.likelihood]
    return [
        f"log-likelihoods of {len(loose)} of {len(figures)} lines rest on fewer than {FEW_SAMPLES:g} of "
        f"{settings.importance_samples} {what} in the median row (the first: {loose[0]!r}): {cure}"
    ]


@torch.no_grad()
def _reconstruction(
    model: ShaLa, held_out: Rows, z_ND: Tensor, groups_N: Tensor | None, batch_size: int = 64
) -> dict[str, Figure]:
    figures = {}
    for name in model.names:
        index = held_out.index_having([name])
        decoder = model.autoencoder.decoders[name].eval()
        parts = [
            decoder(z_ND[rows].to(model.device)).log_prob(held_out.x[name][rows].to(model.device)).cpu()
            for rows in index.split(batch_size)
            if len(rows)
        ]
        if parts:
            values_N = torch.cat(parts) / model.autoencoder.num_values[name]
            figures[name] = mean_figure(values_N[None], None if groups_N is None else groups_N[index])
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
        z_ND = _posteriors(model, train.take(labelled)).mean_BD
        read_N = linear_probe(z_ND, classes_N[labelled], q.mean_BD, len(classes))
        probe = mean_figure(torch.where(targets_N >= 0, (read_N == targets_N).float(), math.nan)[None], groups_N)
    return LatentFigures(
        probe=probe,
        dimensions=q.mean_BD.shape[1],
        active=active_dimensions(q.mean_BD),
        effective=effective_dimensions(q.mean_BD),
        kl=mean_figure(q.kl_BD().sum(1)[None], groups_N),
    )


@torch.no_grad()
def _posteriors(model: ShaLa, rows: Rows, batch_size: int = 64) -> GaussianPosterior:
    """q(z | all present) of each row, on the CPU."""
    model.autoencoder.eval()
    found = []
    for index in torch.arange(len(rows)).split(batch_size):
        batch = rows.take(index).to(model.device)
        q = model.autoencoder.fuse(model.autoencoder.encode(batch.x), batch.presence)
        found.append((q.mean_BD.cpu(), q.log_var_BD.cpu()))
    means, log_vars = zip(*found, strict=True)
    return GaussianPosterior(torch.cat(means), torch.cat(log_vars))
