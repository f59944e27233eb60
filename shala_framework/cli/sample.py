"""`shala sample`: sample from a trained run, jointly or given some files and texts."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from shala_framework.cli.commands import (
    FILE,
    device_option,
    json_flag,
    option,
    parse_seed,
    run_argument,
    set_option,
    verb,
)
from shala_framework.cli.evaluate import with_overrides
from shala_framework.cli.output import remark, say
from shala_framework.spec import unstructure
from shala_framework.spec.schema import Generate, Refine
from shala_framework.support.errors import DataError
from shala_framework.support.hints import nearest, shortened

if TYPE_CHECKING:
    from shala_framework.data.rows import Rows
    from shala_framework.model import ShaLa
    from shala_framework.plugin.modality import Modality

MANIFEST = "manifest.json"
MOST_SAMPLES = 4096

TABLES = ("generate", "refine")  # of a run's spec, which --set may change


@verb(
    "  shala sample runs/ntu_rgb_skeleton --num 16 --out samples\n"
    "  shala sample runs/ntu_rgb_skeleton --given skeleton=a.skeleton --num 8\n"
    "  shala sample runs/mine --given caption='a red circle' --given photo=a.jpg --want caption\n"
)
@run_argument(on_hub=True)
@option(
    "--given",
    multiple=True,
    metavar="MODALITY=VALUE",
    help="File to condition on, or the text of a modality that can be typed; @FILE is always a file. Repeatable.",
)
@option(
    "--want",
    multiple=True,
    metavar="MODALITY",
    help="Write only files of this modality; of one that is given, the model's own version. Repeatable.",
)
@option("--num", type=int, default=8, metavar="N", help="Number of samples.")
@option("--out", type=FILE, default=Path("samples"), metavar="DIR", help="Folder for the files.")
@option("--seed", type=parse_seed, default=0, metavar="N", help="Seed of the samples.")
@option("--guidance", type=float, metavar="W", help="Guidance scale. [default: the spec's]")
@option("--autoguidance", type=float, metavar="V", help="Autoguidance scale. [default: the spec's]")
@option("--refine/--no-refine", default=True, help="Whether a trained third stage refines the samples.")
@option("--steps", type=int, metavar="N", help="Steps of the sampler. [default: the spec's]")
@set_option("Override a key of [generate], or of stage 3's sampler in [refine].", TABLES)
@device_option
@json_flag("the manifest")
def sample(
    run: Path | str,
    given: tuple[str, ...],
    want: tuple[str, ...],
    num: int,
    out: Path,
    seed: int,
    guidance: float | None,
    autoguidance: float | None,
    refine: bool,
    steps: int | None,
    overrides: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Generate from a trained run: all modalities jointly, or the others from given files and texts."""
    if not 1 <= num <= MOST_SAMPLES:
        more = "; all samples are kept in memory: call again with another --seed and --out for more" * (num > 0)
        raise DataError(f"expected --num of 1 to {MOST_SAMPLES}, got {num}{more}")
    if steps is not None and steps < 2:
        raise DataError(f"expected --steps of at least 2, got {steps}")
    from shala_framework.cli.progress_display import make_reporter
    from shala_framework.report.samples import SYNTHETIC, SampleWriter
    from shala_framework.run.loading import load
    from shala_framework.support.checkpoint import write_file
    from shala_framework.support.machine import resolve_device

    model = load(run, device=resolve_device(device))
    wanted = _wanted(model, want)
    _check_overrides(overrides, refine=refine)
    model.spec = with_overrides(model.spec, overrides, TABLES, refined=bool(model.refined_names), counted="use --num")
    settings = _settings(model.spec.generate, guidance=guidance, autoguidance=autoguidance, steps=steps)
    rows = _given_rows(model, given) if given else None
    presence = [False] * len(model.names) if rows is None else rows.presence[0].tolist()
    names = [name for name, there in zip(model.names, presence, strict=True) if there]
    if len(names) == len(model.names) and not wanted:
        raise DataError(
            f"every modality is given; leave out the ones to generate, or name with --want those of which you want the "
            f"model's own version, such as --want {names[0]}"
        )
    model.spec = attrs.evolve(model.spec, generate=settings)
    earlier = _listed(out)
    with closing(make_reporter()) as reporter:
        writer = SampleWriter(model=model, folder=out, on_file=reporter.advance, wanted=wanted, refine=refine)
        reporter.begin("samples", num, "sample")
        if rows is not None:
            writer.cross_modal(rows, names, num_samples=num, seed=seed, truth=False)
        else:
            writer.joint(num, seed=seed)
        reporter.finish()
        for name in names:
            if name in (wanted or ()):
                reporter.note(f"{name} is given and wanted: its files hold the model's own version of it")
        if model.synthetic:
            reporter.warn(f"{SYNTHETIC}: this model was trained on a synthetic stand-in")
    refined = list(model.refined_names) if refine else []
    manifest = {
        "run": str(run),
        "synthetic": model.synthetic,
        "given": dict(item.split("=", 1) for item in given),
        "seed": seed,
        "num": num,
        "settings": {key: value for key, value in unstructure(settings).items() if key not in settings.COUNT_KEYS},
        "refined": refined,
        "refine": _described(model.spec.refine) if refined else {},
        "samples": writer.written,
    }
    write_file(out / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    _say_what_stays(out, earlier, set(_files(writer.written)))
    if as_json:
        print(json.dumps(manifest, indent=2))
    else:
        say(f"wrote {num} samples to {out}; {MANIFEST} lists their files")


def _listed(out: Path) -> set[str]:
    """Return the files that the manifest of an earlier call lists; none if it is missing or damaged."""
    try:
        return set(_files(json.loads((out / MANIFEST).read_text())["samples"]))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return set()


def _files(samples: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for sample in samples:
        yield str(sample["together"])
        for files in sample["files"].values():
            yield from map(str, files)


def _say_what_stays(out: Path, earlier: set[str], written: set[str]) -> None:
    """Say which files of earlier calls lie beside those of this one, which alone are in the manifest."""
    folders = {(out / name).parent for name in written}
    beside = {path.relative_to(out).as_posix() for folder in folders for path in folder.iterdir() if path.is_file()}
    stay = sorted(({name for name in earlier if (out / name).is_file()} | beside) - written)
    if stay:
        remark(
            f"{len(stay)} files of an earlier call stay in {out}, such as {stay[0]}; {MANIFEST} lists only the files "
            "of this call: use another --out to keep calls apart"
        )


def _described(table: Refine) -> dict[str, Any]:
    """Return what says how a trained stage 3 makes samples."""
    if table.method == "adversarial":
        return {"method": table.method}
    return {key: getattr(table, key) for key in Refine.SAMPLING_KEYS}


def _check_overrides(overrides: tuple[str, ...], *, refine: bool) -> None:
    """Raise a DataError for a --set that --no-refine contradicts."""
    for key in (text.split("=", 1)[0].strip() for text in overrides):
        if key.startswith("refine.") and not refine:
            raise DataError(f"--set {key} and --no-refine contradict each other; leave one of them out")


def _settings(generate: Generate, **given: float | None) -> Generate:
    """Return the settings of the spec, changed by the given options."""
    keys = {"guidance": "guidance_scale", "autoguidance": "autoguidance_scale", "steps": "num_steps"}
    for name, value in given.items():
        if value is not None:
            change: dict[str, Any] = {keys[name]: value}
            try:
                generate = attrs.evolve(generate, **change)
            except ValueError as error:
                raise DataError(f"--{name}: {error}") from error
    return generate


def _wanted(model: "ShaLa", names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Check the modalities to write; return None for all of them."""
    unknown = [name for name in names if name not in model.modalities]
    if unknown:
        raise DataError(f"--want {unknown[0]}: {nearest(unknown[0], model.names, 'modalities of this run')}")
    return names or None


def _given_rows(model: "ShaLa", given: tuple[str, ...]) -> "Rows":
    """Read the given files and texts into one row."""
    from shala_framework.report.given import given_row

    values: dict[str, Path | str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals:
            raise DataError(
                f"expected --given MODALITY=FILE or MODALITY=TEXT, such as {model.names[0]}=FILE, got {shortened(item)}"
            )
        if name not in model.modalities:
            raise DataError(f"--given {item}: {nearest(name, model.names, 'modalities of this run')}")
        if name in values:
            raise DataError(f"expected one value for {name!r}, got two")
        values[name] = _file_or_text(name, value, model.modalities[name])
    try:
        rows = given_row(model.modalities, values)
    except DataError as error:
        raise DataError(f"--given: {error}") from error
    for name, given_value in values.items():
        if isinstance(given_value, str):
            read = model.modalities[name].preview(rows.x[name][0]).text
            same = read is None or read == given_value.strip()
            changed = "" if same else f", which the model reads as {shortened(str(read))}"
            remark(f"given {name}: the text {shortened(given_value)}{changed}")
    return rows


def _file_or_text(name: str, value: str, modality: "Modality") -> Path | str:
    """Decide whether a value of --given names a file or is the text itself.

    Raises:
        DataError: It can be neither, or it is not clear which.
    """
    from shala_framework.model.given import field_of

    if value.startswith("@@"):
        value = value[1:]
    elif value.startswith("@"):
        return Path(value[1:])
    elif _is_file(value):
        path = Path(value)
        if field_of(modality, path) is None and modality.typed(value) is not None:
            raise DataError(
                f"--given {name}={value}: a file of this name is here, but it ends in none of {list(modality.fields)}; "
                f"rename it to give the file, or start the text with a space to give the text: {name}=' {value}'"
            )
        return path
    kinds = f"expected a file ending in one of {list(modality.fields)}"
    if modality.typed(value) is None:
        raise DataError(f"--given {name}={shortened(value)}: {kinds}, got no such file, and {name} cannot be typed")
    if field_of(modality, Path(value)) is not None and not any(map(str.isspace, value)):
        raise DataError(
            f"--given {name}={shortened(value)}: {kinds}, got no such file; start the value with a space "
            "if it is meant as text"
        )
    if not value.strip():
        raise DataError(f"--given {name}=: {kinds}, or a text, got nothing; leave out what is not given")
    return value


def _is_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # no name of a file: too long, or with a null character
        return False
