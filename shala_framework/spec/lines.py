"""Find the line of every key in a TOML text, because tomli reports none.

The text must already have been parsed by tomli. This scan follows keys and brackets and checks nothing.
"""

import re
from typing import Any

import tomli

from shala_framework.support.structuring import KeyPath

_KEY = re.compile(r"""[ \t]*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
_BLANK = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_STRING = re.compile(r'"""(?:[^\\]|\\.)*?"""+|\'\'\'.*?\'\'\'+|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Map every key path of a valid TOML text to its 1-based line. Array elements have int keys."""
    return _Scanner(text).scan()


def _unquoted(key: str) -> str:
    """Return a key as tomli does: without quotes and with escapes resolved."""
    if key[0] not in "\"'":
        return key
    table: dict[str, Any] = tomli.loads(f"{key} = 0")
    return next(iter(table))


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.counted = (0, 1)  # a position and its line, from which lines are counted onward
        self.lines: dict[KeyPath, int] = {}
        self.tables: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip_blank():
            if self._next("[["):
                self.position += 2
                array = self._key((), in_header=True)
                self.tables[array] = self.tables.get(array, -1) + 1
                table = (*array, self.tables[array])
                self._record(table)
                self.position += 2
            elif self._next("["):
                self.position += 1
                table = self._key((), in_header=True)
                self.lines.pop(table, None)  # recorded so far from the header of a table inside it
                self._record(table)
                self.position += 1
            else:
                self._pair(table)
        return self.lines

    def _record(self, path: KeyPath) -> None:
        position, line = self.counted
        self.counted = (self.position, line + self.text.count("\n", position, self.position))
        self.lines.setdefault(path, self.counted[1])

    def _skip_blank(self) -> bool:
        match = _BLANK.match(self.text, self.position)
        self.position = match.end() if match else self.position
        return self.position < len(self.text)

    def _next(self, mark: str) -> bool:
        return self.text.startswith(mark, self.position)

    def _key(self, table: KeyPath, *, in_header: bool = False) -> KeyPath:
        """Read a dotted key and record each of its prefixes.

        A header that names an array of tables continues in its last table.
        """
        path = table
        while match := _KEY.match(self.text, self.position):
            path = (*path, _unquoted(match[1]))
            self._record(path)
            self.position = match.end()
            if not self._next("."):
                break
            self.position += 1
            if in_header and path in self.tables:
                path = (*path, self.tables[path])
        return path

    def _pair(self, table: KeyPath) -> None:
        path = self._key(table)
        self.position = self.text.index("=", self.position) + 1
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        self._skip_blank()
        if self._next("{"):
            self.position += 1
            while self._skip_blank() and not self._next("}"):
                self._pair(path)
            self.position += 1
        elif self._next("["):
            self.position += 1
            index = 0
            while self._skip_blank() and not self._next("]"):
                self._record((*path, index))
                self._value((*path, index))
                index += 1
            self.position += 1
        else:
            match = _STRING.match(self.text, self.position) or _SCALAR.match(self.text, self.position)
            self.position = match.end() if match else len(self.text)
