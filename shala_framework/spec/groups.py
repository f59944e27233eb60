"""Expand modality tables with braces: `[modality."view_{00..31}"]` stands for one table per name.

In the options, text that contains the same braces as the name is filled in with the value of each table. With `fields =
["view_{00..31}.png"]`, view_07 reads the field view_07.png.
"""

import copy
import math
import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

import attrs
from braceexpand import braceexpand

from shala_framework.support.hints import shortened
from shala_framework.support.shard_names import count_names
from shala_framework.support.structuring import Finding, InvalidValueError, KeyPath

MOST_MEMBERS = 1_000  # modality tables, after expansion; each is a network
MOST_FILLED = 5_000_000  # characters and values in all tables that one name expands to
MOST_LINES = 1_000_000  # keys in all tables that one name expands to
MOST_CHARACTERS = 200  # characters of a name with braces
_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")


def members(pattern: str) -> dict[str, dict[str, str]]:
    """Expand a name with braces to each name it stands for and the values of its braces.

    A name without braces gives itself, with no values.

    Raises:
        InvalidValueError: The braces are unbalanced or stand for too many tables.

    Example:
        >>> members("view_{08..10}")
        {'view_08': {'{08..10}': '08'}, 'view_09': {'{08..10}': '09'}, 'view_10': {'{08..10}': '10'}}
    """
    if "{" not in pattern:
        return {pattern: {}}
    if len(pattern) > MOST_CHARACTERS:
        raise InvalidValueError([Finding((), f"expected a name of at most {MOST_CHARACTERS} characters, got more")])
    braces = _BRACES.findall(pattern)
    try:
        if math.prod(map(count_names, braces)) > MOST_MEMBERS:
            message = f"expected braces that stand for at most {MOST_MEMBERS:,} tables, got more in {pattern!r}"
            raise InvalidValueError([Finding((), message)])
        choices = [list(braceexpand(text)) for text in braces]
    except ValueError as error:
        raise InvalidValueError([Finding((), f"expected balanced braces, got {shortened(pattern)}")]) from error
    found = {}
    for values in product(*choices):
        name = pattern
        for text, value in zip(braces, values, strict=True):
            name = name.replace(text, value, 1)
        found[name] = dict(zip(braces, values, strict=True))
    return found


@attrs.define
class Expanded:
    """Modality tables of a file or an override after the expansion of their names.

    Attributes:
        tables: Tables by name.
        patterns: The name with braces that each expanded name came from.
        findings: Everything that is wrong, each with the path of a key of the spec.
    """

    tables: dict[str, Any] = attrs.field(factory=dict)
    patterns: dict[str, str] = attrs.field(factory=dict)
    findings: list[Finding] = attrs.field(factory=list)


def expand_tables(tables: Mapping[str, Any]) -> Expanded:
    """Replace each modality table whose name has braces by the tables it stands for.

    Args:
        tables: TOML values by name, from a file or from an override.
    """
    expanded = Expanded()
    findings = expanded.findings
    for pattern, table in tables.items():
        if isinstance(table, dict) and "group" in table:
            findings.append(Finding(("modality", pattern, "group"), "not a key of a spec", "set share = true"))
        try:
            named = members(pattern)
        except InvalidValueError as error:
            findings += [attrs.evolve(finding, path=("modality", pattern)) for finding in error.findings]
            continue
        if len(expanded.tables) + len(named) > MOST_MEMBERS:
            findings.append(Finding(("modality", pattern), too_many(pattern)))
            break
        if len(named) > 1 and len(named) * (size := _size(table)) > MOST_FILLED:
            message = f"expected a shorter table for {len(named):,} names, got one of {size:,} characters and values"
            findings.append(Finding(("modality", pattern), message))
            continue
        for name, values in named.items():
            if name in expanded.tables or (name != pattern and name in tables):
                findings.append(Finding(("modality", pattern), f"expected distinct names, got {name!r} twice"))
            expanded.tables[name] = _filled(table, values) if values else table
            if values:
                expanded.patterns[name] = pattern
    return expanded


def too_many(name: str) -> str:
    """Return the message for a table that exceeds the number a spec may have."""
    return f"expected at most {MOST_MEMBERS:,} modality tables in all, got more with {shortened(name)}"


def set_groups(tables: Mapping[str, Any], patterns: Mapping[str, str]) -> None:
    """Set `group` in every table with share = true, in place, after all overrides are applied.

    Args:
        tables: Modality tables after the expansion of their names.
        patterns: The name with braces that each expanded name came from.
    """
    for name, pattern in patterns.items():
        table = tables.get(name)
        if isinstance(table, dict) and table.get("share") is True:
            table["group"] = pattern


def expand_lines(lines: Mapping[KeyPath, int], patterns: Iterable[str]) -> dict[KeyPath, int]:
    """Return the line of every key, including those in tables that braces stand for."""
    found = dict(lines)
    inside: dict[Any, list[tuple[KeyPath, int]]] = {}
    for path, line in lines.items():
        if len(path) >= 2 and path[0] == "modality":
            inside.setdefault(path[1], []).append((path, line))
    tables = 0
    for pattern in patterns:
        try:
            named = members(pattern)
        except InvalidValueError:  # `expand_tables` reports it
            continue
        if not any(named.values()):
            continue  # a name without braces; its lines are known
        tables += len(named)
        if tables > MOST_MEMBERS or len(named) * len(inside.get(pattern, ())) > MOST_LINES:
            break  # `expand_tables` reports it, at the line of the pattern
        for name in named:
            for path, line in inside.get(pattern, ()):
                found["modality", name, *path[2:]] = line
    return found


def _size(value: Any) -> int:
    """Count the characters and values of a TOML value."""
    if isinstance(value, str):
        return 1 + len(value)
    if isinstance(value, dict):
        return 1 + sum(len(key) + _size(inner) for key, inner in value.items())
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """Copy a TOML value and fill in the braces in its strings."""
    if isinstance(value, str):
        for text, replacement in values.items():
            value = value.replace(text, replacement)
        return value
    if isinstance(value, dict):
        return {key: _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return copy.copy(value)
