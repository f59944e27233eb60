"""Log-likelihoods of held-out rows: all modalities together, each alone, and each given others.

Shapes: N rows, S samples a row.
"""

import time
from collections.abc import Iterator
from functools import partial

import attrs

from shala_framework.data.rows import Rows
from shala_framework.evaluation.annealing import annealed_log_likelihood
from shala_framework.evaluation.intervals import FEW_UNITS, Figure, mean_figure
from shala_framework.evaluation.likelihood import effective_samples, log_mean_weight, log_weights
from shala_framework.evaluation.methods import controls
from shala_framework.evaluation.pace import Pace
from shala_framework.evaluation.parts import Part, Parts
from shala_framework.evaluation.row_groups import row_groups
from shala_framework.model import PriorName, ShaLa
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Evaluate
from shala_framework.support.distributed.processes import largest_share
from shala_framework.support.progress import Reporter

FEW_SAMPLES = 2.0  # effective samples, below which a weighted estimate is unreliable
MOST_ROWS = 16
CONDITIONAL_PRIORS: tuple[PriorName, ...] = ("diffusion", "posterior")


@attrs.frozen(kw_only=True)
class LikelihoodFigures:
    """A log-likelihood of held-out rows.

    Attributes:
        elbo: The evidence lower bound, nats a row.
        estimate: The importance-weighted bound or the annealed estimate, by the evaluation's method; None for "elbo".
        gap: Difference between estimate and bound, nats a row.
        effective_samples: Effective number of samples or chains behind the estimate of the median row.
    """

    elbo: Figure
    estimate: Figure | None
    gap: Figure | None
    effective_samples: float | None


@attrs.frozen
class _Question:
    """A log-likelihood to estimate.

    Attributes:
        title: Title in tables.
        targets: Modalities whose x is scored.
        given: Modalities that z is conditioned on.
        prior: Source of p(z | x_given).
    """

    title: str
    targets: tuple[str, ...]
    given: tuple[str, ...]
    prior: PriorName


def _questions(model: ShaLa) -> Iterator[_Question]:
    names = model.names
    for prior in ("diffusion", *controls(model)):
        yield _Question(f"all together, {prior}", names, (), prior)
    for i, name in enumerate(names):
        yield _Question(f"{name}, diffusion", (name,), (), "diffusion")
        others = names[:i] + names[i + 1 :]
        for given in sorted({others[i % len(others) :][:1], others}, key=len) if others else ():
            for prior in CONDITIONAL_PRIORS:
                yield _Question(f"{name} given {' and '.join(given)}, {prior}", (name,), given, prior)


def _scored(model: ShaLa, settings: Evaluate, seed: int, rows: Rows, question: _Question) -> LikelihoodFigures:
    """Answer a question on some rows."""
    method, num_samples = settings.likelihood, settings.importance_samples
    asked = (model, rows, question.targets, question.given)
    mixed = method == "importance"
    weights = log_weights(*asked, prior=question.prior, num_samples=num_samples, mixture=mixed, seed=seed)
    weight_NS, elbo_N = weights.mixture_NS, weights.elbo()
    if method == "annealed":
        weight_NS = annealed_log_likelihood(
            *asked, prior=question.prior, num_chains=num_samples, num_steps=settings.annealing_steps, seed=seed
        )
    groups_N = row_groups(rows.keys, settings.group)
    elbo = mean_figure(elbo_N[None], groups_N)
    if weight_NS is None:
        return LikelihoodFigures(elbo=elbo, estimate=None, gap=None, effective_samples=None)
    estimate_N = log_mean_weight(weight_NS)
    return LikelihoodFigures(
        elbo=elbo,
        estimate=mean_figure(estimate_N[None], groups_N),
        gap=mean_figure((estimate_N - elbo_N)[None], groups_N),
        effective_samples=float(effective_samples(weight_NS).median()),
    )


def measure_log_likelihoods(
    model: ShaLa,
    held_out: Rows,
    settings: Evaluate,
    *,
    seed: int,
    reporter: Reporter,
    notes: list[str],
    pace: Pace,
    parts: Parts,
) -> dict[str, LikelihoodFigures]:
    """Return figures by what is scored under which prior, such as "photo given caption, diffusion".

    Args:
        model: Model with both stages trained.
        held_out: Held-out rows; those with every modality are scored.
        settings: Method and counts.
        seed: Seed of the samples.
        reporter: Receives progress.
        notes: Receives sentences on what is left out and which estimates are loose.
        pace: Time limit.
        parts: Keeps each figure.
    """
    if not model.autoencoder.method.has_densities:
        notes.append("no log-likelihoods: the encoders of this method are deterministic, so that z has no density")
        return {}
    rows = held_out.having(model.names)
    if not len(rows):
        notes.append("no log-likelihoods: no held-out row has every modality")
        return {}
    questions = list(_questions(model))
    depends = [
        settings.likelihood,
        settings.importance_samples,
        settings.annealing_steps,
        settings.group,
        unstructure(model.spec.generate),
    ]

    def row_seconds() -> float:
        few = rows.spread(1)
        _scored(model, settings, seed, few, questions[0])
        start = time.perf_counter()
        _scored(model, settings, seed, few, questions[0])
        return (time.perf_counter() - start) * len(questions) * largest_share(len(questions))

    most = min(MOST_ROWS, len(rows))
    count = settings.likelihood_rows
    if count is None:
        fitting = partial(pace.count, "likelihood", most, 1, row_seconds)
        count = parts.value("number for likelihood", [pace.limit, *depends], int, fitting)
    if not count:
        notes.append(
            "no log-likelihoods: evaluate.likelihood_rows is 0"
            if settings.likelihood_rows is not None
            else "no log-likelihoods: those of one row take longer than their share of the time; raise "
            "evaluate.minutes, or set evaluate.likelihood_rows"
        )
        return {}
    rows = rows.spread(count)
    reporter.begin("log-likelihoods", len(questions), "figure")
    found = parts.values(
        [
            Part(
                f"log-likelihood, {question.title}",
                [count, *depends],
                LikelihoodFigures,
                partial(_scored, model, settings, seed, rows, question),
            )
            for question in questions
        ],
        reporter.advance,
    )
    reporter.finish()
    figures = {question.title: of_question for question, of_question in zip(questions, found, strict=True)}
    if len(rows) < FEW_UNITS <= len(held_out):
        alone = "a single row, and have no intervals" if len(rows) == 1 else f"{len(rows)} rows: intervals are rough"
        cure = "; raise evaluate.likelihood_rows or evaluate.minutes" if len(rows) < most else ""
        notes.append(f"log-likelihoods are of {alone}{cure}")
    notes += _loose(figures, settings)
    return figures


def _loose(figures: dict[str, LikelihoodFigures], settings: Evaluate) -> list[str]:
    """Return a note on estimates that have too few effective samples, with a remedy."""
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
