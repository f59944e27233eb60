"""Labels of a sample: the name of its class, or a JSON object with the value of each of several attributes.

The text of a label identifies it: two samples have equal labels if their texts are equal. That of an object is JSON
with sorted names and without the attributes whose value is unknown.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from shala_framework.support.errors import DataError

CLASS = ""  # the attribute of labels that only name a class
LONGEST_NAME = 200  # characters of the name or the value of an attribute
_SHOWN = 60
_EXAMPLE = '{"digit": "3", "place": null}'


def read_label(data: bytes) -> str | None:
    """Return the text of a label; None if the value of every attribute is unknown.

    Args:
        data: Content of the field. A text that begins with "{" is a JSON object of attributes: text, whole numbers,
            true and false are values, and null stands for an unknown one. Any other text is the name of a class.

    Raises:
        DataError: The field is not UTF-8 or blank, or is no JSON object of this kind.
    """
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"expected the name of a class in UTF-8, got the byte 0x{data[error.start]:02x} at offset {error.start} of "
            f"{len(data)}; write it in UTF-8, or leave the field out"
        ) from error
    if not text:
        got = f"{len(data)} bytes of white space" if data else "0 bytes"
        raise DataError(f"expected the name of a class, got {got}; leave the field out if a sample has no class")
    if not text.startswith("{"):
        return text
    try:
        found = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"expected a JSON object of attributes such as {_EXAMPLE}, as the label begins with '{{', got "
            f"{_shown(text)} ({error}); correct it, or write the name of a class that begins with another character"
        ) from error
    if not found:
        raise DataError(f"expected a label for each attribute such as {_EXAMPLE}, got {{}}; leave the field out")
    known = {name: value for name, value in found.items() if value is not None}
    return label_text(known) if known else None


def label_text(label: Mapping[str, Any]) -> str:
    """Return the text of the label that gives attributes these values.

    Raises:
        DataError: The name or the value of an attribute is not allowed, or two names differ in white space alone.
    """
    values: dict[str, str] = {}
    for written, value in label.items():
        name = _name(written)
        if name in values:
            raise DataError(
                f"expected every attribute once, got {_shown(name)} twice, with other white space; correct the label"
            )
        values[name] = _value(value, written)
    return json.dumps(dict(sorted(values.items())), ensure_ascii=False)


def label_field(label: str | Mapping[str, Any] | None) -> bytes | None:
    """Return the content of the field of a sample's label; None without one, or if every value is unknown.

    Raises:
        DataError: A text begins with "{" and is no JSON object of attributes, or the name or the value of an attribute
            is not allowed.
    """
    if isinstance(label, str):
        if label.lstrip().startswith("{"):
            read_label(label.encode())
        return label.encode()
    known = {name: value for name, value in (label or {}).items() if value is not None}
    return label_text(known).encode() if known else None


def label_attributes(label: str | None) -> dict[str, str]:
    """Return the value of each attribute that a label states; a class is the value of the attribute `CLASS`.

    Args:
        label: Text of the label, as `read_label` returns it.
    """
    if label is None:
        return {}
    if not label.startswith("{"):
        return {CLASS: label}
    found: dict[str, str] = json.loads(label)
    return found


def label_title(label: str | None) -> str:
    """Return a label for a reader, such as "digit: 3, quadrant: top left"; empty without a label."""
    return ", ".join(f"{name}: {value}" if name else value for name, value in label_attributes(label).items())


def labels_of(labels: Sequence[str | None], attribute: str) -> list[str | None]:
    """Return the value of one attribute in each label, None where it is unknown."""
    return [label_attributes(label).get(attribute) for label in labels]


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for n, (name, _) in enumerate(pairs) if name in dict(pairs[:n]))
        raise ValueError(f"the name {_shown(twice)} twice")
    return found


def _name(name: str) -> str:
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(
            f"expected the name of an attribute, 1 to {LONGEST_NAME} printable characters, got {_shown(name)}; correct "
            "the label"
        )
    return name.strip()


def _value(value: Any, name: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) < 10**15:
        return str(value)
    if isinstance(value, str) and value.strip() and len(value) <= LONGEST_NAME and value.isprintable():
        return value.strip()
    raise DataError(
        f"expected the value of attribute {_shown(name)} as text of 1 to {LONGEST_NAME} printable characters, a whole "
        f"number, true, false or null (unknown), got {_shown(json.dumps(value))}; correct the label"
    )


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
