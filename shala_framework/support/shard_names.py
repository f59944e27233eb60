"""From names of shards as a spec gives them, with braces and wildcards, to the shards themselves."""

import glob
import os
import re
from collections.abc import Sequence

from braceexpand import braceexpand

from shala_framework.support.errors import DataError
from shala_framework.support.hints import shortened
from shala_framework.support.urls import check_client, check_url, is_remote, local_name, scheme_of

MOST_NAMES = 1_000_000  # that braces may stand for; the largest public sets have a quarter of it
MOST_CHARACTERS = 200_000_000  # of all names together
MOST_PIECES = 2_000_000  # names times the braces of each, which is what expanding takes time by
LONGEST_PATH = 4096  # characters; no system has longer ones, and matching takes their square
MOST_WILD_PARTS = 16  # parts of a path that have wildcards
MOST_GLOBS = 10_000  # names with wildcards, each of which reads a folder
MOST_GLOB_CHARACTERS = 1_000_000  # of all of them
MOST_NESTED = 16  # braces inside one another
MOST_DIGITS = 18  # of a number in braces


def _matches(name: str) -> list[str]:
    """Names of the shards that a pattern without braces stands for; a file is never taken for a URL."""
    if is_remote(name):
        return [name]
    path = name[len("file:") :] if scheme_of(name) == "file" else name
    if len(path) > LONGEST_PATH:
        return []
    if not glob.has_magic(path):
        return [local_name(path)] if os.path.lexists(path) else []
    # A folder may be called "a [1]": brackets are a glob's only where no file has them in its name.
    matches = glob.glob(path.replace("[", "[[]")) or glob.glob(path)
    return [local_name(match) for match in sorted(matches)]


_INT_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
_CHAR_RANGE = re.compile(r"[A-Za-z]\.\.[A-Za-z](?:\.\.-?\d+)?")


def count_names(pattern: str) -> int:
    """How many names the braces of a pattern stand for, without making any; one more than `MOST_NAMES` for any more.

    Raises:
        DataError: Braces are nested too deeply to look at.
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
    """Of what stands between braces."""
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
    """The insides of its outermost braces, and its parts between commas that are in none; as braceexpand has them."""
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
    """Every name that braces stand for, in order; globs stay as they are.

    Raises:
        DataError: Braces are not balanced, or stand for too many names.
    """
    patterns = _checked_patterns(urls)
    return [str(name) for pattern in patterns for name in braceexpand(pattern)]


def _checked_patterns(urls: str | Sequence[str]) -> list[str]:
    """Patterns whose braces are balanced and stand for no more names than can be looked at in a few seconds.

    Raises:
        DataError: As `expand_braces`.
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
                f"{shortened(pattern)}; use one range in the place of several braces"
            )
        if globs > MOST_GLOBS or glob_characters > MOST_GLOB_CHARACTERS:
            raise DataError(
                f"expected at most {MOST_GLOBS:,} shard names with wildcards, of {MOST_GLOB_CHARACTERS:,} characters "
                f"in all, got more in {shortened(pattern)}; use a wildcard in the place of the braces"
            )
        try:
            names = braceexpand(pattern)
        except ValueError as error:  # its UnbalancedBracesError, which its types do not export
            raise DataError(f"expected balanced braces in shard names, got {shortened(pattern)}") from error
        if wild and _wild_parts(pattern) > MOST_WILD_PARTS and max(map(_wild_parts, names)) > MOST_WILD_PARTS:
            got = shortened(pattern)
            raise DataError(f"expected wildcards in at most {MOST_WILD_PARTS} parts of a path, got more in {got}")
    return patterns


def _wild_parts(path: str) -> int:
    return sum(map(glob.has_magic, path.split("/")))


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
        DataError: A pattern matches no file, may not be opened or needs a package, or braces are not balanced.
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
    if missing:
        some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise DataError(
            f"no such shards: {some} (paths are relative to the working directory; `shala pack` makes shards)"
        )
    return found


def refuse_pipes(urls: str | Sequence[str]) -> None:
    """Refuse names that may run commands, once their braces are expanded; see `check_url`.

    Raises:
        DataError: A name may, or braces are not balanced.
    """
    for pattern in _checked_patterns(urls):
        for name in braceexpand(pattern) if ":" in pattern else ():  # without a colon no name has a scheme
            check_url(name)
