"""Apply overrides to the tables of a spec, and keep where each value was written."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any

import attrs

from shala_framework.spec.groups import MOST_MEMBERS, set_groups, too_many
from shala_framework.spec.overrides import Override, join_keys, table_overrides
from shala_framework.support.errors import Problem
from shala_framework.support.structuring import Finding, InvalidValueError, KeyPath, describe_value, format_path


class Places:
    """Record where each key was written: an override's origin, or the line of the nearest enclosing key in the file.

    A table without a line in the file comes from the override of a key inside it.
    """

    def __init__(self, file: str, lines: dict[KeyPath, int]) -> None:
        self.file, self.lines = file, lines
        self._overrides: dict[KeyPath, tuple[int, str]] = {}
        self._inside: dict[KeyPath, str] = {}
        self._number = count()

    def override(self, path: KeyPath, origin: str) -> None:
        """Record an override. It also replaces everything below its path."""
        self._overrides[path] = (next(self._number), origin)
        for length in range(1, len(path)):
            self._inside.setdefault(path[:length], origin)

    def origin(self, path: KeyPath) -> str:
        heads = [path[:length] for length in range(len(path), 0, -1)]
        if found := [self._overrides[head] for head in heads if head in self._overrides]:
            return max(found)[1]  # the last one, because it replaced what was written inside it
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


def changes_of(table: Mapping[str, Any], where: KeyPath, places: Places, problems: list[Problem]) -> list[Override]:
    """Return the overrides that a table of the file stands for.

    Args:
        table: Keys of the spec, nested or dotted.
        where: Place of the table.
        places: Knows where each key was written.
        problems: Receives what is wrong with keys.
    """
    found: list[Override] = []
    for keys, value in _leaves(table):
        written: KeyPath = (*where, *keys)
        try:
            found += table_overrides(Override(join_keys(keys), value, places.origin(written)))
        except ValueError as error:
            problems.append(places.problem(Finding(written, str(error))))
        except InvalidValueError as error:
            problems += [places.problem(attrs.evolve(finding, path=written)) for finding in error.findings]
    return found


def apply_overrides(
    raw: dict[str, Any], overrides: Iterable[Override], places: Places, patterns: Mapping[str, str]
) -> list[Problem]:
    """Apply overrides in place, then set the groups of the tables that share.

    Args:
        raw: A spec as TOML values, after the expansion of modality names.
        overrides: Overrides in their order, also expanded.
        places: Records where each value was written.
        patterns: The name with braces that each of the file's expanded names came from.
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
            elif len(override.path) == 2:  # a whole table replaces the one from the file's braces
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


def _leaves(table: Mapping[str, Any], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield every leaf of nested tables, so that dotted keys mean the same with and without quotes."""
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value
