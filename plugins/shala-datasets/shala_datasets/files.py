"""What every data set of raw files does: list and read them, and say which ones it leaves out."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from shala_framework.plugin import Account, DataError

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


def read_or_leave_out(path: Path, source: Path, account: Account) -> bytes | None:
    """All bytes of a file; where it is empty or cannot be read, None, and the account says so.

    Args:
        path: The file.
        source: Folder that its name in the note is relative to.
        account: Counts what is left out.
    """
    name = str(path.relative_to(source))
    try:
        content = read(path)
    except DataError as error:
        account.leave_out(str(error).removeprefix(f"{printable(path)}: "), name)
        return None
    if not content:
        account.leave_out("empty file", name)
        return None
    return content
