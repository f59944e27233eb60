"""Check a table that `--set` has changed."""

from collections.abc import Mapping
from typing import TypeVar

from shala_framework.spec import structure
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.structuring import InvalidValueError, format_path

T = TypeVar("T")


def structure_set(table: Mapping[str, object], cls: type[T], path: tuple[str, ...] = ()) -> T:
    """Build the attrs class of a table.

    Args:
        table: Keys and values of the table, including changed ones.
        cls: Class to build.
        path: Path of the table in a spec, for messages.

    Raises:
        SpecError: The table is invalid. The error lists every problem, with `--set` as its origin.
    """
    try:
        return structure(dict(table), cls)
    except InvalidValueError as error:
        raise SpecError(
            [
                Problem(path=format_path((*path, *f.path)), message=f.message, hint=f.hint, origin="--set")
                for f in error.findings
            ]
        ) from error
