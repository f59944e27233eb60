"""Escape text from files for terminals: names, labels, captions and errors may contain control sequences."""

import unicodedata

_SHOWN = {"\n", "\t"}
_NAMED = {"\n": "\\n", "\t": "\\t"}


def printable(text: str, *, lines: bool = True) -> str:
    r"""Replace everything that a terminal would execute rather than show by an escape.

    This covers control characters (ESC, which moves the cursor and sets titles, and carriage returns and backspaces,
    which overwrite earlier text), marks without width or that change the direction of text, other line separators, and
    lone surrogates, which no encoding supports.

    Args:
        text: Text from any source.
        lines: Whether to keep line breaks and tabs. Escape them in a name that is shown within a line.

    Example:
        >>> printable("caption\x1b[2J")
        'caption\\x1b[2J'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c, lines) for c in text)


def _escaped(character: str, lines: bool) -> str:
    if character in _SHOWN:
        return character if lines else _NAMED[character]
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
