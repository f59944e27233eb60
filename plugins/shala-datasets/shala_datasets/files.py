"""List and read raw files, and report the ones that are left out, for all data sets."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from shala_framework.plugin import Account, DataError

_EXAMPLES_PER_NOTE = 5


def check_folder(source: Path | None, layout: str) -> Path:
    """Return the folder of raw files.

    Args:
        source: Argument of `Dataset.samples`.
        layout: Expected content, for the error message.

    Raises:
        DataError: The argument is None, does not exist, or is not a folder.
    """
    if source is None or not source.is_dir():
        got = "a file" if source is not None and source.is_file() else "no folder"
        raise DataError(f"{source}: expected a folder with {layout}, got {got}")
    return source


def listed(folder: Path) -> list[Path]:
    """List the entries of a folder in order of names.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        return [folder / name for name in sorted(os.listdir(folder))]
    except OSError as error:
        raise DataError(f"{printable(folder)}: cannot list the folder: {error.strerror}") from error


def walk(source: Path) -> Iterator[Path]:
    """Yield every file below source, following links, in an order that depends only on the names.

    Raises:
        DataError: A folder cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{printable(error.filename)}: cannot list the folder: {error.strerror}")

    for folder, folders, names in os.walk(source, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not _leads_back(Path(folder, name)))
        yield from (Path(folder, name) for name in sorted(names))


def _leads_back(folder: Path) -> bool:
    """Return whether a folder is a link to one of its own parents, which would never end."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.parents)


def size(path: Path) -> int:
    """Return the number of bytes in a file.

    Raises:
        DataError: The file does not exist, or is a pipe or a device.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot read the file: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{printable(path)}: cannot read the file: expected a regular file")
    return status.st_size


def read(path: Path) -> bytes:
    """Return all bytes of a file.

    Raises:
        DataError: The file does not exist, cannot be read, or is a pipe or a device.
    """
    size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{printable(path)}: cannot read the file: {error.strerror}") from error


def lines_of(data: bytes) -> list[str]:
    """Split a text into lines at LF and CRLF only, not at other separators such as a form feed or U+2028.

    Args:
        data: Text in UTF-8; invalid bytes become replacement characters.
    """
    lines = data.decode("utf-8-sig", errors="replace").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def printable(name: Path | str) -> str:
    """Return a file's name as text for any terminal and log. Bytes that are not UTF-8 become backslash escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


def count(number: int, noun: str) -> str:
    """Format a number and its noun, in the plural if needed."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def examples(names: Sequence[str], number: int | None = None) -> str:
    """Format the first few of several names, for a note.

    Args:
        names: All names, or the first few.
        number: Total number of names, or None if names has all of them.
    """
    shown = names[:_EXAMPLES_PER_NOTE]
    more = (len(names) if number is None else number) > len(shown)
    return ", ".join(map(printable, shown)) + (", ..." if more else "")


def read_or_leave_out(path: Path, source: Path, account: Account) -> bytes | None:
    """Return all bytes of a file. If it is empty or unreadable, record that in the account and return None.

    Args:
        path: The file.
        source: Folder that the name in the note is relative to.
        account: Records what is left out.
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
