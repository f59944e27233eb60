"""Validators for the fields of attrs option classes; each says what it expected and what it got.

Each is a Rule, which has the same condition as JSON Schema, for editors of specs.

Example:
    >>> import attrs
    >>> @attrs.frozen
    ... class Options:
    ...     frames: int = attrs.field(default=16, validator=at_least(1))
    >>> Options(frames=0)
    Traceback (most recent call last):
    ValueError: expected a number of at least 1, got 0
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

Validator = Callable[[Any, Any, Any], None]


@attrs.frozen(eq=False)
class Rule:
    """A validator whose condition is also known as JSON Schema.

    Attributes:
        check: The validator: raises ValueError for a value that it does not accept.
        schema: Keywords of JSON Schema that state the same condition.
    """

    check: Validator
    schema: Mapping[str, Any]

    def __call__(self, instance: Any, attribute: Any, value: Any) -> None:
        self.check(instance, attribute, value)


def at_least(minimum: float, *, at_most: float = math.inf) -> Rule:
    """Accept finite numbers >= minimum, up to a bound that no use meets, such as what fits into memory."""

    def check(_: Any, __: Any, value: float) -> None:
        if not value >= minimum:
            raise ValueError(f"expected a number of at least {minimum}, got {value!r}")
        _check_upper(value, at_most)

    return Rule(check, {"minimum": minimum, **_upper(at_most)})


def above(minimum: float, *, at_most: float = math.inf) -> Rule:
    """Accept finite numbers > minimum, up to a bound that no use meets."""

    def check(_: Any, __: Any, value: float) -> None:
        if not value > minimum:
            raise ValueError(f"expected a number above {minimum}, got {value!r}")
        _check_upper(value, at_most)

    return Rule(check, {"exclusiveMinimum": minimum, **_upper(at_most)})


def none_or_at_least(minimum: float, *, at_most: float = math.inf) -> Rule:
    """Accept 0, which leaves something out, and numbers >= minimum."""

    def check(_: Any, __: Any, value: float) -> None:
        if value != 0 and value < minimum:
            raise ValueError(f"expected 0 or a number of at least {minimum}, got {value!r}")
        _check_upper(value, at_most)

    return Rule(check, {"anyOf": [{"const": 0}, {"minimum": minimum}], **_upper(at_most)})


def _upper(at_most: float) -> dict[str, float]:
    return {} if math.isinf(at_most) else {"maximum": at_most}


def _check_upper(value: float, at_most: float) -> None:
    if value > at_most:
        raise ValueError(f"expected a number of at most {at_most:,}, got {value!r}")
    if math.isinf(value):
        raise ValueError(f"expected a finite number, got {value!r}")


def between(minimum: float, maximum: float) -> Rule:
    """Accept numbers in [minimum, maximum]."""

    def check(_: Any, __: Any, value: float) -> None:
        if not minimum <= value <= maximum:
            raise ValueError(f"expected a number from {minimum} to {maximum}, got {value!r}")

    return Rule(check, {"minimum": minimum, "maximum": maximum})


def each(validator: Validator) -> Rule:
    """Accept sequences whose every element `validator` accepts; the first one that it refuses is named by its index."""

    def check(instance: Any, attribute: Any, values: Sequence[Any]) -> None:
        for index, value in enumerate(values):
            try:
                validator(instance, attribute, value)
            except ValueError as error:
                raise ValueError(f"[{index}]: {error}") from None

    return Rule(check, {"items": getattr(validator, "schema", {})})


def _check_not_empty(_: Any, __: Any, value: Any) -> None:
    """Accept strings, tuples and tables with at least one element."""
    if not value:
        raise ValueError(f"expected at least one element, got {value!r}")


not_empty = Rule(_check_not_empty, {"minLength": 1, "minItems": 1, "minProperties": 1})


def multiple_of(divisor: int) -> Rule:
    """Accept whole multiples of `divisor`."""

    def check(_: Any, __: Any, value: int) -> None:
        if value % divisor:
            below = value - value % divisor
            raise ValueError(f"expected a multiple of {divisor}, such as {below} or {below + divisor}, got {value!r}")

    return Rule(check, {"multipleOf": divisor})
