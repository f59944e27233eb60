"""Read a TOML spec, apply the overrides of the stand-in and the command line, and report every error with its place."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli

from shala_framework.spec.applying import Places, apply_overrides, changes_of
from shala_framework.spec.groups import expand_lines, expand_tables
from shala_framework.spec.lines import key_lines
from shala_framework.spec.methods import read_method
from shala_framework.spec.overrides import Override, parse_override, table_overrides
from shala_framework.spec.profiles import chosen_profile, problems_of_profiles
from shala_framework.spec.schema import Data, Spec
from shala_framework.spec.toml import LimitError, parse_toml
from shala_framework.support.errors import MOST_PROBLEMS, DataError, PluginError, Problem, SpecError
from shala_framework.support.shard_names import any_exists, expand_braces, refuse_pipes
from shala_framework.support.structuring import (
    Finding,
    InvalidValueError,
    KeyPath,
    format_path,
    structure,
    unstructure,
)
from shala_framework.support.urls import is_cache


@attrs.frozen
class LoadedSpec:
    """A valid spec and the objects built from its options.

    Attributes:
        spec: The spec with overrides applied and the defaults of every plugin's options filled in.
        options: Options object of each modality, by name.
        modality_classes: Modality class of each modality, by name.
        method_class: Class of the method of inference; None for the default.
        trackers: Class and options object of each tracker, by name; empty for a saved spec.
        stand_in_used: Whether the stand-in replaces the training data.
        profile: Name of the profile that is applied; None for none.
        text: Text of the file.
        origins: Returns where a key was written, such as "specs/a.toml:12" or "--set", for errors that appear later.
    """

    spec: Spec
    options: dict[str, Any]
    modality_classes: dict[str, Any]
    method_class: Any = None
    trackers: dict[str, tuple[Any, Any]] = attrs.field(factory=dict)
    stand_in_used: bool = False
    profile: str | None = None
    text: str = ""
    origins: Callable[[KeyPath], str] = attrs.field(default=lambda _: "", eq=False, repr=False)


def read_spec(
    path: Path, overrides: Sequence[str] = (), *, profile: str | None = None, use_stand_in: bool = True
) -> LoadedSpec:
    """Read, override, check and complete a spec.

    If `data.train` matches no file and the spec has [data.stand_in], the stand-in's `set` is applied first. The profile
    is applied after it, and the overrides last. The profiles that are not chosen are checked too.

    Args:
        path: The TOML file.
        overrides: Overrides in the form `KEY=VALUE`.
        profile: Name of the spec's profile to apply.
        use_stand_in: Whether the stand-in may replace missing shards.

    Returns:
        The spec with the classes and options of its modalities.

    Raises:
        SpecError: The spec is invalid, or has no such profile; it lists every problem with its line.
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
        if override.path[0] == "profile":
            hint = "--profile NAME applies one, and --set takes precedence over it"
            wrong.append(Problem(path="profile", message="cannot be set", hint=hint, origin="--set"))
            continue
        try:
            given += table_overrides(override)
        except InvalidValueError as error:
            wrong += [_set_problem(finding) for finding in error.findings]
    profiles = raw.pop("profile", {})
    chosen = changes_of(chosen_profile(profiles, profile, str(path)), ("profile", str(profile)), places, wrong)
    given = [*chosen, *given]
    wrong += problems_of_profiles(raw, profiles, places, patterns, _resolve)
    base = copy.deepcopy(raw)
    problems = wrong + apply_overrides(base, given, places, patterns)
    stand_in = _wanted_stand_in(base) if use_stand_in else None
    try:
        loaded = _resolve(base, places, problems)
    except SpecError as error:
        if stand_in is None:
            raise
        # Keep these: the stand-in's overrides may hide them until real shards are used. The line "and 9 more" is
        # dropped.
        problems = [problem for problem in error.problems if problem.origin]
    if stand_in is not None:
        own = changes_of(stand_in, ("data", "stand_in", "set"), places, problems)
        base = copy.deepcopy(raw)
        problems += wrong + apply_overrides(base, [*own, *given], places, patterns)
        loaded = _resolve(base, places, problems)
    return attrs.evolve(loaded, stand_in_used=stand_in is not None, profile=profile, text=text)


def resolve_spec(raw: dict[str, Any], source: str, own: Mapping[str, Any] | None = None) -> LoadedSpec:
    """Check and complete a spec that is given as JSON values, such as the one in a checkpoint.

    The spec may come from someone else. Its shards are checked when they are opened. Its `data.cache` is used only if
    it is a folder that a run has created for copies of shards.

    Args:
        raw: The values.
        source: Name of the file they are from, for messages.
        own: Classes of modalities and methods of the caller's own, by the name that the spec has for them.

    Raises:
        SpecError: The spec is invalid; it lists every problem.
    """
    loaded = _resolve(raw, Places(source, {}), [], saved=True, own=own or {})
    data = loaded.spec.data
    if data.cache is None or is_cache(data.cache):
        return loaded
    return attrs.evolve(loaded, spec=attrs.evolve(loaded.spec, data=attrs.evolve(data, cache=None)))


def _set_problem(finding: Finding) -> Problem:
    return Problem(path=format_path(finding.path), message=finding.message, hint=finding.hint, origin="--set")


def _wanted_stand_in(raw: dict[str, Any]) -> dict[str, Any] | None:
    """Return the stand-in's overrides if the training shards are missing and the stand-in's table is valid."""
    table = raw.get("data")
    if not isinstance(table, dict):
        return None
    try:
        data = structure({key: table[key] for key in ("train", "stand_in") if key in table}, Data)
        if data.stand_in is None or any_exists(data.train_names):
            return None
    except (InvalidValueError, DataError):  # `_resolve` reports it at its place
        return None
    return data.stand_in.set


def _resolve(
    raw: dict[str, Any],
    places: Places,
    problems: list[Problem],
    *,
    saved: bool = False,
    own: Mapping[str, Any] | None = None,
) -> LoadedSpec:
    from shala_framework.plugin.loading import (  # imports torch, so only after the TOML is read
        load_dataset,
        load_method,
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
            break  # a message lists no more, and looking up missing plugins takes time
        if not isinstance(plugin, str) or not isinstance(table.get("options", {}), dict):
            continue  # the schema's findings include it
        try:
            classes[name] = load(plugin)
            options[name] = structure(table.get("options", {}), classes[name].Options)
        except PluginError as error:
            findings.append(Finding((*where, "plugin"), str(error)))
        except InvalidValueError as error:
            findings += [attrs.evolve(f, path=(*where, "options", *f.path)) for f in error.findings]
    posterior = raw.get("posterior", {})
    method = read_method(posterior if isinstance(posterior, dict) else {}, _remembered(load_method, own or {}))
    findings += [attrs.evolve(f, path=("posterior", *f.path)) for f in method.findings]
    data: Any = raw.get("data")
    data = data if isinstance(data, dict) else {}
    stand_in = data.get("stand_in")
    if not saved and isinstance(stand_in, dict) and isinstance(stand_in.get("dataset"), str):
        where = ("data", "stand_in")
        try:
            dataset = load_dataset(stand_in["dataset"])
            if dataset.needs_source:
                message = f"expected a data set that generates its samples, got {stand_in['dataset']!r}"
                findings.append(Finding((*where, "dataset"), message, "this one needs a folder of raw files"))
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
    completed = attrs.evolve(spec, modality=tables, posterior=attrs.evolve(spec.posterior, options=method.options))
    return LoadedSpec(completed, options, classes, method.kind, trackers, origins=places.origin)


def _remembered(load: Callable[[str], Any], own: Mapping[str, Any]) -> Callable[[str], Any]:
    """Wrap a plugin loader so that it looks up each name once, as a thousand tables may use it, and never own names."""
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
    """Check the names of shards, if their type is what the schema expects."""
    findings = []
    for key in ("train", "validation", "test"):
        value = data.get(key, ())
        names = [value] if isinstance(value, str) else value
        if key == "train" and isinstance(names, (list, tuple)):
            names = [item.get("path") if isinstance(item, dict) else item for item in names]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            continue  # the schema's findings include it
        try:
            if saved:  # a model works without its shards; whether they may be opened is checked on opening
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
