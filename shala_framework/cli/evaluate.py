"""`shala evaluate`: measure a run and print the results as tables or JSON."""

from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import click

from shala_framework.cli.commands import (
    allow_pipe_flag,
    device_option,
    json_flag,
    option,
    parse_seed,
    run_argument,
    set_option,
    verb,
)
from shala_framework.cli.output import remark, say
from shala_framework.cli.overrides import structure_set
from shala_framework.data.splits import SPLITS
from shala_framework.spec import Spec, parse_override, unstructure
from shala_framework.spec.schema import Data, Evaluate, Generate, Refine
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.escaping import printable
from shala_framework.support.structuring import format_path

if TYPE_CHECKING:
    from shala_framework.data.splits import EvaluatedSplit
    from shala_framework.evaluation.suite import Evaluation

TABLES = ("evaluate", "generate", "refine", "data")  # of a run's spec, which --set may change


@verb(
    "  shala evaluate runs/ntu_rgb_skeleton\n"
    "  shala evaluate runs/mine --split test --set 'data.test=shards/mine/test-*.tar'\n"
    "  shala evaluate runs/mine --set evaluate.num_samples=5000 --set 'evaluate.guidance_scales=[1,1.5,2,3]'\n"
    "  shala evaluate runs/mine --suite multimodal-vae\n"
    "  shala evaluate runs/mine --set evaluate.likelihood=annealed --set 'evaluate.group=P[0-9]+'\n"
)
@run_argument()
@option(
    "--suite",
    type=click.Choice(["standard", "multimodal-vae"]),
    help="Figures to measure, in place of the spec's evaluate.suite.",
)
@option("--split", type=click.Choice(["validation", "test"]), default="validation", help="Split to measure the run on.")
@set_option("Override a key of [evaluate], [generate] or [data], or of stage 3's sampler in [refine].", TABLES)
@option("--seed", type=parse_seed, default=0, metavar="N", help="Seed of judges and samples.")
@device_option
@allow_pipe_flag
@json_flag("all results")
def evaluate(
    run: Path,
    suite: str | None,
    split: "EvaluatedSplit",
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Measure a trained run: coherence, distances, diversity, calibration, likelihoods and the latent space."""
    from shala_framework.cli.progress_display import make_reporter
    from shala_framework.report.samples import SYNTHETIC
    from shala_framework.run.evaluation import EVALUATION_FOLDER, evaluate_run
    from shala_framework.run.loading import load
    from shala_framework.support.distributed import processes
    from shala_framework.support.machine import resolve_device
    from shala_framework.support.progress import Silent

    first = processes.starts_as_first()
    try:
        model = load(run, device=processes.join(resolve_device(device)))
        overrides = (*overrides, *([f"evaluate.suite={suite}"] if suite else []))
        model.spec = with_overrides(
            model.spec,
            overrides,
            refined=bool(model.refined_names),
            stand_in=model.synthetic,
            counted="use --set evaluate.num_rows or evaluate.num_samples",
        )
        settings = model.spec.evaluate
        with closing(make_reporter()) if first else nullcontext(Silent()) as reporter, processes.naming_lost_process():
            evaluation = evaluate_run(
                model,
                run,
                split,
                settings,
                seconds=60 * settings.minutes if settings.minutes is not None else None,
                seed=seed,
                reporter=reporter,
            )
    finally:
        processes.leave()
    if not first:
        return
    path = run / EVALUATION_FOLDER / f"{split}.json"
    if as_json:
        print(path.read_text(), end="")
        return
    print_evaluation(evaluation)
    plotted = any(path.parent.glob(f"{path.stem}_*.png"))
    say(f"wrote {path}{' and plots next to it' if plotted else ''}")
    if model.synthetic:
        remark(f"{SYNTHETIC}: these figures say nothing about real data")


def with_overrides(
    spec: Spec,
    overrides: tuple[str, ...],
    names: tuple[str, ...] = TABLES,
    *,
    refined: bool = False,
    stand_in: bool = False,
    counted: str = "",
) -> Spec:
    """Return the spec of a run with the tables changed by --set.

    Args:
        spec: The spec.
        overrides: What --set was given.
        names: Tables that may be changed, some of the default's. Of [refine], only the keys of the sampler may be.
        refined: Whether the run has a third stage, without which [refine] would change nothing.
        stand_in: Whether the run's rows are those of a stand-in, which its folder holds, so that [data] names none.
        counted: Hint at what sets the number of samples in place of the keys of [generate] that do so in a run.

    Raises:
        SpecError: An override is of another table or of a key that only training reads, or is wrong.
    """
    tables: dict[str, dict[str, object]] = {
        "evaluate": unstructure(spec.evaluate),
        "generate": unstructure(spec.generate),
        "refine": unstructure(spec.refine),
        "data": unstructure(spec.data),
    }
    for text in overrides:
        override = parse_override(text)
        table, *rest = override.path
        if table not in names or len(rest) != 1:
            *most, last = (f"[{name}]" for name in names)
            listed = f"{', '.join(most)} or {last}" if most else last
            message = f"expected a key of {listed}"
            raise SpecError([Problem(path=format_path(override.path), message=message, origin="--set")])
        if table == "refine":
            _check_refines(str(rest[0]), spec.refine, refined=refined)
        if table == "data" and stand_in and rest[0] in (*SPLITS, "stand_in"):
            message = "this run was trained on a synthetic stand-in, and its rows are those in its folder"
            hint = "train a run on recorded shards, which data.train names"
            raise SpecError([Problem(path=format_path(override.path), message=message, hint=hint, origin="--set")])
        if table == "generate" and rest[0] in Generate.COUNT_KEYS:
            message = "it counts the samples that a run writes at its end, and would change nothing here"
            raise SpecError([Problem(path=format_path(override.path), message=message, hint=counted, origin="--set")])
        tables[str(table)][str(rest[0])] = override.value
    return attrs.evolve(
        spec,
        evaluate=structure_set(tables["evaluate"], Evaluate, ("evaluate",)),
        generate=structure_set(tables["generate"], Generate, ("generate",)),
        refine=structure_set(tables["refine"], Refine, ("refine",)),
        data=structure_set(tables["data"], Data, ("data",)),
    )


def _check_refines(key: str, table: Refine, *, refined: bool) -> None:
    """Raise a SpecError where a key of a run's [refine] would change nothing."""
    message = hint = ""
    if not refined:
        message, hint = "this run has no stage 3, which [refine] is for", "train it with train.refiner.steps"
    elif key not in Refine.SAMPLING_KEYS and key in attrs.fields_dict(Refine):
        message = f"expected a key of stage 3's sampler ({', '.join(Refine.SAMPLING_KEYS)}), got one that trains it"
        hint = "train another run with it"
    elif table.method == "adversarial" and key in Refine.SAMPLING_KEYS:
        message = "this run's stage 3 is adversarial: it makes a sample in one step and has no sampler to set"
    if message:
        raise SpecError([Problem(path=f"refine.{key}", message=message, hint=hint, origin="--set")])


def print_evaluation(evaluation: "Evaluation") -> None:
    """Print an evaluation as tables on standard output, and its notes on standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from shala_framework.report.tables import evaluation_tables

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
