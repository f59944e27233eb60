"""Overrides of single keys of a spec, such as `--set train.prior.steps=2000`."""

from typing import Any

import attrs
import tomli

from shala_framework.spec.groups import members
from shala_framework.spec.toml import LimitError, parse_toml
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.hints import shortened
from shala_framework.support.structuring import KeyPath, format_path


@attrs.frozen
class Override:
    """A value for the key at `path` that replaces the one in the file; `origin` says where it was written."""

    path: KeyPath
    value: Any
    origin: str


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
    """Expand an override of a table with braces in its name to one override per table.

    Raises:
        InvalidValueError: The braces stand for too many tables.
    """
    head, *rest = override.path
    if head != "modality" or not rest:
        return [override]
    return [attrs.evolve(override, path=(head, name, *rest[1:])) for name in members(str(rest[0]))]


def split_key(key: str) -> KeyPath:
    """Split a dotted key. Raises ValueError (TOMLDecodeError is a subclass) for anything else."""
    table: Any = parse_toml(f"{key} = 'end'")
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
