"""Reads a TOML spec, applies the stand-in's and the command line's overrides, and reports every error at its place."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli

from shala_framework.spec.groups import expand_lines, expand_tables
from shala_framework.spec.lines import key_lines
from shala_framework.spec.overrides import (
    Override,
    Places,
    apply_overrides,
    expanded_override,
    joined_path,
    leaves,
    parse_override,
)
from shala_framework.spec.schema import Data, Spec
from shala_framework.spec.structuring import (
    Finding,
    InvalidValueError,
    KeyPath,
    format_path,
    structure,
    unstructure,
)
from shala_framework.spec.toml import LimitError, parse_toml
from shala_framework.support.errors import MOST_PROBLEMS, DataError, PluginError, Problem, SpecError
from shala_framework.support.shard_names import any_exists, expand_braces, refuse_pipes
from shala_framework.support.urls import is_cache


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
    places = Places(str(path), expand_lines(lines, (str(p[1]) for p in lines if len(p) == 2 and p[0] == "modality")))
    wrong = []
    patterns: dict[str, str] = {}
    if isinstance(raw.get("modality"), dict):
        expanded = expand_tables(raw["modality"])
        raw["modality"], patterns = expanded.tables, expanded.patterns
        wrong = [places.problem(finding) for finding in expanded.findings]
    given: list[Override] = []
    for override in map(parse_override, overrides):
        try:
            given += expanded_override(override)
        except InvalidValueError as error:
            wrong += [_set_problem(finding) for finding in error.findings]
    base = copy.deepcopy(raw)
    problems = wrong + apply_overrides(base, given, places, patterns)
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
        for keys, value in leaves(stand_in):
            written: KeyPath = ("data", "stand_in", "set", *keys)
            try:
                own += expanded_override(Override(joined_path(keys), value, places.origin(written)))
            except ValueError as error:
                problems.append(places.problem(Finding(written, str(error))))
            except InvalidValueError as error:
                problems += [places.problem(attrs.evolve(finding, path=written)) for finding in error.findings]
        base = copy.deepcopy(raw)
        problems += wrong + apply_overrides(base, [*own, *given], places, patterns)
        loaded = _resolve(base, places, problems)
    return attrs.evolve(loaded, stand_in_used=stand_in is not None, text=text)


def resolve_spec(raw: dict[str, Any], source: str) -> LoadedSpec:
    """Check and complete a spec that is already JSON values, such as a checkpoint's.

    Somebody else may have saved it. Shards that it names are judged when they are opened, and its `data.cache` is used
    only where it is a folder that a run has made for copies of shards.

    Raises:
        SpecError: With every problem.
    """
    loaded = _resolve(raw, Places(source, {}), [], saved=True)
    data = loaded.spec.data
    if data.cache is None or is_cache(data.cache):
        return loaded
    return attrs.evolve(loaded, spec=attrs.evolve(loaded.spec, data=attrs.evolve(data, cache=None)))


def _set_problem(finding: Finding) -> Problem:
    return Problem(path=format_path(finding.path), message=finding.message, hint=finding.hint, origin="--set")


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
    places: Places,
    problems: list[Problem],
    *,
    saved: bool = False,
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
    load = _remembered(load_modality)
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


def _remembered(load: Callable[[str], Any]) -> Callable[[str], Any]:
    """A plugin's loader that looks for each name once, as a thousand tables may have the same."""
    known: dict[str, Any] = {}

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
