"""Specs: the schema of the TOML file, and reading one with every error at its place."""

from shala_framework.spec.doubts import doubts
from shala_framework.spec.making import make_spec
from shala_framework.spec.overrides import parse_override
from shala_framework.spec.reading import LoadedSpec, read_spec, resolve_spec
from shala_framework.spec.schema import Spec
from shala_framework.support.structuring import structure, unstructure

__all__ = [
    "LoadedSpec",
    "Spec",
    "doubts",
    "make_spec",
    "parse_override",
    "read_spec",
    "resolve_spec",
    "structure",
    "unstructure",
]
