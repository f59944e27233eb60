"""The keys of [posterior] that depend on the method of inference."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from shala_framework.spec.schema import DEFAULT_METHOD, DEFAULT_METHOD_KEYS, Posterior
from shala_framework.support.errors import PluginError
from shala_framework.support.hints import nearest
from shala_framework.support.structuring import Finding, InvalidValueError, structure, unstructure


@attrs.frozen(kw_only=True)
class MethodTable:
    """The part of a [posterior] table that concerns its method.

    Attributes:
        kind: Class of the method; None for the default, which needs no plugin, or after an error.
        options: JSON values of its options, with defaults filled in.
        findings: Mistakes, at paths below [posterior].
    """

    kind: Any = None
    options: dict[str, Any] = attrs.field(factory=dict)
    findings: tuple[Finding, ...] = ()


def read_method(table: Mapping[str, Any], load: Callable[[str], Any]) -> MethodTable:
    """Check what depends on the method in the values of a [posterior] table.

    Args:
        table: The values. What is wrong by the schema alone is passed over.
        load: Returns the class of a method by its name, or raises PluginError.
    """
    name, options = table.get("method", DEFAULT_METHOD), table.get("options", {})
    if not isinstance(name, str) or not isinstance(options, Mapping):
        return MethodTable()
    if name == DEFAULT_METHOD:
        hint = f"the method {DEFAULT_METHOD!r} is set by keys of [posterior]: {', '.join(DEFAULT_METHOD_KEYS)}"
        return MethodTable(findings=tuple(Finding(("options", key), "unknown key", hint) for key in options))
    defaults = {field.name: field.default for field in attrs.fields(Posterior)}
    findings = [
        Finding(
            (key,),
            f"expected no such setting beside method = {name!r}, as {DEFAULT_METHOD!r} alone has it",
            "remove it",
        )
        for key in DEFAULT_METHOD_KEYS
        if table.get(key, defaults[key]) != defaults[key]
    ]
    try:
        kind = load(name)
        made = structure(options, kind.Options)
    except PluginError as error:
        hint = nearest(name, [DEFAULT_METHOD], "methods") if "no installed plugin" in str(error) else ""
        return MethodTable(findings=(*findings, Finding(("method",), str(error), hint)))
    except InvalidValueError as error:
        return MethodTable(findings=(*findings, *(finding.under("options") for finding in error.findings)))
    return MethodTable(kind=kind, options=unstructure(made), findings=tuple(findings))
