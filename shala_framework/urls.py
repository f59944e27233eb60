"""Names of shards: braces, globs, URLs; and opening what they name."""

import glob
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from braceexpand import braceexpand

from shala_framework.errors import DataError

T = TypeVar("T")
RETRY_SECONDS = (0.5, 2.0, 8.0)  # that a server is given before it is asked again


def is_remote(url: str) -> bool:
    """Whether a shard's name is a URL rather than a path."""
    return _scheme(url) not in ("", "file")


def local_path(url: str) -> Path:
    """The path of what is not remote."""
    return Path(url.removeprefix("file:"))


def asking_again(url: str, action: Callable[[], T]) -> T:
    """What an action on a remote file gives; servers that are busy or gone for a moment are asked again.

    Raises:
        OSError: It failed each time, whatever the kind of error of those who tried.
        FileNotFoundError: The file is not there, or the server does not say that it is.
    """
    for seconds in (*RETRY_SECONDS, None):
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception as error:  # those of clients, such as aiohttp's, are none of OSError's
            if getattr(error, "status", None) in (401, 403, 404, 410):
                raise FileNotFoundError(f"{url}: {error}") from error
            if seconds is None:
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(seconds)
    raise AssertionError("unreachable")


def open_url(url: str, *, whole: bool = True) -> BinaryIO:
    """A remote file, to be read as a whole, or here and there."""
    import fsspec

    system, path = fsspec.url_to_fs(url)
    # Files over HTTP read megabytes ahead by default, which reading here and there throws away.
    return cast(BinaryIO, system.open(path, "rb", **({} if whole else {"cache_type": "none"})))


def read_url(url: str) -> bytes:
    """The whole of a file.

    Raises:
        OSError: It cannot be read.
    """
    if not is_remote(url):
        return local_path(url).read_bytes()

    def read() -> bytes:
        with open_url(url) as file:
            return file.read()

    return asking_again(url, read)


def read_url_if_there(url: str) -> bytes | None:
    """The same, None where there is no such file."""
    try:
        return read_url(url)
    except FileNotFoundError:
        return None


def _scheme(name: str) -> str:
    """The scheme, in lower case, by the very rule by which webdataset chooses how to open a name."""
    try:
        return urlsplit(name).scheme
    except ValueError:  # brackets of a glob that look like a broken IPv6 address
        return ""


def _matches(name: str) -> list[str]:
    """Names of the shards that a pattern without braces stands for; a file is never taken for a URL."""
    if is_remote(name):
        return [name]
    path = name[len("file:") :] if _scheme(name) == "file" else name
    # A folder may be called "a [1]": brackets are a glob's only where no file has them in its name.
    matches = glob.glob(path.replace("[", "[[]")) or glob.glob(path)
    return [f"./{match}" if _scheme(match) else match for match in sorted(matches)]


def expand_braces(urls: str | Sequence[str]) -> list[str]:
    """Every name that braces stand for, in order; globs stay as they are.

    Raises:
        DataError: Braces are not balanced.
    """
    names = [urls] if isinstance(urls, str) else list(urls)
    try:
        return [str(name) for pattern in names for name in braceexpand(pattern)]
    except ValueError as error:  # its UnbalancedBracesError, which its types do not export
        raise DataError(f"expected balanced braces in shard names, got {urls!r}") from error


def any_exists(urls: str | Sequence[str]) -> bool:
    """Whether at least one shard is there; URLs are taken to be.

    Raises:
        DataError: Braces are not balanced.
    """
    return any(_matches(name) for name in expand_braces(urls))


def expand_urls(urls: str | Sequence[str]) -> list[str]:
    """Names of all shards that patterns stand for, in order.

    Args:
        urls: Paths with braces ("a-{000..003}.tar") and globs ("a-*.tar"), `file:` among them, or URLs with braces.

    Returns:
        Paths and URLs; matches of one glob are sorted.

    Raises:
        DataError: A pattern matches no file, or braces are not balanced.
    """
    found: list[str] = []
    missing = []
    for name in expand_braces(urls):
        matches = _matches(name)
        found += matches
        if not matches:
            missing.append(name)
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(
            f"no such shards: {some} (paths are relative to the working directory; `shala pack` makes shards)"
        )
    return found


def refuse_pipes(urls: str | Sequence[str]) -> None:
    """Raise DataError where a name would run a shell command, once its braces are expanded and in any case of letters.

    Raises:
        DataError: A name would, or braces are not balanced.
    """
    for name in expand_braces(urls):
        if _scheme(name) == "pipe":
            raise DataError(
                f"expected a path or URL, got {name!r}, which runs a shell command; allow it with --allow-pipe"
            )
