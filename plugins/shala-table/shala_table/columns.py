"""The columns of a table: kinds, robust centres and scales, and categories, given or found in the training set."""

import difflib
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np

from shala_framework.plugin import DataError
from shala_table.cells import Cell, Row, category_of, checked_number, named, number_of, shown

FARTHEST: Final = 1e6  # scales from the centre; larger values come from damage or another unit
FEWEST_ROWS, OWN_CATEGORY = 10, 0.9  # rows, and categories a row, from which a column is said to identify rows
QUARTILE_RANGE: Final = 1.3489795  # of a Gaussian, in standard deviations


@attrs.frozen
class Column:
    """One column.

    Attributes:
        name: Its name.
        categories: Categories by index; empty for a numeric column.
        centre: Median of a numeric column.
        scale: Scale of a numeric column: the standard deviation of a Gaussian with the training set's quartiles.
    """

    name: str
    categories: tuple[str, ...] = ()
    centre: float = 0.0
    scale: float = 1.0

    @property
    def is_numeric(self) -> bool:
        return not self.categories

    def value(self, cell: float | str, field: str) -> float:
        """Return a known cell as a number of x: standardised, or the index of its category.

        Raises:
            DataError: The cell is of another kind, or is no known category.
        """
        where = f"field {field!r}, column {shown(self.name)}"
        if self.is_numeric:
            value = (checked_number(cell, where) - self.centre) / self.scale
            if abs(value) > FARTHEST:
                raise DataError(
                    f"{where}: expected a number within {FARTHEST:g} scales ({self.scale:g}) of the median "
                    f"{self.centre:g}, got {cell}; correct the cell, or leave it blank"
                )
            return value
        category = category_of(cell, where)
        if category not in self.categories:
            raise DataError(
                f"{where}: expected one of the {len(self.categories)} categories of the training set, "
                f"{some(self.categories)}, got {shown(category)}; correct the cell or leave it blank, or name the "
                "column in the option `ignore` if it identifies rows"
            )
        return self.categories.index(category)

    def cell(self, value: float) -> float | str:
        """Return the cell of a number of x."""
        return value * self.scale + self.centre if self.is_numeric else self.categories[round(value)]

    def state(self) -> dict[str, Any]:
        """Return the column as JSON values."""
        if self.is_numeric:
            return {"name": self.name, "centre": self.centre, "scale": self.scale}
        return {"name": self.name, "categories": list(self.categories)}

    @staticmethod
    def from_state(state: Any) -> "Column":
        """Restore the result of `state`.

        Raises:
            ValueError: It is none.
        """
        keys = set(state) if isinstance(state, Mapping) else set()
        if keys == {"name", "categories"}:
            categories = state["categories"]
            sound = isinstance(categories, list) and bool(categories) and all(isinstance(c, str) for c in categories)
            if sound and isinstance(state["name"], str) and len(set(categories)) == len(categories):
                return Column(state["name"], tuple(categories))
        elif keys == {"name", "centre", "scale"} and isinstance(state["name"], str):
            centre, scale = state["centre"], state["scale"]
            if all(type(value) in (int, float) and np.isfinite(value) for value in (centre, scale)) and scale > 0:
                return Column(state["name"], (), float(centre), float(scale))
        raise ValueError(
            f"expected a column with a name and categories, or with a centre and a scale, got {str(state)[:200]}"
        )


class ColumnFinder:
    """Finds the columns of a training set in one pass.

    Args:
        numeric: Names of columns of numbers.
        categorical: Names of columns of categories.
        ignore: Names of columns that are left out.
        infer: Whether to use further columns, whose cells tell their kind.
        max_categories: Largest number of categories of a column.
    """

    def __init__(
        self,
        numeric: Sequence[str],
        categorical: Sequence[str],
        ignore: Collection[str],
        *,
        infer: bool,
        max_categories: int,
    ) -> None:
        self.infer, self.ignore, self.max_categories = infer, frozenset(ignore), max_categories
        self.given = frozenset((*numeric, *categorical))
        self.is_numeric: dict[str, bool | None] = {
            **dict.fromkeys(numeric, True),
            **dict.fromkeys(categorical, False),
        }
        self.numbers: dict[str, Thinned] = {}
        self.categories: dict[str, set[str]] = {}
        self.num_cells: Counter[str] = Counter()  # known cells of each column of categories
        self.vector_length: int | None = None
        self.num_rows = 0

    def add(self, row: Row | list[Cell], field: str) -> None:
        """Add a row.

        Raises:
            DataError: A cell is of another kind than its column, or the row is of another form than those before.
        """
        length = len(row) if isinstance(row, list) else None
        if self.num_rows and length != self.vector_length:
            raise DataError(f"field {field!r}: expected {form_of(self.vector_length)} as before, got {form_of(length)}")
        self.vector_length = length
        self.num_rows += 1
        for name, cell in named(row).items():
            if name in self.ignore or (not self.infer and name not in self.is_numeric):
                continue
            self.is_numeric.setdefault(name, None)
            if cell is not None:
                self._add_cell(name, cell, f"field {field!r}, column {shown(name)}")

    def _add_cell(self, name: str, cell: float | str, where: str) -> None:
        looks_numeric = not isinstance(cell, str) or number_of(cell) is not None
        kind = self.is_numeric[name]
        if kind is None:
            kind = self.is_numeric[name] = looks_numeric
        if name not in self.given and looks_numeric and not kind:
            raise DataError(
                f"{where}: expected text as in earlier rows, got the number {cell}; name the column in the option "
                "`categorical`, or the earlier text in `missing_cells` if it means a missing cell"
            )
        if kind:
            self.numbers.setdefault(name, Thinned()).add(checked_number(cell, where))
            return
        found = self.categories.setdefault(name, set())
        found.add(category_of(cell, where))
        self.num_cells[name] += 1
        if len(found) > self.max_categories:
            raise DataError(
                f"{where}: expected at most {self.max_categories} categories, got more; name the column in the option "
                "`ignore` if it identifies rows, or raise `max_categories`"
            )

    def columns(self, fields: Sequence[str]) -> list[Column]:
        """Return the columns, those of the options first; of a vector, in its order.

        Raises:
            DataError: There is no row, or a column has no known cell.
        """
        if not self.num_rows:
            raise DataError(
                f"expected training samples with a row in one of the fields {list(fields)}, got none; check the option "
                "`fields` against what the shards hold"
            )
        if not self.is_numeric:
            raise DataError(f"expected rows with columns in the fields {list(fields)}, got only ignored columns")
        known = self.numbers.keys() | self.categories.keys()
        for name in self.is_numeric:
            if name not in known:
                raise DataError(
                    f"expected a known cell of column {shown(name)} in some training row, got none; correct its name "
                    f"in the options, or name it in `ignore` (columns with cells: {some(sorted(known))})"
                )
        names = list(self.is_numeric)
        if self.vector_length is not None:
            names.sort(key=int)
        return [self._column(name) for name in names]

    def identifying(self) -> list[str]:
        """Return a sentence for each column that no option names and in which nearly every row has its own category."""
        return [
            f"column {shown(name)} has {len(found)} categories in {self.num_cells[name]} rows, as a column has that "
            "identifies rows; name it in the option `ignore`, or in `categorical` if they are categories"
            for name, found in self.categories.items()
            if name not in self.given
            and self.num_cells[name] >= FEWEST_ROWS
            and len(found) > OWN_CATEGORY * self.num_cells[name]
        ]

    def _column(self, name: str) -> Column:
        if name in self.categories:
            return Column(name, tuple(in_order(self.categories[name])))
        values = self.numbers[name].values
        low, centre, high = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
        # The quartiles of a column that is mostly one value are equal; a constant column keeps its unit.
        scale = (high - low) / QUARTILE_RANGE or float(np.std(values)) or 1.0
        return Column(name, (), centre, scale)


class Thinned:
    """Numbers of a stream, evenly spaced over it: all of them at first, then every second, every fourth, and so on."""

    def __init__(self, most: int = 8_192) -> None:
        self.values, self.most, self.stride, self.count = array("d"), most, 1, 0

    def add(self, value: float) -> None:
        """Take in the next number."""
        if self.count % self.stride == 0:
            if len(self.values) == self.most:
                self.values = self.values[::2]
                self.stride *= 2
            if self.count % self.stride == 0:
                self.values.append(value)
        self.count += 1


def in_order(names: Collection[str]) -> list[str]:
    """Sort categories: numbers by value, other texts by their letters."""
    if all(number_of(name) is not None for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def row_values(cells: Mapping[str, Cell], columns: Sequence[Column], field: str, *, strict: bool) -> list[float | None]:
    """Return the numbers of a row's cells, in the order of the columns; None for a missing cell.

    Args:
        cells: Cells by name.
        columns: Columns of the table.
        field: Name of the field, for errors.
        strict: Whether a cell of another column is an error.

    Raises:
        DataError: A cell is of another kind than its column, or the row has none of the columns, or another one.
    """
    known = {column.name for column in columns}
    names = sorted(known)
    for name in cells if strict else ():
        if name not in known:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {shown(close[0])}?" if close else f"the columns are {some(names)}"
            raise DataError(
                f"field {field!r}: expected columns of the training set, got {shown(name)} ({hint}); correct its "
                "name, or name it in the option `ignore`"
            )
    if cells.keys().isdisjoint(known):
        raise DataError(f"field {field!r}: expected one of the columns {some(names)}, got {some(list(cells))}")
    found = ((column, cells.get(column.name)) for column in columns)
    return [None if cell is None else column.value(cell, field) for column, cell in found]


def some(names: Sequence[str], most: int = 12) -> str:
    """List names for a message, and cut a long list."""
    few = ", ".join(shown(name) for name in names[:most])
    return few if len(names) <= most else f"{few}, ..."


def form_of(length: int | None) -> str:
    """Say what a row is: a vector of so many numbers, or a row with names."""
    return "a row with named columns" if length is None else f"a vector of {length:,} numbers"
