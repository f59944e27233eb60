"""Validators for the fields of attrs option classes; each says what it expected and what it got.

    frames: int = attrs.field(default=16, validator=at_least(1))
"""

from collections.abc import Callable, Sequence
from typing import Any

Validator = Callable[[Any, Any, Any], None]


def at_least(minimum: float) -> Validator:
    """Accept numbers >= minimum."""

    def check(_: Any, __: Any, value: float) -> None:
        if not value >= minimum:
            raise ValueError(f"expected a number of at least {minimum}, got {value!r}")

    return check


def above(minimum: float) -> Validator:
    """Accept numbers > minimum."""

    def check(_: Any, __: Any, value: float) -> None:
        if not value > minimum:
            raise ValueError(f"expected a number above {minimum}, got {value!r}")

    return check


def between(minimum: float, maximum: float) -> Validator:
    """Accept numbers in [minimum, maximum]."""

    def check(_: Any, __: Any, value: float) -> None:
        if not minimum <= value <= maximum:
            raise ValueError(f"expected a number from {minimum} to {maximum}, got {value!r}")

    return check


def each(validator: Validator) -> Validator:
    """Accept sequences whose every element `validator` accepts."""

    def check(instance: Any, attribute: Any, values: Sequence[Any]) -> None:
        for value in values:
            validator(instance, attribute, value)

    return check


def not_empty(_: Any, __: Any, value: Sequence[Any]) -> None:
    """Accept strings, tuples and tables with at least one element."""
    if not value:
        raise ValueError(f"expected at least one element, got {value!r}")
