"""Validators of the names and patterns in a spec."""

import re
from typing import Any

from shala_framework.support.hints import shortened
from shala_framework.support.structuring import Finding, InvalidValueError

LONGEST_NAME = 64  # characters of a modality's name; a file name joins several names and a key
LONGEST_RUN = 200  # characters of a run's name; file systems limit file names to 255


def names_files(_: Any, __: Any, name: str, most: int = LONGEST_RUN) -> None:
    """Validator: a name of letters, digits, '_' and '-' that is short enough for a file name."""
    if not name or not all(c.isalnum() or c in "_-" for c in name):
        raise ValueError(f"expected letters, digits, '_' and '-' only (it names files), got {shortened(name)}")
    if len(name) > most:
        raise ValueError(f"expected at most {most} characters (it names files), got {shortened(name)}")


def _wrong_names(tables: dict[str, Any]) -> list[Finding]:
    """Return a finding for each table whose name cannot be part of a file's name."""
    findings = []
    for name in tables:
        try:
            names_files(None, None, name, LONGEST_NAME)
        except ValueError as error:
            findings.append(Finding((name,), str(error)))
    return findings


def modality_tables(_: Any, __: Any, tables: dict[str, Any]) -> None:
    """Validator: at least one table, valid names, and shared networks only for names with braces."""
    if not tables:
        raise ValueError("expected at least one [modality.<name>] table, got none")
    findings = _wrong_names(tables)
    for name, table in tables.items():
        if table.share and not table.group:
            hint = 'such as [modality."view_{00..31}"]'
            findings.append(Finding((name, "share"), "only a table with braces in its name can share networks", hint))
    if findings:
        raise InvalidValueError(findings)


def profile_tables(_: Any, __: Any, tables: dict[str, Any]) -> None:
    """Validator: valid names, and no profile inside another."""
    findings = _wrong_names(tables)
    for name, table in tables.items():
        findings += [
            Finding((name, key), "a profile cannot change this key")
            for key in table
            if str(key).partition(".")[0].strip(" \"'") in ("profile", "schema")
        ]
    if findings:
        raise InvalidValueError(findings)


def regular_expression(_: Any, __: Any, pattern: str) -> None:
    """Validator: a regular expression in Python's syntax."""
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"expected a regular expression, got {shortened(pattern)}: {error}") from None
