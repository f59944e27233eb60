"""Read the names of classes from a field: plain text, or JSON."""

import json
from collections.abc import Collection, Sequence
from typing import Any

import attrs

from shala_framework.plugin import DataError

FORMATS = ("cls", "txt", "json")
LONGEST_FIELD = 1 << 20  # bytes; a field of labels is far smaller
LONGEST_NAME = 200  # characters; a longer text is no name of a class
_SHOWN = 60


def format_of(field: str) -> str:
    """Return the last part of a field's name, which is its format."""
    return field.rpartition(".")[2]


@attrs.frozen
class Stated:
    """The labels that a field states.

    Attributes:
        present: Names of labels that the sample has.
        absent: Names of labels that it is said to lack.
        complete: Whether the sample lacks every label that is not named, as in a list. Otherwise those are unknown.
    """

    present: frozenset[str]
    absent: frozenset[str]
    complete: bool

    def among(self, classes: Sequence[str], field: str, *, numbered: bool) -> "Stated":
        """Return the same labels by the names of known classes.

        Args:
            classes: Names of the classes, by index.
            field: Name of the field, for errors.
            numbered: Whether a whole number stands for the class at that index, if no class has a number as its name.

        Raises:
            DataError: There is no such class.
        """
        known = {name: index for index, name in enumerate(classes)}
        numbered = numbered and not any(name.isdigit() for name in classes)

        def name_of(written: str) -> str:
            if written in known:
                return written
            if numbered and written.isascii() and written.isdigit() and len(written) < 9 and int(written) < len(known):
                return classes[int(written)]
            raise DataError(
                f"field {field!r}: expected one of the {len(known)} classes {_some(classes)}, got {_shown(written)}; "
                "correct the label, or name every class in the option `classes`"
            )

        return Stated(frozenset(map(name_of, self.present)), frozenset(map(name_of, self.absent)), self.complete)


def read_labels(data: bytes, field: str, separator: str) -> Stated | None:
    """Read the labels that a field states.

    Args:
        data: Bytes of the field.
        field: Name of the field, whose last part is the format.
        separator: Text between the labels of a text field; an empty one reads the whole text as one label.

    Returns:
        The labels; None if a text field is blank, or a JSON object states nothing.

    Raises:
        DataError: The field is empty, is not UTF-8 or JSON, or does not hold labels.
    """
    if not data:
        raise DataError(f"field {field!r}: expected a label, got 0 bytes; leave the field out if a sample has no label")
    if len(data) > LONGEST_FIELD:
        raise DataError(f"field {field!r}: expected a label, got {len(data):,} bytes; text is what plugin 'text' reads")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"field {field!r}: expected text in UTF-8, got the byte 0x{data[error.start]:02x} at offset {error.start} "
            f"of {len(data)}"
        ) from error
    if format_of(field) == "json":
        return _of_json(text, field)
    parts = text.split(separator) if separator else [text]
    present = frozenset(_checked(part, field) for part in map(str.strip, parts) if part)
    return Stated(present, frozenset(), complete=True) if present else None


def _of_json(text: str, field: str) -> Stated | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"field {field!r}: expected JSON, got {_shown(text)} ({error})") from error
    if not isinstance(content, dict):
        items = content if isinstance(content, list) else [content]
        return Stated(frozenset(_name(item, field) for item in items), frozenset(), complete=True)
    states = {_checked(name, field): _state(value, name, field) for name, value in content.items()}
    present, absent = (frozenset(name for name, state in states.items() if state is wanted) for wanted in (True, False))
    return Stated(present, absent, complete=False) if present or absent else None


def _name(item: Any, field: str) -> str:
    if isinstance(item, str):
        return _checked(item.strip(), field)
    if type(item) is int and abs(item) < 10**15:
        return str(item)
    raise DataError(
        f"field {field!r}: expected a label as text or a whole number, a list of them, or an object of labels, "
        f"got {_shown(json.dumps(item))}"
    )


def _state(value: Any, name: str, field: str) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if type(value) in (int, float) and value in (0, 1):
        return bool(value)
    raise DataError(
        f"field {field!r}: expected true, false or null (unknown) for label {_shown(name)}, "
        f"got {_shown(json.dumps(value))}"
    )


def _checked(name: str, field: str) -> str:
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(
            f"field {field!r}: expected the name of a class, 1 to {LONGEST_NAME} printable characters on one line, got "
            f"{_shown(name)}; text is what plugin 'text' reads"
        )
    return name


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def _some(names: Collection[str], most: int = 12) -> str:
    few = ", ".join(_shown(name) for name in list(names)[:most])
    return few if len(names) <= most else f"{few}, ..."


def in_order(names: Collection[str]) -> list[str]:
    """Sort the names of classes: whole numbers by value, other names as text."""
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)
