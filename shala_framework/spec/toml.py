"""TOML text to values, within limits that no spec of use meets.

A parser that recurses, converts any number and joins any key can be made to fail or to run for minutes by a small file;
what is too deep or too long is therefore found, with its line, before the text is parsed.
"""

import re
from typing import Any

import tomli

MOST_CHARACTERS = 8 * 2**20  # of a file; a spec that lists a hundred thousand shards by name has that many
MOST_NESTED = 32  # arrays and tables inside one another, and parts of a dotted key
MOST_VALUES = 500_000  # keys, elements, lines and comments
MOST_DIGITS = 400  # of a number; a float needs at most 309 before its point

_TOKEN = re.compile(
    r'''(?P<string>"""(?:[^\\]|\\.)*?(?:"""+|\Z)|\'\'\'.*?(?:\'\'\'+|\Z)|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')'''
    r"|(?P<comment>#[^\n]*)|(?P<open>[\[{])|(?P<close>[\]}])"
    rf"|(?P<number>[+-]?[0-9][0-9A-Fa-fxob_]{{{MOST_DIGITS},}})"
    r"|(?P<part>[A-Za-z0-9_+-]+)|(?P<dot>[ \t]*\.[ \t]*)|(?P<end>[\n=,])",
    re.DOTALL,
)


class LimitError(ValueError):
    """Text that is too deep or too long to be a spec.

    Attributes:
        line: Where, from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_toml(text: str) -> dict[str, Any]:
    """Values of a TOML text.

    Raises:
        LimitError: It is too deep or too long.
        tomli.TOMLDecodeError: It is not TOML.
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
