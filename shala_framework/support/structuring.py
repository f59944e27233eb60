"""Convert TOML or JSON values to attrs classes without coercion and report every problem at once.

cattrs dispatches on types. The hooks here replace its own, which turn 3.9 into 3 and "false" into True.
"""

import difflib
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import attrs
import cattrs

from shala_framework.support.hints import nearest

T = TypeVar("T")
KeyPath = tuple[str | int, ...]
MOST_SHOWN = 100  # characters of a key or a text in a message
MOST_FINDINGS = 1_000  # of one table or array; further items are not checked
LARGEST_INT = 2**63 - 1  # limit of TOML and of most JSON readers
UNSET = "none"  # what lists of keys call the default of an optional key; TOML has no such value
RENAMED_FROM = "renamed_from"  # metadata of a field: its earlier name
LISTED_IN_SWEEPS = "listed_in_sweeps"  # metadata of a field that may be an array of its values for `shala sweep`
EXPERIMENTAL = "experimental"  # metadata of a field: its experimental choices


def renamed_from(name: str) -> dict[str, str]:
    """Return metadata for a renamed field. The error for its earlier name gives the new one as a hint."""
    return {RENAMED_FROM: name}


def experimental(*choices: str) -> dict[str, tuple[str, ...]]:
    """Return metadata for a field with choices that measured no better than its default. Lists of keys mark them."""
    return {EXPERIMENTAL: choices}


@attrs.frozen
class Finding:
    """One problem, at a path relative to the value that was structured."""

    path: KeyPath
    message: str
    hint: str = ""

    def under(self, key: str | int) -> "Finding":
        """Return the same finding with a path that starts at the value holding `key`."""
        return attrs.evolve(self, path=(key, *self.path))


class InvalidValueError(Exception):
    """All problems of one value. The reader of a spec turns it into a SpecError."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        super().__init__(
            "; ".join(f"{format_path(f.path)}: {f.message}{f' ({f.hint})' if f.hint else ''}" for f in findings)
        )


def format_path(path: KeyPath) -> str:
    """Format `("modality", "rgb", "size", 1)` as `modality.rgb.size[1]`. Keys that are not bare are quoted."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum() and len(key) <= MOST_SHOWN
            shown = key if len(key) <= MOST_SHOWN else f"{key[:MOST_SHOWN]}..."
            text += ("." if text else "") + (key if bare else json.dumps(shown, ensure_ascii=False))
    return text


def describe_value(value: Any) -> str:
    """Describe a value in TOML's terms, for an error."""
    if isinstance(value, bool):
        return f"boolean {str(value).lower()}"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, (list, tuple)):
        return f"an array of {len(value)}"
    if isinstance(value, int) and abs(value) > LARGEST_INT:
        return f"an int of {value.bit_length()} bits"  # printing it could fail or fill the screen
    names = {int: "int", float: "float", str: "string", type(None): "nothing"}
    shown = repr(value)
    if len(shown) > MOST_SHOWN + 20:
        shown = f"{shown[:MOST_SHOWN]}..."
    return f"{names.get(type(value), type(value).__name__)} {shown}"


def describe_type(kind: Any) -> str:
    """Describe an expected type in TOML's terms, for an error."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(repr(choice) for choice in args)
    if origin in (Union, types.UnionType):
        return " or ".join(describe_type(arg) for arg in args if arg is not type(None))
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            inner = describe_type(args[0])
            return f"an array whose items are {inner}" if " or " in inner else f"an array of {inner}"
        return f"an array of {len(args)} ({', '.join(describe_type(arg) for arg in args)})"
    if origin is dict or kind is dict or attrs.has(kind):
        return "a table"
    names = {bool: "boolean", str: "string", Path: "path", Any: "any value"}
    return names.get(kind, getattr(kind, "__name__", str(kind)))


def _mismatch(value: Any, kind: Any, hint: str = "") -> InvalidValueError:
    return InvalidValueError([Finding((), f"expected {describe_type(kind)}, got {describe_value(value)}", hint)])


def _structure_exact(value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise _mismatch(value, kind)
    if kind is int and abs(value) > LARGEST_INT:
        raise InvalidValueError([Finding((), f"expected an int of at most 64 bits, got {describe_value(value)}")])
    return value


def _structure_float(value: Any, kind: Any) -> float:
    if type(value) not in (int, float):
        raise _mismatch(value, kind)
    if type(value) is int and abs(value) > LARGEST_INT:
        raise InvalidValueError([Finding((), f"expected a number of at most 64 bits, got {describe_value(value)}")])
    if not math.isfinite(value):  # JSON, the format of saved specs, has neither infinity nor NaN
        raise InvalidValueError([Finding((), f"expected a finite number, got {describe_value(value)}")])
    return float(value)


def _structure_path(value: Any, kind: Any) -> Path:
    if not isinstance(value, str):
        raise _mismatch(value, kind)
    return Path(value)


def _structure_literal(value: Any, kind: Any) -> Any:
    for choice in get_args(kind):
        if type(value) is type(choice) and value == choice:
            return value
    names = [choice for choice in get_args(kind) if isinstance(choice, str)]
    close = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    raise _mismatch(value, kind, f"did you mean {close[0]!r}?" if close else "")


def _plain(value: Any) -> Any:
    """Check that JSON, the format of saved specs, can hold a value whose type only its reader knows."""
    if isinstance(value, Mapping):
        _gather((key, partial(_plain, inner)) for key, inner in value.items())
    elif isinstance(value, (list, tuple)):
        _gather((index, partial(_plain, inner)) for index, inner in enumerate(value))
    elif type(value) in (int, float):
        _structure_float(value, float)
    elif value is not None and type(value) not in (str, bool):
        raise InvalidValueError([Finding((), f"expected a string, number, boolean, array or table, got {value!r}")])
    return value


def _refusal(error: ValueError | TypeError) -> InvalidValueError:
    """Convert a validator's error. The validators of attrs put the message first and the field after it."""
    return InvalidValueError([Finding((), str(error.args[0]) if error.args else type(error).__name__)])


def _gather(items: Iterable[tuple[str | int, Callable[[], Any]]]) -> list[Any]:
    """Evaluate every item, then raise the findings of all of them together, each under its key."""
    results: list[Any] = []
    findings: list[Finding] = []
    for key, evaluate in items:
        if len(findings) >= MOST_FINDINGS:
            break
        try:
            results.append(evaluate())
        except InvalidValueError as error:
            findings += [finding.under(key) for finding in error.findings]
    if findings:
        raise InvalidValueError(findings)
    return results


class _Structurer:
    """A cattrs converter with exact hooks."""

    def __init__(self) -> None:
        self.converter = cattrs.Converter(detailed_validation=False)
        for kind in (int, bool, str):
            self.converter.register_structure_hook(kind, _structure_exact)
        self.converter.register_structure_hook(float, _structure_float)
        self.converter.register_structure_hook(Path, _structure_path)
        hooks: list[tuple[Callable[[Any], bool], Callable[[Any, Any], Any]]] = [
            (lambda kind: get_origin(kind) is Literal, _structure_literal),
            (lambda kind: get_origin(kind) in (Union, types.UnionType), self.union),
            (lambda kind: get_origin(kind) is tuple, self.array),
            (lambda kind: get_origin(kind) is dict, self.table),
            (lambda kind: isinstance(kind, type) and attrs.has(kind), self.attrs_class),
        ]
        for predicate, hook in hooks:
            self.converter.register_structure_hook_func(predicate, hook)

    def __call__(self, value: Any, kind: Any) -> Any:
        return _plain(value) if kind is Any else self.converter.structure(value, kind)

    def union(self, value: Any, kind: Any) -> Any:
        members = [member for member in get_args(kind) if member is not type(None)]
        if value in (None, UNSET) and len(members) < len(get_args(kind)):
            return None
        errors = []
        for member in members:
            try:
                return self(value, member)
            except InvalidValueError as error:
                errors.append(error)
        deep = [error for error in errors if any(finding.path for finding in error.findings)]
        if len(errors) == 1 or len(deep) == 1:
            raise (deep or errors)[0]
        raise _mismatch(value, kind)

    def array(self, value: Any, kind: Any) -> tuple[Any, ...]:
        args = get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise _mismatch(value, kind)
        if args[-1] is Ellipsis:
            args = (args[0],) * len(value)
        elif len(value) != len(args):
            raise _mismatch(value, kind)
        pairs = enumerate(zip(value, args, strict=True))
        return tuple(_gather((i, partial(self, v, a)) for i, (v, a) in pairs))

    def table(self, value: Any, kind: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _mismatch(value, kind)
        of = get_args(kind)[1]
        return dict(zip(value, _gather((key, partial(self, v, of)) for key, v in value.items()), strict=True))

    def attrs_class(self, value: Any, kind: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _mismatch(value, kind)
        resolved = attrs.resolve_types(kind)
        known = {field.name: field for field in attrs.fields(resolved) if field.init}
        renamed = {field.metadata.get(RENAMED_FROM): name for name, field in known.items()}

        def unknown(key: str) -> Any:
            hint = f"renamed to {renamed[key]!r}" if key in renamed else nearest(key, known, "keys")
            raise InvalidValueError([Finding((), "unknown key", hint)])

        def structured(field: "attrs.Attribute[Any]") -> tuple[str, Any]:
            given = value[field.name]
            if isinstance(given, list) and field.metadata.get(LISTED_IN_SWEEPS):
                hint = f"`shala sweep` runs each of them; for one run, choose one, such as --set {field.name}=0"
                raise _mismatch(given, field.type, hint)
            result = self(given, field.type)
            if field.validator is not None:
                try:
                    field.validator(None, field, result)
                except (ValueError, TypeError) as error:
                    raise _refusal(error) from None
                except AttributeError:
                    pass  # a rule that reads other fields; attrs runs it again once all fields are set
            return field.name, result

        def required(field: "attrs.Attribute[Any]") -> Any:
            raise InvalidValueError([Finding((), f"missing; expected {describe_type(field.type)}", "add it")])

        items: list[tuple[str | int, Callable[[], Any]]] = [
            (key, partial(unknown, key)) for key in value if key not in known
        ]
        present = [field for field in known.values() if field.name in value]
        missing = [field for field in known.values() if field.name not in value and field.default is attrs.NOTHING]
        items += [(field.name, partial(structured, field)) for field in present]
        items += [(field.name, partial(required, field)) for field in missing]
        pairs = dict(_gather(items))
        try:
            return kind(**pairs)
        except (ValueError, TypeError) as error:  # a rule that involves several fields
            raise _refusal(error) from None


_structurer = _Structurer()


def structure(value: Any, kind: type[T]) -> T:
    """Build an attrs class, or any type that its fields may have, from TOML or JSON values.

    Args:
        value: Value returned by tomli or json.
        kind: Class to build.

    Returns:
        An instance of kind. An int is accepted for a float, and "none" for an optional value that is not set; nothing
        else is coerced.

    Raises:
        InvalidValueError: The value is invalid; it lists every problem with its path.
    """
    result: T = _structurer(value, kind)
    return result


def unstructure(instance: Any) -> Any:
    """Return JSON values from which `structure` builds an equal instance."""
    if attrs.has(type(instance)):
        return {field.name: unstructure(getattr(instance, field.name)) for field in attrs.fields(type(instance))}
    if isinstance(instance, Mapping):
        return {key: unstructure(value) for key, value in instance.items()}
    if isinstance(instance, (list, tuple)):
        return [unstructure(value) for value in instance]
    return str(instance) if isinstance(instance, Path) else instance
