"""What `shala run --dry-run` prints: the resolved spec, the model, and what its training costs on this device."""

import json
import textwrap

from shala_framework.cli.output import say
from shala_framework.model import ShaLa
from shala_framework.model.parts import parts_of
from shala_framework.report.samples import SYNTHETIC
from shala_framework.run.forecast import Forecast, forecast
from shala_framework.spec import LoadedSpec, unstructure
from shala_framework.support.machine import describe_machine

_NOTES = (
    "GFLOP: matrix products and convolutions of forward pass, backward pass and optimiser, counted by their shapes, "
    "with every text at its full length.",
    "launches: an estimate, the operators that torch dispatches in a step. torch.compile and CUDA graphs launch fewer.",
)


def describe(loaded: LoadedSpec) -> None:
    """Print the resolved spec, describe the model that it defines, and forecast the cost of its training."""
    if loaded.stand_in_used:
        stand_in = loaded.spec.data.stand_in
        say(f"{SYNTHETIC}: no training shard exists; a run would train on {stand_in.dataset if stand_in else ''!r}\n")
    say(json.dumps(unstructure(loaded.spec), indent=2))
    model = ShaLa.from_spec(loaded).build()
    say("\nparameters")
    total = 0
    for name, module in parts_of(model).items():
        if name == "refiner" and not loaded.spec.train.refiner.steps:
            continue
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
    say("\ncost of training")
    say(_costs(forecast(model)))
    if spec.train.minutes is not None:
        say(f"\ntrain.minutes = {spec.train.minutes:g} decides the numbers of steps instead")


def _costs(found: Forecast) -> str:
    lines = [f"  {'':<12}{'rows':>8}{'GFLOP':>12}{'launches':>10}{'GiB':>9}{'s a step':>12}{'steps':>12}{'hours':>10}"]
    notes = list(_NOTES)
    measured = [stage.measured_bytes is not None for stage in found.stages.values()]
    for name, stage in found.stages.items():
        settings, count = stage.settings, stage.count
        size = stage.measured_bytes if stage.measured_bytes is not None or count is None else count.peak_bytes
        gflop = f"{count.operations / 1e9:,.1f}" if count is not None else "-"
        launches = f"{count.launches:,}" if count is not None else "-"
        lines.append(
            f"  {name:<12}{settings.batch_size:>8,}{gflop:>12}{launches:>10}"
            f"{'-' if size is None else format(size / 2**30, ',.2f'):>9}{stage.step_seconds:>12.4g}"
            f"{settings.steps:>12,}{stage.hours:>10,.2f}"
        )
        if stage.reason:
            notes.append(f"{name}: its steps cannot be counted without computing them ({stage.reason}).")
    lines.append(f"  {'all':<75}{sum(stage.hours for stage in found.stages.values()):>10,.2f}")
    notes.append(
        "GiB: memory during a step, measured with the rows of a step."
        if all(measured)
        else "GiB: memory during a step, counted in float32; bfloat16 takes about half for activations."
    )
    few = [
        f"{name} with {stage.timed_rows}"
        for name, stage in found.stages.items()
        if stage.timed_rows < stage.settings.batch_size
    ]
    notes.append(
        f"time: on {describe_machine(found.device)}, in {found.precision.name}, in one process, without reading data, "
        f"validation and samples{'; timed with fewer rows and scaled by operations: ' if few else ''}{', '.join(few)}."
    )
    return "\n".join(
        [*lines, *(textwrap.fill(note, 100, initial_indent="  ", subsequent_indent="    ") for note in notes)]
    )
