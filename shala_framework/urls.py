"""Names of shards: braces, globs, URLs."""

import glob
import re
from collections.abc import Sequence

from braceexpand import UnbalancedBracesError, braceexpand

from shala_framework.errors import DataError

_REMOTE = re.compile(r"^[a-z][a-z0-9+]*:", re.IGNORECASE)


def is_remote(url: str) -> bool:
    """Whether a shard's name is a URL rather than a path."""
    return bool(_REMOTE.match(url)) and not url.startswith("file:")


def _patterns(urls: str | Sequence[str]) -> list[str]:
    names = [urls] if isinstance(urls, str) else list(urls)
    try:
        return [str(name) for pattern in names for name in braceexpand(pattern)]
    except UnbalancedBracesError as error:
        raise DataError(f"expected balanced braces in shard names, got {names}") from error


def any_exists(urls: str | Sequence[str]) -> bool:
    """Whether at least one shard is there; URLs are taken to be."""
    return any(is_remote(name) or glob.glob(name) for name in _patterns(urls))


def expand_urls(urls: str | Sequence[str]) -> list[str]:
    """Names of all shards that patterns stand for, in order.

    Args:
        urls: Paths with braces ("a-{000..003}.tar") and globs ("a-*.tar"), or URLs with braces.

    Returns:
        Paths and URLs; matches of one glob are sorted.

    Raises:
        DataError: A pattern matches no file.
    """
    found: list[str] = []
    missing = []
    for name in _patterns(urls):
        matches = [name] if is_remote(name) else sorted(glob.glob(name))
        found += matches
        if not matches:
            missing.append(name)
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(f"no such shards: {some} (paths are relative to the working directory; `shala pack` makes shards)")
    return found


def refuse_pipes(urls: str | Sequence[str]) -> None:
    """Raise DataError where a URL would run a shell command."""
    for name in [urls] if isinstance(urls, str) else urls:
        if name.startswith("pipe:"):
            raise DataError(f"expected a path or URL, got {name!r}, which runs a shell command; allow it with --allow-pipe")
