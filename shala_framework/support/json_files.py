"""JSON files of a run or a set of shards: written with a checksum, and read only if undamaged and of the right shape.

A shape is a type (`int`, `str`, `bool`, `float`, `dict`, `list`, or `object` for anything), `[shape]` for a list,
`{str: shape}` for an object with any keys, or `{"key": shape, ...}` for an object with at least these keys.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shala_framework.support.checksums import FIELD, ZEROS, add_checksum, verify_checksum
from shala_framework.support.errors import ShalaError

_LINE_FIELD = "crc32"


def dump_json(content: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """Encode an object as the content of a JSON file, with a checksum as its first key."""
    text = json.dumps({FIELD: ZEROS, **content}, indent=indent) + "\n"
    return add_checksum(text.encode())


def parse_json(content: bytes, shape: Any, *, earlier: Any = None) -> Any:
    """Parse the result of `dump_json`.

    Args:
        content: Content of the file.
        shape: Expected shape of the content.
        earlier: Shape of files that earlier versions wrote without a checksum; None refuses them. If it is an object
            with named keys, such a file must not have other keys.

    Raises:
        ValueError: The content is not JSON, has another shape, or does not match its checksum.
    """
    value = _load(content)
    if isinstance(value, dict) and FIELD in value:
        verify_checksum(content)
        del value[FIELD]
    elif earlier is None:
        raise ValueError("it has no checksum: it was changed by hand or damaged, or an earlier version wrote it")
    else:
        shape = earlier
        more = set(value) - set(shape) if isinstance(value, dict) and str not in shape else ()
        if more:
            raise ValueError(f"expected the keys {sorted(shape)}, got also {sorted(more)}")
    check_shape(value, shape)
    return value


def check_shape(value: Any, shape: Any) -> None:
    """Raise ValueError if a JSON value has another shape than expected."""
    wrong = _mismatch(value, shape, "")
    if wrong:
        raise ValueError(wrong)


def read_json(path: Path, shape: Any, *, error: type[ShalaError], advice: str) -> Any:
    """Read a JSON file written with `dump_json`.

    Args:
        path: Path of the file.
        shape: Expected shape of the content.
        error: Class of the error to raise.
        advice: What the user should do about a damaged file.

    Raises:
        ShalaError: An error of the given class: the file cannot be read or is damaged. It names the file and gives the
            advice.
    """
    try:
        return parse_json(path.read_bytes(), shape)
    except ValueError as reason:
        raise error(f"{path} is damaged: {reason}; {advice}") from reason
    except OSError as reason:
        raise error(f"cannot read {path}: {reason.strerror or reason}; {advice}") from reason


def dump_line(content: Mapping[str, Any], owner: str = "") -> str:
    """Encode an object as one line of a file that grows by lines. The checksum of the line is its last key.

    Args:
        content: The object.
        owner: What the file belongs to. The checksum covers it too, so lines of other files are not accepted.
    """
    text = json.dumps(content)
    return f'{text[:-1]}{", " if content else ""}"{_LINE_FIELD}": "{_line_checksum(text, owner)}"}}\n'


def parse_lines(content: bytes, shape: Any, owner: str = "") -> tuple[list[dict[str, Any]], int]:
    """Return the valid lines of a file of `dump_line`, in order, and the number of invalid lines.

    A crash or a power loss may truncate the last line.
    """
    found, damaged = [], 0
    for line in content.split(b"\n"):
        if not line:
            continue
        try:
            value = _load(line)
            declared = value.pop(_LINE_FIELD)
            if declared != _line_checksum(json.dumps(value), owner) or _mismatch(value, shape, ""):
                damaged += 1
                continue
        except (ValueError, AttributeError, KeyError, TypeError, IndexError):
            damaged += 1
            continue
        found.append(value)
    return found, damaged


def join_lines(entries: Iterable[Mapping[str, Any]], owner: str = "") -> bytes:
    """Encode several lines with `dump_line`."""
    return "".join(dump_line(entry, owner) for entry in entries).encode()


def _line_checksum(text: str, owner: str) -> str:
    return f"{zlib.crc32(text.encode(), zlib.crc32(owner.encode())):08x}"


def _load(content: bytes) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _mismatch(value: Any, shape: Any, path: str) -> str:
    """Describe how a value differs from a shape; empty if it does not."""
    where = f" at {path}" if path else ""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"expected a list{where}, got {_brief(value)}"
        return next((w for i, v in enumerate(value) if (w := _mismatch(v, shape[0], f"{path}[{i}]"))), "")
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"expected an object{where}, got {_brief(value)}"
        if str in shape:
            inner = [(key, shape[str]) for key in value]
        else:
            missing = sorted(set(shape) - set(value))
            if missing:
                return f"expected the keys {sorted(shape)}{where}, got none of the name {missing[0]!r}"
            inner = list(shape.items())
        return next((w for k, s in inner if (w := _mismatch(value[k], s, f"{path}.{k}" if path else k))), "")
    kinds = (int, float) if shape is float else (shape,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and shape in (int, float)):
        return f"expected {shape.__name__}{where}, got {_brief(value)}"
    return ""


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]} ..."
