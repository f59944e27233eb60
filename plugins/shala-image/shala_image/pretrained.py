"""Encoders of pictures from timm, torchvision and transformers. Shapes: B batch, C channels, S side, F feature_dim."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from shala_framework.plugin import (
    DataError,
    PretrainedEncoder,
    count_features,
    import_library,
    load_transformers,
    pixels_to_unit,
)

LIBRARIES = ("timm", "torchvision", "transformers")
SIDE = 224  # of a network that does not say its own
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for a network that does not say its own


def known_library(_: Any, __: Any, value: str | None) -> None:
    """Validator: accept a library and a model, such as "timm:resnet18"."""
    library, _, model = (value or "").partition(":")
    if value is not None and (library not in LIBRARIES or not model):
        choices = ", ".join(f"'{name}:MODEL'" for name in LIBRARIES)
        raise ValueError(f"expected one of {choices}, such as 'timm:resnet18', got {value!r}")


def safetensors_file(_: Any, __: Any, value: str | None) -> None:
    """Validator: accept the name of a safetensors file."""
    if value is not None and not value.endswith(".safetensors"):
        raise ValueError(
            f"expected a .safetensors file, which holds tensors alone, got {value!r}; convert it once with "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'weights.safetensors')"
        )


@attrs.frozen(kw_only=True)
class Backbone:
    """A network of another library, as the encoder uses it.

    Attributes:
        network: Maps pictures float [B, 3, S, S] to features.
        side: S.
        mean: Mean of each colour that is subtracted from values in [0, 1].
        std: Deviation that they are then divided by.
        missing: Why its weights could not be loaded; empty if they were.
    """

    network: nn.Module
    side: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    missing: str = ""


class PretrainedImageEncoder(PretrainedEncoder):
    """Encodes uint8 pictures [B, C, H, W] as features [B, F]; they are stretched to the side that the network takes."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, feature_dim: int, *, trained: bool, cached: bool = False) -> None:
        super().__init__(
            backbone.network,
            num_features=count_features(backbone.network, torch.zeros(1, 3, backbone.side, backbone.side)),
            feature_dim=feature_dim,
            trained=trained,
            missing=backbone.missing,
            cached=cached,
        )
        self.side = backbone.side
        for name, values in (("mean", backbone.mean), ("std", backbone.std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def network_features(self, x: Tensor) -> Tensor:
        """Return the network's features of pictures [B, C, H, W]; grey ones have three equal colours."""
        x_BCHW = (pixels_to_unit(x) + 1) / 2
        if x_BCHW.shape[1] == 1:
            x_BCHW = x_BCHW.expand(-1, 3, -1, -1)
        if x_BCHW.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            x_BCHW = nn.functional.interpolate(x_BCHW, size, mode="bilinear", antialias=True, align_corners=False)
        features: Tensor = self.network((x_BCHW - self.mean) / self.std)
        return features


def load_backbone(encoder: str, weights: str | None, side: int | None) -> Backbone:
    """Make the network of an option such as "timm:resnet18", with weights from a file or from its library's cache.

    Args:
        encoder: Library and model.
        weights: A safetensors file; None takes the weights in the library's cache.
        side: Side of the pictures that it takes; None takes the one that it was trained with.

    Raises:
        DataError: The library is not installed or has no such model.
    """
    library, _, model = encoder.partition(":")
    make: Callable[[str, str | None, int | None], Backbone] = {
        "timm": _from_timm, "torchvision": _from_torchvision, "transformers": _from_transformers
    }[library]  # fmt: skip
    return make(model, weights, side)


def _library(name: str) -> Any:
    return import_library(name, f"option encoder: '{name}:...'", f"shala-image[{name}]")


def _absent(encoder: str, why: str, download: str) -> str:
    return (
        f"option encoder: expected the weights of {encoder!r} in its library's cache, {why}; download them once with "
        f'`python -c "{download}"`, or name a file in the option encoder_weights'
    )


def _unknown(encoder: str, error: Exception) -> DataError:
    return DataError(f"option encoder: expected a model of its library, got {encoder!r}: {error}")


def _names_missing(network: nn.Module, encoder: str, weights: str) -> str:
    """Say why a file does not have all weights of a network, or return an empty text; timm takes what it finds."""
    where = f"option encoder_weights: expected the weights of {encoder!r} in {weights}"
    if not Path(weights).is_file():
        return f"{where}, found no such file"
    try:
        absent = sorted(network.state_dict().keys() - load_file(weights).keys())
    except (OSError, SafetensorError) as error:
        return f"{where}: {error}"
    return f"{where}: it lacks {len(absent)} of them, such as {absent[0]}" if absent else ""


def _loaded(network: nn.Module, encoder: str, weights: str, adapt: Callable[[dict[str, Tensor]], Any]) -> str:
    """Load a file into a network; return why that failed, or an empty text."""
    lacking = _names_missing(network, encoder, weights)
    if lacking:
        return lacking
    try:
        network.load_state_dict(adapt(load_file(weights)))
    except RuntimeError as error:  # of other names or shapes, one a line
        lines = str(error).splitlines()
        where = f"option encoder_weights: expected the weights of {encoder!r} in {weights}"
        return f"{where}: they are another model's: {lines[min(1, len(lines) - 1)].strip()[:300]}"
    return ""


def _from_timm(model: str, weights: str | None, side: int | None) -> Backbone:
    timm, encoder = _library("timm"), f"timm:{model}"
    try:
        network = timm.create_model(model, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError) as error:
        raise _unknown(encoder, error) from error
    config = network.pretrained_cfg
    own = int(config["input_size"][-1])
    if side is not None and config.get("fixed_input_size"):
        network = timm.create_model(model, pretrained=False, num_classes=0, img_size=side)
    missing = ""
    if weights is None:
        hub = import_library("huggingface_hub", f"option encoder: {encoder!r}", "shala-image[timm]")
        found = hub.try_to_load_from_cache(config.get("hf_hub_id") or "timm/none", "model.safetensors")
        weights = found if isinstance(found, str) else None
        download = f"import timm; timm.create_model('{model}', pretrained=True)"
        missing = _absent(encoder, "found none", download) if weights is None else ""
    if weights is not None:
        missing = _names_missing(network, encoder, weights)
    if weights is not None and not missing:
        try:  # timm drops the classifier and adapts positions to the side
            size = {"img_size": side} if side is not None and config.get("fixed_input_size") else {}
            overlay = {"file": weights, "custom_load": False}
            network = timm.create_model(model, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **size)
        except (RuntimeError, KeyError) as error:
            missing = f"option encoder_weights: expected the weights of {encoder!r} in {weights}: {error!s:.300}"
    return Backbone(
        network=network, side=side or own, mean=tuple(config["mean"]), std=tuple(config["std"]), missing=missing
    )


def _from_torchvision(model: str, weights: str | None, side: int | None) -> Backbone:
    models, encoder = _library("torchvision").models, f"torchvision:{model}"
    try:
        network = models.get_model(model, weights=None)
        default = models.get_model_weights(model).DEFAULT
    except (ValueError, TypeError) as error:
        raise _unknown(encoder, error) from error
    if not hasattr(default.transforms(), "crop_size"):
        raise DataError(f"option encoder: expected a classifier of pictures, got {encoder!r}")
    transforms = default.transforms()
    missing, heads = "", [name for name in ("fc", "classifier", "heads", "head") if hasattr(network, name)]

    def without_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if name.partition(".")[0] not in heads}

    for name in heads:
        setattr(network, name, nn.Identity())
    if weights is not None:
        missing = _loaded(network, encoder, weights, without_heads)
    elif (Path(torch.hub.get_dir()) / "checkpoints" / default.url.rpartition("/")[2]).is_file():
        network.load_state_dict(without_heads(default.get_state_dict(progress=False, weights_only=True)))
    else:
        download = f"import torchvision; torchvision.models.get_model('{model}', weights='DEFAULT')"
        missing = _absent(encoder, f"found none in {torch.hub.get_dir()}", download)
    return Backbone(
        network=network,
        side=side or int(transforms.crop_size[0]),
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        missing=missing,
    )


class _Pooled(nn.Module):
    """A model of transformers whose output is one vector a picture: its pooled output, or the mean over its places."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_BCSS: Tensor) -> Tensor:
        found = self.model(pixel_values=x_BCSS)
        pooled: Tensor | None = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        last: Tensor = found.last_hidden_state
        return last.mean(1) if last.dim() == 3 else last.mean((2, 3))


def _from_transformers(model: str, weights: str | None, side: int | None) -> Backbone:
    encoder, loaded = f"transformers:{model}", load_transformers(model, "shala-image[transformers]")
    network, config, missing = loaded.network, loaded.config, loaded.missing
    missing += ", or name a file in the option encoder_weights" * bool(missing)
    network = _Pooled(getattr(network, "vision_model", network))
    if weights is not None:
        missing = _loaded(network.model, encoder, weights, lambda state: state)
    config = getattr(config, "vision_config", config)
    own = getattr(config, "image_size", SIDE)
    try:
        prepared, _ = loaded.library.ImageProcessingMixin.get_image_processor_dict(model, local_files_only=True)
    except OSError:
        prepared = {}
    return Backbone(
        network=network,
        side=side or int(own if isinstance(own, int) else own[0]),
        mean=tuple(prepared.get("image_mean", MEAN)),
        std=tuple(prepared.get("image_std", STD)),
        missing=missing,
    )
