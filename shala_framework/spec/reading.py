"""Reads a TOML spec, applies the stand-in's and the command line's overrides, and reports every error at its place."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import tomli

from shala_framework.spec.groups import expand_lines, expand_tables, members
from shala_framework.spec.lines import key_lines
from shala_framework.spec.schema import Data, Spec
from shala_framework.spec.toml import LimitError, parse_toml
from shala_framework.support.errors import MOST_PROBLEMS, DataError, PluginError, Problem, SpecError
from shala_framework.support.hints import shortened
from shala_framework.support.shard_names import any_exists, expand_braces, refuse_pipes
from shala_framework.support.structuring import (
    Finding,
    InvalidValueError,
    KeyPath,
    describe_value,
    format_path,
    structure,
    unstructure,
)
from shala_framework.support.urls import is_cache


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
        trackers: Class and options object of each tracker, by name; none of a saved spec.
        stand_in_used: Whether the training data are the stand-in's.
        text: The file as it was written.
        origins: Where a key was written, such as "specs/a.toml:12" or "--set", for errors that show only later.
    """

    spec: Spec
    options: dict[str, Any]
    modality_classes: dict[str, Any]
    trackers: dict[str, tuple[Any, Any]] = attrs.field(factory=dict)
    stand_in_used: bool = False
    text: str = ""
    origins: Callable[[KeyPath], str] = attrs.field(default=lambda _: "", eq=False, repr=False)


def parse_override(text: str) -> Override:
    """Parse `KEY=VALUE` of the command line; VALUE is TOML, or a string without quotes.

    Raises:
        SpecError: There is no `=` or KEY is not a dotted key.
    """
    key, equals, value = text.partition("=")
    hint = "such as --set train.prior.steps=2000"
    if not equals:
        message = f"expected KEY=VALUE, got {shortened(text)}"
        raise SpecError([Problem(path="", message=message, hint=hint, origin="--set")])
    try:
        path = _dotted(key)
    except ValueError:
        message = f"expected a dotted key before '=', got {shortened(key)}"
        raise SpecError([Problem(path="", message=message, hint=hint, origin="--set")]) from None
    try:
        return Override(path, _toml_value(value.strip()), "--set")
    except LimitError as error:
        raise SpecError([Problem(path=format_path(path), message=str(error), origin="--set")]) from None


def _members(override: Override) -> list[Override]:
    """An override of a table whose name has braces is one of each table that they stand for.

    Raises:
        InvalidValueError: They stand for too many.
    """
    head, *rest = override.path
    if head != "modality" or not rest:
        return [override]
    return [attrs.evolve(override, path=(head, name, *rest[1:])) for name in members(str(rest[0]))]


def _dotted(key: str) -> KeyPath:
    """The keys of one dotted key; ValueError (TOMLDecodeError is one) for anything else."""
    table: Any = parse_toml(f"{key} = 'end'")
    path: KeyPath = ()
    while isinstance(table, dict):
        ((name, table),) = table.items()
        path = (*path, name)
    if table != "end":
        raise ValueError(f"expected a dotted key, got {key!r}")
    return path


def _toml_value(text: str) -> Any:
    """What a TOML value says; any other text, a path or a word without quotes, stands for itself.

    Raises:
        LimitError: It is too deep or too long for a value.
    """
    try:
        table = parse_toml(f"value = {text}")
    except tomli.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _leaves(table: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of nested tables, so that keys with and without quotes around their dots mean the same."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


class _Places:
    """Where each key was written: an override's origin, or the line of the nearest enclosing key in the file.

    A table that no line of the file opens comes from the override of a key in it.
    """

    def __init__(self, file: str, lines: dict[KeyPath, int]) -> None:
        self.file, self.lines = file, lines
        self._overrides: dict[KeyPath, tuple[int, str]] = {}
        self._inside: dict[KeyPath, str] = {}
        self._number = count()

    def override(self, path: KeyPath, origin: str) -> None:
        """Note an override, which also replaces whatever was written below its path."""
        self._overrides[path] = (next(self._number), origin)
        for length in range(1, len(path)):
            self._inside.setdefault(path[:length], origin)

    def origin(self, path: KeyPath) -> str:
        heads = [path[:length] for length in range(len(path), 0, -1)]
        if found := [self._overrides[head] for head in heads if head in self._overrides]:
            return max(found)[1]  # the last one, as it replaced what was written inside it
        for head in heads:
            if head in self.lines:
                return f"{self.file}:{self.lines[head]}"
            if head in self._inside:
                return self._inside[head]
        return self.file

    def problem(self, finding: Finding) -> Problem:
        return Problem(
            path=format_path(finding.path),
            message=finding.message,
            hint=finding.hint,
            origin=self.origin(finding.path),
        )


def read_spec(path: Path, overrides: Sequence[str] = (), *, use_stand_in: bool = True) -> LoadedSpec:
    """Read, override, check and complete a spec.

    While `data.train` matches no file and there is a [data.stand_in], the stand-in's `set` is applied first and
    the overrides after it.

    Args:
        path: The TOML file.
        overrides: `KEY=VALUE` texts.
        use_stand_in: Whether the stand-in may take the place of shards that are not there.

    Returns:
        The spec with the classes and options of its modalities.

    Raises:
        SpecError: With every problem of the file, each at its line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        raw = parse_toml(text)
    except OSError as error:
        raise SpecError([Problem(path="", message=f"cannot be read: {error.strerror}", origin=str(path))]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        message = f"expected UTF-8 text, got byte {error.object[error.start]:#04x} at offset {error.start}"
        hint = "save the file as UTF-8"
        raise SpecError([Problem(path="", message=message, hint=hint, origin=f"{path}:{line}")]) from error
    except LimitError as error:
        raise SpecError([Problem(path="", message=str(error), origin=f"{path}:{error.line}")]) from error
    except tomli.TOMLDecodeError as error:
        message = f"not valid TOML: {error.msg} at column {error.colno}"
        problem = Problem(path="", message=message, origin=f"{path}:{error.lineno}")
        raise SpecError([problem]) from error
    lines = key_lines(text)
    places = _Places(str(path), expand_lines(lines, (str(p[1]) for p in lines if len(p) == 2 and p[0] == "modality")))
    wrong = [places.problem(finding) for finding in expand_tables(raw)]
    given: list[Override] = []
    for override in map(parse_override, overrides):
        try:
            given += _members(override)
        except InvalidValueError as error:
            path_there = format_path(override.path[:2])
            wrong += [Problem(path=path_there, message=f.message, origin="--set") for f in error.findings]
    base = copy.deepcopy(raw)
    problems = wrong + _apply(base, given, places)
    stand_in = _wanted_stand_in(base) if use_stand_in else None
    try:
        loaded = _resolve(base, places, problems)
    except SpecError as error:
        if stand_in is None:
            raise
        # What the stand-in's overrides may hide, and real shards would bring to light; without "and 9 more".
        problems = [problem for problem in error.problems if problem.origin]
    if stand_in is not None:
        own = []
        for keys, value in _leaves(stand_in):
            written: KeyPath = ("data", "stand_in", "set", *keys)
            try:
                target = tuple(part for key in keys for part in _dotted(str(key)))
                own += _members(Override(target, value, places.origin(written)))
            except ValueError:
                message = f"expected a dotted key, got {shortened(str(keys[-1]))}"
                problems.append(places.problem(Finding(written, message)))
            except InvalidValueError as error:
                problems += [places.problem(Finding(written, finding.message)) for finding in error.findings]
        base = copy.deepcopy(raw)
        problems += wrong + _apply(base, [*own, *given], places)
        loaded = _resolve(base, places, problems)
    return attrs.evolve(loaded, stand_in_used=stand_in is not None, text=text)


def resolve_spec(raw: dict[str, Any], source: str, own: Mapping[str, Any] | None = None) -> LoadedSpec:
    """Check and complete a spec that is already JSON values, such as a checkpoint's.

    Somebody else may have saved it. Shards that it names are judged when they are opened, and its `data.cache` is used
    only where it is a folder that a run has made for copies of shards.

    Args:
        raw: The values.
        source: Name of the file they are from, for messages.
        own: Modality classes of the caller's own, by the name that the spec has for them.

    Raises:
        SpecError: With every problem.
    """
    loaded = _resolve(raw, _Places(source, {}), [], saved=True, own=own or {})
    data = loaded.spec.data
    if data.cache is None or is_cache(data.cache):
        return loaded
    return attrs.evolve(loaded, spec=attrs.evolve(loaded.spec, data=attrs.evolve(data, cache=None)))


def _apply(raw: dict[str, Any], overrides: Iterable[Override], places: _Places) -> list[Problem]:
    problems = []
    for override in overrides:
        table: Any = raw
        for depth, key in enumerate(override.path[:-1]):
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                name = format_path(override.path[: depth + 1])
                message = f"expected {name} to be a table, got {describe_value(table)}"
                problems.append(Problem(path=format_path(override.path), message=message, origin=override.origin))
                break
        else:
            table[override.path[-1]] = override.value
            places.override(override.path, override.origin)
    return problems


def _wanted_stand_in(raw: dict[str, Any]) -> dict[str, Any] | None:
    """The stand-in's overrides, where the training shards are not there and a sound stand-in is."""
    table = raw.get("data")
    if not isinstance(table, dict):
        return None
    try:
        data = structure({key: table[key] for key in ("train", "stand_in") if key in table}, Data)
        if data.stand_in is None or any_exists(data.train):
            return None
    except (InvalidValueError, DataError):  # reported by _resolve, at its place
        return None
    return data.stand_in.set


def _resolve(
    raw: dict[str, Any],
    places: _Places,
    problems: list[Problem],
    *,
    saved: bool = False,
    own: Mapping[str, Any] | None = None,
) -> LoadedSpec:
    from shala_framework.plugin.loading import (  # torch only once the TOML is read
        load_dataset,
        load_modality,
        load_tracker,
    )

    findings: list[Finding] = []
    spec: Spec | None = None
    try:
        spec = structure(raw, Spec)
    except InvalidValueError as error:
        findings += error.findings
    classes, options = {}, {}
    load = _remembered(load_modality, own or {})
    for name, table in _tables(raw.get("modality")):
        where: KeyPath = ("modality", name)
        plugin = table.get("plugin")
        if len(findings) >= MOST_PROBLEMS:
            break  # a message lists no more, and asking for plugins that are not there takes time
        if not isinstance(plugin, str) or not isinstance(table.get("options", {}), dict):
            continue  # already among the findings of the schema
        try:
            classes[name] = load(plugin)
            options[name] = structure(table.get("options", {}), classes[name].Options)
        except PluginError as error:
            findings.append(Finding((*where, "plugin"), str(error)))
        except InvalidValueError as error:
            findings += [attrs.evolve(f, path=(*where, "options", *f.path)) for f in error.findings]
    data: Any = raw.get("data")
    data = data if isinstance(data, dict) else {}
    stand_in = data.get("stand_in")
    if not saved and isinstance(stand_in, dict) and isinstance(stand_in.get("dataset"), str):
        where = ("data", "stand_in")
        try:
            dataset = load_dataset(stand_in["dataset"])
            if dataset.needs_source:
                message = f"expected a data set that makes its samples, got {stand_in['dataset']!r}"
                findings.append(Finding((*where, "dataset"), message, "it needs a folder of raw files"))
            structure(stand_in.get("options", {}), dataset.Options)
        except PluginError as error:
            findings.append(Finding((*where, "dataset"), str(error)))
        except InvalidValueError as error:
            findings += [attrs.evolve(f, path=(*where, "options", *f.path)) for f in error.findings]
    trackers = {}
    for name, table in () if saved else _tables(raw.get("track")):
        if len(findings) >= MOST_PROBLEMS:
            break
        if not isinstance(table.get("options", {}), dict):
            continue
        try:
            tracker = load_tracker(name)
            trackers[name] = (tracker, structure(table.get("options", {}), tracker.Options))
        except PluginError as error:
            findings.append(Finding(("track", name), str(error)))
        except InvalidValueError as error:
            findings += [attrs.evolve(f, path=("track", name, "options", *f.path)) for f in error.findings]
    findings += _wrong_urls(data, saved=saved)
    all_problems = problems + [places.problem(finding) for finding in findings]
    if all_problems or spec is None:
        raise SpecError(sorted(set(all_problems), key=lambda p: (_line(p.origin), p.path)))
    tables = {name: attrs.evolve(table, options=unstructure(options[name])) for name, table in spec.modality.items()}
    return LoadedSpec(attrs.evolve(spec, modality=tables), options, classes, trackers, origins=places.origin)


def _remembered(load: Callable[[str], Any], own: Mapping[str, Any]) -> Callable[[str], Any]:
    """A plugin's loader that looks for each name once, as a thousand tables may have the same, and not for own ones."""
    known: dict[str, Any] = dict(own)

    def remembered(name: str) -> Any:
        if name not in known:
            try:
                known[name] = load(name)
            except PluginError as error:
                known[name] = error
        if isinstance(known[name], PluginError):
            raise known[name]
        return known[name]

    return remembered


def _wrong_urls(data: dict[str, Any], *, saved: bool) -> list[Finding]:
    """What is wrong with the names of shards, where they are of the type that the schema wants."""
    findings = []
    for key in ("train", "validation", "test"):
        value = data.get(key, ())
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            continue  # already among the findings of the schema
        try:
            if saved:  # a model can be used without its shards, and what may be opened is asked when they are
                expand_braces(names)
            else:
                refuse_pipes(names)
        except DataError as error:
            findings.append(Finding(("data", key), str(error)))
    return findings


def _tables(value: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(k, v) for k, v in value.items() if isinstance(v, dict)] if isinstance(value, dict) else []


def _line(origin: str) -> tuple[str, int]:
    file, _, line = origin.rpartition(":")
    return (file, int(line)) if line.isdigit() else (origin, 0)
