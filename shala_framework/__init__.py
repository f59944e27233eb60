"""Shared-latent generative modelling of any set of modalities: what users and plugins import.

Names are resolved on first use, so that `import shala_framework` loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shala_framework.arrays import decode_npy, encode_npy
    from shala_framework.dataset import Dataset, Sample
    from shala_framework.errors import CheckpointError, DataError, PluginError, Problem, ShalaError, SpecError
    from shala_framework.hookspecs import hookimpl
    from shala_framework.layers import (
        ConditionedResidual,
        Residual,
        Standardise,
        group_norm,
        initialise,
        unfold_time,
    )
    from shala_framework.likelihoods import (
        LOCATION_SCALE,
        Laplace,
        LogScale,
        Normal,
        Pixels,
        pixels_to_unit,
        unit_to_pixels,
    )
    from shala_framework.media import (
        FILM_CONTAINERS,
        FILM_FIELDS,
        encode_gif,
        encode_mp4,
        encode_png,
        encode_wav,
        open_film,
        played_stream,
        refuse_truncated,
    )
    from shala_framework.modality import Likelihood, Modality, Preview, Relaxed
    from shala_framework.model import ShaLa, load
    from shala_framework.options import above, at_least, between, each, multiple_of, not_empty
    from shala_framework.tracking import TrackedRun, Tracker

__version__ = "0.1.0"

_HOMES = {
    "arrays": ("decode_npy", "encode_npy"),
    "dataset": ("Dataset", "Sample"),
    "errors": ("CheckpointError", "DataError", "PluginError", "Problem", "ShalaError", "SpecError"),
    "hookspecs": ("hookimpl",),
    "layers": ("ConditionedResidual", "Residual", "Standardise", "group_norm", "initialise", "unfold_time"),
    "likelihoods": ("LOCATION_SCALE", "Laplace", "LogScale", "Normal", "Pixels", "pixels_to_unit", "unit_to_pixels"),
    "media": (
        "FILM_CONTAINERS",
        "FILM_FIELDS",
        "encode_gif",
        "encode_mp4",
        "encode_png",
        "encode_wav",
        "open_film",
        "played_stream",
        "refuse_truncated",
    ),
    "modality": ("Likelihood", "Modality", "Preview", "Relaxed"),
    "model": ("ShaLa", "load"),
    "options": ("above", "at_least", "between", "each", "multiple_of", "not_empty"),
    "tracking": ("TrackedRun", "Tracker"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CheckpointError", "ConditionedResidual", "DataError", "Dataset", "FILM_CONTAINERS", "FILM_FIELDS",
    "LOCATION_SCALE", "Laplace", "Likelihood",
    "LogScale", "Modality", "Normal", "Pixels", "PluginError", "Preview", "Problem", "Relaxed", "Residual", "Sample",
    "ShaLa", "ShalaError", "SpecError", "Standardise", "TrackedRun", "Tracker", "above", "at_least", "between",
    "decode_npy", "each", "encode_gif", "encode_mp4", "encode_npy", "encode_png", "encode_wav", "group_norm",
    "hookimpl", "initialise", "load", "multiple_of", "not_empty", "open_film", "pixels_to_unit", "played_stream",
    "refuse_truncated", "unfold_time", "unit_to_pixels",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
