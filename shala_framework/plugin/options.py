"""Validators for the fields of attrs option classes: those of attrs, worded like a spec's other errors.

attrs says "'frames' must be >= 1: 0". These validators say what they expected and what they got, and check both bounds
of a number at once. attrs has no counterpart of `each` and `multiple_of` that names the element or the cure. Each
validator is a Rule, which also states its condition as JSON Schema, for editors of specs.

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
from attrs import validators

Validator = Callable[[Any, Any, Any], None]


@attrs.frozen(eq=False)
class Rule:
    """A validator with its condition as JSON Schema.

    Attributes:
        check: Validator, which raises ValueError for a value that it refuses.
        schema: Keywords of JSON Schema that state the same condition.
    """

    check: Validator
    schema: Mapping[str, Any]

    def __call__(self, instance: Any, attribute: Any, value: Any) -> None:
        self.check(instance, attribute, value)


def at_least(minimum: float, *, at_most: float = math.inf) -> Rule:
    """Accept finite numbers >= minimum, up to an upper bound that no real use reaches."""
    lower = _worded(validators.ge(minimum), f"a number of at least {minimum}")
    return Rule(validators.and_(lower, _upper(at_most)), {"minimum": minimum, **_maximum(at_most)})


def above(minimum: float, *, at_most: float = math.inf) -> Rule:
    """Accept finite numbers > minimum, up to an upper bound that no real use reaches."""
    check = validators.and_(_worded(validators.gt(minimum), f"a number above {minimum}"), _upper(at_most))
    return Rule(check, {"exclusiveMinimum": minimum, **_maximum(at_most)})


def none_or_at_least(minimum: float, *, at_most: float = math.inf) -> Rule:
    """Accept 0, which skips something, and finite numbers >= minimum, up to an upper bound that no real use reaches."""
    lower = _worded(validators.ge(minimum), f"0 or a number of at least {minimum}")

    def check(instance: Any, attribute: Any, value: float) -> None:
        if value != 0:
            lower(instance, attribute, value)

    schema = {"anyOf": [{"const": 0}, {"minimum": minimum}], **_maximum(at_most)}
    return Rule(validators.and_(check, _upper(at_most)), schema)


def between(minimum: float, maximum: float) -> Rule:
    """Accept numbers in [minimum, maximum]."""
    both = validators.and_(validators.ge(minimum), validators.le(maximum))
    check = _worded(both, f"a number from {minimum} to {maximum}")
    return Rule(check, {"minimum": minimum, "maximum": maximum})


def each(validator: Validator) -> Rule:
    """Accept sequences if `validator` accepts every element. The error names the first refused element by its index."""

    def check(instance: Any, attribute: Any, values: Sequence[Any]) -> None:
        for index, value in enumerate(values):
            try:
                validator(instance, attribute, value)
            except ValueError as error:
                raise ValueError(f"[{index}]: {error}") from None

    return Rule(check, {"items": getattr(validator, "schema", {})})


def multiple_of(divisor: int) -> Rule:
    """Accept whole multiples of `divisor`."""

    def check(_: Any, __: Any, value: int) -> None:
        if value % divisor:
            below = value - value % divisor
            raise ValueError(f"expected a multiple of {divisor}, such as {below} or {below + divisor}, got {value!r}")

    return Rule(check, {"multipleOf": divisor})


def _worded(validator: Validator, expected: str) -> Validator:
    """Wrap a validator of attrs so that its error says what was expected and what was given."""

    def check(instance: Any, attribute: Any, value: Any) -> None:
        try:
            validator(instance, attribute, value)
        except (ValueError, TypeError):
            raise ValueError(f"expected {expected}, got {value!r}") from None

    return check


def _upper(at_most: float) -> Validator:
    """Accept finite numbers <= at_most."""
    finite = _worded(validators.lt(math.inf), "a finite number")
    return validators.and_(_worded(validators.le(at_most), f"a number of at most {at_most:,}"), finite)


def _maximum(at_most: float) -> dict[str, float]:
    return {} if math.isinf(at_most) else {"maximum": at_most}


not_empty = Rule(
    _worded(validators.min_len(1), "at least one element"), {"minLength": 1, "minItems": 1, "minProperties": 1}
)
"""Accept strings, tuples and tables with at least one element."""
