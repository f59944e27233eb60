"""Read tables of comma-separated values row by row: plain or gzipped, with a header row."""

import csv
import difflib
import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import attrs

from shala_datasets.files import printable
from shala_framework.plugin import DataError

MISSING = ("nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "<NA>")
"""Contents of cells, besides empty ones, that programs write for a missing value."""
_LONGEST_LINE = 1 << 20  # characters; a damaged or hostile file may be one endless line


@attrs.frozen
class CsvTable:
    """A table in a file. Iterating yields each row's line number and its cells by column, without blank rows.

    Attributes:
        path: File, gzipped if its name ends in .gz.
        columns: Names in the header row.
        delimiter: "," or, if the header row has more of them, ";" or a tab.
        place: What the numbers of rows count.
    """

    path: Path
    columns: tuple[str, ...]
    delimiter: str
    place: str = "line"

    @classmethod
    def open(cls, path: Path) -> "CsvTable":
        """Read the header row.

        Raises:
            DataError: The file cannot be read, is not UTF-8, or has no header row with distinct names.
        """
        header = next(_lines(path), "")
        delimiter = max(",;\t", key=header.count)
        columns = next((tuple(cell.strip() for cell in row) for _, row in _rows(path, delimiter)), ())
        if not columns:
            raise DataError(
                f"{printable(path)}: expected a header row with the names of the columns, got an empty file"
            )
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise DataError(f"{printable(path)}: expected distinct column names, got {twice[0]!r} twice")
        return cls(path, columns, delimiter)

    def require(self, columns: Iterable[str], purpose: str = "") -> None:
        """Check that columns with these names exist.

        Args:
            columns: Names of the columns.
            purpose: What needs them, for the error message.

        Raises:
            DataError: Some are missing; the message names them and the columns that exist.
        """
        require_columns(self.path, self.columns, columns, purpose)

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        rows = _rows(self.path, self.delimiter)
        next(rows, None)
        for line, row in rows:
            if len(row) != len(self.columns):
                raise DataError(
                    f"{printable(self.path)}, line {line}: expected {len(self.columns)} cells, got {len(row)}; "
                    f"a cell that holds {self.delimiter!r} or a line break needs quotes around it"
                )
            yield line, dict(zip(self.columns, row, strict=True))


def require_columns(path: Path, there: Sequence[str], columns: Iterable[str], purpose: str = "") -> None:
    """Check that a table has columns.

    Args:
        path: File of the table.
        there: Names of its columns.
        columns: Names of the required columns.
        purpose: What needs them, for the error message.

    Raises:
        DataError: Some are missing; the message names them and the columns that exist.
    """
    absent = [column for column in columns if column not in there]
    if absent:
        close = difflib.get_close_matches(absent[0], there, n=1)
        raise DataError(
            f"{printable(path)}: expected {'a column' if len(absent) == 1 else 'columns'} "
            f"{', '.join(map(repr, absent))}{f' ({purpose})' if purpose else ''}, got the columns "
            f"{', '.join(map(repr, there))}{f'; did you mean {close[0]!r}?' if close else ''}"
        )


def cell(text: str, missing: Iterable[str] = MISSING) -> str:
    """Strip white space from a cell. Return an empty string if it has no value.

    Args:
        text: The cell.
        missing: Contents that stand for no value.
    """
    text = text.strip()
    return "" if text in missing else text


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every row that is not blank, including the header row."""
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if any(row))
    except csv.Error as error:
        raise DataError(f"{printable(path)}, line {reader.line_num}: not readable as a table: {error}") from error


def _lines(path: Path) -> Iterator[str]:
    """Yield the file's lines with their line ends."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as stream:
            for number, line in enumerate(iter(partial(stream.readline, _LONGEST_LINE), ""), 1):
                if len(line) == _LONGEST_LINE:
                    raise DataError(f"{printable(path)}, line {number}: expected at most {_LONGEST_LINE} characters")
                yield line
    except UnicodeDecodeError as error:
        raise DataError(f"{printable(path)}: expected text in UTF-8, got other bytes; save it as CSV UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{printable(path)}: cannot read the table: {reason}") from error
