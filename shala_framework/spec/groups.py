"""Tables that stand for many: `[modality."view_{00..31}"]` is a table for each name that its braces stand for.

Within its options, text that has the very braces of the name has the member's value in their place: with
`fields = ["view_{00..31}.png"]`, view_07 reads the field view_07.png.
"""

import copy
import re
from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from braceexpand import braceexpand

from shala_framework.spec.structuring import Finding, KeyPath

_BRACES = re.compile(r"\{[^{}]*(?:,|\.\.)[^{}]*\}")


def members(pattern: str) -> dict[str, dict[str, str]]:
    """Names that a pattern stands for, and what each has in the place of each of the braces; itself without braces.

    Example:
        >>> members("view_{08..10}")
        {'view_08': {'{08..10}': '08'}, 'view_09': {'{08..10}': '09'}, 'view_10': {'{08..10}': '10'}}
    """
    braces = _BRACES.findall(pattern)
    found = {}
    for values in product(*(list(braceexpand(text)) for text in braces)):
        name = pattern
        for text, value in zip(braces, values, strict=True):
            name = name.replace(text, value, 1)
        found[name] = dict(zip(braces, values, strict=True))
    return found


def expand_tables(raw: dict[str, Any]) -> list[Finding]:
    """Replace the modality tables whose names have braces, in place; returns what is wrong with their names.

    Args:
        raw: A spec as TOML values.
    """
    tables = raw.get("modality")
    if not isinstance(tables, dict):
        return []
    findings: list[Finding] = []
    expanded: dict[str, Any] = {}
    for pattern, table in tables.items():
        if isinstance(table, dict) and "group" in table:
            findings.append(Finding(("modality", pattern, "group"), "expected no such key", "share = true makes one"))
        for name, values in members(pattern).items():
            if name in expanded or (name != pattern and name in tables):
                findings.append(Finding(("modality", pattern), f"expected names of its own, got {name!r} once more"))
            expanded[name] = _filled(table, values) if values else table
            if values and isinstance(table, dict) and table.get("share") is True:
                expanded[name]["group"] = pattern
    raw["modality"] = expanded
    return findings


def expand_lines(lines: Mapping[KeyPath, int], patterns: Iterable[str]) -> dict[KeyPath, int]:
    """Lines of keys, for the tables that braces stand for too."""
    found = dict(lines)
    for pattern in patterns:
        for name in members(pattern):
            for path, line in lines.items():
                if path[:2] == ("modality", pattern):
                    found["modality", name, *path[2:]] = line
    return found


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """A copy of a TOML value in whose texts the braces are filled in."""
    if isinstance(value, str):
        for text, replacement in values.items():
            value = value.replace(text, replacement)
        return value
    if isinstance(value, dict):
        return {key: _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return copy.copy(value)
