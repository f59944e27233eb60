"""A trained model as files that run without this package: programs of torch.export, and of ONNX.

Each program is loaded again from its file and compared with the model before it counts as written.
"""

import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shala_framework.model import ShaLa
from shala_framework.model.programs import (
    TENSORS,
    Program,
    example_values,
    noise_levels,
    programs_of,
    sample_by_programs,
    temperatures,
)
from shala_framework.spec import unstructure
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import DataError, PluginError
from shala_framework.support.hints import shortened
from shala_framework.support.json_files import dump_json
from shala_framework.support.progress import Reporter

MANIFEST = "export.json"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_ROWS = 2**20  # of one call of a program
CHECKED_ROWS = (1, 2, 5)
EXAMPLE_ROWS = 3  # neither 0 nor 1, for which torch.export would make a program of its own
MOST_GAP = 1e-3  # between numbers of a program and of the model, relative to 1 + |number|
MOST_DIFFERING = 0.02  # share of whole numbers, such as grey levels, that rounding may change

STEPS = (
    "h: zeros [batch, modalities, features]; for each modality that is given, h[:, i] = encode_NAME(x)",
    "given: true in column i where modality i is given; all false for joint synthesis",
    "cluster: for each row, a draw from the probabilities exp(clusters(h, given))",
    "y: standard normal draws [batch, latent], times T: T * T = squares[n][0] + the sum of squares[n][1 + i] over the "
    "given modalities i, n of them, clipped to [lowest * lowest, highest * highest]",
    "for each pair of neighbours a, b in sigmas, by Heun's method: d = (y - denoise(y, a, h, given, cluster)) / a; "
    "next = y + (b - a) d; if b > 0, e = (next - denoise(next, b, h, given, cluster)) / b and "
    "next = y + (b - a) (d + e) / 2; y = next",
    "z = restore(y, cluster); x = decode_NAME(z)",
)


def check_onnx() -> None:
    """Check that programs of ONNX can be written and run.

    Raises:
        PluginError: A package is missing.
    """
    specs = {name: importlib.util.find_spec(name) for name in ONNX_PACKAGES}
    # A folder of this name in the working directory has no origin.
    missing = [name for name, spec in specs.items() if spec is None or spec.origin is None]
    if missing:
        raise PluginError(
            f"--onnx needs {', '.join(missing)}: `pip install 'shala-framework[onnx]'`, or leave --onnx out"
        )


def export_model(
    model: ShaLa, folder: Path, *, onnx: bool = False, batch_size: int | None = None, reporter: Reporter
) -> dict[str, Any]:
    """Write the programs of a model and a file that says how to call them.

    Args:
        model: Model of a run, on the CPU.
        folder: New or empty folder. A folder without `export.json` is incomplete.
        onnx: Whether to write ONNX programs too. Those that cannot be converted are left out, with a note.
        batch_size: Number of rows of every call; None for programs that take any number.
        reporter: Receives progress.

    Returns:
        The content of `export.json`.

    Raises:
        DataError: The folder is not empty.
        PluginError: A network cannot be exported, a program differs from the model, or a package for ONNX is missing.
    """
    if onnx:
        check_onnx()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"expected a new or an empty folder for --out, got {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = CHECKED_ROWS if batch_size is None else (batch_size,)
    values = {count: example_values(model, count, seed=count) for count in (EXAMPLE_ROWS, *rows)}
    programs = programs_of(model)
    described: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    loaded: dict[str, Callable[..., Any]] = {}
    reporter.begin("export", len(programs), "program")
    for number, program in enumerate(programs, 1):
        exported = _exported(program, values[batch_size or EXAMPLE_ROWS], fixed=batch_size is not None)
        file = folder / f"{program.name}.pt2"
        write_file(file, _content(exported))
        loaded[program.name] = _loaded(file)
        checks = [(program.arguments(values[count]), program) for count in rows]
        gap = _check(loaded[program.name], checks, file.name)
        described[program.name] = _description(program, values[rows[0]], batch_size) | {
            "file": file.name,
            "largest_gap": gap,
        }
        if onnx:
            try:
                described[program.name] |= _write_onnx(exported, program, checks, folder)
            except Exception as error:  # the converter and the runtime have many kinds, and none ends the export
                left_out[program.name] = shortened(str(error).strip().partition("\n")[0] or type(error).__name__, 300)
                reporter.note(f"{program.name}: no ONNX program: {left_out[program.name]}")
        reporter.advance(number)
    reporter.finish()
    if "denoise" in loaded:
        example = values[rows[-1]]
        by_programs, by_model = sample_by_programs(
            model, loaded["denoise"], loaded["restore"], example["h"], example["given"]
        )
        _compare({"z": by_programs}, {"z": by_model}, "the loop of denoise and restore")
    manifest = _manifest(model, described, left_out)
    write_file(folder / MANIFEST, dump_json(manifest, indent=2))
    return manifest


def _exported(program: Program, values: Mapping[str, Tensor], *, fixed: bool) -> torch.export.ExportedProgram:
    arguments = program.arguments(values)
    batch = torch.export.Dim("batch", min=1, max=MOST_ROWS)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                program.module,
                arguments,
                dynamic_shapes=None if fixed else tuple({0: batch} for _ in arguments),
                strict=False,
            )
    except Exception as error:
        reason = shortened(" ".join(str(error).split()), 300)
        hint = "; --batch-size N makes programs for N rows, which some networks need" if not fixed else ""
        raise PluginError(
            f"{program.name}: torch.export cannot make a program of it: {reason}; in a "
            f"network, take sizes from x.shape rather than len(x), and do not branch on values{hint}"
        ) from error


def _content(exported: torch.export.ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(exported, buffer)
    return buffer.getvalue()


def _loaded(file: Path) -> Callable[..., Any]:
    with _quiet():
        module: Callable[..., Any] = torch.export.load(str(file)).module()
    return module


def _write_onnx(
    exported: torch.export.ExportedProgram,
    program: Program,
    checks: Sequence[tuple[tuple[Tensor, ...], Program]],
    folder: Path,
) -> dict[str, Any]:
    """Write and check a program of ONNX; return its keys of the manifest."""
    runtime: Any = importlib.import_module("onnxruntime")
    file = folder / f"{program.name}.onnx"
    try:
        with _quiet():
            converted: Any = torch.onnx.export(
                exported,
                (),
                dynamo=True,
                input_names=list(program.inputs),
                output_names=list(program.outputs),
                verbose=False,
            )
            converted.save(str(file))
            session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        taken = {tensor.name for tensor in session.get_inputs()}  # without those that the program does not use

        def run(*arguments: Tensor) -> tuple[Tensor, ...]:
            named = dict(zip(program.inputs, arguments, strict=True))
            returned = session.run(None, {name: named[name].numpy() for name in taken})
            return tuple(torch.from_numpy(array) for array in returned)

        return {"onnx": file.name, "largest_gap_onnx": _check(run, checks, file.name)}
    except BaseException:
        for part in folder.glob(f"{file.name}*"):
            part.unlink()
        raise


def _check(run: Callable[..., Any], checks: Sequence[tuple[tuple[Tensor, ...], Program]], what: str) -> float:
    """Compare a program with the model for several numbers of rows; return the largest gap of its numbers."""
    gaps = []
    with torch.no_grad():
        for arguments, program in checks:
            found, expected = program.results(run(*arguments)), program.results(program.module(*arguments))
            gaps.append(_compare(found, expected, what))
    return max(gaps)


def _compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> float:
    """Return the largest gap between results: of numbers relative to 1 + |number|, of whole numbers the share.

    Raises:
        PluginError: The results differ by more than rounding explains.
    """
    gaps = []
    for name, value in expected.items():
        got = found[name]
        if got.shape != value.shape or got.dtype != value.dtype:
            raise PluginError(
                f"{what} returned {name} of {got.dtype} {tuple(got.shape)}; expected {value.dtype} "
                f"{tuple(value.shape)}, as the model returns"
            )
        if value.dtype.is_floating_point:
            gap, most = float(((got - value).abs() / (1 + value.abs())).max()), MOST_GAP
        else:
            gap, most = float((got != value).float().mean()), MOST_DIFFERING
        if not gap <= most:  # also if it is not a number
            raise PluginError(f"{what}: {name} differs from the model's by {gap:.3g}; expected at most {most:g}")
        gaps.append(gap)
    return max(gaps)


def _description(program: Program, values: Mapping[str, Tensor], batch_size: int | None) -> dict[str, Any]:
    """Describe arguments and results of a program."""

    def form(name: str, value: Tensor) -> dict[str, Any]:
        rows = "batch" if batch_size is None else batch_size
        return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": [rows, *value.shape[1:]]}

    arguments = program.arguments(values)
    with torch.no_grad():
        results = program.results(program.module(*arguments))
    return {
        "meaning": program.meaning,
        "inputs": [form(*pair) for pair in zip(program.inputs, arguments, strict=True)],
        "outputs": [form(*pair) for pair in results.items()],
    }


def _manifest(model: ShaLa, programs: Mapping[str, Any], left_out: Mapping[str, str]) -> dict[str, Any]:
    manifest: dict[str, Any] = {
        "format": 1,
        "name": model.spec.name,
        "synthetic": model.synthetic,
        "torch": torch.__version__,
        "modalities": [
            {"name": name, "plugin": table["plugin"], "options": table["options"], "state": modality.state()}
            for (name, modality), table in zip(
                model.modalities.items(), unstructure(model.spec)["modality"].values(), strict=True
            )
        ],
        "latent_dim": model.autoencoder.latent_dim,
        "feature_dim": model.autoencoder.feature_dim,
        "tensors": TENSORS,
        "programs": programs,
        "onnx_left_out": left_out,
    }
    if "denoise" in programs:
        manifest["sampling"] = {
            "sigmas": noise_levels(model),
            "temperature": temperatures(model),
            "guidance_scale": model.guidance.guidance_scale,
            "autoguidance_scale": model.guidance.autoguidance_scale,
            "steps": STEPS,
        }
    return manifest


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's converters say about their own insides; their results are checked."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
