"""Everything that a plugin imports: contracts, hooks, and parts that several plugins share.

The contract tests are in `shala_framework.plugin.testing`. Names are resolved on first use, so `import
shala_framework.plugin` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shala_framework.plugin.arrays import decode_npy, encode_npy
    from shala_framework.plugin.augmenting import (
        Draws,
        by_row,
        crop_pixels,
        flip,
        jitter_colours,
        shift,
        take_along,
        vary_pictures,
    )
    from shala_framework.plugin.dataset import Account, Dataset, Sample
    from shala_framework.plugin.denoising import DenoiserSizes, LatentDenoiser
    from shala_framework.plugin.fitting import read_each
    from shala_framework.plugin.hookspecs import hookimpl
    from shala_framework.plugin.layers import (
        ConditionedResidual,
        Residual,
        RowDropout,
        group_norm,
        initialise,
        random_mask,
        unfold_time,
    )
    from shala_framework.plugin.likelihoods import (
        LOCATION_SCALE,
        Laplace,
        LogScale,
        Normal,
        Pixels,
        pixel_space,
        pixels_to_unit,
        unit_to_pixels,
        unit_to_relaxed,
    )
    from shala_framework.plugin.media import (
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
    from shala_framework.plugin.modality import CutOff, Divisible, Likelihood, Modality, Preview, Relaxed
    from shala_framework.plugin.options import above, at_least, between, each, multiple_of, not_empty
    from shala_framework.plugin.posterior import (
        AnyPosterior,
        EncodedRows,
        GaussianHead,
        GaussianPosterior,
        MethodSizes,
        MixturePosterior,
        Objective,
        PosteriorMethod,
        standard_normal_log_prob,
    )
    from shala_framework.plugin.pretrained import (
        PretrainedEncoder,
        TransformersModel,
        count_features,
        import_library,
        load_transformers,
    )
    from shala_framework.plugin.refining import Levels, Refinable, ResidualSpace
    from shala_framework.plugin.standardise import Standardise
    from shala_framework.plugin.tracker import TrackedRun, Tracker
    from shala_framework.plugin.unet import RefinerUNet
    from shala_framework.support.errors import DataError

_HOMES = {
    "support.errors": ("DataError",),
    "plugin.arrays": ("decode_npy", "encode_npy"),
    "plugin.augmenting": (
        "Draws",
        "by_row",
        "crop_pixels",
        "flip",
        "jitter_colours",
        "shift",
        "take_along",
        "vary_pictures",
    ),
    "plugin.dataset": ("Account", "Dataset", "Sample"),
    "plugin.denoising": ("DenoiserSizes", "LatentDenoiser"),
    "plugin.fitting": ("read_each",),
    "plugin.hookspecs": ("hookimpl",),
    "plugin.layers": (
        *("ConditionedResidual", "Residual", "RowDropout", "group_norm", "initialise", "random_mask", "unfold_time"),
    ),
    "plugin.likelihoods": (
        *(
            "LOCATION_SCALE",
            "Laplace",
            "LogScale",
            "Normal",
            "Pixels",
            "pixel_space",
            "pixels_to_unit",
            "unit_to_pixels",
            "unit_to_relaxed",
        ),
    ),
    "plugin.media": (
        *("FILM_CONTAINERS", "FILM_FIELDS", "encode_gif", "encode_mp4", "encode_png", "encode_wav"),
        *("open_film", "played_stream", "refuse_truncated"),
    ),
    "plugin.modality": ("CutOff", "Divisible", "Likelihood", "Modality", "Preview", "Relaxed"),
    "plugin.options": ("above", "at_least", "between", "each", "multiple_of", "not_empty"),
    "plugin.posterior": (
        *("AnyPosterior", "EncodedRows", "GaussianHead", "GaussianPosterior", "MethodSizes", "MixturePosterior"),
        *("Objective", "PosteriorMethod", "standard_normal_log_prob"),
    ),
    "plugin.pretrained": (
        *("PretrainedEncoder", "TransformersModel", "count_features", "import_library", "load_transformers"),
    ),
    "plugin.refining": ("Levels", "Refinable", "ResidualSpace"),
    "plugin.standardise": ("Standardise",),
    "plugin.tracker": ("TrackedRun", "Tracker"),
    "plugin.unet": ("RefinerUNet",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Account", "AnyPosterior", "ConditionedResidual", "CutOff", "DataError", "Dataset", "DenoiserSizes", "Divisible",
    "Draws", "EncodedRows", "FILM_CONTAINERS", "FILM_FIELDS", "GaussianHead", "GaussianPosterior", "LOCATION_SCALE",
    "Laplace", "LatentDenoiser", "Levels", "Likelihood", "LogScale", "MethodSizes", "MixturePosterior", "Modality",
    "Normal", "Objective", "Pixels", "PosteriorMethod", "PretrainedEncoder", "Preview", "Refinable", "RefinerUNet",
    "Relaxed", "Residual", "ResidualSpace", "RowDropout", "Sample", "Standardise", "TrackedRun", "Tracker",
    "TransformersModel", "above", "at_least", "between", "by_row", "count_features", "crop_pixels", "decode_npy",
    "each", "encode_gif", "encode_mp4", "encode_npy", "encode_png", "encode_wav", "flip", "group_norm", "hookimpl",
    "import_library", "initialise", "jitter_colours", "load_transformers", "multiple_of", "not_empty", "open_film",
    "pixel_space", "pixels_to_unit", "played_stream", "random_mask", "read_each", "refuse_truncated", "shift",
    "standard_normal_log_prob", "take_along", "unfold_time", "unit_to_pixels", "unit_to_relaxed", "vary_pictures",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"shala_framework.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
