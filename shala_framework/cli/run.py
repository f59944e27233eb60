"""`shala run`: train a model from a spec and sample from it."""

import json
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
    set_option,
    spec_argument,
    verb,
    version_option,
)
from shala_framework.cli.output import remark, say
from shala_framework.spec import LoadedSpec, read_spec, unstructure


@verb(
    "  shala run specs/ntu_rgb_skeleton.toml\n"
    "  shala run specs/ntu_rgb_skeleton.toml --out runs/long --set train.prior.steps=20000\n"
    "  shala run specs/ntu_rgb_skeleton.toml --from runs/long --out runs/wide --set prior.hidden_dim=512\n"
    "  shala run specs/ntu_rgb_skeleton.toml --dry-run\n"
)
@spec_argument
@set_option("Override a key of the spec.")
@allow_pipe_flag
@option("--out", type=FILE, metavar="DIR", help="Folder of the run. [default: runs/<name of the spec>]")
@from_option("Take every stage from this run whose settings agree, and train the rest.")
@flag("--dry-run", "Print the resolved spec, parameter counts and shapes, and stop.")
@version_option
def run(spec: Path, overrides: tuple[str, ...], out: Path | None, take_from: Path | None, dry_run: bool) -> None:
    """Train both stages of a spec and write samples; the same command resumes a run that was stopped."""
    loaded = read_spec(spec, overrides)
    if dry_run:
        _describe(loaded)
        return
    # Imported after the spec is read, so that a wrong spec is refused before torch is imported.
    from shala_framework.cli.progress_display import make_reporter, saying_how_to_resume
    from shala_framework.report.samples import REPORT_FILE, SYNTHETIC
    from shala_framework.run.experiment import Experiment
    from shala_framework.support.distributed import processes
    from shala_framework.support.progress import Silent

    folder = out or Path("runs") / loaded.spec.name
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


def _describe(loaded: LoadedSpec) -> None:
    """Print the resolved spec and describe the model that it defines."""
    from shala_framework.model import ShaLa
    from shala_framework.model.parts import parts_of
    from shala_framework.report.samples import SYNTHETIC

    if loaded.stand_in_used:
        stand_in = loaded.spec.data.stand_in
        say(f"{SYNTHETIC}: no training shard exists; a run would train on {stand_in.dataset if stand_in else ''!r}\n")
    say(json.dumps(unstructure(loaded.spec), indent=2))
    model = ShaLa.from_spec(loaded).build()
    say("\nparameters")
    total = 0
    for name, module in parts_of(model).items():
        count = sum(parameter.numel() for parameter in module.parameters())
        total += count
        say(f"  {name:<24}{count:>12,}")
    say(f"  {'total':<24}{total:>12,}")
    spec = loaded.spec
    say("\nshapes (B rows)")
    for name, modality in model.modalities.items():
        say(f"  x {name:<22}[B, {', '.join(map(str, modality.shape))}] {str(modality.dtype).removeprefix('torch.')}")
        say(f"  h {name:<22}[B, {spec.posterior.feature_dim}]")
    say(f"  {'z':<24}[B, {spec.posterior.latent_dim}]")
