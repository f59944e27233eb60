"""Cells of a table as fields of a sample: texts, numbers, rows as JSON, vectors, and embedded files."""

import datetime
import decimal
import json
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import attrs
import numpy as np

from shala_datasets.tables import MISSING
from shala_framework.plugin import DataError, encode_npy

FIELD = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
LONGEST_FIELD = 16
EVERY_OTHER = "*"
"""Name that stands for all columns of a table that no option names."""


def text_of(value: Any, missing: Collection[str] = MISSING) -> str:
    """Return a cell as text without white space around it. It is empty if the cell has no value.

    Args:
        value: Cell of a table of texts or of typed values.
        missing: Texts that stand for no value.

    Raises:
        DataError: The cell holds a list, a file or something else that is no text.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"expected text, got {len(value)} bytes that are none") from error
    if isinstance(value, datetime.date | datetime.time):
        value = value.isoformat()
    if not isinstance(value, str | int | float | decimal.Decimal):
        raise DataError(f"expected text or a number, got {type(value).__name__}")
    text = str(value).strip()
    return "" if text in missing else text


def embedded_file(value: Any) -> bytes | None:
    """Return the content of a file that a cell holds, as bytes or as the data sets of Hugging Face keep it, or None."""
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    return value if isinstance(value, bytes) and value else None


def check_fields(option: str, columns: Mapping[str, str], *, blank: bool = False) -> None:
    """Check the fields that an option maps columns to.

    Args:
        option: Name of the option, for the message.
        columns: Column to field.
        blank: Whether a field may be empty.

    Raises:
        ValueError: A field is no name of one.
    """
    for column, field in columns.items():
        if (blank and not field) or (FIELD.fullmatch(field) and len(field) <= LONGEST_FIELD):
            continue
        raise ValueError(
            f"expected a field of up to {LONGEST_FIELD} small letters and digits for column {column!r} of {option}, "
            f'such as "txt", got {field!r}'
        )


@attrs.frozen
class CellFields:
    """Turns cells of a row into fields of its sample.

    Several columns may share a field. A field that ends in "json" holds an object from column to cell, one that ends in
    "npy" a vector of the cells' numbers, and any other one line for each cell. Cells without a value are left out. A
    field without any value is missing, and so is a vector that lacks a number.

    Attributes:
        columns: Column to field.
        missing: Texts that stand for no value.
    """

    columns: Mapping[str, str]
    missing: Collection[str] = MISSING

    @classmethod
    def of_table(
        cls, columns: Mapping[str, str], names: Iterable[str], taken: Iterable[str], missing: Collection[str]
    ) -> "CellFields":
        """Replace the column "*" by all columns that neither it nor another option names.

        Args:
            columns: Column to field, as an option has it.
            names: Columns of the table.
            taken: Columns that other options use.
            missing: Texts that stand for no value.
        """
        named = {column: field for column, field in columns.items() if column != EVERY_OTHER}
        if EVERY_OTHER in columns:
            named |= {name: columns[EVERY_OTHER] for name in names if name not in {*named, *taken}}
        return cls(named, missing)

    def read(self, row: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the fields of a row.

        Raises:
            DataError: A cell does not suit its field. The message names the column.
        """
        columns_of: dict[str, list[str]] = defaultdict(list)
        for column, field in self.columns.items():
            columns_of[field].append(column)
        fields = {field: self._field(field, columns, row) for field, columns in columns_of.items()}
        return {field: content for field, content in fields.items() if content}

    def _field(self, field: str, columns: list[str], row: Mapping[str, Any]) -> bytes:
        form = field.rpartition(".")[2]
        if form == "npy":
            return self._vector(columns, row)
        if len(columns) == 1 and (content := embedded_file(row[columns[0]])) is not None:
            return content
        texts: dict[str, str] = {}
        for column in columns:
            try:
                text = text_of(row[column], self.missing)
            except DataError as error:
                raise DataError(f"column {column!r}, field {field!r}: {error}") from error
            if text:
                texts[column] = text
        if form != "json":
            return "\n".join(texts.values()).encode(errors="surrogatepass")
        numbers = {column for column in texts if isinstance(row[column], int | float)}
        values = {column: row[column] if column in numbers else text for column, text in texts.items()}
        return json.dumps(values, ensure_ascii=False).encode(errors="surrogatepass") if values else b""

    def _vector(self, columns: list[str], row: Mapping[str, Any]) -> bytes:
        numbers: list[float] = []
        for column in columns:
            value = row[column]
            for item in value if isinstance(value, list | tuple) else (value,):
                text = text_of(item, self.missing)
                try:
                    numbers += [float(text)] if text else []
                except ValueError as error:
                    raise DataError(f"column {column!r}: expected a number for a vector, got {text!r}") from error
                if not text:
                    return b""
        return encode_npy(np.array(numbers, np.float64)) if numbers else b""
