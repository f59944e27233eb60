"""Expand the names of shards in a spec, with braces and wildcards, to paths and URLs."""

import glob
import os
import re
from collections.abc import Sequence

from braceexpand import braceexpand

from shala_framework.support.errors import DataError
from shala_framework.support.hints import shortened
from shala_framework.support.urls import check_client, check_url, is_remote, local_name, scheme_of

MOST_NAMES = 1_000_000  # names that braces may expand to; the largest public sets have a quarter of it
MOST_CHARACTERS = 200_000_000  # of all names together
MOST_PIECES = 2_000_000  # names times the number of their braces, which determines the time to expand them
LONGEST_PATH = 4096  # characters; no system allows longer paths, and matching takes quadratic time
MOST_WILD_PARTS = 16  # parts of a path that contain wildcards
MOST_GLOBS = 10_000  # names with wildcards; each reads a folder
MOST_GLOB_CHARACTERS = 1_000_000  # of all of them together
MOST_NESTED = 16  # levels of nested braces
MOST_DIGITS = 18  # of a number in braces


def _matches(name: str) -> list[str]:
    """Return the shards that match a pattern without braces. A file is never taken for a URL."""
    if is_remote(name):
        return [name]
    path = name[len("file:") :] if scheme_of(name) == "file" else name
    if len(path) > LONGEST_PATH:
        return []
    if not glob.has_magic(path):
        return [local_name(path)] if os.path.lexists(path) else []
    # A folder may be named "a [1]", so brackets count as wildcards only if no file has them in its name.
    matches = glob.glob(path.replace("[", "[[]")) or glob.glob(path)
    return [local_name(match) for match in sorted(matches)]


_INT_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_CHAR_RANGE = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?")


def count_names(pattern: str) -> int:
    """Count the names that the braces of a pattern expand to, without expanding them, up to `MOST_NAMES` + 1.

    Raises:
        DataError: Braces are nested too deeply to analyse.
    """
    depth = deepest = 0
    for character in pattern:
        depth += (character == "{") - (character == "}")
        deepest = max(deepest, depth)
    if deepest > MOST_NESTED:
        raise DataError(f"expected braces of at most {MOST_NESTED} levels, got {deepest} in {shortened(pattern)}")
    return _count(pattern)


def _count(pattern: str) -> int:
    total = 1
    for expression in _split(pattern)[0]:
        total = min(total * _count_expression(expression), MOST_NAMES + 1)
    return total


def _count_expression(text: str) -> int:
    """Count the names of an expression between braces."""
    if found := _INT_RANGE.fullmatch(text):
        if any(len(number) > MOST_DIGITS for number in found.groups() if number):
            return MOST_NAMES + 1
        start, end, step = int(found[1]), int(found[2]), int(found[3] or 1) or 1
        return min(abs(end - start) // step + 1, MOST_NAMES + 1)
    if _CHAR_RANGE.fullmatch(text):
        return len(list(braceexpand(f"{{{text}}}")))
    _, parts = _split(text)
    return min(sum(map(_count, parts)) if len(parts) > 1 else _count(text), MOST_NAMES + 1)


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the contents of the outermost braces, and the parts between top-level commas, as braceexpand does."""
    insides, parts = [], []
    start = begin = depth = position = 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 2
            continue
        if character == "{":
            if depth == 0:
                start = position
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                insides.append(text[start + 1 : position])
        elif character == "," and depth == 0:
            parts.append(text[begin:position])
            begin = position + 1
        position += 1
    return insides, [*parts, text[begin:]]


def expand_braces(urls: str | Sequence[str]) -> list[str]:
    """Expand braces to all names, in order. Wildcards are kept.

    Raises:
        DataError: Braces are unbalanced, or expand to too many names.
    """
    patterns = _checked_patterns(urls)
    return [str(name) for pattern in patterns for name in braceexpand(pattern)]


def _checked_patterns(urls: str | Sequence[str]) -> list[str]:
    """Return patterns whose braces are balanced and expand to no more names than can be handled in a few seconds.

    Raises:
        DataError: As in `expand_braces`.
    """
    patterns = [urls] if isinstance(urls, str) else list(urls)
    number = characters = pieces = globs = glob_characters = 0
    for pattern in patterns:
        count = count_names(pattern)
        number, characters = number + count, characters + count * len(pattern)
        pieces += count * pattern.count("{")
        wild = glob.has_magic(pattern) and not is_remote(pattern)
        if wild:
            globs, glob_characters = globs + count, glob_characters + count * len(pattern)
        if number > MOST_NAMES or characters > MOST_CHARACTERS:
            raise DataError(
                f"expected braces that stand for at most {MOST_NAMES:,} shard names of {MOST_CHARACTERS:,} "
                f"characters in all, got more in {shortened(pattern)}"
            )
        if pieces > MOST_PIECES:
            raise DataError(
                f"expected braces that stand for at most {MOST_PIECES:,} pieces of shard names in all, got more in "
                f"{shortened(pattern)}; use one range instead of several braces"
            )
        if globs > MOST_GLOBS or glob_characters > MOST_GLOB_CHARACTERS:
            raise DataError(
                f"expected at most {MOST_GLOBS:,} shard names with wildcards, of {MOST_GLOB_CHARACTERS:,} characters "
                f"in all, got more in {shortened(pattern)}; use a wildcard instead of the braces"
            )
        try:
            names = braceexpand(pattern)
        except ValueError as error:  # braceexpand's UnbalancedBracesError, which its type stubs do not export
            raise DataError(f"expected balanced braces in shard names, got {shortened(pattern)}") from error
        if wild and _wild_parts(pattern) > MOST_WILD_PARTS and max(map(_wild_parts, names)) > MOST_WILD_PARTS:
            got = shortened(pattern)
            raise DataError(f"expected wildcards in at most {MOST_WILD_PARTS} parts of a path, got more in {got}")
    return patterns


def _wild_parts(path: str) -> int:
    return sum(map(glob.has_magic, path.split("/")))


def any_exists(urls: str | Sequence[str]) -> bool:
    """Return whether at least one shard exists. URLs are assumed to exist.

    Raises:
        DataError: Braces are unbalanced.
    """
    return any(_matches(name) for name in expand_braces(urls))


def expand_urls(urls: str | Sequence[str]) -> list[str]:
    """Return the names of all shards that patterns match, in order.

    Args:
        urls: Paths with braces ("a-{000..003}.tar") and wildcards ("a-*.tar"), including `file:` URLs, or URLs with
            braces.

    Returns:
        Paths and URLs. Matches of one wildcard are sorted.

    Raises:
        DataError: A pattern matches no file, may not be opened or needs a package, or braces are unbalanced.
    """
    found: list[str] = []
    missing = []
    for name in expand_braces(urls):
        check_url(name)
        check_client(name)
        matches = _matches(name)
        found += matches
        if not matches:
            missing.append(name)
    for match in found:
        if not is_remote(match) and os.path.isdir(match):
            raise DataError(_described_folder(match))
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(
            f"no such shards: {some} (paths are relative to the working directory; `shala pack` makes shards)"
        )
    return found


def _described_folder(folder: str) -> str:
    """Say that a folder is named where shards are expected, and what names its shards have."""
    shards = (name for name in os.listdir(folder) if name.endswith(".tar"))
    patterns = sorted({os.path.join(folder, re.sub(r"-\d+\.tar$", "-*.tar", name)) for name in shards})
    if patterns:
        return f"{shortened(folder)} is a folder; did you mean {' or '.join(map(repr, patterns[:3]))}?"
    return f"{shortened(folder)} is a folder without shards; `shala pack folder {folder} shards/mine` makes some"


def refuse_pipes(urls: str | Sequence[str]) -> None:
    """Refuse names that may run commands, after expanding their braces; see `check_url`.

    Raises:
        DataError: A name may run a command, or braces are unbalanced.
    """
    for pattern in _checked_patterns(urls):
        for name in braceexpand(pattern) if ":" in pattern else ():  # a name without a colon has no scheme
            check_url(name)
