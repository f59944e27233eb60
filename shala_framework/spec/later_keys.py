"""Keys that a later version added to the schema, and the values that runs without them were trained with.

A run's folder of an earlier version lacks such a key. It counts as if it had the value that describes what that version
did, so that the run can be resumed, taken from and compared.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from shala_framework.spec.schema import Spec
from shala_framework.spec.stages import MISSING_MEANS


def with_later_keys(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON values of a spec with the keys that an earlier version did not write."""
    return _completed(tables, Spec)


def without_later_keys(values: Any, kind: type) -> Any:
    """Return the JSON values of an attrs class without later keys that have the value of a missing one.

    Hashes are made of these, so that a run keeps its name when a version adds a key.
    """
    meant = dict(_meanings(kind))
    nested = _nested(kind)
    return {
        key: without_later_keys(value, nested[key]) if key in nested and isinstance(value, Mapping) else value
        for key, value in values.items()
        if not (key in meant and value == meant[key])
    }


def _completed(values: Mapping[str, Any], kind: type) -> dict[str, Any]:
    nested = _nested(kind)
    own = {
        key: _completed(value, nested[key]) if key in nested and isinstance(value, Mapping) else value
        for key, value in values.items()
    }
    return own | {key: value for key, value in _meanings(kind) if key not in own}


def _meanings(kind: type) -> Iterator[tuple[str, Any]]:
    for field in attrs.fields(kind):
        if MISSING_MEANS in field.metadata:
            yield field.name, field.metadata[MISSING_MEANS]


def _nested(kind: type) -> dict[str, type]:
    """Return the classes of the tables directly inside a class."""
    return {field.name: field.type for field in attrs.fields(kind) if field.type is not None and attrs.has(field.type)}
