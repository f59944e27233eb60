"""`shala run`: train a model from a spec and sample from it."""

import shlex
import sys
from contextlib import closing, nullcontext
from pathlib import Path

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
    version_option,
)
from shala_framework.cli.output import remark, say
from shala_framework.spec import read_spec


@verb(
    "  shala run specs/ntu_rgb_skeleton.toml\n"
    "  shala run specs/ntu_rgb_skeleton.toml --out runs/long --set train.prior.steps=20000\n"
    "  shala run specs/ntu_rgb_skeleton.toml --from runs/long --out runs/wide --set prior.hidden_dim=512\n"
    "  shala run specs/ntu_rgb_skeleton.toml --profile gpu --dry-run\n"
)
@spec_argument
@set_option("Override a key of the spec.")
@profile_option("Apply a profile of the spec, such as gpu. A run that resumes keeps its own.")
@allow_pipe_flag
@option("--out", type=FILE, metavar="DIR", help="Folder of the run. [default: runs/<name of the spec>]")
@from_option("Take every stage from this run whose settings agree, and train the rest.")
@flag(
    "--dry-run", "Print the resolved spec, parameter counts, shapes, and what training costs on this device, and stop."
)
@version_option
def run(
    spec: Path,
    overrides: tuple[str, ...],
    profile: str | None,
    out: Path | None,
    take_from: Path | None,
    dry_run: bool,
) -> None:
    """Train the stages of a spec and write samples; the same command resumes a run that was stopped."""
    loaded = read_spec(spec, overrides, profile=profile)
    if dry_run:
        from shala_framework.cli.dry_run import describe

        describe(loaded)
        return
    # Imported after the spec is read, so that a wrong spec is refused before torch is imported.
    from shala_framework.cli.progress_display import make_reporter, saying_how_to_resume
    from shala_framework.report.samples import REPORT_FILE, SYNTHETIC
    from shala_framework.run.experiment import Experiment
    from shala_framework.run.files import recorded_profile
    from shala_framework.support.distributed import processes
    from shala_framework.support.progress import Silent

    folder = out or Path("runs") / loaded.spec.name
    begun_with = recorded_profile(folder) if profile is None else None
    if begun_with is not None:
        loaded = read_spec(spec, overrides, profile=begun_with)
        remark(f"{folder} was begun with --profile {begun_with}, which applies again")
    command = shlex.join(["shala-run", *sys.argv[2 if sys.argv[1:2] == ["run"] else 1 :]])
    first = processes.starts_as_first()
    with closing(make_reporter()) if first else nullcontext(Silent()) as reporter:
        try:
            with saying_how_to_resume(reporter, command):
                summary = Experiment(loaded, folder, reporter, command=command, take_from=take_from).run()
        finally:
            processes.leave()
    if not first:
        return
    if summary.evaluation is not None:
        from shala_framework.cli.evaluate import print_evaluation

        print_evaluation(summary.evaluation)
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in summary.seconds.items())
    say(f"{folder}: {phases}; peak memory {summary.peak_memory_gib:.2f} GiB")
    say(f"look at {folder / REPORT_FILE} and {folder / 'samples'}")
    if summary.synthetic:
        remark(f"{SYNTHETIC}: nothing in {folder} was learned from real recordings")
