"""Several values for keys of a spec, such as `--set posterior.latent_dim=4,8 --set seed=0,1,2`, and their grid."""

import hashlib
import itertools
import math
import re
from collections.abc import Sequence

import attrs

from shala_framework.spec.overrides import parse_override
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.hints import shortened
from shala_framework.support.structuring import format_path

MOST_POINTS = 1_000
_MOST_NAME = 120  # characters
_CLOSING = {"]": "[", ")": "(", "}": "{"}


@attrs.frozen(kw_only=True)
class GridPoint:
    """One combination of values.

    Attributes:
        name: Name of its folder, made of every key and value, so that it does not depend on the other combinations.
        overrides: Overrides of the spec, each as `KEY=VALUE`.
    """

    name: str
    overrides: tuple[str, ...]


def make_grid(texts: Sequence[str]) -> list[GridPoint]:
    """Combine the values of all keys; the last key varies fastest.

    Args:
        texts: Each as `KEY=VALUE,VALUE,...`. Commas inside brackets, braces or quotes do not separate values, so that
            an array is written as in TOML: `evaluate.guidance_scales=[1,2],[1,3]` has two values.

    Raises:
        SpecError: A text has no `=`, a value is empty or occurs twice, a key occurs twice, or there are too many
            combinations.
    """
    axes: list[list[str]] = []
    keys: dict[str, str] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        path = format_path(parse_override(text).path)  # raises where the form is wrong
        if path in keys:
            raise _error(path, "expected every key once; write its values after one another, such as seed=0,1,2")
        pieces = split_values(values, path) if equals else []
        parsed = [repr(parse_override(f"{key}={piece}").value) for piece in pieces]
        twice = next((piece for n, piece in enumerate(pieces) if parsed[n] in parsed[:n]), None)
        if twice is not None:
            raise _error(path, f"expected every value once, got {shortened(twice)} twice")
        keys[path] = key.strip()
        axes.append([f"{key.strip()}={piece}" for piece in pieces])
    count = math.prod(map(len, axes))
    if count > MOST_POINTS:
        raise _error("", f"expected at most {MOST_POINTS:,} combinations, got {count:,}")
    last = [path.rpartition(".")[2] for path in keys]
    short = [name if last.count(name) == 1 else path for name, path in zip(last, keys, strict=True)]
    return [
        GridPoint(name=_name(short, [text.partition("=")[2] for text in chosen]), overrides=chosen)
        for chosen in itertools.product(*axes)
    ]


def split_values(text: str, path: str) -> list[str]:
    """Split at commas outside of brackets, braces and quotes.

    Args:
        text: The values.
        path: Key that they are of, for messages.

    Raises:
        SpecError: A value is empty, or a bracket or quote has no counterpart.
    """
    pieces, start, open_brackets, quote, escaped = [], 0, list[str](), "", False
    for place, character in enumerate(text):
        if quote:
            if character == quote and not escaped:
                quote = ""
            escaped = quote == '"' and character == "\\" and not escaped
        elif character in "\"'":
            quote = character
        elif character in "[({":
            open_brackets.append(character)
        elif character in _CLOSING:
            if not open_brackets or open_brackets.pop() != _CLOSING[character]:
                raise _error(path, f"expected brackets in pairs in {shortened(text)}; quote text that contains them")
        elif character == "," and not open_brackets:
            pieces.append(text[start:place].strip())
            start = place + 1
    if quote or open_brackets:
        missing = quote or open_brackets[-1]
        raise _error(path, f"expected a counterpart of {missing} in {shortened(text)}; quote text that contains it")
    pieces.append(text[start:].strip())
    if not all(pieces):
        raise _error(path, f'expected a value before and after each comma, got {shortened(text)}; "" is the empty text')
    return pieces


def _name(keys: Sequence[str], values: Sequence[str]) -> str:
    name = "_".join(f"{_slug(key)}-{_slug(value)}" for key, value in zip(keys, values, strict=True))
    return name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 9]}-{_hash(name)}"


def _slug(text: str) -> str:
    """Text as part of a file's name; a hash tells texts apart that look the same in it."""
    slug = (
        re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")[:40] if not re.fullmatch(r"[\w.+-]{1,40}", text) else text
    )
    return text if slug == text and text.isascii() else f"{slug}-{_hash(text)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _error(path: str, message: str) -> SpecError:
    return SpecError([Problem(path=path, message=message, origin="--set")])
