"""`shala evaluate`: the figures of a run, as tables, JSON and plots."""

import argparse
from contextlib import closing

import attrs
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shala_framework.cli.output import remark, say
from shala_framework.cli.overrides import structure_set
from shala_framework.cli.progress import make_reporter
from shala_framework.errors import Problem, SpecError
from shala_framework.escaping import printable
from shala_framework.evaluation.run import EVALUATION_FOLDER, evaluate_run
from shala_framework.evaluation.suite import Evaluation
from shala_framework.machine import resolve_device
from shala_framework.model import load
from shala_framework.report.samples import SYNTHETIC
from shala_framework.report.tables import evaluation_tables
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
                        message="expected a key of [evaluate], [generate] or [data]",
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
            model,
            arguments.run,
            arguments.split,
            settings,
            seconds=60 * settings.minutes if settings.minutes is not None else None,
            seed=arguments.seed,
            reporter=reporter,
        )
    if arguments.json:
        print((arguments.run / EVALUATION_FOLDER / f"{arguments.split}.json").read_text(), end="")
        return 0
    print_evaluation(evaluation)
    path = arguments.run / EVALUATION_FOLDER / f"{arguments.split}.json"
    plotted = any(path.parent.glob(f"{path.stem}_*.png"))
    say(f"wrote {path}{' and plots beside it' if plotted else ''}")
    if model.synthetic:
        remark(f"{SYNTHETIC}: these figures say nothing about real data")
    return 0


def print_evaluation(evaluation: Evaluation) -> None:
    """Tables of an evaluation on standard output."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    for found in evaluation_tables(evaluation):
        console.print(Text(printable(found.title), style="bold"))
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column(Text(printable(found.head[0])))
        for text in found.head[1:]:
            table.add_column(Text(printable(text)), justify="right")
        for line in found.lines:
            table.add_row(*(Text(printable(cell)) for cell in line))
        console.print(table)
        console.print()
    for note in evaluation.notes:
        remark(f"note: {note}")
