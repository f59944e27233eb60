"""Open shards by path or URL.

Specs, including saved ones, come from other people, and so do the names in them. A name is therefore opened by its
scheme only. A path is a path, and a scheme in `CLIENTS` transfers bytes. All other schemes are refused unless this
process may open them: `pipe:`, which runs a shell command, chains of fsspec such as `simplecache::`, and whatever
packages have registered. The command line grants this permission with --allow-pipe; a spec cannot.
"""

import errno
import importlib.util
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypeVar, cast

from shala_framework.support.errors import DataError, ShalaError
from shala_framework.support.hints import shortened
from shala_framework.support.retrying import Failure, retry

T = TypeVar("T")
SERVER_SECONDS = 30.0  # of silence, after which a web server is given up
REQUEST_SECONDS = 3_600.0  # that one of its answers may take
MOST_SAID = 300  # characters of what a client says of a failure
MOST_BYTES = 1 << 28  # of a file that is read as a whole, such as an index
MOST_DIGITS = 18  # of the length that a server states

_NOT_THERE = (401, 403, 404, 410)  # statuses; object stores hide what is not there
_BUSY = (408, 425, 429)  # statuses of a server that asks for patience, though they are below 500
# What a server that is back would answer again: wrong content and lengths; or faults of a client.
_LASTING: Final = (ValueError, TypeError, AttributeError, LookupError, ImportError, PermissionError)
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
"""Schemes that only transfer bytes, with the module and the package that fsspec needs for each."""


class _Permission:
    """Permissions of this process; see `permit_pipes`."""

    pipes = False


def pipes_permitted() -> bool:
    """Return whether this process may open names that run commands."""
    return _Permission.pipes


def set_pipes_permitted(permitted: bool) -> None:
    """Pass the permission of the parent process on to a worker process."""
    _Permission.pipes = permitted


@contextmanager
def permit_pipes(permitted: bool = True) -> Iterator[None]:
    """Permit or refuse, within the block, names that run commands, such as `pipe:cat a.tar`.

    Only the person who starts a program can know whether to trust what it opens. The command line permits it with
    --allow-pipe.
    """
    before = _Permission.pipes
    _Permission.pipes = permitted
    try:
        yield
    finally:
        _Permission.pipes = before


def is_remote(url: str) -> bool:
    """Return whether a shard's name is a URL rather than a path."""
    return scheme_of(url) not in ("", "file")


def is_pipe(url: str) -> bool:
    """Return whether a shard's name is a shell command."""
    return scheme_of(url) == "pipe"


def local_path(url: str) -> Path:
    """Return the path of a local shard."""
    return Path(url.removeprefix("file:"))


def local_name(path: str | Path) -> str:
    """Return a path in a form that is never taken for a URL, whatever its folders are named."""
    return f"./{path}" if scheme_of(str(path)) else str(path)


def check_url(url: str) -> None:
    """Refuse a name that may run commands, unless this process may open such names.

    Raises:
        DataError: The name is refused.
    """
    scheme = scheme_of(url)
    if scheme in ("", "file") or scheme in CLIENTS or pipes_permitted():
        return
    what = "which runs a shell command" if scheme == "pipe" else f"and the scheme {scheme!r} may run commands"
    raise DataError(f"expected a path or URL, got {shortened(url)}, {what}; allow it with --allow-pipe")


def check_client(url: str) -> None:
    """Check that the package which a URL needs is installed.

    Raises:
        DataError: The package must be installed first.
    """
    module, package = CLIENTS.get(scheme_of(url), ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise DataError(f"{shortened(url)} needs the package {package}: pip install {package}")


def asking_again(url: str, action: Callable[[], T], *, has_answered: bool = False) -> T:
    """The result of an action on a remote file, retried while the server is busy or gone.

    Args:
        url: URL of the file.
        action: Reads something of it.
        has_answered: Whether it is known that the server has answered, perhaps to another process.

    Raises:
        OSError: Every attempt failed, whatever type of error the client raised.
        FileNotFoundError: The file does not exist, or the server does not reveal that it does.
        DataError: The URL may not be opened, or a package is missing.
    """
    server = url.partition("://")[2].partition("/")[0]
    return retry(action, server, partial(_judge, url), has_answered=has_answered)


def _judge(url: str, error: Exception) -> Failure:
    """Why an action on a remote file failed; what another try would not change is raised."""
    if isinstance(error, ShalaError):
        raise error
    cause = _cause(url, error)
    status = getattr(cause, "status", None)
    if isinstance(cause, FileNotFoundError) or status in _NOT_THERE:
        raise FileNotFoundError(f"{url}: {said_by(cause)}") from error
    said = said_by(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {said_by(cause)}"
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _BUSY
    return Failure(f"{url}: {said}", OSError(said), temporary=not (refused or isinstance(cause, _LASTING)))


def _cause(url: str, error: Exception) -> BaseException:
    """Return the cause of an error. fsspec reports a web server that is silent or fails as a missing file."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is not None and scheme_of(url) in ("http", "https"):
        return error.__cause__
    return error


def said_by(error: BaseException) -> str:
    """Return the message of an error, or its type if it has none, shortened, as clients may quote a whole response."""
    said = str(error) or type(error).__name__
    return said if len(said) <= MOST_SAID else f"{said[:MOST_SAID]}..."


def open_url(
    url: str, *, how: Literal["in order", "here and there", "at once"] = "in order", size: int | None = None
) -> BinaryIO:
    """Open a remote file.

    Args:
        url: URL of the file.
        how: How it will be read: "in order" and perhaps slowly, in requests of some megabytes; "here and there"; or "at
            once" in a single request, which also works for servers without range requests.
        size: Length of the file, if it is known; web servers are then not asked for it.

    Raises:
        DataError: The URL may not be opened, or a package is missing.
    """
    import fsspec

    check_url(url)
    check_client(url)
    scheme = scheme_of(url)
    try:
        if scheme in CLIENTS:
            # Not url_to_fs, which would interpret "::" in a name as a chain of file systems.
            kind: Any = fsspec.get_filesystem_class(scheme)
            client = _web_client() if scheme in ("http", "https") else {}
            system, path = kind(**kind._get_kwargs_from_urls(url), **client), kind._strip_protocol(url)
        else:
            system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:  # from a broken client, or a scheme without a client
        raise DataError(f"{shortened(url)}: no client of fsspec opens it: {error}") from error
    # By default, files over HTTP read megabytes ahead, which is wasted on random access.
    options: dict[str, Any] = {"cache_type": "none"} if how == "here and there" else {}
    if scheme in ("http", "https") and (how == "at once" or size):  # with a size, the client does not request it first
        options |= {"block_size": 0, "size": 1} if how == "at once" else {"size": size}
    return cast(BinaryIO, system.open(path, "rb", **options))


def _web_client() -> dict[str, Any]:
    """Return options for fsspec's HTTP client: give up silent servers, and accept only the requested range."""
    import aiohttp

    timeout = aiohttp.ClientTimeout(
        total=REQUEST_SECONDS, sock_connect=SERVER_SECONDS, sock_read=SERVER_SECONDS, connect=None
    )
    return {"client_kwargs": {"timeout": timeout, "raise_for_status": _check_piece}}


async def _check_piece(response: Any) -> None:
    """Raise ValueError where a server answers the question for a piece of a file with another one.

    Args:
        response: Response of aiohttp.
    """
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", response.request_info.headers.get("Range", ""))
    if asked is None or response.status not in (200, 206):
        return
    first, last = int(asked[1]), int(asked[2])
    if response.status == 200:
        if first:
            raise ValueError("the server gives files as a whole, and no pieces of them")
        return
    given = re.match(r"bytes (\d+)-(\d+)/", response.headers.get("Content-Range", ""))
    length = response.headers.get("Content-Length", "")
    size = int(length) if length.isdecimal() and len(length) <= MOST_DIGITS else last + 2
    if given is None or int(given[1]) != first or int(given[2]) > last or size > last + 1 - first:
        raise ValueError(
            f"expected bytes {first} to {last} of the file, got an answer with the range "
            f"{response.headers.get('Content-Range', '')[:60]!r} and the length {length[:30]!r}"
        )


def open_local(url: str) -> BinaryIO:
    """Open a local file.

    Raises:
        OSError: The file does not exist, or is not a regular file; opening a named pipe would block forever.
    """
    path = local_path(url)
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "expected a regular file", str(path))
    return path.open("rb")


def open_stream(url: str) -> BinaryIO:
    """Open a shard to be read once from its start: from disk, from a URL or, if permitted, from a command.

    Raises:
        DataError: The name may not be opened, or a package is missing.
        OSError: The shard cannot be opened.
    """
    if is_pipe(url):
        from webdataset.gopen import gopen_pipe

        check_url(url)
        return cast(BinaryIO, gopen_pipe(f"pipe:{url.partition(':')[2]}", "rb"))
    if is_remote(url):
        return cast(BinaryIO, _ResumedFile(url))
    return open_local(url)


class _ResumedFile:
    """A remote file that is read in order, and opened again at its position where that fails."""

    def __init__(self, url: str) -> None:
        self.url, self.position = url, 0
        self._file: BinaryIO | None = None
        asking_again(url, self._opened)

    def __enter__(self) -> "_ResumedFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes.

        Raises:
            OSError: They cannot be read.
        """
        data = asking_again(self.url, partial(self._read, size))
        self.position += len(data)
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._opened().read(size)
        except Exception:
            self.close()
            raise

    def _opened(self) -> BinaryIO:
        if self._file is None:
            self._file = open_url(self.url)
            try:
                self._file.seek(self.position)
            except ValueError:  # the server gives no pieces
                left = self.position
                while left and (piece := self._file.read(min(left, 1 << 20))):
                    left -= len(piece)
        return self._file


def read_url(url: str, *, has_answered: bool = False) -> bytes:
    """The whole of a file.

    Args:
        url: URL of the file.
        has_answered: Whether it is known that the server has answered, perhaps to another process.

    Raises:
        OSError: The file cannot be read.
        DataError: The URL may not be opened, or a package is missing.
    """
    if not is_remote(url):
        with open_local(url) as file:
            return file.read()

    def read() -> bytes:
        pieces, left = [], MOST_BYTES
        with open_url(url, how="at once") as file:
            while piece := file.read(1 << 20):
                pieces.append(piece)
                left -= len(piece)
                if left < 0:
                    raise DataError(f"{shortened(url)}: expected at most {MOST_BYTES:,} bytes, got more")
        return b"".join(pieces)

    return asking_again(url, read, has_answered=has_answered)


def read_url_if_there(url: str) -> bytes | None:
    """Read a whole file, or return None if it does not exist. The output of a command has no neighbouring files.

    Raises:
        DataError: The file cannot be read, and it is unknown whether it exists. Without it, the run would be a
            different one.
    """
    if is_pipe(url):
        return None
    try:
        return read_url(url)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{url}: cannot be read: {said_by(error)}; try again, or copy the files") from error


# Like urllib.parse.urlsplit, which takes ten times as long; there may be a million names.
_SCHEME = re.compile(r"[\x00-\x20]*([A-Za-z][A-Za-z0-9+.\-\t\r\n]*):")


def scheme_of(name: str) -> str:
    """Return the scheme in lower case. Spaces before it and tabs or line breaks inside it do not hide it."""
    found = _SCHEME.match(name)
    return re.sub(r"[\t\r\n]", "", found[1]).lower() if found else ""


CACHE_MARK = "shala-cache.txt"


def mark_cache(folder: Path) -> None:
    """Create a folder for copies of remote shards, and mark it as one."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / CACHE_MARK
    if not os.path.lexists(mark):
        mark.write_text("This folder holds copies of remote shards, made by shala_framework; it can be removed.\n")


def is_cache(folder: str | Path) -> bool:
    """Return whether a run of this user has marked a folder as one for copies of remote shards.

    Someone else's saved spec may name any folder, and the content of copies comes from their server.
    """
    return (Path(folder) / CACHE_MARK).is_file()
