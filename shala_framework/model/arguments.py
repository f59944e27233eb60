"""Checks of what a caller passes to a model: modality objects, numbers and latents."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from shala_framework.plugin.modality import Modality
from shala_framework.support.hints import kind_of


def check_modalities(modalities: Any) -> None:
    """Check that modalities are objects by name.

    Raises:
        TypeError: They are not.
    """
    example = "such as {'photo': Image(height=64, width=64)}"
    if not isinstance(modalities, Mapping):
        raise TypeError(
            f"expected modalities by name, {example}, got {'a ' if isinstance(modalities, list) else ''}"
            f"{type(modalities).__name__}"
        )
    for name, modality in modalities.items():
        if isinstance(modality, type):
            kind = modality.__name__
            raise TypeError(f"expected a modality object for {name!r}, got the class {kind}; call it: {kind}(...)")
        if not isinstance(modality, Modality):
            raise TypeError(f"expected a modality object for {name!r}, {example}, got {type(modality).__name__}")


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Check a number of things.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is too small.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"expected a whole number as {name}, got {value!r}")
    if value < least:
        raise ValueError(f"expected {name} >= {least}, got {value}")


def given_scales(scales: Mapping[str, Any]) -> dict[str, float]:
    """Return the scales of guidance that are not None.

    Raises:
        TypeError: One is no number.
    """
    for name, scale in scales.items():
        if scale is not None and (not isinstance(scale, Real) or isinstance(scale, bool)):
            raise TypeError(f"expected a number as {name}, got {scale!r}")
    return {name: float(scale) for name, scale in scales.items() if scale is not None}


def check_latents(z: Any, latent_dim: int, form: str) -> None:
    """Check latents of a form such as "N, D".

    Raises:
        TypeError: They are no floating-point tensor.
        ValueError: They have another shape, or are not finite.
    """
    if not isinstance(z, Tensor) or not z.is_floating_point():
        raise TypeError(f"expected latents, a float tensor, got {z.dtype if isinstance(z, Tensor) else kind_of(z)}")
    sizes = form.split(", ")
    if z.ndim != len(sizes) or z.shape[-1] != latent_dim:
        hint = "; z[:, None] has one latent a row" if z.ndim == 2 and len(sizes) == 3 else ""
        raise ValueError(f"expected latents [{form}] with D = {latent_dim}, got {list(z.shape)}{hint}")
    if not torch.isfinite(z).all():
        raise ValueError(f"expected finite latents, got infinity or NaN in {int((~z.isfinite()).sum())} of {z.numel()}")
