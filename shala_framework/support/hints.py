"""Names in messages: hints for those that are not known, and long ones shortened."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str], noun: str) -> str:
    """A hint: the known name nearest to a misspelt one, or the whole choice."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known {noun}: {', '.join(choices)}" if choices else f"there are no {noun}"


def shortened(text: str, most: int = 100) -> str:
    """Text for a message: quoted, and the start of it where it is long."""
    return repr(text) if len(text) <= most else f"{text[:most]!r}... ({len(text):,} characters)"
