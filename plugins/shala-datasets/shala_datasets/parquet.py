"""Read tables in Parquet row by row, if pyarrow is installed, and open a table of any kind."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import attrs

from shala_datasets.files import printable
from shala_datasets.tables import CsvTable, require_columns
from shala_framework.plugin import DataError

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
BATCH_ROWS = 256  # in memory at once; a cell may hold a picture


class RowTable(Protocol):
    """A table in a file. Iterating yields each row's number and its cells by column.

    Attributes:
        path: The file.
        columns: Names of the columns.
        place: What the numbers count: "line" or "row".
    """

    @property
    def path(self) -> Path: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def place(self) -> str: ...

    def require(self, columns: Any, purpose: str = "") -> None:
        """Check that columns with these names exist. Raises a DataError that names those that do."""

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]: ...


def is_table(path: Path) -> bool:
    """Return whether a file's name says that it is a table."""
    return path.name.lower().endswith(TABLES)


def open_table(path: Path) -> RowTable:
    """Open a table in CSV or Parquet, by the end of its name.

    Raises:
        DataError: The file cannot be read as a table, or pyarrow is needed and not installed.
    """
    return ParquetTable.open(path) if path.suffix.lower() == ".parquet" else CsvTable.open(path)


@attrs.frozen
class ParquetTable:
    """A Parquet file. Cells are Python values: texts, numbers, bytes, lists, dictionaries, and None for no value.

    Attributes:
        path: The file.
        columns: Names of the columns.
        place: What the numbers of rows count.
    """

    path: Path
    columns: tuple[str, ...]
    place: str = "row"

    @classmethod
    def open(cls, path: Path) -> "ParquetTable":
        """Read the names of the columns.

        Raises:
            DataError: pyarrow is not installed, or the file cannot be read as Parquet.
        """
        with _opened(path) as file:
            columns = tuple(file.schema_arrow.names)
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise DataError(f"{printable(path)}: expected distinct column names, got {twice[0]!r} twice")
        return cls(path, columns)

    def require(self, columns: Any, purpose: str = "") -> None:
        """Check that columns with these names exist. Raises a DataError that names those that do."""
        require_columns(self.path, self.columns, columns, purpose)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        arrow = importlib.import_module("pyarrow")
        with _opened(self.path) as file:
            try:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
            except (arrow.ArrowException, OSError, ValueError) as error:
                raise DataError(f"{printable(self.path)}: damaged after row {number}: {error}") from error


def _opened(path: Path) -> Any:
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(
            f"{printable(path)}: Parquet needs pyarrow: `pip install pyarrow`, or save the table as CSV"
        ) from (error)
    try:
        return parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{printable(path)}: not readable as Parquet: {error}") from error
