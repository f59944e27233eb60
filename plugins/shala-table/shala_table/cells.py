"""Read the cells of one row: a JSON object, a CSV file of a header and one row, or a plain vector of numbers.

A cell is a number, a text, or None where it is missing. What kind its column is of is decided elsewhere.
"""

import csv
import io
import json
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from shala_framework.plugin import DataError, decode_npy

FORMATS = ("json", "csv", "npy")
LONGEST_FIELD = 1 << 24  # bytes of a row
LONGEST_NAME = 200  # characters of the name of a column or of a category
LARGEST = 1e30  # beyond it, float32 has no room for a square
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
_INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_SHOWN = 60

Cell = float | str | None
Row = dict[str, Cell]


def format_of(field: str) -> str:
    """Return the last part of a field's name, which is its format."""
    return field.rpartition(".")[2]


def read_cells(data: bytes, field: str, missing: Collection[str]) -> Row | list[Cell]:
    """Read a row by the names of its columns, or a vector without names.

    Args:
        data: Bytes of the field.
        field: Name of the field, whose last part is the format.
        missing: Texts of cells that count as missing, besides blank ones.

    Returns:
        Cells by name; or a list, if a JSON list, an array or a CSV file without a header holds numbers alone.

    Raises:
        DataError: The field is damaged or empty, or is no single row.
    """
    if not data:
        raise DataError(f"field {field!r}: expected a row of a table, got 0 bytes; leave out a missing field")
    if len(data) > LONGEST_FIELD:
        raise DataError(f"field {field!r}: expected one row of a table, got {len(data):,} bytes")
    if format_of(field) == "npy":
        return _of_npy(data, field)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"field {field!r}: expected text in UTF-8, got the byte 0x{data[error.start]:02x} at offset {error.start} "
            f"of {len(data)}"
        ) from error
    return _of_json(text, field, missing) if format_of(field) == "json" else _of_csv(text, field, missing)


def number_of(cell: str) -> float | None:
    """Return the number that a text is; None if it is none."""
    return float(cell) if _NUMBER.fullmatch(cell) else None


def checked_number(cell: float | str, where: str) -> float:
    """Return the finite number of a cell.

    Raises:
        DataError: It is a text, or infinite, or too large.
    """
    value = number_of(cell) if isinstance(cell, str) else cell
    if value is None:
        if _INFINITE.fullmatch(str(cell)):
            raise DataError(f"{where}: expected a finite number, got {cell}; leave the cell blank if it is unknown")
        advice = "write a decimal point; " if "," in str(cell) else ""
        raise DataError(
            f"{where}: expected a number, got the text {shown(str(cell))}; {advice}name the column in the option "
            "`categorical` if it holds categories, or the text in `missing_cells` if it means a missing cell"
        )
    if not abs(value) <= LARGEST:
        raise DataError(f"{where}: expected a finite number of at most {LARGEST:g}, got {value:g}")
    return value


def category_of(cell: float | str, where: str) -> str:
    """Return the name of the category in a cell. 3, 3.0 and "3.0" are one category, whatever wrote the number.

    Raises:
        DataError: It is too long, or not on one line.
    """
    name = cell if isinstance(cell, str) else repr(cell)
    whole = _WHOLE.fullmatch(name)
    if whole:
        name = whole[1]
    if len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(
            f"{where}: expected a category, at most {LONGEST_NAME} printable characters, got {shown(name)}; "
            "name the column in the option `ignore`, or read text with plugin 'text'"
        )
    return name


def shown(text: str) -> str:
    """Quote a text for a message, and cut a long one."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def _of_npy(data: bytes, field: str) -> list[Cell]:
    array = decode_npy(data, field)
    if array.ndim != 1 or not array.size:
        raise DataError(f"field {field!r}: expected a vector of numbers [C], got an array {list(array.shape)}")
    return [None if math.isnan(value) else value for value in map(float, array)]


def _of_json(text: str, field: str, missing: Collection[str]) -> Row | list[Cell]:
    try:
        content = json.loads(text, parse_int=_integer, object_pairs_hook=_distinct)
    except (ValueError, OverflowError, RecursionError) as error:
        raise DataError(f"field {field!r}: expected JSON, got {shown(text)} ({error})") from error
    if isinstance(content, list) and content:
        return [_cell(value, f"field {field!r}, number {index}", missing) for index, value in enumerate(content)]
    if not isinstance(content, dict) or not content:
        raise DataError(
            f"field {field!r}: expected an object from columns to cells, or a list of numbers, got {shown(text)}"
        )
    return {_column(name, field): _cell(value, f"field {field!r}, column {shown(name)}", missing)
            for name, value in content.items()}  # fmt: skip


def _integer(digits: str) -> float | str:
    """Return a whole number of JSON. One with more digits than a float holds stays text, as it may name a category."""
    return float(digits) if len(digits) <= 15 else digits


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"column {shown(next(name for name in names if names.count(name) > 1))} twice")
    return found


def _cell(value: Any, where: str, missing: Collection[str]) -> Cell:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        return _text_cell(value, missing)
    raise DataError(f"{where}: expected a number, a text or null, got {shown(json.dumps(value))}")


def _text_cell(text: str, missing: Collection[str]) -> str | None:
    text = text.strip()
    return None if not text or text in missing else text


def _of_csv(text: str, field: str, missing: Collection[str]) -> Row | list[Cell]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise DataError(f"field {field!r}: not readable as CSV: {error}") from error
    rows = rows[:2] + [row for row in rows[2:] if any(row)]  # a blank second line is a row without any known cell
    if len(rows) == 1 and all(cell is None or number_of(cell) is not None for cell in _texts(rows[0], missing)):
        return list(_texts(rows[0], missing))
    if len(rows) != 2:
        raise DataError(
            f"field {field!r}: expected CSV with a header and one row, got {len(rows)} lines; a file holds the row of "
            "one sample"
        )
    names, cells = rows
    if len(names) != len(cells):
        raise DataError(
            f"field {field!r}: expected a cell for each of the {len(names)} columns, got {len(cells)}; a cell that "
            f"holds {delimiter!r} or a line break needs quotes around it"
        )
    names = [_column(name.strip(), field) for name in names]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"field {field!r}: expected distinct columns, got {shown(twice[0])} twice")
    return dict(zip(names, _texts(cells, missing), strict=True))


def _texts(cells: Collection[str], missing: Collection[str]) -> list[str | None]:
    return [_text_cell(cell, missing) for cell in cells]


def _column(name: str, field: str) -> str:
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise DataError(
            f"field {field!r}: expected the name of a column, 1 to {LONGEST_NAME} printable characters, got "
            f"{shown(name)}"
        )
    return name


def named(row: Row | list[Cell]) -> Mapping[str, Cell]:
    """Return the cells by name; those of a vector are named by their numbers, from 0."""
    return row if isinstance(row, dict) else {str(index): cell for index, cell in enumerate(row)}
