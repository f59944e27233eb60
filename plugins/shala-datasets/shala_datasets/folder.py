"""Any folder of files. Files with the same stem form one sample, such as 0001.jpg, 0001.txt and 0001.wav.

The stem is the path within the folder without extensions. The extension, in lower case, is the name of the field. A
table in CSV or Parquet may add label, split, group and fields of each sample, or hold the samples itself, one a row: it
does where it is the only file, where its columns name the files, or where it is what is packed. A file with the
extension cls contains the label. Folders named train, val and test define the splits. Hidden files, files left by
operating systems, and files that describe the set, such as README.md, are left out.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import attrs

from shala_datasets.cells import FIELD, LONGEST_FIELD, check_fields, text_of
from shala_datasets.files import check_folder, count, examples, listed, printable, read_or_leave_out, walk
from shala_datasets.folder_names import describes_the_set, left_by_a_system, safe_key, split_folders, split_of
from shala_datasets.folder_rows import TableRows, samples_of_rows
from shala_datasets.folder_table import SPLITS, Columns, Facts, choose_columns, note_unused, read_facts
from shala_datasets.parquet import RowTable, is_table, open_table
from shala_datasets.splits import check_share, divide_by_hash
from shala_datasets.tables import MISSING
from shala_framework.plugin import Account, DataError, Dataset, Sample

LAYOUT = "files that share a name within a sample, such as 0001.jpg and 0001.txt"

_LABEL_FIELD = "cls"
_LAST_DOT = "pack again with --set 'stem_ends_at=last dot'"
_NAMED = 3  # samples without a field that a note names
_RARE = 0.01  # share of samples below which a field gets no note of its own


class Folder(Dataset):
    """A folder of files, or a table, as samples. Fields are the files' extensions, and those that columns become."""

    takes_file = True

    @attrs.frozen(kw_only=True)
    class Options:
        """What forms a sample, and the source of label, split and text.

        Attributes:
            stem_ends_at: Where a file's stem ends and its extension begins. "last dot" is for names that contain dots.
            ignore_folders: Whether to pair files by name alone, for layouts such as images/0001.jpg and
                reports/0001.txt.
            label_from_folder: Whether a sample's folder gives its label if neither the table nor a cls file does.
            table: File of comma-separated values with a header row (.csv, .tsv, and both with .gz), or a Parquet file
                (.parquet, which needs pyarrow), relative to the folder. A table that is packed itself, as in
                `shala pack folder rows.csv OUT`, needs no name.
            key_column: Column that identifies a row's sample by its stem or by the name of one of its files. By default
                the column named "key" or "file". Where each row is a sample, the column of its name, by default "key"
                or else the number of the row.
            columns: Column to the field that its cells become, such as { caption = "txt", price = "value" }. Several
                columns may share a field: one that ends in "json" becomes an object, one that ends in "npy" a vector,
                and any other one line for each. "*" stands for all columns that no option names. A blank cell is a
                missing field.
            path_columns: Column of paths to the field that the files become, such as { photo = "", mask = "mask.png" };
                "" takes the extension. Paths are relative to the folder and stay in it. Each row is then a sample.
                Columns of a Parquet file may hold the files themselves.
            label_column: Column of labels. A blank cell means no label.
            label_columns: Columns that each give the value of one attribute, such as ["colour", "shape"], in place of
                one column of labels. A blank cell is unknown.
            split_column: Column of "train", "validation" or "test". If a table has this column, it alone determines the
                splits, and samples without a row are left out.
            group_column: Column of groups that must stay within one split, such as the patient. Samples without a row
                are left out.
            missing_cells: Cell contents that count as blank, as programs write them for missing values.
            text_columns: Columns that form the field txt, one per line. If all are blank, txt is missing.
            split_from_folder: How folder names determine splits. "auto" uses folders named train, val, test or similar
                if at least two of them, including train, are next to each other; samples outside them are then left
                out. "yes" uses every folder with such a name, "no" none. A table with splits takes precedence.
            validation_share: Share of samples, or of groups, for validation, by a hash of the stem or group, if neither
                a table nor folders define splits. Above 0, at least one of three samples is for validation.
            test_share: Share of samples or groups for the test set, chosen likewise.
        """

        stem_ends_at: Literal["first dot", "last dot"] = "first dot"
        ignore_folders: bool = False
        label_from_folder: bool = False
        table: str = ""
        key_column: str = ""
        columns: dict[str, str] = attrs.field(factory=dict)
        path_columns: dict[str, str] = attrs.field(factory=dict)
        label_column: str = "label"
        label_columns: tuple[str, ...] = ()
        split_column: str = "split"
        group_column: str = ""
        missing_cells: tuple[str, ...] = MISSING
        text_columns: tuple[str, ...] = ()
        split_from_folder: Literal["auto", "yes", "no"] = "auto"
        validation_share: float = attrs.field(default=0.1, validator=check_share)
        test_share: float = attrs.field(default=0.1, validator=check_share)

        def __attrs_post_init__(self) -> None:
            if self.validation_share + self.test_share >= 1:
                total = self.validation_share + self.test_share
                raise ValueError(f"expected validation_share and test_share below 1 together, got {total}")
            if self.ignore_folders and self.label_from_folder:
                raise ValueError("expected only one of ignore_folders and label_from_folder, got both")
            check_fields("columns", self.columns)
            check_fields("path_columns", self.path_columns, blank=True)
            twice = sorted({*self.columns, *self.text_columns} & set(self.path_columns))
            if twice:
                raise ValueError(f"expected each column in one of columns and path_columns, got {twice[0]!r} in both")

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples in order of their stems. The account records what is left out or unusual.

        Args:
            source: Folder of the files, or a table.
            account: Receives notes and what is left out.

        Raises:
            DataError: The folder or the table cannot be used, or gives no sample.
        """
        if source is not None and source.is_file():
            if not is_table(source):
                raise DataError(
                    f"{printable(source)}: expected a folder, or a table in .csv, .tsv or .parquet, got a file"
                )
            if self.options.table:
                raise DataError(f"expected no option table where a table is packed, got {self.options.table!r}")
            yield from self._samples_of_rows(source, source.parent, account)
            return
        source = check_folder(source, LAYOUT)
        options = self.options
        of_a_table = ("key_column", "label_columns", "group_column", "text_columns", "columns", "path_columns")
        needs = [name for name in of_a_table if getattr(options, name)]
        if needs and not options.table:
            raise DataError(
                f"expected a table for {needs[0]}, got none: set table to the name of the CSV or Parquet file"
            )
        alone = options.table and all(self._entry(path)[2] for path in self._paths(source))
        if options.path_columns or alone:
            yield from self._samples_of_rows(self._table_path(source), source, account)
            return
        found, splits = self._find(source, account)
        facts = self._facts(source, found, account)
        divided = self._divide(facts, splits, account)
        keys: set[str] = set()
        tally: Counter[str] = Counter()
        fields_of: Counter[str] = Counter()
        replaced: Counter[str] = Counter()
        first_stems: dict[frozenset[str], list[str]] = {}
        for stem, paths in found.items():
            if stem not in divided:
                continue
            contents = {field: read_or_leave_out(path, source, account) for field, path in paths.items()}
            fields = {field: content for field, content in contents.items() if content is not None}
            label = self._label(facts[stem], fields, next(iter(paths.values())), source, account, bool(splits))
            replaced.update(fields.keys() & facts[stem].fields.keys())
            fields |= facts[stem].fields
            if not fields:
                account.leave_out("no readable file other than a label", stem, noun="sample")
                continue
            split = divided[stem]
            tally.update([split, "samples", *(["pairs"] if len(fields) > 1 else [])])
            tally["labels"] += label is not None
            fields_of.update(fields.keys())
            alike = first_stems.setdefault(frozenset(fields), [])
            if len(alike) < _NAMED:
                alike.append(stem)
            key = safe_key(stem, keys)
            keys.add(key)
            yield Sample(key=key, split=split, fields=fields, label=label)
        if not tally["samples"]:
            raise DataError("\n".join([f"{source}: expected {LAYOUT}, got no sample", *account.notes]))
        self._note(tally, fields_of, first_stems, replaced, found, account)

    def _samples_of_rows(self, path: Path, folder: Path, account: Account) -> Iterator[Sample]:
        """Yield a sample for each row of a table."""
        options = self.options
        if options.label_from_folder or options.ignore_folders:
            name = "label_from_folder" if options.label_from_folder else "ignore_folders"
            raise DataError(f"expected no option {name} where each row of {printable(path)} is a sample")
        table = open_table(path)
        columns = self._columns(table, by_row=True)
        self._note_missing_cells(account, table, columns)
        rows = TableRows(table=table, columns=columns, folder=folder, missing=options.missing_cells, account=account)
        shares = {"train": 1.0, "validation": options.validation_share, "test": options.test_share}
        expected = [split for split, share in shares.items() if share]
        yield from samples_of_rows(rows, lambda facts: self._divide(facts, {}, account), expected)

    def _columns(self, table: RowTable, *, by_row: bool = False) -> Columns:
        """Select the columns that the options name."""
        options = self.options
        return choose_columns(
            table,
            key=options.key_column,
            label=options.label_column,
            labels=options.label_columns,
            split=options.split_column,
            group=options.group_column,
            text=options.text_columns,
            fields=options.columns,
            paths=options.path_columns,
            missing=options.missing_cells,
            optional=("label", "split"),
            by_row=by_row,
        )

    def _find(self, source: Path, account: Account) -> tuple[dict[str, dict[str, Path]], dict[str, str]]:
        """Return files by stem and field, in order of stems and paths, and the splits that folders define, by stem."""
        entries = [(path, *self._entry(path)) for path in self._paths(source)]
        usable = [(path.parent, name) for path, name, _, reason in entries if not reason]
        folders = split_folders((folder for folder, _ in usable), self.options.split_from_folder)
        splits_of_name: dict[str, set[str]] = defaultdict(set)
        for folder, name in usable:
            if split := split_of(folder, folders):
                splits_of_name[name].add(split)
        found: dict[str, dict[str, Path]] = defaultdict(dict)
        splits: dict[str, str] = {}
        for path, name, field, reason in entries:
            if reason:
                account.leave_out(reason, str(path))
                continue
            split = split_of(path.parent, folders)
            if not self.options.ignore_folders:
                stem = (path.parent / name).as_posix()
            else:  # names may recur in each split
                stem = f"{split}/{name}" if split and len(splits_of_name[name]) > 1 else name
            if split:
                splits[stem] = split
            used = found[stem].setdefault(field, source / path)
            if used != source / path:
                account.leave_out("same stem and extension twice", f"{path} (used: {used.relative_to(source)})")
        for stem in [stem for stem, paths in found.items() if describes_the_set(stem, paths)]:
            for path in found.pop(stem).values():
                account.leave_out("describes the set by its name, not a sample", str(path.relative_to(source)))
        tables = [stem for stem, paths in found.items() if len(paths) == 1 and any(map(is_table, paths.values()))]
        if len(tables) == len(found) == 1:
            (path,) = found[tables[0]].values()
            raise DataError(
                f"{source}: expected {LAYOUT}, got one table; to pack its rows, name what its columns become, such as "
                f"--set table={path.relative_to(source)} --set 'columns={{caption = \"txt\"}}'"
            )
        if len(tables) == 1:
            (path,) = found.pop(tables[0]).values()
            account.leave_out("is it a table? then set table to its path", str(path.relative_to(source)))
        if not found:
            raise DataError("\n".join([f"{source}: expected {LAYOUT}, got no such file", *account.notes]))
        return {stem: found[stem] for stem in sorted(found)}, splits

    def _paths(self, source: Path) -> Iterator[Path]:
        """Yield every file but the table, relative to the folder."""
        table = os.path.normpath(source / self.options.table)
        return (path.relative_to(source) for path in walk(source) if os.path.normpath(path) != table)

    def _entry(self, path: Path) -> tuple[str, str, str]:
        """Return name without extension, field, and the reason to leave the file out, or an empty string."""
        if any(part.startswith(".") for part in path.parts):
            return "", "", "hidden file"
        if left_by_a_system(path):
            return "", "", "left behind by a system or a program"
        cut = path.name.partition if self.options.stem_ends_at == "first dot" else path.name.rpartition
        name, dot, extension = cut(".")
        field = extension.lower()
        if not dot:
            return "", "", "no extension, which would name its field"
        if not FIELD.fullmatch(field) or len(field) > LONGEST_FIELD:
            cure = f" (for names with dots in them {_LAST_DOT})" if "." in field else ""
            return "", "", f"the extension is not up to {LONGEST_FIELD} letters and digits{cure}"
        return name, field, ""

    def _divide(self, facts: Mapping[str, Facts], splits: Mapping[str, str], account: Account) -> dict[str, str]:
        """Return the split of every sample, from the table, the folder or a hash, in this order."""
        if any(of.split for of in facts.values()):
            differing = [stem for stem, of in facts.items() if of.split and splits.get(stem, of.split) != of.split]
            if differing:
                number = count(len(differing), "sample")
                account.note(f"{number} in another split than the folder's, by the table: {examples(differing)}")
            return {stem: of.split for stem, of in facts.items() if of.split}
        if self.options.split_from_folder == "yes" and not splits:
            raise DataError('expected folders called train, val or test with split_from_folder = "yes", got none')
        if splits:
            account.note('split by the folders called train, val or test; split_from_folder = "no" ignores them')
            for stem in facts:
                if stem not in splits:
                    account.leave_out("in none of the folders that define splits", stem, noun="sample")
            return {stem: splits[stem] for stem in facts if stem in splits}
        groups = {stem: of.group or stem for stem, of in facts.items()}
        of_group = divide_by_hash(groups.values(), self.options.validation_share, self.options.test_share)
        return {stem: of_group[group] for stem, group in groups.items()}

    def _facts(self, source: Path, found: Mapping[str, Mapping[str, Path]], account: Account) -> dict[str, Facts]:
        """Return the facts of every used sample. Samples without a row are left out if the table determines splits."""
        nothing = Facts()
        options = self.options
        if not options.table:
            return dict.fromkeys(found, nothing)
        table = open_table(self._table_path(source))
        columns = self._columns(table)
        facts = read_facts(table, columns, found, source, account, options.missing_cells)
        note_unused(table, columns, account)
        self._note_missing_cells(account, table, columns)
        if not facts:
            few = [str(path.relative_to(source)) for paths in found.values() for path in paths.values()][:10]
            raise DataError(
                f"{table.path}: expected names of files in column {columns.key!r}, such as {examples(few)}, got none\n"
                + "\n".join(account.notes)
            )
        blank = [stem for stem, of in facts.items() if columns.group and not columns.split and not of.group]
        if blank:
            number = count(len(blank), "sample")
            account.note(f"{number} with blank {columns.group!r}, split one by one: {examples(blank)}")
        absent = [stem for stem in found if stem not in facts]
        if absent and (columns.split or columns.group):
            reason = f"no row in {options.table}, which has column {columns.split or columns.group!r}"
            for stem in absent:
                account.leave_out(reason, stem, noun="sample")
            return facts
        if absent:
            account.note(f"{count(len(absent), 'sample')} without a row in {options.table}: {examples(absent)}")
        return dict.fromkeys(found, nothing) | facts

    def _note_missing_cells(self, account: Account, table: RowTable, columns: Columns) -> None:
        """Note which non-empty cells count as blank, because they might be names of classes."""
        names = {columns.label, columns.group, *columns.fields.columns, *columns.paths} - {""}
        said = Counter(
            row[name].strip()
            for _, row in table
            for name in names
            if isinstance(row[name], str) and row[name].strip() and not text_of(row[name], self.options.missing_cells)
        )
        if said:
            few = examples([f"{text!r} ({number})" for text, number in sorted(said.items())])
            account.note(f"{table.path.name}: cells taken as blank (option missing_cells): {few}")

    def _table_path(self, source: Path) -> Path:
        path = source / self.options.table
        if path.is_file():
            return path
        tables = [path.name for path in listed(source) if is_table(path)]
        there = f"the folder has {examples(tables)}" if tables else "the folder has no .csv file"
        raise DataError(f"{printable(path)}: expected the table that option table names, got no such file; {there}")

    def _label(
        self, facts: Facts, fields: dict[str, bytes], path: Path, source: Path, account: Account, divided: bool
    ) -> str | Mapping[str, str] | None:
        """Return the label: from the table, else the file cls (removed from the fields), else the folder's name."""
        label = facts.label
        try:
            written = fields.pop(_LABEL_FIELD, b"").decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            written = ""
            account.leave_out("label is not text in UTF-8", str(path.relative_to(source)))
        folders = path.parent.relative_to(source).parts if self.options.label_from_folder else ()
        names = [name for name in folders if not (divided and name.lower() in SPLITS)]
        return label or written or printable(names[-1] if names else "") or None

    def _note(
        self,
        tally: Counter[str],
        fields_of: Counter[str],
        first_stems: Mapping[frozenset[str], Sequence[str]],
        replaced: Counter[str],
        found: Mapping[str, Mapping[str, Path]],
        account: Account,
    ) -> None:
        """Note what a user of the samples may not expect."""
        options, samples = self.options, count(tally["samples"], "sample")
        if not tally["pairs"]:
            fields = examples([f"{field} ({number})" for field, number in sorted(fields_of.items())])
            one = f"every sample has the one field {fields}"
            what = one if len(fields_of) == 1 else f"no two files share a stem: {fields}"
            by_name: dict[str, set[str]] = defaultdict(set)
            for stem, paths in found.items():
                by_name[stem.rpartition("/")[2]] |= paths.keys()
            would_pair = any(len(of) > 1 for of in by_name.values())
            cure = "set ignore_folders = true to pair files of one name in different folders" if would_pair else LAYOUT
            account.note(f"{what}; {'' if would_pair else 'expected '}{cure}")
        else:
            usual = {field: number for field, number in fields_of.items() if number >= _RARE * tally["samples"]}
            lacking = {field: tally["samples"] - number for field, number in sorted(usual.items())}
            for field, number in lacking.items():
                if number:
                    stems = sorted(stem for fields, few in first_stems.items() if field not in fields for stem in few)
                    account.note(f"{number} of {samples} without {field}: {examples(stems[:_NAMED], number)}")
            rare = [f"{field} ({number})" for field, number in sorted(fields_of.items()) if field not in usual]
            if rare:
                account.note(f"fields of less than {_RARE:.0%} of {samples}: {examples(rare)}")
        dotted = sorted(field for field in fields_of if "." in field and field not in options.columns.values())
        if dotted:
            account.note(f"fields with a dot: {examples(dotted)}; unless they are meant, {_LAST_DOT}")
        if 0 < tally["labels"] < tally["samples"]:
            account.note(f"{tally['samples'] - tally['labels']} of {samples} without label")
        for field, number in sorted(replaced.items()):
            what = "text" if field == "txt" else "field"
            account.note(f"{count(number, f'{field} file')} not used: the table has the {what}")
        for split, share in (("train", 1.0), ("validation", options.validation_share), ("test", options.test_share)):
            if share and not tally[split]:
                account.note(f"none of {samples} is in {split}")
