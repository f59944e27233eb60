"""Mutated specs are read as written or refused with one message, quickly; a campaign of faults.py.

An accepted spec must have the content of its file: each value of the TOML text is under the same key of the
spec, or a message says otherwise. Reading it from a checkpoint's JSON must give the same spec.
"""

import functools
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tomli
from fault_batches import Begin, in_child
from fault_trials import ROOT, Setting, Trial

COUNT = 100_000
PATIENCE = 10.0  # seconds; the largest specs allowed take two or three
MOST_SAID = 60_000  # characters of a message
ODD_TEXTS = (
    "",
    " ",
    "\x00",
    "\x1b[2J",
    "\u202e",
    "\u2028",
    "\ufeff",
    "\ud7ff",
    "\N{GRINNING FACE}" * 3,
    "e\u0301",
    "\N{FULLWIDTH DIGIT ONE}",
    "a" * 5_000,
    "{0..99999999}",
    "{a,{b,{c,d}}}",
    "{0..9}" * 7,
    "{" * 40,
    "}",
    "x-{0..9",
    "{z..A..0}",
    "*/" * 40,
    "[a" * 300,
    "[",
    "\\{a\\,b}",
    "pipe:true",
    "http://[::1",
    "file:",
    "s3://bucket/{0..3}.tar",
    "~",
    "..",
    "nan",
)
ODD_TOML = (
    "true",
    "false",
    "0",
    "-1",
    "1",
    "3.5",
    "-0.0",
    "nan",
    "inf",
    "-inf",
    "1e308",
    "1e-320",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    "9" * 390,
    "0x" + "f" * 40,
    "1e400",
    "1979-05-27T07:32:00Z",
    "07:32:00",
    "[]",
    "{}",
    "[[]]",
    "[1, 'a']",
    "[{a = 1}, {b = 2}]",
    "['a', 'b']",
    "{plugin = 'image'}",
    "[" * 31 + "]" * 31,
    "[" * 40 + "]" * 40,
    "[" + "1," * 3_000 + "]",
    "{" + ", ".join(f"k{i} = {i}" for i in range(300)) + "}",
    "'''x\ny'''",
)
TOKENS = (
    "[", "]", "[[", "]]", "{", "}", "=", ",", ".", "\n", '"', "'", '"""', "#", "\\", "\r", "\t", "\x00", "_", "e", "-",
    "0x",
)  # fmt: skip


def trials(setting: Setting) -> Iterator[Trial]:
    """Run trials with specs whose bytes, tokens, values and tables are changed."""
    import shala_framework.plugin.loading as plugins
    from shala_framework.spec import read_spec

    # Installed packages do not change, and looking them up takes most of the time of a small spec.
    plugins.entry_points = functools.cache(plugins.entry_points)  # type: ignore[attr-defined]
    os.chdir(setting.folder)
    texts = [path.read_text() for path in sorted((ROOT / "specs").glob("*.toml"))]
    for number, text in enumerate(list(texts)):
        path = setting.folder / f"whole-{number}.toml"
        path.write_text(text)
        texts.append(_complete(read_spec(path, use_stand_in=False)))
    base = setting.rng.random()
    yield from in_child(setting.count, functools.partial(_trial, base, texts, setting.folder), patience=PATIENCE)


def _trial(base: float, texts: list[str], folder: Path, number: int, begin: Begin) -> Trial:
    from shala_framework.spec import doubts, read_spec
    from shala_framework.support.errors import ShalaError

    rng = random.Random(f"{base} {number}")
    kinds = list(MUTATIONS)
    kind = kinds[number % len(kinds)]
    begin(kind)
    data = MUTATIONS[kind](rng, texts)
    path = folder / "spec.toml"
    path.write_bytes(data)
    stand_in = rng.random() < 0.3
    overrides = [_override(rng) for _ in range(1 if rng.random() < 0.1 else 0)]
    try:
        loaded = read_spec(path, overrides, use_stand_in=stand_in)
        doubts(loaded.spec)
        for name, modality in loaded.modality_classes.items():
            modality(loaded.options[name])
    except ShalaError as error:
        said = str(error)
        if not said.strip() or len(said) > MOST_SAID:
            return Trial(kind, "silent", f"a message of {len(said)} characters: {said[:200]}")
        return Trial(kind, "message")
    differs = _differs(loaded, data, compared=not stand_in and not overrides)
    return Trial(kind, "silent" if differs else "right", differs)


def _differs(loaded: Any, data: bytes, *, compared: bool) -> str:
    """Return the differences between an accepted spec and its file."""
    from shala_framework.spec.reading import resolve_spec
    from shala_framework.support.structuring import unstructure

    saved = json.loads(json.dumps(unstructure(loaded.spec), allow_nan=False))
    again = resolve_spec(saved, "saved").spec
    if unstructure(again) != unstructure(loaded.spec) and loaded.spec.data.cache is None:
        return "another spec by way of JSON"
    raw = tomli.loads(data.decode("utf-8-sig"))
    raw.pop("profile", None)  # values for other settings, which are not those of the spec unless asked for
    if not compared or any("{" in name for name in raw["modality"]):
        return ""
    return ", ".join(_missing(raw, saved, ""))


def _missing(written: Any, read: Any, path: str) -> Iterator[str]:
    if isinstance(written, dict) and isinstance(read, dict):
        for key, value in written.items():
            if key not in read:
                yield f"{path}.{key} is not in the spec"
            else:
                yield from _missing(value, read[key], f"{path}.{key}")
    elif written != read or isinstance(written, bool) != isinstance(read, bool):
        yield f"{path}: {written!r} was read as {read!r}"


# Mutations: functions of a random generator and the texts of valid specs, to the bytes of a file.


def _bytes(rng: random.Random, texts: list[str]) -> bytes:
    data = bytearray(rng.choice(texts).encode())
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        how = rng.randrange(4)
        if how == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[place] = rng.randrange(256)
        elif how == 2:
            del data[place : place + rng.choice([1, 1, 5, 200])]
        else:
            data[place:place] = rng.randbytes(rng.choice([1, 1, 4]))
    return bytes(data)


def _tokens(rng: random.Random, texts: list[str]) -> bytes:
    text = rng.choice(texts)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text))
        token = rng.choice(TOKENS) * rng.choice([1, 1, 1, 3, 50])
        text = text[:place] + token + text[place + rng.choice([0, 0, 1, len(token)]) :]
    return text.encode(errors="replace")


def _lines(rng: random.Random, texts: list[str]) -> bytes:
    """Double, drop, move and cut lines, or insert those of another spec."""
    lines = rng.choice(texts).split("\n")
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(lines))
        how = rng.randrange(5)
        if how == 0:
            lines.insert(rng.randrange(len(lines)), lines[place])
        elif how == 1 and len(lines) > 1:
            lines.insert(rng.randrange(len(lines)), lines.pop(place))
        elif how == 2 and len(lines) > 1:
            del lines[place]
        elif how == 3:
            other = rng.choice(texts).split("\n")
            start = rng.randrange(len(other))
            lines[place:place] = other[start : start + rng.randint(1, 12)]
        else:
            lines = lines[: max(1, place)]
    return rng.choice(["\n", "\n", "\n", "\r\n"]).join(lines).encode()


VALUE = re.compile(r"(?m)(?<==)[ \t]*([^\n#]+?)[ \t]*(?=#|$)")
KEY = re.compile(r"(?m)^([A-Za-z_]+)(?=[ \t]*=)")
HEADER = re.compile(r"(?m)^\[[^\n]+\]$")


def _replaced(rng: random.Random, text: str, pattern: re.Pattern[str], new: Callable[[str], str]) -> str:
    found = list(pattern.finditer(text))
    if not found:
        return text
    match = rng.choice(found)
    group = 1 if pattern.groups else 0
    return text[: match.start(group)] + new(match[group]) + text[match.end(group) :]


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(rng: random.Random) -> str:
    return rng.choice(ODD_TOML) if rng.random() < 0.6 else _string(rng.choice(ODD_TEXTS))


def _near(rng: random.Random, value: str) -> str:
    """Return a number nearby or far away for a number, else an odd value."""
    try:
        number = float(value)
        int(number)
    except (ValueError, OverflowError):
        return _value(rng)
    return rng.choice(
        [str(int(number) + 1), str(int(number) * 10), repr(number / 3), f"-{value}", f"{value}e18", "0", "1", "2", "8"]
    )


def _values(rng: random.Random, texts: list[str]) -> bytes:
    text = rng.choice(texts)
    for _ in range(rng.randint(1, 3)):
        text = _replaced(rng, text, VALUE, (lambda _: _value(rng)) if rng.random() < 0.6 else (lambda v: _near(rng, v)))
    return text.encode(errors="replace")


def _keys(rng: random.Random, texts: list[str]) -> bytes:
    """Write misspelt, unknown, quoted, dotted and odd keys."""

    def other(key: str) -> str:
        place = rng.randrange(len(key))
        return rng.choice(
            [
                key[:place] + key[place + 1 :] or "k",
                key + "s",
                key.upper(),
                _string(key),
                _string(rng.choice(ODD_TEXTS)),
                f"{key}.{key}",
                f"{key}{'.a' * rng.choice([1, 30, 100])}",
            ]
        )

    text = rng.choice(texts)
    for _ in range(rng.randint(1, 2)):
        text = _replaced(rng, text, KEY, other)
    return text.encode(errors="replace")


def _tables(rng: random.Random, texts: list[str]) -> bytes:
    """Double and rename headers, make them arrays of tables, add braces, or write tables of a thousand keys."""

    def other(header: str) -> str:
        name = header.strip("[]")
        odd = _string(rng.choice(ODD_TEXTS))
        return rng.choice(
            [
                f"[[{name}]]",
                f"[{name}.{name}]",
                f"{header}\n{header}",
                f"[{odd}]",
                f"[modality.{odd}]",
                f'[modality."{rng.choice(["v_{0..3}", "{a,b}_{c,d}", "v_{0..999}", "v_{0..9999}", "{a"])}"]',
                f"[track.{odd}]",
                "[data.stand_in.set]",
                f"{header}\n" + "\n".join(f"k{i} = {i}" for i in range(1000)),
                "\n".join(f"[modality.m{i}]\nplugin = 'image'" for i in range(rng.choice([3, 1200]))) + f"\n{header}",
            ]
        )

    return _replaced(rng, rng.choice(texts), HEADER, other).encode(errors="replace")


def _unicode(rng: random.Random, texts: list[str]) -> bytes:
    text = rng.choice(texts)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(text))
        odd = rng.choice(ODD_TEXTS) if rng.random() < 0.7 else chr(rng.choice([0x80, 0x300, 0xFFFE, 0x10FFFF, 0xE000]))
        text = text[:place] + odd + text[place:]
    data = text.encode(errors="replace")
    return rng.choice([data, data, b"\xef\xbb\xbf" + data, text.encode("utf-16", "replace"), data + b"\xed\xa0\x80"])


def _braces(rng: random.Random, texts: list[str]) -> bytes:
    """Change the names of shards."""
    pieces = ["{", "}", ",", "..", "0", "9", "999", "{0..9}", "{a..e}", "{0..999}", "{x,{1..3}}", "\\\\", "*", "[", "]",
              "?", "http://h/", "pipe:", "/", ".tar", ":"]  # fmt: skip
    name = "".join(rng.choices(pieces, k=rng.randint(1, 12)))
    line = rng.choice([f'\\1 = "{name}"', f'\\1 = ["{name}", "{name}"]'])
    return re.sub(r"(?m)^(train|validation|test) = .*$", line, rng.choice(texts), count=1).encode()


def _large(rng: random.Random, texts: list[str]) -> bytes:
    """Write long lists, deep tables, long texts or many lines, of a size that must still be read within seconds."""
    size = rng.choice([100, 1_000, 10_000])
    text = rng.choice(texts)
    addition = rng.choice(
        [
            f"x = [{'[],' * size}]",
            f"x = {'[' * size}{']' * size}",
            "\n".join(f"[x.a{i}.b]" for i in range(size)),
            "\n".join(f"[[x]]\na = {i}" for i in range(size)),
            f"[x]\ny = {_string('a' * size * 10)}",
            "a" + ".a" * size + " = 1",
            "#" * size * 10,
            "\n" * size,
            f"[track.t]\noptions = {{ k = [{'1,' * size}] }}",
            "[data.stand_in.set]\n" + "\n".join(f'"train.a{i}" = {i}' for i in range(size)),
        ]
    )
    return f"{text}\n{addition}\n".encode()


MUTATIONS: dict[str, Callable[[random.Random, list[str]], bytes]] = {
    "bytes": _bytes,
    "tokens": _tokens,
    "lines": _lines,
    "values": _values,
    "keys": _keys,
    "tables": _tables,
    "odd characters": _unicode,
    "braces in shard names": _braces,
    "large and deep": _large,
}


def _override(rng: random.Random) -> str:
    keys = [
        "seed",
        "train.prior.steps",
        "data.train",
        "modality",
        "modality.rgb.options.height",
        "modality.'{a,b}'.plugin",
    ]
    return rng.choice(
        [
            f"{rng.choice(keys)}={_value(rng)}",
            f"{_string(rng.choice(ODD_TEXTS))}={_value(rng)}",
            "".join(rng.choices(TOKENS, k=4)),
            f"{rng.choice(keys)}={rng.choice(ODD_TEXTS)}",
        ]
    )


def _complete(loaded: Any) -> str:
    """Return the TOML text of a spec with every key that it may have, each with its value."""
    from shala_framework.support.structuring import unstructure

    values = {key: value for key, value in unstructure(loaded.spec).items() if value is not None}
    for table in values["modality"].values():
        del table["group"], table["share"]
    return "\n".join(_toml_lines(values, ()))


def _toml_lines(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict) and value is not None}
    for key, value in plain.items():
        yield f"{_name(key)} = {_toml(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield f"[{'.'.join(map(_name, (*path, key)))}]"
            yield from _toml_lines(value, (*path, key))


def _name(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
