"""Every number in a spec has generous bounds, so nonsense is an error at its line."""

import math
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import attrs
import pytest

from shala_framework.plugin.loading import installed_offers, load_offer
from shala_framework.plugin.options import above, at_least, between, each, multiple_of, none_or_at_least, not_empty
from shala_framework.spec.schema import Spec
from shala_framework.support.errors import PluginError
from shala_framework.support.hints import nearest, shortened
from shala_framework.support.structuring import InvalidValueError, structure


def classes(kind: Any) -> Iterator[type]:
    """Yield a class of a spec and the classes of its nested tables."""
    if attrs.has(kind):
        yield kind
        for field in attrs.fields(attrs.resolve_types(kind)):
            yield from classes(field.type)
    else:
        for inner in get_args(kind):
            yield from classes(inner)


def offered() -> Iterator[type]:
    """Options classes of every installed plugin, and of the tables within them."""
    for offer in installed_offers():
        try:
            yield from classes(load_offer(offer.name).Options)
        except PluginError:
            continue  # other tests cover broken ones


def numeric(kind: Any) -> set[type]:
    """Return the number types that occur anywhere in a field's type."""
    if kind in (int, float):
        return {kind}
    return set().union(*map(numeric, get_args(kind))) if get_args(kind) and "Literal" not in repr(kind) else set()


def written(kind: Any, value: float) -> Any:
    """Wrap a value in as many arrays as a field's type requires, each with two different elements."""
    if get_origin(kind) is tuple:
        first = get_args(kind)[0]
        return [written(first, value), written(first, value - 1 if isinstance(value, int) else value)]
    for inner in get_args(kind):
        if numeric(inner):
            return written(inner, value)
    return value


KEYS = [
    pytest.param(cls, field, id=f"{cls.__qualname__}.{field.name}")
    for cls in dict.fromkeys([*classes(Spec), *offered()])
    for field in attrs.fields(attrs.resolve_types(cls))
    if numeric(field.type)
]


@pytest.mark.parametrize(("cls", "field"), KEYS)
def test_no_number_is_without_bounds(cls, field):
    """No number in a spec's tables or a plugin's options accepts huge, negative or non-finite values."""
    extremes = [2**62, -(2**62)] if int in numeric(field.type) else []
    extremes += [1e300, -1e300, math.inf, -math.inf, math.nan] if float in numeric(field.type) else []
    if field.name.endswith("seed"):
        extremes = [2**63, 2**64, -1]
    for value in extremes:
        with pytest.raises(InvalidValueError) as caught:
            structure({field.name: written(field.type, value)}, cls)
        assert any(finding.path[:1] in ((field.name,), ()) for finding in caught.value.findings), value
        if not isinstance(value, float) or get_origin(field.type) is tuple:
            continue
        with pytest.raises(ValueError, match="expected"):  # without the spec's reader, as in Python code
            field.validator(None, field, value)


def test_long_lists_of_names_are_cut():
    """A message with a hundred mistakes stays readable with a hundred plugins installed."""
    assert nearest("qqq", [f"p{number:02}" for number in range(22)], "plugins").endswith("p18, p19 and 2 more")
    assert nearest("qqq", ["a", "b"], "plugins") == "known plugins: a, b"


def test_there_are_many_of_them():
    assert len(KEYS) > 70


@pytest.mark.parametrize("text", ["x" * 101, "\x1b" * 200])
def test_long_texts_of_messages_are_cut(text):
    assert len(shortened(text)) < 450
    assert f"({len(text)} characters)" in shortened(text)


@attrs.frozen
class Options:
    """One option for each validator that plugins use."""

    lowest: float = attrs.field(default=1, validator=at_least(1, at_most=1_024))
    positive: float = attrs.field(default=1, validator=above(0))
    share: float = attrs.field(default=0, validator=between(0, 0.9))
    skipped: float = attrs.field(default=0, validator=none_or_at_least(2))
    filled: Any = attrs.field(default="a", validator=not_empty)
    several: Any = attrs.field(default=(), validator=each(above(0)))
    even: int = attrs.field(default=2, validator=multiple_of(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lowest": 0}, "expected a number of at least 1, got 0"),
        ({"lowest": 1_025}, "expected a number of at most 1,024, got 1025"),
        ({"lowest": "1"}, "expected a number of at least 1, got '1'"),
        ({"lowest": math.nan}, "expected a number of at least 1, got nan"),
        ({"positive": 0.0}, "expected a number above 0, got 0.0"),
        ({"positive": math.inf}, "expected a finite number, got inf"),
        ({"share": 1}, "expected a number from 0 to 0.9, got 1"),
        ({"skipped": 1}, "expected 0 or a number of at least 2, got 1"),
        ({"skipped": -1}, "expected 0 or a number of at least 2, got -1"),
        ({"filled": ()}, "expected at least one element, got ()"),
        ({"filled": None}, "expected at least one element, got None"),
        ({"several": (1, 2, 0)}, "[2]: expected a number above 0, got 0"),
        ({"even": 3}, "expected a multiple of 2, such as 2 or 4, got 3"),
    ],
)
def test_a_validator_says_what_it_expected_and_got(changes, message):
    """Errors have the same wording from Python and from a spec, instead of attrs' own."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (compared below, whole)
        Options(**changes)
    assert str(caught.value) == message
    assert Options() == Options(skipped=0)
