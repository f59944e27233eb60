"""Encoders with a network from another library, pretrained on other data: frozen, or trained further.

Shapes: B batch, K values that the network returns, F feature_dim.
"""

import hashlib
import importlib
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from shala_framework.support.errors import DataError

MOST_CACHED_BYTES = 1 << 29  # of features that an encoder keeps: 260,000 rows of 512 values


def import_library(name: str, needed_by: str, extra: str) -> Any:
    """Import a package that only some options need.

    Args:
        name: Name of the package.
        needed_by: What needs it, for the message.
        extra: Requirement that installs it, such as "shala-image[timm]".

    Raises:
        DataError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(f"{needed_by} needs the package {name}: {error}; run: pip install '{extra}'") from error


@attrs.frozen(kw_only=True)
class TransformersModel:
    """A model of transformers, with weights from its folder or the library's cache.

    Attributes:
        library: The package transformers.
        config: The model's configuration.
        network: The model.
        missing: Why its weights could not be loaded; empty if they were.
    """

    library: Any
    config: Any
    network: nn.Module
    missing: str = ""


def load_transformers(model: str, extra: str) -> TransformersModel:
    """Load a model of transformers for an option such as `encoder = "transformers:folder"`, without the network.

    Args:
        model: Folder or name of the model.
        extra: Requirement that installs the library, such as "shala-text[transformers]".

    Raises:
        DataError: The library is not installed, or has no such model.
    """
    library = import_library("transformers", "option encoder: 'transformers:...'", extra)
    encoder = f"transformers:{model}"
    try:
        config = library.AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(
            f"option encoder: expected a folder or a cached model of transformers, got {encoder!r}: {error!s:.300}"
        ) from error
    try:
        network = library.AutoModel.from_pretrained(model, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        missing = (
            f"option encoder: expected the weights of {encoder!r} in its folder or in the library's cache: "
            f'{error!s:.300}; download them once with `python -c "import transformers; '
            f"transformers.AutoModel.from_pretrained('{model}')\"`"
        )
        return TransformersModel(
            library=library, config=config, network=library.AutoModel.from_config(config), missing=missing
        )
    return TransformersModel(library=library, config=config, network=network)


class PretrainedEncoder(nn.Module):
    """Features of a pretrained network [B, K], mapped to h [B, F] by two layers that are always trained.

    The network stays in evaluation mode, so that a row's feature depends on that row alone: batch norm keeps the
    statistics that it was trained with. Checkpoints contain the network, so a trained model needs no other file.

    A frozen network needs to see each row once. With `cached`, its features of rows of integers are kept in memory by
    the content of the row, up to `MOST_CACHED_BYTES`, where looking at the content costs little: on the CPU.

    Args:
        network: The network. `network_features` calls it.
        num_features: K.
        feature_dim: F.
        trained: Whether its weights are trained further; otherwise they are frozen.
        missing: Why its weights could not be loaded; empty if they were. Training is then an error, unless a checkpoint
            has been loaded.
        cached: Whether to keep the features of a frozen network. It does not pay where each step varies the rows.

    Attributes:
        caching: Whether the cache is in use; off while a caller records what happens inside the network.
    """

    reads_on_cpu = False  # whether a subclass moves x to the CPU anyway

    def __init__(
        self,
        network: nn.Module,
        *,
        num_features: int,
        feature_dim: int,
        trained: bool,
        missing: str = "",
        cached: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.missing = network.eval(), missing
        self.caching = cached and not trained
        self._cache: dict[bytes, Tensor] = {}
        network.requires_grad_(trained)
        self.head = nn.Sequential(
            nn.LayerNorm(num_features),
            nn.Linear(num_features, feature_dim),
            nn.SiLU(),
            nn.Linear(feature_dim, feature_dim),
        )

    def network_features(self, x: Tensor) -> Tensor:
        """Return the network's features of x [B, ...]: float [B, K]. A subclass prepares x as the network expects."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Encode x [B, ...] as h, float32 [B, F].

        Raises:
            DataError: The network is to be trained, or used in training, without its weights.
        """
        if self.missing and self.training:
            raise DataError(self.missing)
        h_BF: Tensor = self.head(self._features(x))
        return h_BF.float()

    def _features(self, x: Tensor) -> Tensor:
        """Return the network's features as float32 [B, K], from the cache where it has them."""
        exact = not x.is_floating_point() and (x.device.type == "cpu" or self.reads_on_cpu)
        if not (self.caching and exact) or torch.compiler.is_compiling():
            return self.network_features(x).flatten(1).float()
        rows = x.cpu().contiguous()
        keys = [hashlib.blake2b(row.numpy(), digest_size=16).digest() for row in rows]
        new = {key: place for place, key in enumerate(keys) if key not in self._cache}
        # One row at a time on a CPU: its feature then has the same bits in every batch, and so in a resumed run.
        size = 1 if x.device.type == "cpu" else len(x)
        chosen = x[list(new.values())].split(size) if new else ()
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            parts = [self.network_features(part).flatten(1).float() for part in chosen]
        found = dict(zip(new, (row for part in parts for row in part), strict=True))
        features_BK = torch.stack([found[key] if key in found else self._cache[key] for key in keys])
        room = MOST_CACHED_BYTES // (4 * features_BK.shape[1]) - len(self._cache)
        self._cache.update((key, found[key].clone()) for key in list(found)[: max(0, room)])
        return features_BK

    def _apply(self, *args: Any, **options: Any) -> Any:
        """Move or convert the module; features that are in the cache belong to what it was."""
        self._cache.clear()
        return super()._apply(*args, **options)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Set the mode of the head alone."""
        super().train(mode)
        self.network.eval()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._cache.clear()
        if any(name.startswith(f"{prefix}network.") for name in state_dict):
            self.missing = ""


@torch.no_grad()
def count_features(network: nn.Module, x: Tensor) -> int:
    """Return how many values a network in evaluation mode returns for one row x [1, ...]."""
    return int(network.eval()(x).flatten(1).shape[1])
