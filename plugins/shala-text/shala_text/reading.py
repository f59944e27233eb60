"""Convert a text file to clean text: UTF-8, one form of each character, single spaces."""

import codecs
import re
import unicodedata

from shala_framework.plugin import DataError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def decode_utf8(data: bytes, field: str, max_bytes: int = 1 << 20) -> str:
    """Decode a text file, with or without a byte order mark.

    Args:
        data: Bytes of the file.
        field: Name of its field, for error messages.
        max_bytes: Number of bytes to decode. In a longer file, white space at the start is skipped first.

    Raises:
        DataError: The file is not UTF-8, or contains NUL, as binary files do.
    """
    whole = len(data) <= max_bytes
    if not whole:
        data = data.lstrip()[:max_bytes]
    try:
        # "utf-8-sig" would silently decode a truncated byte order mark as nothing.
        text = codecs.getincrementaldecoder("utf-8")().decode(data, final=whole).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(
            f"field {field!r}: expected UTF-8 text, got the byte 0x{data[error.start]:02x} at offset {error.start} of "
            f"{len(data)} ({error.reason}); convert the file to UTF-8 or leave the field out"
        ) from None
    if "\0" in text:
        raise DataError(
            f"field {field!r}: expected text, got the character U+0000 at position {text.index(chr(0))}, as in a "
            f"binary file; leave the field out or name another one in the option `fields`"
        )
    return text


def normalise(text: str, lower_case: bool) -> str:
    """Normalise text: Unicode NFC, no control characters, and every run of white space as one space.

    Args:
        text: Any text.
        lower_case: Whether to convert the text to lower case.
    """
    text = " ".join(_CONTROL.sub(" ", text).split())
    return unicodedata.normalize("NFC", text.lower() if lower_case else text)


def printable(text: str) -> str:
    """Replace each control character, which a generated text may contain, by a replacement character."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
