"""Hints for names that are not known."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], noun: str) -> str:
    """A hint: the known name nearest to a misspelt one, or the whole choice."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known {noun}: {', '.join(choices)}" if choices else f"there are no {noun}"
