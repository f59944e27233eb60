"""Names of shards: braces, globs, URLs; and opening what they name.

Specs, saved ones included, come from other people, and so do the names in them. A name is therefore opened by its
scheme and by nothing else: a path is a path, a scheme of `CLIENTS` transfers bytes, and every other one (`pipe:`, which
runs a shell command, chains of fsspec such as `simplecache::`, whatever packages have registered) is refused unless
this process was permitted to open it, which the command line does for --allow-pipe. No spec can carry that permission.
"""

import errno
import importlib.util
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar, cast

from shala_framework.support.errors import DataError, ShalaError
from shala_framework.support.hints import shortened

T = TypeVar("T")
RETRY_SECONDS = (0.5, 2.0, 8.0)  # that a server is given before it is asked again

CLIENTS: Final[dict[str, tuple[str, str]]] = {
    "http": ("aiohttp", "aiohttp"),
    "https": ("aiohttp", "aiohttp"),
    "s3": ("s3fs", "s3fs"),
    "s3a": ("s3fs", "s3fs"),
    "gs": ("gcsfs", "gcsfs"),
    "gcs": ("gcsfs", "gcsfs"),
    "az": ("adlfs", "adlfs"),
    "abfs": ("adlfs", "adlfs"),
    "abfss": ("adlfs", "adlfs"),
    "hf": ("huggingface_hub", "huggingface_hub"),
    "oci": ("ocifs", "ocifs"),
    "oss": ("ossfs", "ossfs"),
    "tos": ("tosfs", "tosfs"),
    "lakefs": ("lakefs_spec", "lakefs-spec"),
    "webdav": ("webdav4", "webdav4[fsspec]"),
    "hdfs": ("pyarrow", "pyarrow"),
    "webhdfs": ("requests", "requests"),
    "sftp": ("paramiko", "paramiko"),
    "ssh": ("paramiko", "paramiko"),
    "smb": ("smbprotocol", "smbprotocol"),
    "ftp": ("fsspec", "fsspec"),
    "memory": ("fsspec", "fsspec"),
}
"""Schemes that transfer bytes and do nothing else, with the module that fsspec needs for each and its package."""


class _Permission:
    """What this process may open; see `permit_pipes`."""

    pipes = False


def pipes_permitted() -> bool:
    """Whether this process may open names that run commands."""
    return _Permission.pipes


def set_pipes_permitted(permitted: bool) -> None:
    """Pass on to a worker process what the process that started it may open."""
    _Permission.pipes = permitted


@contextmanager
def permit_pipes(permitted: bool = True) -> Iterator[None]:
    """Permit names that run commands, such as `pipe:cat a.tar`, or refuse them, within the block.

    Only who starts a program can know whether to trust what it will open: the command line permits by --allow-pipe.
    """
    before = _Permission.pipes
    _Permission.pipes = permitted
    try:
        yield
    finally:
        _Permission.pipes = before


def is_remote(url: str) -> bool:
    """Whether a shard's name is a URL rather than a path."""
    return scheme_of(url) not in ("", "file")


def is_pipe(url: str) -> bool:
    """Whether a shard's name is a shell command."""
    return scheme_of(url) == "pipe"


def local_path(url: str) -> Path:
    """The path of what is not remote."""
    return Path(url.removeprefix("file:"))


def local_name(path: str | Path) -> str:
    """A path as a name that is never taken for a URL, whatever its folders are called."""
    return f"./{path}" if scheme_of(str(path)) else str(path)


def check_url(url: str) -> None:
    """Refuse a name that may run commands, unless this process may open such names.

    Raises:
        DataError: It is refused.
    """
    scheme = scheme_of(url)
    if scheme in ("", "file") or scheme in CLIENTS or pipes_permitted():
        return
    what = "which runs a shell command" if scheme == "pipe" else f"and the scheme {scheme!r} may run commands"
    raise DataError(f"expected a path or URL, got {shortened(url)}, {what}; allow it with --allow-pipe")


def check_client(url: str) -> None:
    """Say which package a URL needs and the environment lacks.

    Raises:
        DataError: It has to be installed first.
    """
    module, package = CLIENTS.get(scheme_of(url), ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise DataError(f"{shortened(url)} needs the package {package}: pip install {package}")


def asking_again(url: str, action: Callable[[], T]) -> T:
    """What an action on a remote file gives; servers that are busy or gone for a moment are asked again.

    Raises:
        OSError: It failed each time, whatever the kind of error of those who tried.
        FileNotFoundError: The file is not there, or the server does not say that it is.
        DataError: The URL may not be opened, or a package is missing.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            return action()
        except (FileNotFoundError, ShalaError):
            raise
        except Exception as error:  # those of clients, such as aiohttp's, are none of OSError's
            if getattr(error, "status", None) in (401, 403, 404, 410):
                raise FileNotFoundError(f"{url}: {error}") from error
            if seconds is None:
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(seconds)
    raise AssertionError("unreachable")


def open_url(url: str, *, whole: bool = True) -> BinaryIO:
    """A remote file, to be read as a whole, or here and there.

    Raises:
        DataError: The URL may not be opened, or a package is missing.
    """
    import fsspec

    check_url(url)
    check_client(url)
    scheme = scheme_of(url)
    try:
        if scheme in CLIENTS:
            # Not url_to_fs, which would take "::" in a name for a chain of file systems.
            kind: Any = fsspec.get_filesystem_class(scheme)
            system, path = kind(**kind._get_kwargs_from_urls(url)), kind._strip_protocol(url)
        else:
            system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # of a client that is broken, or a scheme that nothing opens
        raise DataError(f"{shortened(url)}: no client of fsspec opens it: {error}") from error
    # Files over HTTP read megabytes ahead by default, which reading here and there throws away.
    return cast(BinaryIO, system.open(path, "rb", **({} if whole else {"cache_type": "none"})))


def open_local(url: str) -> BinaryIO:
    """A local file.

    Raises:
        OSError: It is not there, or no regular file: opening a named pipe would wait for ever.
    """
    path = local_path(url)
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "expected a regular file", str(path))
    return path.open("rb")


def open_stream(url: str) -> BinaryIO:
    """A shard to be read once from its start, on disk, behind a URL or, where that is permitted, from a command.

    Raises:
        DataError: The name may not be opened, or a package is missing.
        OSError: It cannot be opened.
    """
    if is_pipe(url):
        from webdataset.gopen import gopen_pipe

        check_url(url)
        return cast(BinaryIO, gopen_pipe(f"pipe:{url.partition(':')[2]}", "rb"))
    if is_remote(url):
        return asking_again(url, lambda: open_url(url))
    return open_local(url)


def read_url(url: str) -> bytes:
    """The whole of a file.

    Raises:
        OSError: It cannot be read.
        DataError: The URL may not be opened, or a package is missing.
    """
    if not is_remote(url):
        with open_local(url) as file:
            return file.read()

    def read() -> bytes:
        with open_url(url) as file:
            return file.read()

    return asking_again(url, read)


def read_url_if_there(url: str) -> bytes | None:
    """The same, None where there is no such file; nothing lies beside the output of a command."""
    if is_pipe(url):
        return None
    try:
        return read_url(url)
    except FileNotFoundError:
        return None


# As urllib.parse.urlsplit has it, which takes ten times as long, and there may be a million names.
_SCHEME = re.compile(r"[\x00-\x20]*([A-Za-z][A-Za-z0-9+.\-\t\r\n]*):")


def scheme_of(name: str) -> str:
    """The scheme, in lower case; spaces before it, tabs and line breaks inside it do not hide it."""
    found = _SCHEME.match(name)
    return re.sub(r"[\t\r\n]", "", found[1]).lower() if found else ""


CACHE_MARK = "shala-cache.txt"


def mark_cache(folder: Path) -> None:
    """Make a folder for copies of remote shards, and note that it is one."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / CACHE_MARK
    if not os.path.lexists(mark):
        mark.write_text("This folder holds copies of remote shards, made by shala_framework; it can be removed.\n")


def is_cache(folder: str | Path) -> bool:
    """Whether a run of one's own has used a folder for copies of remote shards.

    A saved spec of somebody else may name any folder, and what copies hold comes from their server.
    """
    return (Path(folder) / CACHE_MARK).is_file()
