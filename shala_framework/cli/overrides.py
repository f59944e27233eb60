"""Tables that `--set` has changed, checked."""

from collections.abc import Mapping
from typing import TypeVar

from shala_framework.errors import Problem, SpecError
from shala_framework.spec import structure
from shala_framework.spec.structuring import InvalidValueError, format_path

T = TypeVar("T")


def structure_set(table: Mapping[str, object], cls: type[T], path: tuple[str, ...] = ()) -> T:
    """A table as its class.

    Args:
        table: Its keys, changed ones included.
        cls: What it is to become.
        path: Where the table stands in a spec, for what is said of errors.

    Raises:
        SpecError: It is not valid; all that is wrong, as from `--set`.
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
