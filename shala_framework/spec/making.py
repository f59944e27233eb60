"""Make a spec from Python objects instead of a TOML file."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from shala_framework.spec.methods import read_method
from shala_framework.spec.schema import Data, ModalityTable, Spec
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.structuring import Finding, InvalidValueError, format_path, structure, unstructure

IN_MEMORY = "memory:"
"""Prefix of data.train and data.validation if rows come from Python instead of shards."""


def make_spec(
    modalities: Mapping[str, ModalityTable],
    *,
    posterior: Mapping[str, Any],
    prior: Mapping[str, Any],
    refine: Mapping[str, Any],
    generate: Mapping[str, Any],
    groups: Mapping[str, str],
    seed: int,
    load_method: Callable[[str], Any],
) -> tuple[Spec, Any]:
    """Return the spec of a model that is created in Python, and the class of its method; None for the default.

    Args:
        modalities: Tables of the modalities by name.
        posterior: Keys of [posterior].
        prior: Keys of [prior].
        refine: Keys of [refine].
        generate: Keys of [generate].
        groups: Group of each modality that shares its networks.
        seed: Seed of every random draw.
        load_method: Returns the class of a method by its name, or raises PluginError.

    Raises:
        SpecError: A key is unknown, or a value has a wrong type or range; the error lists all problems.
    """
    tables = {
        "schema": 1,
        "name": "model",
        "seed": seed,
        "data": unstructure(Data(train=IN_MEMORY)),
        "modality": {name: unstructure(table) for name, table in modalities.items()},
        "posterior": dict(posterior),
        "prior": dict(prior),
        "refine": dict(refine),
        "generate": dict(generate),
    }
    for name, group in groups.items():
        if name not in tables["modality"]:
            raise SpecError([Problem(path="groups", message=f"expected modalities {list(modalities)}, got {name!r}")])
        tables["modality"][name] |= {"group": group, "share": True}
    method = read_method(posterior, load_method)
    if method.findings:
        raise _spec_error([attrs.evolve(finding, path=("posterior", *finding.path)) for finding in method.findings])
    spec: Spec = checked(tables | {"posterior": {**posterior, "options": method.options}}, Spec)
    return spec, method.kind


def checked(tables: Mapping[str, Any], kind: type[Any]) -> Any:
    """Build a class of the schema from keyword arguments.

    Raises:
        SpecError: The arguments are invalid; it lists every problem.
    """
    try:
        return structure(dict(tables), kind)
    except InvalidValueError as error:
        raise _spec_error(error.findings) from None


def _spec_error(findings: Iterable[Finding]) -> SpecError:
    return SpecError([Problem(path=format_path(f.path), message=f.message, hint=f.hint) for f in findings])
