"""Hints for unknown names in messages, and shortening of long names."""

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

MOST_LISTED = 20  # known names in a message, of which there may be a hundred


def nearest(name: str, known: Iterable[str], noun: str) -> str:
    """Return a hint with the known name nearest to a misspelt one, or with the known names, the first of many."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    more = f" and {len(choices) - MOST_LISTED} more" if len(choices) > MOST_LISTED else ""
    return f"known {noun}: {', '.join(choices[:MOST_LISTED])}{more}" if choices else f"there are no {noun}"


def kind_of(value: Any) -> str:
    """Name the type of what stands in place of a tensor, and say how to make one of a numpy array."""
    kind = type(value)
    return f"{kind.__name__}; torch.from_numpy makes a tensor of it" if kind.__module__ == "numpy" else kind.__name__


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join names for a message, and count those beyond the first ones."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def shortened(text: str, most: int = 100) -> str:
    """Quote text for a message, and show only the start of a long one."""
    return repr(text) if len(text) <= most else f"{text[:most]!r}... ({len(text):,} characters)"
