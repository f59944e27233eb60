"""Everything that is measured of a trained model, each figure beside its controls."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean

import attrs
import torch
from torch import Tensor

from shala_framework.data.latent_store import latents_of
from shala_framework.data.rows import Rows
from shala_framework.evaluation.conditional import ConditionalFigures, measure_conditional
from shala_framework.evaluation.counts import Counts
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.evaluation.joint import JointFigures, measure_joint, measure_real
from shala_framework.evaluation.judge_training import JudgeTraining
from shala_framework.evaluation.judges import Panel, class_indices
from shala_framework.evaluation.latents import active_dimensions, effective_dimensions, linear_probe
from shala_framework.evaluation.likelihood import (
    effective_samples,
    importance_log_weights,
    importance_weighted_log_likelihood,
)
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Parts
from shala_framework.model import PriorName, ShaLa
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.prior import row_noise
from shala_framework.spec.schema import Evaluate
from shala_framework.support.progress import Reporter, Silent
from shala_framework.support.seeds import mix_seed
from shala_framework.training.precision import FLOAT32, Precision

FEW_SAMPLES = 2.0  # on which an importance-weighted bound says little
MOST_LIKELIHOOD_ROWS = 16
_NAMED_LABELS = 5  # in a note


@attrs.frozen(kw_only=True)
class JudgeFigures:
    """What a judge is worth, and what it says of reconstructions.

    Attributes:
        real: Share of held-out rows that it names the class of.
        reconstructed: The same of their reconstructions from z ~ q(z | all present).
    """

    real: Figure
    reconstructed: Figure


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
class Evaluation:
    """Every figure of one evaluation; `attrs.asdict` makes it JSON.

    Attributes:
        rows: Held-out rows.
        judges: By modality; empty where the data have no labels.
        joint: Real rows, and then one a method; empty without judges.
        conditional: One a method and size of subset; empty without judges.
        conditional_real: Frechet distance of as many training rows, a mean over modalities, beside which those of
            `conditional` are to be read.
        log_likelihood: What is scored under which prior, such as "photo given caption, diffusion", to nats a row.
        reconstruction: Modality to log p(x | z), z ~ q(z | all present), in nats a value of x.
        latent: Of the shared latent.
        notes: What could not be measured or not well, and why.
    """

    rows: int
    judges: dict[str, JudgeFigures]
    joint: list[JointFigures]
    conditional: list[ConditionalFigures]
    log_likelihood: dict[str, Figure]
    reconstruction: dict[str, Figure]
    latent: LatentFigures
    notes: list[str]
    conditional_real: Figure | None = None


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
    # What always takes its time comes first, so that the rest is fitted to what is left.
    q = latents_of(model.autoencoder, held_out, model.device).posterior
    z_ND = q.mean_BD + (0.5 * q.log_var_BD).exp() * row_noise(
        mix_seed(seed, 4), range(len(held_out)), q.mean_BD.shape[1]
    )
    reconstruction = parts.value(
        "reconstruction", None, dict[str, Figure], partial(_reconstruction, model, held_out, z_ND)
    )
    latent = parts.value("latent", None, LatentFigures, partial(_latent, model, train, held_out, q, classes))
    training = JudgeTraining(model, train, held_out, classes, settings.judge_steps, seed, precision)
    judges = training.judges(pace, parts, reporter, notes)
    panel = Panel(judges, held_out)
    judgements = parts.value(
        "judgements", panel.description(), dict[str, JudgeFigures], partial(_judge_figures, model, panel, z_ND)
    )
    joint: list[JointFigures] = []
    conditional: list[ConditionalFigures] = []
    conditional_real = None
    counts = Counts(model, panel, settings, pace, parts, notes)
    if judges:
        num_samples = counts.joint_samples()
        if num_samples:
            joint = [
                measure_real(train, panel, num_samples),
                *measure_joint(model, panel, settings, num_samples, seed=seed, reporter=reporter, parts=parts),
            ]
        pace.finish("joint")
        num_rows = counts.conditional_rows()
        if num_rows:
            conditional = measure_conditional(
                model, panel, settings, num_rows, seed=seed, reporter=reporter, parts=parts
            )
    for part in ("joint", "conditional"):
        pace.finish(part)
    if conditional:
        count = conditional[0].frechet.count
        distances = measure_real(train, panel, count).frechet.values()
        if distances:
            conditional_real = Figure(value=fmean(figure.value for figure in distances), count=count)
    return Evaluation(
        rows=len(held_out),
        judges=judgements,
        joint=joint,
        conditional=conditional,
        log_likelihood=_log_likelihood(model, held_out, settings, seed, reporter, notes, pace, parts),
        reconstruction=reconstruction,
        latent=latent,
        notes=notes,
        conditional_real=conditional_real,
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


def _judge_figures(model: ShaLa, panel: Panel, z_ND: Tensor) -> dict[str, JudgeFigures]:
    figures = {}
    for name, judge in panel.judges.items():
        index = panel.held_out.index_having([name])
        targets_N = judge.targets([panel.held_out.labels[i] for i in index.tolist()])
        real_N = judge.verdicts(panel.real[name])
        decoded_N = judge.classify(model.decode(z_ND[index])[name])
        figures[name] = JudgeFigures(
            **{
                what: mean_figure(torch.where(targets_N >= 0, (verdicts_N == targets_N).float(), math.nan)[None])
                for what, verdicts_N in (("real", real_N), ("reconstructed", decoded_N))
            }
        )
    return figures


def _questions(names: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...], PriorName]]:
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
) -> dict[str, Figure]:
    rows = held_out.having(model.names)
    if not len(rows):
        notes.append("no log-likelihoods: no held-out row has every modality")
        return {}
    questions = list(_questions(model.names))

    def scored(rows: Rows, question: tuple[str, tuple[str, ...], tuple[str, ...], PriorName]) -> ScoredQuestion:
        _, targets, given, prior = question
        log_weight_NS = importance_log_weights(
            model, rows, targets, given, prior=prior, num_samples=settings.importance_samples, seed=seed
        )
        figure = mean_figure(importance_weighted_log_likelihood(log_weight_NS)[None])
        return ScoredQuestion(figure, float(effective_samples(log_weight_NS).median()))

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
    figures, loose = {}, []
    reporter.begin("log-likelihoods", len(questions), "figure")
    for done, question in enumerate(questions, 1):
        title = question[0]
        found = parts.value(
            f"log-likelihood, {title}",
            [count, settings.importance_samples],
            ScoredQuestion,
            partial(scored, rows, question),
        )
        figures[title] = found.figure
        if found.effective_samples < FEW_SAMPLES:
            loose.append(title)
        reporter.advance(done)
    reporter.finish()
    if loose:
        notes.append(
            f"log-likelihoods of {len(loose)} of {len(questions)} lines rest on fewer than {FEW_SAMPLES:g} of the "
            f"{settings.importance_samples} samples in the median row, so that they are loose bounds (the first: "
            f"{loose[0]!r}); raise evaluate.importance_samples where they matter"
        )
    return figures


@attrs.frozen
class ScoredQuestion:
    """A log-likelihood.

    Attributes:
        figure: Its mean over rows, nats.
        effective_samples: Of the median row.
    """

    figure: Figure
    effective_samples: float


@torch.no_grad()
def _reconstruction(model: ShaLa, held_out: Rows, z_ND: Tensor, batch_size: int = 64) -> dict[str, Figure]:
    figures = {}
    for name in model.names:
        rows_K = held_out.index_having([name])
        if len(rows_K):
            log_prob_K = model.autoencoder.decoded_log_prob(
                held_out.x, name, z_ND[rows_K], rows_K, batch_size=batch_size
            )
            figures[name] = mean_figure(log_prob_K[None] / model.autoencoder.num_values[name])
    return figures


def _latent(model: ShaLa, train: Rows, held_out: Rows, q: GaussianPosterior, classes: Sequence[str]) -> LatentFigures:
    probe = None
    targets_N = class_indices(held_out.labels, classes)
    if len(classes) > 1 and (targets_N >= 0).any():
        classes_N = class_indices(train.labels, classes)
        labelled = torch.nonzero(classes_N >= 0)[:, 0]
        z_ND = latents_of(model.autoencoder, train.take(labelled), model.device).mean_ND
        read_N = linear_probe(z_ND, classes_N[labelled], q.mean_BD, len(classes))
        probe = mean_figure(torch.where(targets_N >= 0, (read_N == targets_N).float(), math.nan)[None])
    return LatentFigures(
        probe=probe,
        dimensions=q.mean_BD.shape[1],
        active=active_dimensions(q.mean_BD),
        effective=effective_dimensions(q.mean_BD),
        kl=mean_figure(q.kl_BD().sum(1)[None]),
    )
