"""The optional table of a folder of samples: label, split, group and text of each, found by key or by file name."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath

import attrs

from shala_datasets.files import printable
from shala_datasets.tables import MISSING, CsvTable, cell
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
        key: Column with a sample's stem, or the name of one of its files.
        label: Column with the name of the class.
        split: Column with "train", "validation" or "test", or common synonyms.
        group: Column with what several samples share, such as the patient; a group must stay within one split.
        text: Columns that form the field txt, one per line.
    """

    key: str
    label: str
    split: str
    group: str
    text: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Facts:
    """The table's entries for one sample; None or empty if the cell is blank or the column is missing."""

    label: str | None
    split: str | None
    group: str
    text: str


def choose_columns(
    table: CsvTable, *, key: str, label: str, split: str, group: str, text: Collection[str], optional: Iterable[str]
) -> Columns:
    """Select the columns that the options name from those that the table has.

    Args:
        table: Table to read.
        key: Column of keys or file names; empty for the one named "key" or "file".
        label: Column of labels.
        split: Column of splits.
        group: Column of groups, or empty.
        text: Columns of text.
        optional: Names that the table may lack, which are defaults that the user did not write.

    Raises:
        DataError: The table lacks a column; the message names those that it has.
    """
    if not key:
        key = next((name for name in ("key", "file") if name in table.columns), "")
    if not key:
        table.require(["key"], 'or "file", or another one that option key_column names')
    absent = {name for name in optional if name not in table.columns}
    chosen = Columns(
        key=key,
        label="" if label in absent else label,
        split="" if split in absent else split,
        group=group,
        text=tuple(text),
    )
    for option, name in (("key", chosen.key), ("label", chosen.label), ("split", chosen.split), ("group", group)):
        if name:
            table.require([name], f"option {option}_column")
    table.require(chosen.text, "option text_columns")
    return chosen


def read_facts(
    table: CsvTable,
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
        DataError: The table cannot be read, or a split has an unknown name.
    """
    names = _Names(samples, source)
    facts: dict[str, Facts] = {}
    for line, row in table:
        written = row[columns.key].strip()
        where = f"{table.path.name} line {line} ({written})"
        stems = names.find(written)
        if len(stems) != 1:
            reason = "several samples have that name: write its path" if stems else "no file has that name"
            account.leave_out(reason if written else f"blank {columns.key!r}", where, noun="row")
            continue
        (stem,) = stems
        found = Facts(
            label=(cell(row[columns.label], missing) or None) if columns.label else None,
            split=_split(table.path, line, row[columns.split]) if columns.split else None,
            group=cell(row[columns.group], missing) if columns.group else "",
            text="\n".join(text for column in columns.text if (text := cell(row[column], missing))),
        )
        if facts.setdefault(stem, found) != found:
            account.leave_out("a second, different row for the same sample", where, noun="row")
    return facts


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


def _split(path: Path, line: int, cell: str) -> str:
    text = cell.strip().lower()
    if text not in SPLITS:
        raise DataError(f"{printable(path)}, line {line}: expected a split, {', '.join(SPLITS)}, got {cell!r}")
    return SPLITS[text]
