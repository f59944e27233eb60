"""Reads a TOML spec, applies the stand-in's and the command line's overrides, and reports every error at its place."""

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli

from shala_framework.urls import any_exists, refuse_pipes
from shala_framework.errors import DataError, PluginError, Problem, SpecError
from shala_framework.spec.lines import key_lines
from shala_framework.spec.schema import Data, Spec
from shala_framework.spec.structuring import Finding, InvalidValueError, KeyPath, format_path, nearest, structure


@attrs.frozen
class Override:
    """One value that replaces what the file says; origin names where it was written."""

    path: KeyPath
    value: Any
    origin: str


@attrs.frozen
class LoadedSpec:
    """A valid spec and the objects its options became.

    Attributes:
        spec: The spec, with overrides applied and every plugin's options filled in with their defaults.
        options: Options object of each modality, by name.
        modality_classes: Modality class of each modality, by name.
        stand_in_used: Whether the training data are the stand-in's.
        text: The file as it was written.
    """

    spec: Spec
    options: dict[str, Any]
    modality_classes: dict[str, Any]
    stand_in_used: bool = False
    text: str = ""


def parse_override(text: str) -> Override:
    """Parse `KEY=VALUE` of the command line; VALUE is TOML, or a string without quotes.

    Raises:
        SpecError: There is no `=` or KEY is not a dotted key.
    """
    key, equals, value = text.partition("=")
    try:
        path = _dotted(key)
    except tomli.TOMLDecodeError:
        path = ()
    if not equals or not path:
        raise SpecError([Problem(path="", message=f"expected KEY=VALUE, got {text!r}", origin="--set")])
    return Override(path, _toml_value(value), "--set")


def _dotted(key: str) -> KeyPath:
    table: Any = tomli.loads(f"{key} = 0")
    path: KeyPath = ()
    while isinstance(table, dict):
        name, table = next(iter(table.items()))
        path = (*path, name)
    return path


def _toml_value(text: str) -> Any:
    try:
        return tomli.loads(f"value = {text}")["value"]
    except (tomli.TOMLDecodeError, KeyError):
        return text


class _Places:
    """Where each key was written: an override's origin, or the line of the nearest enclosing key in the file."""

    def __init__(self, file: str, lines: dict[KeyPath, int]) -> None:
        self.file, self.lines = file, lines
        self.overridden: dict[KeyPath, str] = {}

    def origin(self, path: KeyPath) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return self.overridden[path[:length]]
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}"
        return self.file

    def problem(self, finding: Finding) -> Problem:
        return Problem(
            path=format_path(finding.path),
            message=finding.message,
            hint=finding.hint,
            origin=self.origin(finding.path),
        )


def read_spec(path: Path, overrides: Sequence[str] = (), *, allow_pipe: bool = False) -> LoadedSpec:
    """Read, override, check and complete a spec.

    While `data.train` matches no file and there is a [data.stand_in], the stand-in's `set` is applied first and
    the overrides after it.

    Args:
        path: The TOML file.
        overrides: `KEY=VALUE` texts.
        allow_pipe: Whether `pipe:` URLs, which run a shell command, may be named.

    Returns:
        The spec with the classes and options of its modalities.

    Raises:
        SpecError: With every problem of the file, each at its line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        raw = tomli.loads(text)
    except OSError as error:
        raise SpecError([Problem(path="", message=f"cannot be read: {error.strerror}", origin=str(path))]) from error
    except UnicodeDecodeError as error:
        message = f"expected UTF-8 text, got byte {error.object[error.start]:#04x} at offset {error.start}"
        raise SpecError([Problem(path="", message=message, origin=str(path))]) from error
    except tomli.TOMLDecodeError as error:
        problem = Problem(path="", message=f"not valid TOML: {error.msg}", origin=f"{path}:{error.lineno}")
        raise SpecError([problem]) from error
    places = _Places(str(path), key_lines(text))
    given = [parse_override(item) for item in overrides]
    base = copy.deepcopy(raw)
    problems = _apply(base, given, places)
    stand_in = _wanted_stand_in(base)
    if stand_in is not None:
        own = []
        for key, value in stand_in.items():
            try:
                own.append(Override(_dotted(key), value, places.origin(("data", "stand_in", "set", key))))
            except tomli.TOMLDecodeError:
                finding = Finding(("data", "stand_in", "set", key), f"expected a dotted key, got {key!r}")
                problems.append(places.problem(finding))
        base = copy.deepcopy(raw)
        problems = _apply(base, [*own, *given], places) + [p for p in problems if p.origin != "--set"]
    loaded = _resolve(base, places.problem, problems, allow_pipe=allow_pipe)
    return attrs.evolve(loaded, stand_in_used=stand_in is not None, text=text)


def resolve_spec(raw: dict[str, Any], source: str) -> LoadedSpec:
    """Check and complete a spec that is already JSON values, such as a checkpoint's.

    Raises:
        SpecError: With every problem.
    """
    return _resolve(raw, _Places(source, {}).problem, [], allow_pipe=True, check_stand_in=False)


def _apply(raw: dict[str, Any], overrides: Iterable[Override], places: _Places) -> list[Problem]:
    problems = []
    for override in overrides:
        table: Any = raw
        for depth, key in enumerate(override.path[:-1]):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                name = format_path(override.path[: depth + 1])
                message = f"expected a key inside a table, but {name} is a value"
                problems.append(Problem(path=format_path(override.path), message=message, origin=override.origin))
                break
        else:
            table[override.path[-1]] = override.value
            places.overridden[override.path] = override.origin
    return problems


def _wanted_stand_in(raw: dict[str, Any]) -> dict[str, Any] | None:
    """The stand-in's overrides, where the training shards are not there and a sound stand-in is."""
    try:
        data = structure(raw.get("data"), Data)
    except InvalidValueError:
        return None
    if data.stand_in is None or any_exists(data.train):
        return None
    return data.stand_in.set


def _resolve(
    raw: dict[str, Any],
    place: Callable[[Finding], Problem],
    problems: list[Problem],
    *,
    allow_pipe: bool,
    check_stand_in: bool = True,
) -> LoadedSpec:
    from shala_framework.plugins import load_dataset, load_modality  # torch is imported only once the TOML is read

    findings: list[Finding] = []
    spec: Spec | None = None
    try:
        spec = structure(raw, Spec)
    except InvalidValueError as error:
        findings += error.findings
    classes, options = {}, {}
    for name, table in _tables(raw.get("modality")):
        where: KeyPath = ("modality", name)
        plugin = table.get("plugin")
        if not isinstance(plugin, str) or not isinstance(table.get("options", {}), dict):
            continue  # already among the findings of the schema
        try:
            classes[name] = load_modality(plugin)
            options[name] = structure(table.get("options", {}), classes[name].Options)
        except PluginError as error:
            findings.append(Finding((*where, "plugin"), str(error)))
        except InvalidValueError as error:
            findings += [attrs.evolve(f, path=(*where, "options", *f.path)) for f in error.findings]
    data = raw.get("data") if isinstance(raw.get("data"), dict) else {}
    stand_in = data.get("stand_in") if isinstance(data, dict) else None
    if check_stand_in and isinstance(stand_in, dict) and isinstance(stand_in.get("dataset"), str):
        where = ("data", "stand_in")
        try:
            dataset = load_dataset(stand_in["dataset"])
            structure(stand_in.get("options", {}), dataset.Options)
        except PluginError as error:
            findings.append(Finding((*where, "dataset"), str(error)))
        except InvalidValueError as error:
            findings += [attrs.evolve(f, path=(*where, "options", *f.path)) for f in error.findings]
    if spec is not None and not allow_pipe:
        for key in ("train", "validation"):
            try:
                refuse_pipes(getattr(spec.data, key))
            except DataError as error:
                findings.append(Finding(("data", key), str(error)))
    all_problems = problems + [place(finding) for finding in findings]
    if all_problems or spec is None:
        raise SpecError(sorted(set(all_problems), key=lambda p: (_line(p.origin), p.path)))
    from shala_framework.spec.structuring import unstructure

    tables = {
        name: attrs.evolve(table, options=unstructure(options[name])) for name, table in spec.modality.items()
    }
    return LoadedSpec(attrs.evolve(spec, modality=tables), options, classes)


def _tables(value: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(k, v) for k, v in value.items() if isinstance(v, dict)] if isinstance(value, dict) else []


def _line(origin: str) -> tuple[str, int]:
    file, _, line = origin.rpartition(":")
    return (file, int(line)) if line.isdigit() else (origin, 0)


__all__ = ["LoadedSpec", "Override", "nearest", "parse_override", "read_spec", "resolve_spec"]
