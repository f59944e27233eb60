"""The contract between the core and a data set plugin, which turns raw files into samples or generates samples."""

import abc
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

EXAMPLES_PER_NOTE = 5


@attrs.frozen(kw_only=True)
class Sample:
    """One aligned example.

    Attributes:
        key: Name of the sample, unique in the data set. It consists of letters, digits, "_" and "-", because it names
            files.
        split: Split that the sample belongs to: "train", "validation" or "test".
        fields: Field name (a file extension such as "mp4") to original bytes. A missing modality has no field.
        label: Name of the sample's class; or the value of each of several attributes by name, None where it is unknown,
            such as {"digit": "3", "place": None}; or None.
    """

    key: str
    split: str
    fields: dict[str, bytes]
    label: str | Mapping[str, str | int | bool | None] | None = None


@attrs.define
class _Group:
    """Things that were left out for one reason; `names` holds the first few names."""

    noun: str
    reason: str
    number: int = 0
    names: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        more = ", ..." if self.number > len(self.names) else ""
        nouns = self.noun if self.number == 1 else f"{self.noun}s"
        return f"{self.number} {nouns} left out, {self.reason}: {', '.join(self.names)}{more}"


def _shown(name: str) -> str:
    """Return a file name as text. Bytes that are not UTF-8 become backslash escapes."""
    try:
        return os.fsencode(name).decode(errors="backslashreplace")
    except UnicodeEncodeError:  # not a file name but text with half of a surrogate pair
        return name.encode(errors="backslashreplace").decode()


class Account:
    """The report of a data set about one pass over its samples; it also says which samples the caller needs.

    The core creates one for each call of `Dataset.samples` and shows its notes at the end of the pass.

    Args:
        wanted: Returns True for the key of a sample that the caller needs. By default all samples are needed.

    Attributes:
        left_out: Reason and name of each thing that was left out, in order.

    Example:
        >>> account = Account()
        >>> account.leave_out("empty file", "a.jpg")
        >>> account.leave_out("empty file", "b.jpg")
        >>> account.note("3 of 8 samples without txt")
        >>> account.notes
        ['2 files left out, empty file: a.jpg, b.jpg', '3 of 8 samples without txt']
    """

    def __init__(self, wanted: Callable[[str], bool] = lambda _: True) -> None:
        self._wanted = wanted
        self._lines: list[str | _Group] = []
        self._groups: dict[tuple[str, str], _Group] = {}
        self.left_out: list[tuple[str, str]] = []

    def wanted(self, key: str) -> bool:
        """Return whether the caller needs the sample with this key.

        A data set may skip other samples before reading their files. If it yields them, the caller ignores them.
        """
        return self._wanted(key)

    def note(self, text: str) -> None:
        """Add a note about the data for the user."""
        self._lines.append(text)

    def leave_out(self, reason: str, name: str, *, noun: str = "file") -> None:
        """Record that a file, row or sample is left out.

        Args:
            reason: Reason; things with the same reason and noun share one note.
            name: Name by which a user finds it, such as a path relative to the source folder.
            noun: Kind of thing, in the singular.
        """
        name = _shown(name)
        self.left_out.append((reason, name))
        if (noun, reason) not in self._groups:
            self._groups[noun, reason] = _Group(noun, reason)
            self._lines.append(self._groups[noun, reason])
        group = self._groups[noun, reason]
        group.number += 1
        if len(group.names) < EXAMPLES_PER_NOTE:
            group.names.append(name)

    @property
    def notes(self) -> list[str]:
        """The notes in order. Things left out for one reason share a note with their number and the first names."""
        return [str(line) for line in self._lines]


class Dataset(abc.ABC):
    """A source of samples. A plugin's class is final and declares a frozen attrs class `Options`.

    Attributes:
        Options: Frozen attrs class of the options.
        synthetic: True if the samples are generated rather than recorded. Every output of a run on them says so.
        needs_source: True if `samples` reads a folder of raw files.
        takes_file: True if `samples` also reads a single file, such as a table, in place of a folder.
    """

    Options: ClassVar[type[Any]]
    synthetic: ClassVar[bool] = False
    needs_source: ClassVar[bool] = True
    takes_file: ClassVar[bool] = False

    def __init__(self, options: Any) -> None:
        self.options = options

    @abc.abstractmethod
    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield every sample of every split, in an order that depends only on the files and the options.

        Args:
            source: Folder of raw files, or a file if `takes_file`; None for a data set that needs none.
            account: Receives notes and what is left out, and says which samples are needed.

        Raises:
            DataError: The folder does not have the layout that this data set expects.
        """
