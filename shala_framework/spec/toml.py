"""Parse TOML text within limits that no real spec reaches.

A parser that recurses, converts numbers of any size and joins keys of any length can be made to fail, or to run for
minutes, by a small file. Excessive depth or length is therefore found, with its line, before the text is parsed.
"""

import re
from typing import Any

import tomli

MOST_CHARACTERS = 8 * 2**20  # of a file; enough for a spec that lists a hundred thousand shards by name
MOST_NESTED = 32  # levels of arrays and tables, and parts of a dotted key
MOST_VALUES = 500_000  # keys, elements, lines and comments
MOST_DIGITS = 400  # of a number; a float needs at most 309 before the decimal point

_TOKEN = re.compile(
    r'''(?P<string>"""(?:[^\\]|\\.)*?(?:"""+|\Z)|\'\'\'.*?(?:\'\'\'+|\Z)|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')'''
    r"|(?P<comment>#[^\n]*)|(?P<open>[\[{])|(?P<close>[\]}])"
    rf"|(?P<number>[+-]?[0-9][0-9A-Fa-fxob_]{{{MOST_DIGITS},}})"
    r"|(?P<part>[A-Za-z0-9_+-]+)|(?P<dot>[ \t]*\.[ \t]*)|(?P<end>[\n=,])",
    re.DOTALL,
)


class LimitError(ValueError):
    """The text is nested too deep or too long to be a spec.

    Attributes:
        line: Line of the problem, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML text.

    Raises:
        LimitError: The text is nested too deep or too long.
        tomli.TOMLDecodeError: The text is not valid TOML.
    """
    _check_limits(text)
    return tomli.loads(text)


def _check_limits(text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise LimitError(f"expected at most {MOST_CHARACTERS:,} characters, got {len(text):,}", 1)
    depth = dots = values = 0
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind in ("open", "end"):
            values += 1
            if values > MOST_VALUES:
                message = f"expected at most {MOST_VALUES:,} keys, elements and lines, got more"
                raise LimitError(message, _line(text, token.start()))
        if kind == "open":
            depth, dots = depth + 1, 0
            if depth > MOST_NESTED:
                message = f"expected arrays and tables nested at most {MOST_NESTED} deep, got more"
                raise LimitError(message, _line(text, token.start()))
        elif kind == "close":
            depth = max(0, depth - 1)
        elif kind == "dot":
            dots += 1
            if dots >= MOST_NESTED:
                raise LimitError(f"expected keys of at most {MOST_NESTED} parts, got more", _line(text, token.start()))
        elif kind == "end":
            dots = 0
        elif kind == "number":
            message = f"expected numbers of at most {MOST_DIGITS} digits, got one of {len(token[0]):,} characters"
            raise LimitError(message, _line(text, token.start()))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
