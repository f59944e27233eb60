"""Describe a spec as JSON Schema (draft 2020-12), which lets TOML editors complete, explain and check keys.

The schema is generated from the classes of the spec's tables and of the plugins' options. It covers what concerns a
single key: type, choices, bounds, default and meaning. `shala check` also checks the rules that involve several keys.
"""

import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import attrs

from shala_framework.plugin.options import Rule
from shala_framework.spec.reference import meanings_of, summary_of
from shala_framework.spec.schema import DEFAULT_METHOD, ModalityTable, Posterior, Spec, StandIn, TrackTable
from shala_framework.support.structuring import EXPERIMENTAL, LISTED_IN_SWEEPS, unstructure

Schema = dict[str, Any]
_TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}
_NAMED_BY = {  # kind and naming key
    ModalityTable: ("modality", "plugin"),
    StandIn: ("data set", "dataset"),
    Posterior: ("method", "method"),
}


@attrs.frozen(kw_only=True)
class PluginTable:
    """An installed plugin whose options a spec can set.

    Attributes:
        name: Name of the plugin in a spec.
        kind: "modality", "data set", "method" or "tracker".
        plugin: Class of the plugin; its attribute `Options` is the class of its options.
    """

    name: str
    kind: str
    plugin: Any


def json_schema(plugins: Sequence[PluginTable] = ()) -> Schema:
    """Return the schema of a whole spec.

    Args:
        plugins: Plugins whose names and options the schema contains. Names of other plugins are errors if any are
            given.

    Returns:
        A value for `json.dumps`.
    """
    schema = _table(Spec, plugins)
    definitions = {_definition(plugin): _table(plugin.plugin.Options, ()) for plugin in plugins}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A spec of shala_framework",
        **schema,
        "$defs": definitions,
    }


def _table(cls: type, plugins: Sequence[PluginTable]) -> Schema:
    """Return the schema of one table."""
    fields = [field for field in attrs.fields(attrs.resolve_types(cls)) if field.init]
    meanings = meanings_of(cls)
    written = [field for field in fields if field.metadata.get("written", True)]
    properties = {field.name: _key(field, meanings.get(field.name, ""), plugins) for field in written}
    required = [field.name for field in written if field.default is attrs.NOTHING]
    table: Schema = {
        "type": "object",
        "description": summary_of(cls),
        "properties": properties,
        "additionalProperties": False,
    }
    if required:
        table["required"] = required
    if cls in _NAMED_BY:
        kind, key = _NAMED_BY[cls]
        _add_options(table, key, [plugin for plugin in plugins if plugin.kind == kind])
    return table


def _key(field: "attrs.Attribute[Any]", meaning: str, plugins: Sequence[PluginTable]) -> Schema:
    """Return the schema of one key."""
    schema = _of_type(field.type, plugins)
    for rule in _rules(field.validator):
        schema |= rule
    if field.metadata.get(LISTED_IN_SWEEPS):
        schema = {"anyOf": [schema, {"type": "array", "items": schema, "minItems": 1, "uniqueItems": True}]}
    if meaning and "description" not in schema:
        schema["description"] = meaning
    if choices := field.metadata.get(EXPERIMENTAL):
        schema["description"] = f"{meaning} Experimental: {', '.join(map(repr, choices))}.".lstrip()
        schema["x-experimental"] = list(choices)  # an annotation: validators ignore unknown keywords
    default = field.default
    if default is not attrs.NOTHING and default is not None and not hasattr(default, "factory"):
        schema["default"] = unstructure(default)
    return schema


def _of_type(kind: Any, plugins: Sequence[PluginTable]) -> Schema:
    """Return the schema of the type of any field of a table."""
    origin, args = get_origin(kind), get_args(kind)
    if attrs.has(kind):
        return _table(kind, plugins)
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (Union, types.UnionType):
        members = [_of_type(arg, plugins) for arg in args if arg is not type(None)]  # TOML has no null
        return members[0] if len(members) == 1 else {"anyOf": members}
    if origin is tuple and args[-1] is Ellipsis:
        return {"type": "array", "items": _of_type(args[0], plugins)}
    if origin is tuple:
        members = [_of_type(arg, plugins) for arg in args]
        return {"type": "array", "prefixItems": members, "minItems": len(args), "maxItems": len(args)}
    if origin is dict:
        return _table_of_tables(args[1], plugins)
    return {"type": _TYPES[kind]} if kind in _TYPES else {}


def _table_of_tables(kind: Any, plugins: Sequence[PluginTable]) -> Schema:
    """Return the schema of a table with arbitrary keys. The key of a tracker's table is the name of its plugin."""
    if kind is not TrackTable:
        return {"type": "object", "additionalProperties": _of_type(kind, plugins)}
    trackers = [plugin for plugin in plugins if plugin.kind == "tracker"]
    properties = {}
    for tracker in trackers:
        properties[tracker.name] = table = _table(TrackTable, ())
        table["description"] = summary_of(tracker.plugin)
        table["properties"]["options"] = _reference(tracker)
    return {"type": "object", "properties": properties, "additionalProperties": False if plugins else {}}


def _add_options(table: Schema, key: str, plugins: Sequence[PluginTable]) -> None:
    """List the valid names for a table's `key`, and the options that belong to each."""
    if not plugins:
        return
    built_in = [DEFAULT_METHOD] if key == "method" else []
    table["properties"][key]["enum"] = [*built_in, *(plugin.name for plugin in plugins)]
    # Taplo completes keys from properties and anyOf, but ignores if/then and properties beside allOf. The empty schema
    # in anyOf accepts everything, so that errors come only from the plugin that the table names.
    table["properties"]["options"]["anyOf"] = [{}, *map(_reference, plugins)]
    table["if"] = {"required": [key]}
    table["then"] = {
        "allOf": [
            {
                "if": {"properties": {key: {"const": plugin.name}}},
                "then": {"properties": {"options": _reference(plugin)}},
            }
            for plugin in plugins
        ]
    }


def _definition(plugin: PluginTable) -> str:
    return re.sub(r"[^\w-]", "_", plugin.name) + "-options"  # a reference gives / and ~ a meaning


def _reference(plugin: PluginTable) -> Schema:
    return {"$ref": f"#/$defs/{_definition(plugin)}"}


def _rules(validator: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the conditions of a field's validator, including those that attrs combines (`and_`, `optional`)."""
    if isinstance(validator, Rule):
        yield validator.schema
    elif attrs.has(type(validator)):
        for field in attrs.fields(type(validator)):
            inner = getattr(validator, field.name)
            for part in inner if isinstance(inner, Iterable) and not isinstance(inner, str) else (inner,):
                yield from _rules(part)
