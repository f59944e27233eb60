"""Overrides: values of the command line, or of a stand-in, that replace what a spec's file says."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import attrs
import tomli

from shala_framework.spec.groups import MOST_MEMBERS, expand_tables, set_groups, too_many
from shala_framework.spec.structuring import Finding, InvalidValueError, KeyPath, describe_value, format_path
from shala_framework.spec.toml import LimitError, parse_toml
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.hints import shortened


@attrs.frozen
class Override:
    """One value that replaces what the file says.

    Attributes:
        path: The key.
        value: Its TOML value.
        origin: Where it was written.
        patterns: Name of each modality that the key or the value names by braces, to that name with its braces.
    """

    path: KeyPath
    value: Any
    origin: str
    patterns: dict[str, str] = attrs.field(factory=dict)


class Places:
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


def expanded_override(override: Override) -> list[Override]:
    """An override of modality tables as one of each table that it reaches, under the rules of a file's tables.

    Raises:
        InvalidValueError: A file would be refused for the same.
    """
    head, *keys = override.path
    tables = override.value
    for key in reversed(keys):
        tables = {key: tables}
    if head != "modality" or not isinstance(tables, dict):
        return [override]
    expanded = expand_tables(tables)
    if expanded.findings:
        raise InvalidValueError(expanded.findings)
    if not keys:
        return [attrs.evolve(override, value=expanded.tables, patterns=expanded.patterns)]
    found = []
    for name, value in expanded.tables.items():
        for key in keys[1:]:
            value = value[key]
        found.append(attrs.evolve(override, path=(head, name, *keys[1:]), value=value, patterns=expanded.patterns))
    return found


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


def joined_path(keys: KeyPath) -> KeyPath:
    """The path of nested keys, each of them dotted or, below `modality`, a name with braces.

    Raises:
        ValueError: One is neither.
    """
    path: KeyPath = ()
    for key in map(str, keys):
        try:
            path += _dotted(key)
        except ValueError:
            if path != ("modality",):
                raise ValueError(f"expected a dotted key, got {shortened(key)}") from None
            path += (key,)
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


def leaves(table: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value of nested tables, so that keys with and without quotes around their dots mean the same."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def apply_overrides(
    raw: dict[str, Any], overrides: Iterable[Override], places: Places, patterns: Mapping[str, str]
) -> list[Problem]:
    """Apply overrides in place, and name the groups of the tables that share after them.

    Args:
        raw: A spec as TOML values, without braces in the names of modalities.
        overrides: In their order, without braces in the names of modalities.
        places: Notes where each value was written.
        patterns: Name to the name with braces that it came from, of the file's modalities.
    """
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
            table[override.path[-1]] = copy.deepcopy(override.value)  # later ones may reach into it
            places.override(override.path, override.origin)
            if override.path == ("modality",):
                patterns = override.patterns
            elif len(override.path) == 2:  # a whole table, which is no more the one that the file's braces stand for
                patterns = {**patterns, **override.patterns}
            else:
                patterns = {**override.patterns, **patterns}
    tables = raw.get("modality")
    if isinstance(tables, dict):
        set_groups(tables, patterns)
        if len(tables) > MOST_MEMBERS:
            name = list(tables)[MOST_MEMBERS]
            problems.append(Problem(path="modality", message=too_many(name), origin=places.origin(("modality", name))))
    return problems
