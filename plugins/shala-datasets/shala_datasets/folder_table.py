"""The table of a folder of samples: label, split, group and fields of each, by key, by file name, or row by row."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import attrs

from shala_datasets.cells import EVERY_OTHER, CellFields, text_of
from shala_datasets.files import examples, printable
from shala_datasets.parquet import RowTable
from shala_datasets.tables import MISSING
from shala_framework.plugin import Account, DataError

SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@attrs.frozen(kw_only=True)
class Columns:
    """Names of the table's columns; an empty name means no column.

    Attributes:
        key: Column with a sample's stem, or the name of one of its files; where each row is a sample, with its name.
        label: Column with the name of the class.
        labels: Columns that each give the value of one attribute, in place of a class.
        split: Column with "train", "validation" or "test", or common synonyms.
        group: Column with what several samples share, such as the patient; a group must stay within one split.
        fields: Columns whose cells become fields.
        paths: Columns of paths to files, and the fields that the files become; empty for their extension.
    """

    key: str
    label: str
    split: str
    group: str
    fields: CellFields
    paths: Mapping[str, str]
    labels: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        named = [self.key, self.label, *self.labels, self.split, self.group, *self.fields.columns, *self.paths]
        return list(dict.fromkeys(name for name in named if name))


@attrs.frozen(kw_only=True)
class Facts:
    """The table's entries for one sample; None or empty if the cell is blank or the column is missing.

    Attributes:
        label: Name of the class, or the value of each attribute by name.
        split: Split of the sample.
        group: What several samples share.
        fields: Fields that cells become.
    """

    label: str | Mapping[str, str] | None = None
    split: str | None = None
    group: str = ""
    fields: Mapping[str, bytes] = attrs.field(factory=dict)


def choose_columns(
    table: RowTable,
    *,
    key: str,
    label: str,
    split: str,
    group: str,
    text: Collection[str],
    fields: Mapping[str, str],
    paths: Mapping[str, str],
    missing: Collection[str],
    optional: Iterable[str],
    labels: Collection[str] = (),
    by_row: bool = False,
) -> Columns:
    """Select the columns that the options name from those that the table has.

    Args:
        table: Table to read.
        key: Column of keys or file names; empty for the one named "key" or "file".
        label: Column of labels.
        split: Column of splits.
        group: Column of groups, or empty.
        text: Columns that form the field txt.
        fields: Column to field; "*" for all columns that are not named.
        paths: Column of paths to field, or to an empty text for the files' extensions.
        missing: Cell contents that count as blank.
        optional: Names that the table may lack, which are defaults that the user did not write.
        labels: Columns of attributes, which take the place of the column of labels.
        by_row: Whether each row is a sample, which needs no key.

    Raises:
        DataError: The table lacks a column; the message names those that it has.
    """
    if not key:
        key = next((name for name in ("key", *(() if by_row else ("file",))) if name in table.columns), "")
    if not key and not by_row:
        table.require(["key"], 'or "file", or another one that option key_column names')
    absent = {name for name in optional if name not in table.columns}
    if labels:
        if label and label not in optional:
            raise DataError(f"expected one of label_column and label_columns, got {label!r} and {', '.join(labels)}")
        absent.add(label)
    chosen = Columns(
        key=key,
        label="" if label in absent else label,
        split="" if split in absent else split,
        group=group,
        fields=CellFields({}),
        paths=paths,
        labels=tuple(labels),
    )
    for option, name in (("key", chosen.key), ("label", chosen.label), ("split", chosen.split), ("group", group)):
        if name:
            table.require([name], f"option {option}_column")
    table.require(labels, "option label_columns")
    table.require(text, "option text_columns")
    table.require([name for name in fields if name != EVERY_OTHER], "option columns")
    table.require(paths, "option path_columns")
    written = dict.fromkeys(text, "txt") | dict(fields)
    return attrs.evolve(chosen, fields=CellFields.of_table(written, table.columns, chosen.names, missing))


def note_unused(table: RowTable, columns: Columns, account: Account) -> None:
    """Note the columns that nothing reads, which may be forgotten ones or misspelt defaults.

    Args:
        table: Table to read.
        columns: Result of `choose_columns`.
        account: Receives the note.
    """
    if unused := [name for name in table.columns if name not in columns.names]:
        what = "column" if len(unused) == 1 else "columns"
        account.note(f"{printable(table.path.name)}: {what} not used: {examples(list(map(repr, unused)))}")


def read_facts(
    table: RowTable,
    columns: Columns,
    samples: Mapping[str, Mapping[str, Path]],
    source: Path,
    account: Account,
    missing: Collection[str] = MISSING,
) -> dict[str, Facts]:
    """Read facts by stem. Leave out rows without a sample and second rows of a sample.

    Args:
        table: Table to read.
        columns: Result of `choose_columns`.
        samples: Files by stem and field.
        source: Folder that the names in the table are relative to.
        account: Records the rows that are left out.
        missing: Cell contents that count as blank.

    Raises:
        DataError: The table cannot be read, a split has an unknown name, or a cell does not suit its field.
    """
    names = _Names(samples, source)
    facts: dict[str, Facts] = {}
    for number, row in table:
        written = text_of(row[columns.key], ())
        where = f"{table.path.name} {table.place} {number} ({written})"
        stems = names.find(written)
        if len(stems) != 1:
            reason = "several samples have that name: write its path" if stems else "no file has that name"
            account.leave_out(reason if written else f"blank {columns.key!r}", where, noun="row")
            continue
        (stem,) = stems
        found = facts_of(table, number, row, columns, missing)
        if facts.setdefault(stem, found) != found:
            account.leave_out("a second, different row for the same sample", where, noun="row")
    return facts


def facts_of(
    table: RowTable,
    number: int,
    row: Mapping[str, Any],
    columns: Columns,
    missing: Collection[str],
    *,
    cells: bool = True,
) -> Facts:
    """Return the entries of one row.

    Args:
        table: Table of the row, for messages.
        number: Number of the row.
        row: Cells by column.
        columns: Result of `choose_columns`.
        missing: Cell contents that count as blank.
        cells: Whether to read the cells that become fields.

    Raises:
        DataError: A split has an unknown name, or a cell does not suit its field.
    """
    try:
        return Facts(
            label=_label(row, columns, missing),
            split=_split(text_of(row[columns.split], ())) if columns.split else None,
            group=text_of(row[columns.group], missing) if columns.group else "",
            fields=columns.fields.read(row) if cells else {},
        )
    except DataError as error:
        raise DataError(f"{printable(table.path)}, {table.place} {number}: {error}") from error


class _Names:
    """Names by which a table may refer to a sample: stem or path of a file, or its last part if that is unique."""

    def __init__(self, samples: Mapping[str, Mapping[str, Path]], source: Path) -> None:
        self.paths: dict[str, set[str]] = defaultdict(set)
        self.last_parts: dict[str, set[str]] = defaultdict(set)
        for stem, files in samples.items():
            for name in {stem, *(path.relative_to(source).as_posix() for path in files.values())}:
                self.paths[name].add(stem)
                self.last_parts[name.rpartition("/")[2]].add(stem)

    def find(self, written: str) -> set[str]:
        """Return the stems of the samples that a cell may mean."""
        path = str(PurePosixPath(written.replace("\\", "/"))) if written else ""
        return self.paths.get(path) or self.last_parts.get(path.rpartition("/")[2], set())


def _label(row: Mapping[str, Any], columns: Columns, missing: Collection[str]) -> str | Mapping[str, str] | None:
    if columns.labels:
        values = {name: text_of(row[name], missing) for name in columns.labels}
        return {name: value for name, value in values.items() if value} or None
    return (text_of(row[columns.label], missing) or None) if columns.label else None


def _split(text: str) -> str:
    if text.lower() not in SPLITS:
        raise DataError(f"expected a split, {', '.join(SPLITS)}, got {text!r}")
    return SPLITS[text.lower()]
