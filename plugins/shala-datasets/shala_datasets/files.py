"""What every data set of raw files does: list and read them, and keep an account of those that it leaves out."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from shala_framework.plugin import DataError

_EXAMPLES_PER_NOTE = 5


def check_folder(source: Path | None, layout: str) -> Path:
    """The folder of raw files.

    Args:
        source: What `Dataset.samples` was given.
        layout: What should be in it, for the error.

    Raises:
        DataError: It is None, absent, or no folder.
    """
    if source is None or not source.is_dir():
        got = "a file" if source is not None and source.is_file() else "no folder"
        raise DataError(f"{source}: expected a folder with {layout}, got {got}")
    return source


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of the names.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot list the folder: {error.strerror}") from error


def walk(source: Path) -> Iterator[Path]:
    """Every file below source, links followed, in an order that depends on the names alone.

    Raises:
        DataError: A folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{printable(error.filename)}: cannot list the folder: {error.strerror}")

    for folder, folders, names in os.walk(source, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not _leads_back(Path(folder, name)))
        yield from (Path(folder, name) for name in sorted(names))


def _leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one that it lies in, which would have no end."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.parents)


def size(path: Path) -> int:
    """Bytes in a file.

    Raises:
        DataError: There is no such file, or it is a pipe or a device.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot read the file: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{printable(path)}: cannot read the file: expected a regular file")
    return status.st_size


def read(path: Path) -> bytes:
    """All bytes of a file.

    Raises:
        DataError: There is no such file, it cannot be read, or it is a pipe or a device.
    """
    size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot read the file: {error.strerror}") from error


def lines_of(data: bytes) -> list[str]:
    """The lines of a text: LF and CRLF end one, and nothing else, such as a form feed or U+2028, does.

    Args:
        data: The text, in UTF-8; other bytes become replacement characters.
    """
    lines = data.decode("utf-8-sig", errors="replace").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def printable(name: Path | str) -> str:
    """A file's name as text that any terminal and any log takes; bytes that are no UTF-8 become backslash escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where that is right."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def examples(names: Sequence[str], number: int | None = None) -> str:
    """The first few of several names, for a note.

    Args:
        names: All of them, or the first few.
        number: How many there are in all; None where names are all.
    """
    shown = names[:_EXAMPLES_PER_NOTE]
    more = (len(names) if number is None else number) > len(shown)
    return ", ".join(map(printable, shown)) + (", ..." if more else "")


class LeftOut:
    """Files (or rows, clips, studies) that a data set leaves out, by reason.

    Args:
        noun: What is counted, in the singular.
        entries: Takes reason and name of each one, such as `Dataset.left_out`; the notes show only some.
    """

    def __init__(self, noun: str = "file", entries: list[tuple[str, str]] | None = None) -> None:
        self.noun = noun
        self.entries: list[tuple[str, str]] = [] if entries is None else entries
        self._numbers: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return sum(self._numbers.values())

    def add(self, reason: str, name: str) -> None:
        """Leave one out.

        Args:
            reason: Why; those with one reason share a note.
            name: Which one, as a user finds it: a path relative to the source folder, say.
        """
        self.entries.append((reason, printable(name)))
        self._numbers[reason] = self._numbers.get(reason, 0) + 1
        kept = self._examples.setdefault(reason, [])
        if len(kept) < _EXAMPLES_PER_NOTE:
            kept.append(name)

    def read(self, path: Path, source: Path) -> bytes | None:
        """All bytes of a file; where it is empty or cannot be read, None, and it is left out for that reason.

        Args:
            path: The file.
            source: Folder that its name in the note is relative to.
        """
        name = str(path.relative_to(source))
        try:
            content = read(path)
        except DataError as error:
            self.add(str(error).removeprefix(f"{printable(path)}: "), name)
            return None
        if not content:
            self.add("empty file", name)
            return None
        return content

    def notes(self) -> list[str]:
        """One sentence for each reason: how many, why, and the first few."""
        return [
            f"{count(number, self.noun)} left out, {reason}: " + examples(self._examples[reason], number)
            for reason, number in self._numbers.items()
        ]
