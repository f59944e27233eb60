"""Rows of a table as a modality: numbers and categories with missing cells, or plain vectors. Shapes: C columns."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    DataError,
    Modality,
    Preview,
    at_least,
    between,
    each,
    hookimpl,
    multiple_of,
    not_empty,
)
from shala_table.cells import FORMATS, LONGEST_FIELD, Cell, format_of, named, read_cells
from shala_table.columns import Column, ColumnFinder, form_of, row_values
from shala_table.networks import Layout, TableDecoder, TableEncoder

PLACEHOLDERS = 16  # columns that a dry run counts parameters with before `fit` has found them
MOST_PREVIEWED = 24  # cells
DIGITS = 7  # of a written number, as many as float32 holds


def named_after_its_format(_: Any, __: Any, value: str) -> None:
    """Validator: accept field names whose last part is a format that `read_cells` knows."""
    if format_of(value) not in FORMATS:
        choices = ", ".join(repr(name) for name in FORMATS)
        raise ValueError(f"expected a field name that is or ends in one of {choices}, got {value!r}")


@final
class Table(Modality):
    """Rows x, float32 [2, C]: standardised numbers and indices of categories, and below them 1 for a known cell.

    With `allow_missing = false`, x is [C], and every cell is known. `tensor` makes x of arrays in the units of the
    table, and `values` converts x back.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of a table modality.

        Attributes:
            numeric: Names of columns of numbers. Those of a vector are named "0", "1" and so on.
            categorical: Names of columns of categories, also where these are written as numbers.
            others: What becomes of columns in neither list: "infer" uses them, as numbers where all their cells are
                numbers and as categories otherwise; "ignore" leaves them out.
            ignore: Names of columns that are left out, such as one that identifies rows.
            fields: Sample fields to look for, in this order. The last part of the name is the format: "json" (an object
                from column to cell, or a list of numbers), "csv" (a header and one row, or numbers alone) or "npy" (a
                vector). The defaults do not include plain "json", because data sets keep metadata there.
            missing_cells: Texts that stand for a missing cell, besides a blank one, null and NaN.
            allow_missing: Whether cells may be missing. Otherwise a missing cell is an error and x is a plain vector.
            max_categories: Largest number of categories of a column; more are an error.
            likelihood: Distribution of a number given z, with a learned scale for each column: "normal", or "student"
                for columns with outliers, which learns the degrees of freedom of each column too.
            cell_dropout: Share of the known cells that are hidden from the encoder in stage 1, which teaches it to do
                with fewer cells than the training rows have. Above 0, stage 2 also learns from rows with any share of
                their cells hidden. No cell is hidden with `allow_missing = false`.
            width: Width of the networks, a multiple of 8.
            num_layers: Number of hidden layers of each network.
        """

        numeric: tuple[str, ...] = attrs.field(default=(), validator=each(not_empty))
        categorical: tuple[str, ...] = attrs.field(default=(), validator=each(not_empty))
        others: Literal["infer", "ignore"] = attrs.field(
            default="infer", validator=attrs.validators.in_(("infer", "ignore"))
        )
        ignore: tuple[str, ...] = attrs.field(default=(), validator=each(not_empty))
        fields: tuple[str, ...] = attrs.field(
            default=("table.json", "csv", "npy"), validator=[not_empty, each(named_after_its_format)]
        )
        missing_cells: tuple[str, ...] = ("nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "<NA>")
        allow_missing: bool = True
        max_categories: int = attrs.field(default=100, validator=at_least(1, at_most=100_000))
        likelihood: Literal["normal", "student"] = attrs.field(
            default="normal", validator=attrs.validators.in_(("normal", "student"))
        )
        cell_dropout: float = attrs.field(default=0.2, validator=between(0, 1))
        width: int = attrs.field(default=128, validator=[at_least(8, at_most=16_384), multiple_of(8)])
        num_layers: int = attrs.field(default=2, validator=at_least(1, at_most=100))

        def __attrs_post_init__(self) -> None:
            lists = (*self.numeric, *self.categorical, *self.ignore)
            twice = sorted({name for name in lists if lists.count(name) > 1})
            if twice:
                raise ValueError(f"expected a column in one of numeric, categorical and ignore, got {twice[0]!r} twice")
            if self.others == "ignore" and not (self.numeric or self.categorical):
                raise ValueError('expected columns in numeric or categorical with others = "ignore", got none')

    options: Options
    network_options = frozenset({"likelihood", "cell_dropout", "width", "num_layers"})

    def __init__(self, options: Options | None = None, /, **values: Any) -> None:
        super().__init__(options, **values)
        self._columns: tuple[Column, ...] = ()
        self._doubts: list[str] = []
        self._vector_length: int | None = None  # numbers of a vector; None if rows have named columns

    @property
    def shape(self) -> tuple[int, ...]:
        num_columns = len(self._layout.num_categories)
        return (2, num_columns) if self.options.allow_missing else (num_columns,)

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that `fit` found.

        Raises:
            ValueError: Neither `fit` nor `load_state` was called.
        """
        if not self._columns:
            raise ValueError("expected a fitted table modality, got one without columns; call fit or load_state")
        return self._columns

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        """Learn columns, robust centres and scales, and categories from the training samples in one pass.

        Raises:
            DataError: A row is damaged or has a cell of another kind than its column, or a column has no cell.
        """
        options = self.options
        finder = ColumnFinder(
            options.numeric,
            options.categorical,
            options.ignore,
            infer=options.others == "infer",
            max_categories=options.max_categories,
        )
        for sample in samples:
            field = self.first_field(sample)
            if field is not None:
                finder.add(read_cells(sample[field], field, options.missing_cells), field)
        self._columns, self._vector_length = tuple(finder.columns(self.fields)), finder.vector_length
        self._doubts = finder.identifying()

    def doubts(self) -> list[str]:
        """Name columns in which nearly every row has a category of its own."""
        return self._doubts

    def state(self) -> dict[str, Any]:
        """Return the columns, and the length of rows that are plain vectors."""
        return {"columns": [column.state() for column in self.columns], "vector_length": self._vector_length}

    def load_state(self, state: Mapping[str, Any]) -> None:
        found = state["columns"] if set(state) == {"columns", "vector_length"} else None
        if not isinstance(found, list) or not found:
            raise ValueError(f"expected a state with columns and 'vector_length', got keys {sorted(state)}")
        columns = tuple(map(Column.from_state, found))
        names, length = {column.name for column in columns}, state["vector_length"]
        numbered = type(length) is int and length <= LONGEST_FIELD and names <= set(map(str, range(length)))
        if len(names) < len(columns) or not (length is None or numbered):
            raise ValueError("expected distinct columns, with numbers below 'vector_length' as names if it is one")
        self._columns, self._vector_length = columns, length

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Read the first of `fields` that the sample has: float32 [2, C], or [C] with `allow_missing = false`.

        Raises:
            DataError: The field is damaged, or a cell does not fit its column.
        """
        field = self.first_field(sample)
        if field is None:
            return None
        options = self.options
        row = read_cells(sample[field], field, options.missing_cells)
        columns = self.columns
        length = len(row) if isinstance(row, list) else None
        if length != self._vector_length:
            expected, got = form_of(self._vector_length), form_of(length)
            raise DataError(f"field {field!r}: expected {expected} as in the training set, got {got}")
        cells = {name: cell for name, cell in named(row).items() if name not in options.ignore}
        found = row_values(cells, columns, field, strict=options.others == "infer")
        if all(value is None for value in found):
            return None
        values = torch.tensor([0.0 if value is None else value for value in found], dtype=torch.float32)
        if options.allow_missing:
            return torch.stack([values, torch.tensor([float(value is not None) for value in found])])
        if None in found:
            raise DataError(
                f"field {field!r}: expected every cell, got none in column {columns[found.index(None)].name!r}; "
                "fill it, or set the option `allow_missing`"
            )
        return values

    def count_values(self, x: Tensor) -> Tensor:
        """Count the known cells of each row: int64 [B]."""
        return self._layout.parts(x)[1].sum(1)

    @property
    def hidden_share(self) -> float:
        """The option `cell_dropout`, where cells may be missing."""
        return self.options.cell_dropout if self.options.allow_missing else 0.0

    def hide(self, x: Tensor, share_B: Tensor, uniform: Tensor) -> Tensor:
        """Mark known cells as missing."""
        known_BC = x[:, 1] > 0.5
        order_BC = uniform[:, 1].masked_fill(~known_BC, -1.0)
        kept_BC = known_BC & ((order_BC >= share_B[:, None]) | (order_BC == order_BC.amax(1, keepdim=True)))
        return torch.stack([x[:, 0] * kept_BC, kept_BC.to(x.dtype)], 1)

    def blank_reason(self) -> str:
        """Say that no cell is known."""
        return "all its cells are missing"

    def tensor(self, values: Any) -> Tensor:
        """Return x of many rows: float32 [N, 2, C], or [N, C] with `allow_missing = false`.

        Args:
            values: Array [N, C] in the units of the table, with the index of a category where a column has categories
                (`columns` lists them) and NaN where a cell is missing.

        Raises:
            ValueError: There is another number of columns, or a value is infinite or no index of a category.
        """
        rows = np.asarray(values, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise ValueError(f"expected an array [N, {len(self.columns)}], got {list(rows.shape)}")
        known = ~np.isnan(rows)
        if not self.options.allow_missing and not known.all():
            raise ValueError("expected every cell with allow_missing = false, got NaN")
        x = np.where(known, rows, 0.0)
        for index, column in enumerate(self.columns):
            cells = x[known[:, index], index]
            if not column.is_numeric and not np.isin(cells, np.arange(len(column.categories))).all():
                raise ValueError(f"expected indices of {len(column.categories)} categories in column {column.name!r}")
            if not np.isfinite(cells).all():
                raise ValueError(f"expected finite numbers in column {column.name!r}, got infinity")
            x[known[:, index], index] = (cells - column.centre) / column.scale
        tensor = torch.from_numpy(x).float()
        return torch.stack([tensor, torch.from_numpy(known).float()], 1) if self.options.allow_missing else tensor

    def values(self, x: Tensor) -> np.ndarray:
        """Return x [..., 2, C] or [..., C] in the units of the table: float64 [..., C], NaN where a cell is missing."""
        array = x.detach().cpu().double().numpy()
        missing = array[..., 1, :] < 0.5 if self.options.allow_missing else np.zeros(array.shape, dtype=bool)
        values = array[..., 0, :] if self.options.allow_missing else array
        scale, centre = np.array([(column.scale, column.centre) for column in self.columns]).T
        found: np.ndarray = np.where(missing, np.nan, values * scale + centre)
        return found

    def typed(self, text: str) -> dict[str, bytes] | None:
        """Return the field for a typed row, a JSON object or array, such as `{"age": 61}`; other cells are missing."""
        found = [field for field in self.fields if format_of(field) == "json"]
        return {found[0]: text.encode(errors="surrogatepass")} if found else None

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode a row in the units of the table as JSON, or as CSV if that is the only text among the fields."""
        cells = self._cells(x)
        file = next((field for field in self.fields if format_of(field) in ("json", "csv")), "json")
        by_name = dict(cells)
        content: Any = by_name
        rows: list[list[Any]] = [[name for name, _ in cells], [cell for _, cell in cells]]
        if self._vector_length is not None:  # numbers that the options leave out keep their places
            content = [by_name.get(str(index)) for index in range(self._vector_length)]
            rows = [content]
        if format_of(file) == "json":
            return {file: f"{json.dumps(content, ensure_ascii=False)}\n".encode()}
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(["" if cell is None else cell for cell in row] for row in rows)
        return {file: text.getvalue().encode()}

    def preview(self, x: Tensor) -> Preview:
        """Show the first cells as text."""
        cells = self._cells(x)
        shown = [f"{cell:.4g}" if isinstance(cell, float | int) else cell or "?" for _, cell in cells[:MOST_PREVIEWED]]
        if self._vector_length is None:
            shown = [f"{name} {cell}" for (name, _), cell in zip(cells, shown, strict=False)]
        text = (", " if self._vector_length is None else " ").join(shown)
        return Preview(text=text if len(cells) <= MOST_PREVIEWED else f"{text} ...")

    def _cells(self, x: Tensor) -> list[tuple[str, Cell]]:
        """Names and cells of one row, in the units of the table; None for a missing cell."""
        values_C, known_C = self._layout.parts(x[None].float().cpu())
        found: list[tuple[str, Cell]] = []
        for column, value, known in zip(self.columns, values_C[0].tolist(), known_C[0].tolist(), strict=True):
            cell = column.cell(value) if known else None
            found.append((column.name, _rounded(cell) if isinstance(cell, float) else cell))
        return found

    def encoder(self, feature_dim: int) -> nn.Module:
        """Encode x [B, 2, C] or [B, C] as h [B, feature_dim]."""
        return TableEncoder(self._layout, self.options.width, self.options.num_layers, feature_dim)

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a likelihood of rows."""
        options = self.options
        return TableDecoder(
            self._layout, options.width, options.num_layers, latent_dim, heavy_tails=options.likelihood == "student"
        )

    @property
    def _layout(self) -> Layout:
        """Kinds of the columns. Before `fit`, placeholders let a dry run count parameters."""
        sizes = tuple(len(column.categories) for column in self._columns) or (0,) * PLACEHOLDERS
        return Layout(sizes, masked=self.options.allow_missing)


def _rounded(value: float) -> float:
    """Round to the digits that float32 holds; a whole number becomes an int, which is written without a point."""
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("table", Table)
