"""Lines on a terminal or in a log, in which nothing that came from a file is obeyed by the terminal."""

import sys

from shala_framework.escaping import printable


def say(text: str = "") -> None:
    """Print what a verb was asked for, on standard output."""
    print(printable(text))


def remark(text: str) -> None:
    """Print what a person should know, on standard error."""
    print(printable(text), file=sys.stderr, flush=True)
