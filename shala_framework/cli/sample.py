"""`shala sample`: samples of a trained run, jointly or from given files."""

import argparse
import json
from contextlib import closing
from pathlib import Path

import attrs

from shala_framework.checkpoint import write_file
from shala_framework.cli.output import say
from shala_framework.cli.progress import make_reporter
from shala_framework.data.given import given_row
from shala_framework.data.rows import Rows
from shala_framework.errors import DataError
from shala_framework.machine import resolve_device
from shala_framework.model import ShaLa, load
from shala_framework.report.samples import SYNTHETIC, SampleWriter
from shala_framework.spec import unstructure
from shala_framework.spec.structuring import nearest

MANIFEST = "manifest.json"
MOST_SAMPLES = 4096


def sample(arguments: argparse.Namespace) -> int:
    """Generate and write."""
    if not 1 <= arguments.num <= MOST_SAMPLES:
        raise DataError(
            f"expected --num of 1 to {MOST_SAMPLES}, which are in memory together, got {arguments.num}; "
            "call again with another --seed and --out for more"
        )
    if arguments.steps is not None and arguments.steps < 2:
        raise DataError(f"expected --steps of at least 2, got {arguments.steps}")
    model = load(arguments.run, device=resolve_device(arguments.device))
    wanted = _wanted(model, arguments.want)
    settings = model.spec.generate
    for option, key in (("guidance", "guidance_scale"), ("autoguidance", "autoguidance_scale"), ("steps", "num_steps")):
        value = getattr(arguments, option)
        if value is not None:
            try:
                settings = attrs.evolve(settings, **{key: value})
            except ValueError as error:
                raise DataError(f"--{option}: {error}") from error
    rows = _given_rows(model, arguments.given) if arguments.given else None
    presence = [False] * len(model.names) if rows is None else rows.presence[0].tolist()
    names = [name for name, there in zip(model.names, presence, strict=True) if there]
    if wanted and set(wanted) <= set(names):
        raise DataError(f"expected --want of a modality that is not given, got {', '.join(wanted)}")
    model.spec = attrs.evolve(model.spec, generate=settings)
    with closing(make_reporter()) as reporter:
        writer = SampleWriter(model=model, folder=arguments.out, on_file=reporter.advance, wanted=wanted)
        reporter.begin("samples", arguments.num, "sample")
        if rows is not None:
            writer.cross_modal(rows, names, num_samples=arguments.num, seed=arguments.seed, truth=False)
        else:
            writer.joint(arguments.num, seed=arguments.seed)
        reporter.finish()
        if model.synthetic:
            reporter.warn(f"{SYNTHETIC}: this model was trained on a synthetic stand-in")
    manifest = {
        "run": str(arguments.run),
        "synthetic": model.synthetic,
        "given": dict(item.split("=", 1) for item in arguments.given),
        "seed": arguments.seed,
        "settings": unstructure(settings),
        "samples": writer.written,
    }
    write_file(arguments.out / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    if arguments.json:
        print(json.dumps(manifest, indent=2))
    else:
        say(f"wrote {arguments.num} samples to {arguments.out}; {MANIFEST} lists their files")
    return 0


def _wanted(model: ShaLa, names: list[str]) -> tuple[str, ...] | None:
    unknown = [name for name in names if name not in model.modalities]
    if unknown:
        raise DataError(f"--want {unknown[0]}: {nearest(unknown[0], model.names, 'modalities of this run')}")
    return tuple(names) or None


def _given_rows(model: ShaLa, given: list[str]) -> Rows:
    """One row that holds the given files."""
    files: dict[str, Path] = {}
    for item in given:
        name, equals, file = item.partition("=")
        if not equals:
            raise DataError(f"expected --given MODALITY=FILE, such as {model.names[0]}=FILE, got {item!r}")
        if name not in model.modalities:
            raise DataError(f"--given {item}: {nearest(name, model.names, 'modalities of this run')}")
        if name in files:
            raise DataError(f"expected one file for {name!r}, got two")
        files[name] = Path(file)
    try:
        return given_row(model.modalities, files)
    except DataError as error:
        raise DataError(f"--given: {error}") from error
