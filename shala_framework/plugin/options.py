"""Validators for the fields of attrs option classes; each says what it expected and what it got.

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
from collections.abc import Callable, Sequence
from typing import Any

Validator = Callable[[Any, Any, Any], None]


def at_least(minimum: float, *, at_most: float = math.inf) -> Validator:
    """Accept finite numbers >= minimum, up to a bound that no use meets, such as what fits into memory."""

    def check(_: Any, __: Any, value: float) -> None:
        if not value >= minimum:
            raise ValueError(f"expected a number of at least {minimum}, got {value!r}")
        _check_upper(value, at_most)

    return check


def above(minimum: float, *, at_most: float = math.inf) -> Validator:
    """Accept finite numbers > minimum, up to a bound that no use meets."""

    def check(_: Any, __: Any, value: float) -> None:
        if not value > minimum:
            raise ValueError(f"expected a number above {minimum}, got {value!r}")
        _check_upper(value, at_most)

    return check


def none_or_at_least(minimum: float, *, at_most: float = math.inf) -> Validator:
    """Accept 0, which leaves something out, and numbers >= minimum."""

    def check(_: Any, __: Any, value: float) -> None:
        if value != 0 and value < minimum:
            raise ValueError(f"expected 0 or a number of at least {minimum}, got {value!r}")
        _check_upper(value, at_most)

    return check


def _check_upper(value: float, at_most: float) -> None:
    if value > at_most:
        raise ValueError(f"expected a number of at most {at_most:,}, got {value!r}")
    if math.isinf(value):
        raise ValueError(f"expected a finite number, got {value!r}")


def between(minimum: float, maximum: float) -> Validator:
    """Accept numbers in [minimum, maximum]."""

    def check(_: Any, __: Any, value: float) -> None:
        if not minimum <= value <= maximum:
            raise ValueError(f"expected a number from {minimum} to {maximum}, got {value!r}")

    return check


def each(validator: Validator) -> Validator:
    """Accept sequences whose every element `validator` accepts; the first one that it refuses is named by its index."""

    def check(instance: Any, attribute: Any, values: Sequence[Any]) -> None:
        for index, value in enumerate(values):
            try:
                validator(instance, attribute, value)
            except ValueError as error:
                raise ValueError(f"[{index}]: {error}") from None

    return check


def not_empty(_: Any, __: Any, value: Any) -> None:
    """Accept strings, tuples and tables with at least one element."""
    if not value:
        raise ValueError(f"expected at least one element, got {value!r}")


def multiple_of(divisor: int) -> Validator:
    """Accept whole multiples of `divisor`."""

    def check(_: Any, __: Any, value: int) -> None:
        if value % divisor:
            below = value - value % divisor
            raise ValueError(f"expected a multiple of {divisor}, such as {below} or {below + divisor}, got {value!r}")

    return check
