"""Data sets of the `datasets` library: a folder that it saved, data files that it reads, or its cache.

Nothing is downloaded: the library works offline here.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from shala_datasets.cells import EVERY_OTHER, CellFields, check_fields
from shala_datasets.files import check_folder, printable
from shala_datasets.folder_rows import TableRows, samples_of_rows
from shala_datasets.folder_table import SPLITS, Facts, choose_columns
from shala_datasets.splits import check_share, divide_by_hash
from shala_datasets.tables import MISSING, require_columns
from shala_framework.plugin import Account, DataError, Dataset, Sample

LAYOUT = "a data set that `save_to_disk` wrote, data files such as .parquet, or with option name the library's cache"
SAVED = ("dataset_dict.json", "state.json")
SPLIT_COLUMN = "the split"  # of the rows; the blank keeps it apart from most columns of data
MEDIA = ("Image", "Audio", "Video")


@attrs.frozen(kw_only=True)
class HubTable:
    """The rows of all splits of a data set, one after the other.

    Attributes:
        path: Folder of the data set.
        parts: Data set of the library by split, with media not decoded.
        features: Types of the columns.
        place: What the numbers of rows count.
    """

    path: Path
    parts: Mapping[str, Any]
    features: Mapping[str, Any]
    place: str = "row"

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(self.features)

    @property
    def media(self) -> tuple[str, ...]:
        """Names of the columns of pictures, sounds and clips."""
        return tuple(name for name, kind in self.features.items() if type(kind).__name__ in MEDIA)

    def require(self, columns: Any, purpose: str = "") -> None:
        """Check that columns with these names exist. Raises a DataError that names those that do."""
        require_columns(self.path, self.columns, [name for name in columns if name != SPLIT_COLUMN], purpose)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        names = {name: kind.names for name, kind in self.features.items() if type(kind).__name__ == "ClassLabel"}
        number = 0
        for split, part in self.parts.items():
            rows = iter(part)
            while True:
                try:
                    row = next(rows, None)
                except (OSError, ValueError) as error:
                    raise DataError(f"{printable(self.path)}: damaged after row {number}: {error}") from error
                if row is None:
                    break
                number += 1
                classes = {
                    name: known[row[name]] if row[name] is not None and row[name] >= 0 else None
                    for name, known in names.items()
                }
                yield number, {**row, **classes, SPLIT_COLUMN: split}


class HuggingFace(Dataset):
    """A data set of the `datasets` library. Columns become fields; media stay as they are stored."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Which data set, and what its columns become.

        Attributes:
            name: Name of a data set of the hub, such as "me/pets", in the cache that is packed: a folder such as
                ~/.cache/huggingface/datasets. By default the folder itself is the data set.
            config: Name of its configuration, if it has several.
            columns: Column to the field that its cells become, such as { image = "png", text = "txt" }. "*" stands for
                all columns that no option names, but not for media. Several columns may share a field, as with
                `folder`. A missing cell is a missing field.
            key_column: Column of the samples' names; by default they are numbered.
            label_column: Column of labels; a column of classes gives their names.
            label_columns: Columns that each give the value of one attribute, in place of one column of labels.
            group_column: Column of groups that must stay within one split.
            missing_cells: Cell contents that count as missing.
            validation_share: Share of samples, or of groups, for validation, by a hash, of a data set with one split.
            test_share: Share for the test set, chosen likewise.
        """

        name: str = ""
        config: str = ""
        columns: dict[str, str] = attrs.field(factory=dict)
        key_column: str = ""
        label_column: str = "label"
        label_columns: tuple[str, ...] = ()
        group_column: str = ""
        missing_cells: tuple[str, ...] = MISSING
        validation_share: float = attrs.field(default=0.1, validator=check_share)
        test_share: float = attrs.field(default=0.1, validator=check_share)

        def __attrs_post_init__(self) -> None:
            check_fields("columns", self.columns)
            if self.validation_share + self.test_share >= 1:
                total = self.validation_share + self.test_share
                raise ValueError(f"expected validation_share and test_share below 1 together, got {total}")

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield a sample for each row.

        Args:
            source: Folder of the data set, or of the cache.
            account: Receives notes and what is left out.

        Raises:
            DataError: The library is not installed, the folder has no such data set, or a column does not suit.
        """
        options = self.options
        table = self._table(check_folder(source, LAYOUT), account)
        if not options.columns:
            raise DataError(
                f"{printable(table.path)}: expected columns that become fields, got none; set columns, such as "
                f'--set \'columns={{"{table.columns[0]}" = "{"png" if table.media else "txt"}"}}\'; the columns are '
                f"{', '.join(map(repr, table.columns))}"
            )
        table.require([name for name in options.columns if name != EVERY_OTHER], "option columns")
        divided = len(table.parts) > 1
        chosen = choose_columns(
            table,
            key=options.key_column,
            label=options.label_column,
            labels=options.label_columns,
            split=SPLIT_COLUMN if divided else "",
            group=options.group_column,
            text=(),
            fields={},
            paths={name: field for name, field in options.columns.items() if name in table.media},
            missing=options.missing_cells,
            optional=("label",),
            by_row=True,
        )
        columns = {name: field for name, field in options.columns.items() if name not in table.media}
        taken = [*chosen.names, *table.media]
        fields = CellFields.of_table(columns, table.columns, taken, options.missing_cells)
        rows = TableRows(
            table=table,
            columns=attrs.evolve(chosen, fields=fields),
            folder=table.path,
            missing=options.missing_cells,
            account=account,
        )
        yield from samples_of_rows(rows, self._divide)

    def _table(self, source: Path, account: Account) -> HubTable:
        """Open the splits of the data set with media as they are stored."""
        try:
            with _offline():
                library: Any = importlib.import_module("datasets")
                try:
                    found = self._load(library, source)
                except (OSError, ValueError, library.exceptions.DatasetsError) as error:
                    raise DataError(f"{printable(source)}: expected {LAYOUT}, got: {error}") from error
        except ImportError as error:
            raise DataError(
                "this data set needs the package datasets: pip install './plugins/shala-datasets[huggingface]'"
            ) from error
        parts = dict(found) if isinstance(found, dict) else {"train": found}
        for split in [split for split in parts if split not in SPLITS]:
            account.note(f"split {split!r} left out: it is none of {', '.join(SPLITS)}")
            del parts[split]
        features = next(iter(parts.values())).features if parts else None
        if not features:
            raise DataError(f"{printable(source)}: expected a split called {', '.join(SPLITS)} with columns, got none")
        for name, kind in features.items():
            if type(kind).__name__ in MEDIA:
                undecoded = type(kind)(decode=False)
                parts = {split: part.cast_column(name, undecoded) for split, part in parts.items()}
        return HubTable(path=source, parts=parts, features=features)

    def _load(self, library: Any, source: Path) -> Any:
        options = self.options
        if options.name:
            return library.load_dataset(options.name, options.config or None, cache_dir=str(source))
        if any((source / file).is_file() for file in SAVED):
            return library.load_from_disk(str(source))
        return library.load_dataset(str(source), options.config or None, streaming=True)  # without a copy in the cache

    def _divide(self, facts: Mapping[str, Facts]) -> Mapping[str, str]:
        """Return the split of every sample, from the data set or else by a hash."""
        if any(of.split for of in facts.values()):
            return {name: of.split for name, of in facts.items() if of.split}
        groups = {name: of.group or name for name, of in facts.items()}
        of_group = divide_by_hash(groups.values(), self.options.validation_share, self.options.test_share)
        return {name: of_group[group] for name, group in groups.items()}


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the libraries of the Hub from using the network, and only for now: a model may be loaded from it later."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    before, given = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"  # `datasets` reads the latter on import
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        del os.environ["HF_HUB_OFFLINE"]
        if given is not None:
            os.environ["HF_HUB_OFFLINE"] = given
