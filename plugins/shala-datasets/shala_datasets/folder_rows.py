"""Each row of a table as a sample: its cells, and the files that they name."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from shala_datasets.cells import FIELD, LONGEST_FIELD, embedded_file, text_of
from shala_datasets.files import count, printable, read_or_leave_out
from shala_datasets.folder_names import safe_key
from shala_datasets.folder_table import Columns, Facts, facts_of, note_unused
from shala_datasets.parquet import RowTable
from shala_framework.plugin import Account, DataError, Sample

_LABEL_FIELD = "cls"


@attrs.frozen(kw_only=True)
class TableRows:
    """The rows of a table, read twice: first what divides them into splits, then their samples.

    Attributes:
        table: The table.
        columns: What its columns are.
        folder: Folder that paths in cells are relative to.
        missing: Cell contents that count as blank.
        account: Records what is left out.
    """

    table: RowTable
    columns: Columns
    folder: Path
    missing: Collection[str]
    account: Account

    def facts(self) -> dict[str, Facts]:
        """Return label, split and group by name, in the order of the rows; of rows of one name, the first is used.

        Raises:
            DataError: The table cannot be read, or a split has an unknown name.
        """
        found: dict[str, Facts] = {}
        for index, (number, row) in enumerate(self.table, 1):
            name = self._name(index, row)
            where = f"{self.table.path.name} {self.table.place} {number} ({name})"
            if not name:
                self.account.leave_out(f"blank {self.columns.key!r}", where, noun="row")
            elif name in found:
                self.account.leave_out("a second row of the same name", where, noun="row")
            else:
                found[name] = facts_of(self.table, number, row, self.columns, self.missing, cells=False)
        return found

    def samples(self, split_of: Mapping[str, str]) -> Iterator[Sample]:
        """Yield the sample of the first row of each name.

        Raises:
            DataError: The table cannot be read, or a cell does not suit its field.
        """
        done: set[str] = set()
        keys: set[str] = set()
        for index, (number, row) in enumerate(self.table, 1):
            name = self._name(index, row)
            if not name or name in done or name not in split_of:
                continue
            done.add(name)
            facts = facts_of(self.table, number, row, self.columns, self.missing)
            fields = {**facts.fields, **dict(self._files(number, row, facts.fields))}
            written = fields.pop(_LABEL_FIELD, b"").decode(errors="replace").strip()
            label = facts.label or written or None
            if not fields:
                where = f"{self.table.path.name} {self.table.place} {number} ({name})"
                self.account.leave_out("no value in the columns of fields", where, noun="row")
                continue
            key = safe_key(name, keys)
            keys.add(key)
            yield Sample(key=key, split=split_of[name], fields=fields, label=label)

    def _name(self, index: int, row: Mapping[str, Any]) -> str:
        return text_of(row[self.columns.key], self.missing) if self.columns.key else f"{index:06d}"

    def _files(self, number: int, row: Mapping[str, Any], there: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        """Yield field and content of each file that the row names or holds."""
        column_of: dict[str, str] = {}
        for column, chosen in self.columns.paths.items():
            value = row[column]
            content = embedded_file(value)
            name = value.get("path") if isinstance(value, Mapping) else None if content is not None else value
            where = f"{self.table.path.name} {self.table.place} {number} ({name})"
            try:
                text = text_of(name, self.missing).replace("\\", "/")
            except DataError as error:
                raise DataError(
                    f"{printable(self.table.path)}, {self.table.place} {number}, column {column!r}: {error}"
                ) from error
            if not text and content is None:
                continue
            field = chosen or text.rpartition("/")[2].rpartition(".")[2].lower()
            if not FIELD.fullmatch(field) or len(field) > LONGEST_FIELD or not (chosen or "." in text):
                self.account.leave_out("no extension, which would name its field", where)
                continue
            if field in column_of or field in there:
                other = f"column {column_of[field]!r}" if field in column_of else "option columns"
                raise DataError(
                    f"{printable(self.table.path)}, {self.table.place} {number}: expected one column for the field "
                    f"{field!r}, got {column!r} and {other}; name another field in path_columns, such as "
                    f'"{column}.{field}"'
                )
            column_of[field] = column
            if content is None:
                path = Path(os.path.normpath(self.folder / text))
                if not path.is_relative_to(os.path.normpath(self.folder)):
                    self.account.leave_out("outside the folder of the set", where)
                    continue
                content = read_or_leave_out(path, self.folder, self.account)
            if content is not None:
                yield field, content


def samples_of_rows(
    rows: TableRows,
    divide: Callable[[Mapping[str, Facts]], Mapping[str, str]],
    expected_splits: Collection[str] = (),
) -> Iterator[Sample]:
    """Yield every row's sample, and note what a user of the samples may not expect.

    Args:
        rows: Rows to read.
        divide: Returns the split of each name.
        expected_splits: Splits that are noted if they stay empty.

    Raises:
        DataError: The table cannot be read, names no column for a field, or gives no sample.
    """
    table, columns, account = rows.table, rows.columns, rows.account
    if not columns.fields.columns and not columns.paths:
        free = [name for name in table.columns if name not in columns.names] or list(table.columns)
        raise DataError(
            f"{printable(table.path)}: expected columns that become fields, got none; set columns (of texts and "
            f'numbers) or path_columns (of files), such as --set \'columns={{"{free[0]}" = "txt"}}\'; the columns are '
            f"{', '.join(map(repr, table.columns))}"
        )
    note_unused(table, columns, account)
    tally: Counter[str] = Counter()
    fields_of: Counter[str] = Counter()
    for sample in rows.samples(divide(rows.facts())):
        tally.update([sample.split, "samples", *(["labels"] if sample.label is not None else [])])
        fields_of.update(sample.fields.keys())
        yield sample
    if not tally["samples"]:
        raise DataError("\n".join([f"{printable(table.path)}: expected rows with fields, got none", *account.notes]))
    total = count(tally["samples"], "sample")
    for field, number in sorted(fields_of.items()):
        if number < tally["samples"]:
            account.note(f"{tally['samples'] - number} of {total} without {field}")
    for column, field in columns.fields.columns.items():
        if not fields_of[field]:
            account.note(f"no sample has {field}: column {column!r} has no value that is not blank")
    if 0 < tally["labels"] < tally["samples"]:
        account.note(f"{tally['samples'] - tally['labels']} of {total} without label")
    for split in expected_splits:
        if not tally[split]:
            account.note(f"none of {total} is in {split}")
