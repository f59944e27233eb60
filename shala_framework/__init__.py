"""Shared-latent generative modelling of any set of modalities: what users import.

What a plugin imports is in `shala_framework.plugin`. Names are resolved on first use, so that
`import shala_framework` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shala_framework.model import ShaLa
    from shala_framework.run.loading import load
    from shala_framework.run.split_rows import rows
    from shala_framework.run.train import train
    from shala_framework.spec.schema import Spec
    from shala_framework.support.errors import CheckpointError, DataError, PluginError, Problem, ShalaError, SpecError

__version__ = "0.2.0"

_HOMES = {
    "support.errors": ("CheckpointError", "DataError", "PluginError", "Problem", "ShalaError", "SpecError"),
    "model": ("ShaLa",),
    "run.loading": ("load",),
    "run.split_rows": ("rows",),
    "run.train": ("train",),
    "spec.schema": ("Spec",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointError", "DataError", "PluginError", "Problem", "ShaLa", "ShalaError", "Spec", "SpecError", "load",
    "rows", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
