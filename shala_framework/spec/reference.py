"""List the keys of a spec with their types, defaults and meanings, read from the classes of its tables."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

import attrs

from shala_framework.spec.schema import Spec
from shala_framework.support.structuring import EXPERIMENTAL, describe_type, unstructure

_PREFACE = """\
# The keys of a spec

`shala keys --markdown` prints this page, `shala keys TABLE` one table. `shala plugins NAME` lists the `options` of a
modality, a stand-in, a method or a tracker. `shala keys --json-schema` prints a JSON Schema, which lets an editor
complete and check a spec; [Your own data](own_data.md#in-an-editor) shows how. Choices marked experimental measured no
better than the default.

`--profile NAME` applies the table `[profile.NAME]`, which has other values for some keys, such as those for a large
GPU, in the form of the spec or as dotted keys. If a key has several values, the last of these takes precedence: the
file, the `set` of `[data.stand_in]` where the stand-in is used, the profile, `--set`. A run records its profile, so
that resuming needs no flag. All profiles of a spec are checked whenever it is read.

`--set KEY=none` takes back what the file sets for a key whose default is none, such as `train.minutes=none`."""
_ATTRIBUTE = re.compile(r"^    (\w+): (.*)$")
_TABLE_NAME = re.compile(r"^\[[\w.<>]+\]: ")


@attrs.frozen
class Key:
    """One key of a table.

    Attributes:
        name: Name of the key.
        kind: Type, in TOML's terms, with experimental choices marked.
        default: Default in TOML; "required" or "none" if TOML cannot express it.
        meaning: Description, from the docstring of the class.
    """

    name: str
    kind: str
    default: str
    meaning: str


@attrs.frozen
class SpecTable:
    """One table of a spec.

    Attributes:
        name: Dotted name, such as "train.prior"; empty for the top of the file.
        summary: First line of the docstring of the class.
        keys: Keys of the table, without nested tables.
    """

    name: str
    summary: str
    keys: tuple[Key, ...]


def keys_of(options: type) -> tuple[Key, ...]:
    """Return the keys of an attrs class, in order, without nested tables."""
    meanings = meanings_of(options)
    return tuple(
        Key(field.name, _kind(field), _default(field), meanings.get(field.name, ""))
        for field in attrs.fields(attrs.resolve_types(options))
        if table_class(field.type) is None and field.metadata.get("written", True)
    )


def option_keys_of(options: type) -> tuple[Key, ...]:
    """Return the keys of a plugin's options, those of tables within them by dotted names."""
    first, *nested = _tables("", options)
    inner = (attrs.evolve(key, name=f"{table.name}.{key.name}") for table in nested for key in table.keys)
    return (*first.keys, *inner)


def spec_tables() -> tuple[SpecTable, ...]:
    """Return every table of a spec, outer tables first."""
    return tuple(_tables("", Spec))


def as_text(tables: tuple[SpecTable, ...], width: int = 100) -> str:
    """Format the tables as text for a terminal."""
    return "\n".join(f"[{table.name}]  {table.summary}\n{keys_as_text(table.keys, width)}" for table in tables)


def keys_as_text(keys: tuple[Key, ...], width: int = 100) -> str:
    """Format each key with its name, type and default, and its meaning below."""
    lines = []
    for key in keys:
        default = key.default if key.default == "required" else f"default {key.default}"
        lines.append(f"  {key.name:<22}{key.kind}; {default}")
        if key.meaning:
            lines.append(textwrap.fill(key.meaning, width, initial_indent=" " * 24, subsequent_indent=" " * 24))
    return "\n".join(lines) + "\n"


def as_markdown(tables: tuple[SpecTable, ...]) -> str:
    """Format the tables as a page of the documentation."""
    parts = [_PREFACE]
    for table in tables:
        title = f"`[{table.name}]`" if table.name else "At the top of the file"
        lines = [f"## {title}", "", table.summary, "", "| key | type | default | |", "|---|---|---|---|"]
        lines += [
            f"| `{key.name}` | {key.kind} | {_code(key.default)} | {key.meaning.replace('|', chr(92) + '|')} |"
            for key in table.keys
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _code(default: str) -> str:
    return default if default in ("required", "none", "follows from other options") else f"`{default}`"


def _tables(name: str, options: type) -> Iterator[SpecTable]:
    yield SpecTable(name, summary_of(options), keys_of(options))
    for field in attrs.fields(attrs.resolve_types(options)):
        nested = table_class(field.type)
        if nested is not None:
            inner = f"{field.name}.<name>" if getattr(field.type, "__origin__", None) is dict else field.name
            yield from _tables(f"{name}.{inner}".lstrip("."), nested)


def table_class(kind: Any) -> type | None:
    """Return the class of a field that is a table, an optional table or a table of tables; None for other fields."""
    return next((candidate for candidate in (kind, *get_args(kind)) if attrs.has(candidate)), None)


def summary_of(cls: type) -> str:
    """Return the first line of a class's docstring, without a table name such as `[data]: ` in front."""
    lines = inspect.cleandoc(cls.__doc__ or "").splitlines() or [cls.__name__]
    summary = _TABLE_NAME.sub("", lines[0])
    return summary[:1].upper() + summary[1:]


def meanings_of(options: type) -> dict[str, str]:
    """Map each attribute to its description in the docstrings of the class and its base classes."""
    found: dict[str, str] = {}
    for cls in options.__mro__:
        _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
        name = ""
        for line in section.splitlines():
            start = _ATTRIBUTE.match(line)
            if line and not line.startswith(" "):
                break  # another section
            if start:
                name = start[1]
                if name in found:
                    name = ""
                else:
                    found[name] = start[2]
            elif name and line.strip():
                found[name] += " " + line.strip()
    return found


def _kind(field: "attrs.Attribute[Any]") -> str:
    """Describe the type in TOML's terms and mark experimental choices."""
    kind = describe_type(field.type)
    for choice in field.metadata.get(EXPERIMENTAL, ()):
        kind = kind.replace(repr(choice), f"{choice!r} (experimental)")
    return kind


def _default(field: "attrs.Attribute[Any]") -> str:
    """Format a default as TOML, where TOML can express it."""
    value: Any = field.default
    if value is attrs.NOTHING:
        return "required"
    if hasattr(value, "factory"):
        if value.takes_self:
            return "follows from other options"
        value = value.factory()
    return "none" if value is None else json.dumps(unstructure(value), ensure_ascii=False)
