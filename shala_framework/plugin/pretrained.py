"""Encoders with a network from another library, pretrained on other data: frozen, or trained further.

Shapes: B batch, K values that the network returns, F feature_dim.
"""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from shala_framework.support.errors import DataError


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


class PretrainedEncoder(nn.Module):
    """Features of a pretrained network [B, K], mapped to h [B, F] by two layers that are always trained.

    The network stays in evaluation mode, so that a row's feature depends on that row alone: batch norm keeps the
    statistics that it was trained with. Checkpoints contain the network, so a trained model needs no other file.

    Args:
        network: The network. `network_features` calls it.
        num_features: K.
        feature_dim: F.
        trained: Whether its weights are trained further; otherwise they are frozen.
        missing: Why its weights could not be loaded; empty if they were. Training is then an error, unless a checkpoint
            has been loaded.
    """

    def __init__(
        self, network: nn.Module, *, num_features: int, feature_dim: int, trained: bool, missing: str = ""
    ) -> None:
        super().__init__()
        self.network, self.missing = network.eval(), missing
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
        h_BF: Tensor = self.head(self.network_features(x).flatten(1).float())
        return h_BF.float()

    def train(self, mode: bool = True) -> "PretrainedEncoder":
        """Set the mode of the head alone."""
        super().train(mode)
        self.network.eval()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if any(name.startswith(f"{prefix}network.") for name in state_dict):
            self.missing = ""


@torch.no_grad()
def count_features(network: nn.Module, x: Tensor) -> int:
    """Return how many values a network in evaluation mode returns for one row x [1, ...]."""
    return int(network.eval()(x).flatten(1).shape[1])
