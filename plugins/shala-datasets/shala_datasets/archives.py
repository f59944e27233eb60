"""Read the files of one kind from a downloaded data set, which is either unpacked or a single tar archive."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from shala_datasets.files import printable, read_or_leave_out, walk
from shala_framework.plugin import Account, DataError

ARCHIVES = (".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar.bz2")
_LARGEST_ARCHIVE = 1 << 30  # bytes after unpacking; the data sets read this way hold less than a tenth of it
_BLOCK = 512  # bytes; a tar archive ends with at least two blocks of zeros


def files_in(place: Path, suffix: str, account: Account) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of a kind, in order of names. An archive is read into memory.

    Args:
        place: Folder that contains the files at any depth, or a tar archive of them.
        suffix: End of their names, such as ".wav".
        account: Records what is left out: empty files, unreadable files and repeated names.

    Raises:
        DataError: There is neither such a file nor exactly one archive, or the archive is damaged or truncated.
    """
    paths = list(walk(place))
    archives = [path for path in paths if path.name.lower().endswith(ARCHIVES)]
    unpacked = sorted((path for path in paths if path.suffix.lower() == suffix), key=lambda path: (path.name, path))
    if not unpacked:
        if len(archives) != 1:
            names = f": {', '.join(printable(path.name) for path in archives)}" if archives else ""
            raise DataError(
                f"{printable(place)}: expected files *{suffix} or one archive of them (tar, plain or compressed), "
                f"got no such file and {len(archives)} archives{names}"
            )
        yield from sorted(_unpack(archives[0], suffix, account).items())
        return
    for archive in archives:
        account.leave_out(f"unpacked {suffix} files are next to it", str(archive.relative_to(place)))
    previous = None
    for path in unpacked:
        if path.name == previous:
            account.leave_out("same name twice", str(path.relative_to(place)))
            continue
        previous = path.name
        content = read_or_leave_out(path, place, account)
        if content is not None:
            yield path.name, content


def _unpack(archive: Path, suffix: str, account: Account) -> dict[str, bytes]:
    """Return the content of the archive's files by name, without their folders."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if member.offset_data + member.size > _LARGEST_ARCHIVE:
                    raise DataError(
                        f"{printable(archive)}: expected an archive of at most {_LARGEST_ARCHIVE} bytes, got "
                        f"{printable(member.name)!r} beyond; unpack it if that is right"
                    )
                name = PurePosixPath(member.name).name
                if not (member.isreg() and name.lower().endswith(suffix)):
                    continue
                if name in contents:
                    account.leave_out("same name twice", f"{archive.name}/{member.name}")
                    continue
                stream = tar.extractfile(member)
                assert stream is not None  # a regular file has content
                content = stream.read()
                if content:
                    contents[name] = content
                else:
                    account.leave_out("empty file", f"{archive.name}/{member.name}")
            assert tar.fileobj is not None  # open until the end of the block
            end = tar.fileobj.read(_BLOCK * 2048)
    except (
        OSError, EOFError, MemoryError, OverflowError, ValueError, tarfile.TarError, lzma.LZMAError, zlib.error,
    ) as error:  # fmt: skip
        raise DataError(
            f"{printable(archive)}: not a readable archive after {len(contents)} *{suffix} files "
            f"({type(error).__name__}: {error}); download it again"
        ) from error
    # tarfile takes the first invalid header for the end of the archive.
    if len(end) < _BLOCK or end.strip(b"\0"):
        raise DataError(
            f"{printable(archive)}: expected two blocks of zeros at the archive's end, got other bytes or none after "
            f"{len(contents)} *{suffix} files: it is cut short or damaged; download it again"
        )
    return contents
