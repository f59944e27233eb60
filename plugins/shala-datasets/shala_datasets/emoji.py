"""Emoji: one idea drawn by five hands, with its name: a sample can be right about an instance, not only a class.

The folder holds `emoji.csv` (key, base, category, subcategory, label) and, beside it or in one tar archive, the files
`<key>.<view>.png` and `<key>.txt`, the name with its keywords. Views are Noto, Twemoji, Fluent, OpenMoji and the line
drawing of OpenMoji. They are made from the npm packages emoji-datasource-google (Noto, Apache-2.0),
emoji-datasource-twitter (Twemoji, CC BY 4.0), @lobehub/fluent-emoji-3d (Fluent Emoji, MIT), openmoji (CC BY-SA 4.0) and
emojibase-data (names, MIT).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from shala_datasets.archives import files_in
from shala_datasets.files import check_folder, examples, printable
from shala_datasets.splits import check_share, divide_by_hash
from shala_datasets.tables import CsvTable
from shala_framework.plugin import Account, DataError, Dataset, Sample

TABLE = "emoji.csv"
VIEWS = ("noto", "twemoji", "fluent", "openmoji", "line")
LAYOUT = f"{TABLE} and files <key>.<view>.png and <key>.txt, or an archive of them"


class Emoji(Dataset):
    """Emoji as samples with the fields txt and <view>.png of five views."""

    @attrs.frozen(kw_only=True)
    class Options:
        """How the data set is divided.

        Attributes:
            label: Column of the table that is the class of a sample.
            validation_share: Share of base emoji held out for validation, each with all its skin tones and variants.
            test_share: Share of base emoji held out for the test, likewise.
        """

        label: Literal["category", "subcategory"] = attrs.field(
            default="category", validator=attrs.validators.in_(("category", "subcategory"))
        )
        validation_share: float = attrs.field(default=0.05, validator=check_share)
        test_share: float = attrs.field(default=0.1, validator=check_share)

        def __attrs_post_init__(self) -> None:
            if self.validation_share + self.test_share >= 1:
                raise ValueError(
                    "expected validation_share and test_share to leave something for training, got "
                    f"{self.validation_share} and {self.test_share}"
                )

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples in the order of the table.

        Args:
            source: Folder that holds the table and the files.
            account: Receives notes and what is left out.

        Raises:
            DataError: The folder lacks the table or all files, or either is damaged.
        """
        folder = check_folder(source, LAYOUT)
        table = CsvTable.open(folder / TABLE)
        table.require(("key", "base", self.options.label))
        fields: dict[str, dict[str, bytes]] = {}
        for suffix in (".png", ".txt"):
            for name, content in files_in(folder, suffix, account):
                key, _, field = name.partition(".")
                if field == "txt" or field.removesuffix(".png") in VIEWS:
                    fields.setdefault(key, {})[field] = content
        rows = [row for _, row in table]
        twice = [key for key, number in Counter(row["key"] for row in rows).items() if number > 1]
        if twice:
            raise DataError(f"{printable(folder / TABLE)}: expected each key once, got {twice[0]!r} again")
        # Skin tones of one emoji look alike; on two sides of a split they would tell what is held out.
        bases = (row["base"] for row in rows)
        splits = divide_by_hash(bases, self.options.validation_share, self.options.test_share)
        absent = [row["key"] for row in rows if row["key"] not in fields]
        for row in rows:
            if row["key"] in fields:
                yield Sample(
                    key=row["key"],
                    split=splits[row["base"]],
                    fields=fields[row["key"]],
                    label=row[self.options.label],
                )
        if absent:
            account.note(f"{len(absent)} rows of {TABLE} without any file: {examples(absent)}")
