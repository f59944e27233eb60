"""Text from files as a terminal may show it: names, labels, captions and errors can hold what a terminal obeys."""

import unicodedata

_SHOWN = {"\n", "\t"}
_NAMED = {"\n": "\\n", "\t": "\\t"}


def printable(text: str, *, lines: bool = True) -> str:
    r"""Text in which whatever a terminal would obey rather than show is written as an escape.

    Those are control characters (ESC, which moves the cursor, sets titles and types; carriage returns and
    backspaces, which write over what was said), marks that turn the direction of text or have no width, other line
    separators, and lone surrogates, which no encoding has.

    Args:
        text: From anywhere.
        lines: Whether line breaks and tabs stay as they are; a name that is shown within a line has none.

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
