"""`shala evaluate`: the figures of a run, as tables, JSON and plots."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing

import attrs
from rich.console import Console
from rich.table import Table

from shala_framework.cli.overrides import structure_set
from shala_framework.cli.progress import make_reporter
from shala_framework.errors import Problem, SpecError
from shala_framework.evaluation.intervals import Figure
from shala_framework.evaluation.run import EVALUATION_FOLDER, evaluate_run
from shala_framework.evaluation.suite import Evaluation
from shala_framework.experiment import resolve_device
from shala_framework.model import load
from shala_framework.report.samples import SYNTHETIC
from shala_framework.spec import parse_override, unstructure
from shala_framework.spec.schema import Data, Evaluate, Generate
from shala_framework.spec.structuring import format_path


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a run and print what came of it."""
    model = load(arguments.run, device=resolve_device(arguments.device))
    tables: dict[str, dict[str, object]] = {
        "evaluate": unstructure(model.spec.evaluate),
        "generate": unstructure(model.spec.generate),
        "data": unstructure(model.spec.data),
    }
    for text in arguments.set:
        override = parse_override(text)
        table, *rest = override.path
        if table not in tables or len(rest) != 1:
            raise SpecError(
                [
                    Problem(
                        path=format_path(override.path),
                        message="expected a key of [evaluate] or [generate], or data.test or data.validation",
                        origin="--set",
                    )
                ]
            )
        tables[str(table)][str(rest[0])] = override.value
    settings = structure_set(tables["evaluate"], Evaluate, ("evaluate",))
    model.spec = attrs.evolve(
        model.spec,
        data=structure_set(tables["data"], Data, ("data",)),
        generate=structure_set(tables["generate"], Generate, ("generate",)),
    )
    with closing(make_reporter()) as reporter:
        evaluation = evaluate_run(
            model, arguments.run, arguments.split, settings, seed=arguments.seed, reporter=reporter
        )
    print_evaluation(evaluation)
    print(f"wrote {arguments.run / EVALUATION_FOLDER / arguments.split}.json and plots beside it")
    if model.synthetic:
        print(f"{SYNTHETIC}: these figures say nothing about real data", file=sys.stderr)
    return 0


def print_evaluation(evaluation: Evaluation) -> None:
    """Tables of an evaluation on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    for title, head, lines in _tables(evaluation):
        console.print(title, style="bold")
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(head[0])
        for text in head[1:]:
            table.add_column(text, justify="right")
        for line in lines:
            table.add_row(*line)
        console.print(table)
        console.print()
    for note in evaluation.notes:
        print(f"note: {note}", file=sys.stderr)


def _tables(evaluation: Evaluation) -> Iterable[tuple[str, Sequence[str], list[list[str]]]]:
    """Title, head and lines of each table."""
    names = list(evaluation.reconstruction)
    if evaluation.judges:
        yield (
            f"judges: share right, of {evaluation.rows} held-out rows [95 % interval]",
            ["", "real rows", "reconstructions"],
            [[name, show(j.real), show(j.reconstructed)] for name, j in evaluation.judges.items()],
        )
        count = evaluation.joint[1].frechet[next(iter(evaluation.judges))].count if evaluation.joint[1].frechet else 0
        yield (
            f"joint samples; Frechet distance, precision and recall are means over modalities and seeds, n = {count}",
            ["", "coherence", "Frechet", "precision", "recall", "evaluations", "ms"],
            [
                [
                    joint.method,
                    show(joint.coherence),
                    *(_over_modalities(group) for group in (joint.frechet, joint.precision, joint.recall)),
                    str(joint.evaluations) if joint.milliseconds is not None else "",
                    f"{joint.milliseconds:.2f}" if joint.milliseconds is not None else "",
                ]
                for joint in evaluation.joint
            ],
        )
    if evaluation.conditional:
        yield (
            "samples from given modalities",
            ["", "given", "coherence", "of the vote", "Frechet", "diversity"],
            [
                [
                    f.method,
                    str(f.num_given),
                    show(f.coherence),
                    show(f.vote_coherence),
                    show(f.frechet),
                    show(f.diversity),
                ]
                for f in evaluation.conditional
            ],
        )
        generated = list(evaluation.judges)
        for f in evaluation.conditional:
            if f.num_given == 1 and f.pairs and len(generated) > 2:
                yield (
                    f"coherence from one given modality (row) to another (column), {f.method}",
                    ["", *generated],
                    [
                        [given, *(show(found.get(name), bounds=False) for name in generated)]
                        for given, found in f.pairs.items()
                    ],
                )
    if evaluation.log_likelihood:
        yield (
            "log-likelihood, nats a row (a lower bound)",
            ["", "nats"],
            [[title, show(figure, digits=1)] for title, figure in evaluation.log_likelihood.items()],
        )
    yield (
        "reconstruction, nats a value",
        names,
        [[show(evaluation.reconstruction[name]) for name in names]],
    )
    latent = evaluation.latent
    yield (
        "shared latent",
        ["dimensions", "active", "effective", "KL, nats", "linear probe"],
        [
            [
                str(latent.dimensions),
                str(latent.active),
                f"{latent.effective:.1f}",
                show(latent.kl, digits=1),
                show(latent.probe),
            ]
        ],
    )


def show(figure: Figure | None, *, bounds: bool = True, digits: int = 3) -> str:
    """A figure as text, such as "0.934 [0.921, 0.946]"; nothing for one that was not measured."""
    if figure is None:
        return ""
    text = f"{figure.value:.{digits}f}"
    if bounds and figure.low is not None and figure.high is not None:
        text += f" [{figure.low:.{digits}f}, {figure.high:.{digits}f}]"
    return text


def _over_modalities(figures: dict[str, Figure]) -> str:
    """The mean over modalities; JSON has each one's."""
    if not figures:
        return ""
    return f"{sum(figure.value for figure in figures.values()) / len(figures):.3f}"
