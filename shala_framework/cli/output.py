"""Print lines with control characters escaped, so that text from a file cannot control the terminal."""

import sys

from shala_framework.support.escaping import printable


def say(text: str = "") -> None:
    """Print a line of a verb's result to standard output."""
    print(printable(text))


def remark(text: str) -> None:
    """Print a message for the user to standard error."""
    print(printable(text), file=sys.stderr, flush=True)
