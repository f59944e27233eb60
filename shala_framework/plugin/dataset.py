"""The contract between the core and a data set plugin: raw files, or nothing at all, become samples."""

import abc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import attrs

EXAMPLES_PER_NOTE = 5


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


@attrs.define
class _Group:
    """Things that were left out for one reason; `names` has the first few."""

    noun: str
    reason: str
    number: int = 0
    names: list[str] = attrs.field(factory=list)

    def __str__(self) -> str:
        more = ", ..." if self.number > len(self.names) else ""
        nouns = self.noun if self.number == 1 else f"{self.noun}s"
        return f"{self.number} {nouns} left out, {self.reason}: {', '.join(self.names)}{more}"


def _shown(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8 become backslash escapes."""
    try:
        return os.fsencode(name).decode(errors="backslashreplace")
    except UnicodeEncodeError:  # no name of a file, but text with half of a surrogate pair
        return name.encode(errors="backslashreplace").decode()


class Account:
    """What a data set reports of one pass over its samples, and which samples the caller needs.

    The core makes one for each call of `Dataset.samples`, and shows the notes when the pass has ended.

    Args:
        wanted: Returns True for the key of a sample that is needed; by default every sample is.

    Attributes:
        left_out: Reason and name of everything that was left out, in order.

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
        """Whether the sample with this key is needed.

        A data set may skip other samples before it reads their files; if it yields them, they are ignored.
        """
        return self._wanted(key)

    def note(self, text: str) -> None:
        """Tell the user something about the data."""
        self._lines.append(text)

    def leave_out(self, reason: str, name: str, *, noun: str = "file") -> None:
        """Record that a file (row, sample) is left out.

        Args:
            reason: Why; everything with the same reason and noun shares a note.
            name: Which one, as a user finds it, such as a path relative to the source folder.
            noun: What it is, in the singular.
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
        """The notes in order; everything left out for one reason shares one, with its number and the first names."""
        return [str(line) for line in self._lines]


class Dataset(abc.ABC):
    """A source of samples. A plugin's class declares a frozen attrs class `Options` and is final.

    Attributes:
        Options: Frozen attrs class of the options.
        synthetic: True where samples are made rather than recorded; every output of a run on them says so.
        needs_source: True where `samples` reads a folder of raw files.
    """

    Options: ClassVar[type[Any]]
    synthetic: ClassVar[bool] = False
    needs_source: ClassVar[bool] = True

    def __init__(self, options: Any) -> None:
        self.options = options

    @abc.abstractmethod
    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield every sample of every split, in an order that depends only on the files and the options.

        Args:
            source: Folder of raw files; None for a data set that needs none.
            account: Receives notes and whatever is left out, and says which samples are needed.

        Raises:
            DataError: The folder is not laid out as this data set expects.
        """
