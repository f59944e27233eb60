"""`shala sweep`: train and evaluate a grid of runs, and compare them."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shala_framework.cli.commands import (
    FILE,
    allow_pipe_flag,
    flag,
    from_option,
    option,
    profile_option,
    set_option,
    spec_argument,
    verb,
)
from shala_framework.cli.output import remark, say
from shala_framework.support.errors import DataError, ShalaError
from shala_framework.support.hints import shortened

if TYPE_CHECKING:
    from shala_framework.data.splits import EvaluatedSplit
    from shala_framework.run.sweeping import SweptRun


@verb(
    "  shala sweep specs/digits5.toml --set posterior.latent_dim=16,32 --set seed=0,1,2\n"
    "  shala sweep specs/digits5.toml --set seed=0,1,2 --set 'evaluate.guidance_scales=[1,2]' --out runs/seeds\n"
    "  shala sweep specs/digits5.toml --set seed=0,1,2,3 --part 2/4\n"
    "  shala sweep specs/digits5.toml --set posterior.method=shala,mvtcae --set seed=0,1,2 --split test\n"
)
@spec_argument
@set_option(
    "Values of a key of the spec, separated by commas: seed=0,1,2. Commas inside brackets, braces and quotes do not "
    "separate: KEY=[1,2],[1,3] are two arrays. Without a seed here, each seed of a list in the spec is run: "
    "seed = [0, 1, 2]."
)
@profile_option("Apply a profile of the spec to every run.")
@option("--out", type=FILE, metavar="DIR", help="Folder of the runs' folders. [default: runs/<name of the spec>_sweep]")
@option(
    "--split", type=click.Choice(["validation", "test"]), default="validation", help="Split to evaluate the runs on."
)
@option("--part", default="1/1", metavar="I/N", help="Do the Ith of N equal parts of the runs, from 1 on.")
@from_option("Take every stage from this run whose settings agree.")
@allow_pipe_flag
@flag("--dry-run", "Print the command of each run, and stop.")
def sweep(
    spec: Path,
    overrides: tuple[str, ...],
    profile: str | None,
    out: Path | None,
    split: "EvaluatedSplit",
    part: str,
    take_from: Path | None,
    dry_run: bool,
) -> None:
    """Train and evaluate a grid of runs one after another and compare them; finished runs are skipped."""
    number, parts = _parse_part(part)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise DataError("expected one process, got several; --dry-run prints commands to start each run under torchrun")
    from shala_framework.run.sweeping import plan_sweep

    runs = plan_sweep(spec, overrides, out, split, profile=profile)
    own = runs[number - 1 :: parts]
    if dry_run:
        for run in own:
            say(_command(spec, run, take_from))
        return
    failed = _work(spec, own, len(runs), take_from)
    _compare(runs, split)
    if failed:
        listed = "\n".join(f"  {line}" for line in failed)
        raise DataError(f"{len(failed)} of {len(own)} runs failed; the same command tries them again:\n{listed}")


def _work(spec: Path, runs: Sequence["SweptRun"], total: int, take_from: Path | None) -> list[str]:
    """Work on runs one after another; return a line for each that failed."""
    from shala_framework.cli.progress_display import make_reporter, saying_how_to_resume

    failed = []
    for place, run in enumerate(runs, 1):
        title = (
            f"run {place} of {len(runs)}{f' in this part, {total} in all' if total > len(runs) else ''}: {run.folder}"
        )
        if run.is_finished():
            remark(f"{title} is finished already")
            continue
        remark(title)
        with closing(make_reporter()) as reporter, saying_how_to_resume(reporter, shlex.join(["shala", *sys.argv[1:]])):
            try:
                run.work(reporter, command=_command(spec, run, take_from), take_from=take_from)
            except ShalaError as error:
                reporter.warn(f"{run.folder}: {error}")
                failed.append(f"{run.folder}: {str(error).splitlines()[0]}")
    return failed


def _compare(runs: Sequence["SweptRun"], split: "EvaluatedSplit") -> None:
    """Print the table of all runs that are finished, those of other parts included."""
    from shala_framework.cli.compare import print_comparison
    from shala_framework.run.comparing import compare_runs

    folders = [run.folder for run in runs if run.is_finished() and run.is_evaluated()]
    if len(folders) < len(runs):
        remark(f"{len(folders)} of {len(runs)} runs are finished and evaluated; the same command does the rest")
    if not folders:
        return
    try:
        print_comparison(compare_runs(folders, (), split))
    except ShalaError as error:
        remark(f"no comparison: {error}")
    say(shlex.join(["shala", "compare", *map(str, folders), *(["--split", split] if split != "validation" else [])]))


def _command(spec: Path, run: "SweptRun", take_from: Path | None) -> str:
    words = ["shala-run", str(spec)]
    for text in run.overrides:
        words += ["--set", text]
    words += ["--profile", run.loaded.profile] if run.loaded.profile is not None else []
    words += ["--from", str(take_from)] if take_from is not None else []
    return shlex.join([*words, "--out", str(run.folder)])


def _parse_part(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if found is None or not 1 <= int(found[1]) <= int(found[2]):
        raise DataError(f"expected --part I/N with 1 <= I <= N, such as 2/4, got {shortened(text)}")
    return int(found[1]), int(found[2])
