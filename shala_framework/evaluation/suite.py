"""Everything that is measured of a trained model, each figure beside its controls."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.evaluation.conditional import ConditionalFigures, measure_conditional
from shala_framework.evaluation.intervals import Figure, mean_figure
from shala_framework.evaluation.joint import JointFigures, measure_joint, measure_real
from shala_framework.evaluation.judges import Judge, Panel, class_indices, train_judge
from shala_framework.evaluation.latents import active_dimensions, effective_dimensions, linear_probe
from shala_framework.evaluation.likelihood import (
    effective_samples,
    importance_log_weights,
    importance_weighted_log_likelihood,
)
from shala_framework.model import PriorName, ShaLa
from shala_framework.posterior import GaussianPosterior
from shala_framework.prior import row_noise
from shala_framework.seeds import mix_seed
from shala_framework.spec.schema import Evaluate
from shala_framework.training.progress import Reporter, Silent

FEW_SAMPLES = 2.0  # on which an importance-weighted bound says little
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
    model: ShaLa, train: Rows, held_out: Rows, settings: Evaluate, *, seed: int = 0, reporter: Reporter | None = None
) -> Evaluation:
    """Measure a model.

    Args:
        model: With both stages trained.
        train: Training rows, for judges and the linear probe.
        held_out: Rows that every figure is of.
        settings: How much is drawn and given.
        seed: Of judges and samples.
        reporter: Who is told of progress.

    Raises:
        CheckpointError: A stage is not trained.
    """
    reporter = reporter or Silent()
    notes: list[str] = []
    classes = sorted({label for label in train.labels if label is not None})
    notes += _unseen_labels(classes, held_out)
    judges = _train_judges(model, train, held_out, classes, settings, seed, reporter, notes)
    panel = Panel(judges, held_out)
    q = _posteriors(model, held_out)
    z_ND = q.mean_BD + (0.5 * q.log_var_BD).exp() * row_noise(
        mix_seed(seed, 4), range(len(held_out)), q.mean_BD.shape[1]
    )
    joint, conditional, conditional_real = [], [], None
    if judges:
        joint = [
            measure_real(train, panel, settings),
            *measure_joint(model, panel, settings, seed=seed, reporter=reporter),
        ]
        conditional = measure_conditional(model, panel, settings, seed=seed, reporter=reporter)
    if conditional:
        count = conditional[0].frechet.count
        distances = measure_real(train, panel, attrs.evolve(settings, num_samples=count)).frechet.values()
        if distances:
            conditional_real = Figure(value=fmean(figure.value for figure in distances), count=count)
    return Evaluation(
        rows=len(held_out),
        judges=_judge_figures(model, panel, z_ND) if judges else {},
        joint=joint,
        conditional=conditional,
        log_likelihood=_log_likelihood(model, held_out, settings, seed, reporter, notes),
        reconstruction=_reconstruction(model, held_out, z_ND),
        latent=_latent(model, train, held_out, q, classes),
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


def _train_judges(
    model: ShaLa,
    train: Rows,
    held_out: Rows,
    classes: Sequence[str],
    settings: Evaluate,
    seed: int,
    reporter: Reporter,
    notes: list[str],
) -> dict[str, Judge]:
    if len(classes) < 2 or not set(classes) & set(held_out.labels):
        notes.append(
            f"no judges, and so no coherence, distances, precision, recall, diversity or probe: the field cls names "
            f"{len(classes)} classes in the training rows, and held-out rows "
            f"{'have labels' if any(held_out.labels) else 'have no label'}"
        )
        return {}
    judges = {}
    for name, modality in model.modalities.items():
        known = {label for label in train.having([name]).labels if label is not None}
        if len(known) < 2 or sum(label in known for label in held_out.having([name]).labels) < 2:
            notes.append(
                f"no judge of {name}: that takes training rows with it of two classes, and two held-out rows of those"
            )
            continue
        reporter.begin(f"judge of {name}", settings.judge_steps, "step")
        judges[name] = train_judge(
            modality, name, train, classes, steps=settings.judge_steps, seed=seed, on_step=reporter.advance
        )
        reporter.finish()
    if len(judges) == 1:
        notes.append("no joint coherence: there is one judge, with which no other could agree")
    return judges


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
    model: ShaLa, held_out: Rows, settings: Evaluate, seed: int, reporter: Reporter, notes: list[str]
) -> dict[str, Figure]:
    rows = held_out.having(model.names)
    if not len(rows):
        notes.append("no log-likelihoods: no held-out row has every modality")
        return {}
    rows = rows.spread(settings.likelihood_rows)
    questions = list(_questions(model.names))
    figures, loose = {}, []
    reporter.begin("log-likelihoods", len(questions), "figure")
    for done, (title, targets, given, prior) in enumerate(questions, 1):
        log_weight_NS = importance_log_weights(
            model, rows, targets, given, prior=prior, num_samples=settings.importance_samples, seed=seed
        )
        figures[title] = mean_figure(importance_weighted_log_likelihood(log_weight_NS)[None])
        if effective_samples(log_weight_NS).median() < FEW_SAMPLES:
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


@torch.no_grad()
def _reconstruction(model: ShaLa, held_out: Rows, z_ND: Tensor, batch_size: int = 64) -> dict[str, Figure]:
    figures = {}
    for name in model.names:
        decoder = model.autoencoder.decoders[name].eval()
        parts = [
            decoder(z_ND[rows].to(model.device)).log_prob(held_out.x[name][rows].to(model.device)).cpu()
            for rows in held_out.index_having([name]).split(batch_size)
            if len(rows)
        ]
        if parts:
            figures[name] = mean_figure(torch.cat(parts)[None] / model.autoencoder.num_values[name])
    return figures


def _latent(model: ShaLa, train: Rows, held_out: Rows, q: GaussianPosterior, classes: Sequence[str]) -> LatentFigures:
    probe = None
    targets_N = class_indices(held_out.labels, classes)
    if len(classes) > 1 and (targets_N >= 0).any():
        classes_N = class_indices(train.labels, classes)
        labelled = torch.nonzero(classes_N >= 0)[:, 0]
        z_ND = _posteriors(model, train.take(labelled)).mean_BD
        read_N = linear_probe(z_ND, classes_N[labelled], q.mean_BD, len(classes))
        probe = mean_figure(torch.where(targets_N >= 0, (read_N == targets_N).float(), math.nan)[None])
    return LatentFigures(
        probe=probe,
        dimensions=q.mean_BD.shape[1],
        active=active_dimensions(q.mean_BD),
        effective=effective_dimensions(q.mean_BD),
        kl=mean_figure(q.kl_BD().sum(1)[None]),
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
