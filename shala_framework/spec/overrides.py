"""Overrides of single keys of a spec, such as `--set train.prior.steps=2000`."""

import re
from typing import Any, Final

import attrs
import tomli

from shala_framework.spec.groups import expand_tables
from shala_framework.spec.toml import LimitError, parse_toml
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.hints import shortened
from shala_framework.support.structuring import InvalidValueError, KeyPath, format_path

BRACES: Final = re.compile(r"(?<![\w-])[\w-]*(\{[^{}]*\}[\w-]*)+")  # a name for several modalities


@attrs.frozen
class Override:
    """A value that replaces the one in the file.

    Attributes:
        path: The key.
        value: The TOML value.
        origin: Where the override was written.
        patterns: The name with braces that each modality's name was expanded from.
    """

    path: KeyPath
    value: Any
    origin: str
    patterns: dict[str, str] = attrs.field(factory=dict)


def parse_override(text: str) -> Override:
    """Parse a `KEY=VALUE` argument; VALUE is TOML, or a string without quotes.

    Raises:
        SpecError: The text has no `=`, or KEY is not a dotted key.
    """
    key, equals, value = text.partition("=")
    hint = "such as --set train.prior.steps=2000"
    if not equals:
        message = f"expected KEY=VALUE, got {shortened(text)}"
        raise SpecError([Problem(path="", message=message, hint=hint, origin="--set")])
    try:
        path = split_key(key)
    except ValueError:
        message = f"expected a dotted key before '=', got {shortened(key)}"
        raise SpecError([Problem(path="", message=message, hint=hint, origin="--set")]) from None
    try:
        return Override(path, _toml_value(value.strip()), "--set")
    except LimitError as error:
        raise SpecError([Problem(path=format_path(path), message=str(error), origin="--set")]) from None


def table_overrides(override: Override) -> list[Override]:
    """Expand an override of modality tables to one override per table, under the rules for tables in a file.

    Raises:
        InvalidValueError: A file with such a table would be refused.
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


def join_keys(keys: KeyPath) -> KeyPath:
    """Join nested keys to one path.

    Raises:
        ValueError: One of them is not a dotted key.
    """
    path: KeyPath = ()
    for key in map(str, keys):
        try:
            path += split_key(key)
        except ValueError:
            raise ValueError(f"expected a dotted key, got {shortened(key)}") from None
    return path


def split_key(key: str) -> KeyPath:
    """Split a dotted key, in which names with braces need no quotes: a shell removes them from `modality."m{0..2}"`.

    Raises:
        ValueError: It is not a dotted key (TOMLDecodeError is a subclass).
    """
    quoted = key if '"' in key or "'" in key else BRACES.sub(r'"\g<0>"', key)
    table: Any = parse_toml(f"{quoted} = 'end'")
    path: KeyPath = ()
    while isinstance(table, dict):
        ((name, table),) = table.items()
        path = (*path, name)
    if table != "end":
        raise ValueError(f"expected a dotted key, got {key!r}")
    return path


def _toml_value(text: str) -> Any:
    """Parse a TOML value. Text that is not TOML, such as a path or a word without quotes, is returned unchanged.

    Raises:
        LimitError: The value is nested too deep or too long.
    """
    try:
        table = parse_toml(f"value = {text}")
    except tomli.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text
