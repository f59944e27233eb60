"""The contract between the core and a data set plugin: raw files, or nothing at all, become samples."""

import abc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs


@attrs.frozen(kw_only=True)
class Sample:
    """One aligned example.

    Attributes:
        key: Name that is unique in the data set; letters, digits, "_" and "-" only, so that it can name files.
        split: Part of the data set that it belongs to: "train", "validation" or "test".
        fields: Field name (a file extension such as "mp4") to original bytes; a missing modality has no field.
        label: Name of its class, or None.
    """

    key: str
    split: str
    fields: dict[str, bytes]
    label: str | None = None


class Dataset(abc.ABC):
    """A source of samples. A plugin's class declares a frozen attrs class `Options` and is final.

    Attributes:
        synthetic: True where samples are made rather than recorded; every output of a run on them says so.
        needs_source: True where `samples` reads a folder of raw files.
        wanted: Which keys somebody has a use for. A data set may pass over others before it reads their files; what it
            yields all the same is ignored.
        notes: What a user should know of the last pass over `samples`: files that were left out, and why.
        left_out: Reason and name of every file (row, sample) that the last pass left out, of which notes may show few.
    """

    Options: ClassVar[type[Any]]
    synthetic: ClassVar[bool] = False
    needs_source: ClassVar[bool] = True

    def __init__(self, options: Any) -> None:
        self.options = options
        self.wanted: Callable[[str], bool] = lambda _: True
        self.notes: list[str] = []
        self.left_out: list[tuple[str, str]] = []

    @abc.abstractmethod
    def samples(self, source: Path | None) -> Iterator[Sample]:
        """Yield every sample of every split, in an order that depends on nothing but the files and options.

        Args:
            source: Folder of raw files; None for a data set that needs none.

        Raises:
            DataError: The folder is not laid out as this data set expects.
        """
