"""Data sets of paired RGB clips and skeletons: NTU RGB+D from a raw folder, and a synthetic stand-in for it."""

from typing import Any

from shala_datasets.ntu import NTU
from shala_datasets.ntu_synthetic import NTUSynthetic
from shala_framework import hookimpl

__all__ = ["NTU", "NTUSynthetic", "shala_register_datasets"]


@hookimpl
def shala_register_datasets(register: Any) -> None:
    """Offer both data sets to the core."""
    register("ntu", NTU)
    register("ntu-synthetic", NTUSynthetic)
