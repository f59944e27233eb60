"""One encoder and one decoder for many modalities of a kind, such as the views of a camera array.

Shapes: B batch, F feature_dim, D latent_dim.
"""

from typing import Any

import torch
from torch import Tensor, nn

from shala_framework.plugin.modality import Likelihood


class _Shared(nn.Module):
    """Holds a module that is registered elsewhere, once for all modalities that share it."""

    shared: nn.Module

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.__dict__["shared"] = shared

    def train(self, mode: bool = True) -> "_Shared":
        self.shared.train(mode)
        super().train(mode)
        return self


class SharedEncoder(_Shared):
    """h_i = (1 + scale_i) * h + shift_i of the common encoder's h."""

    def __init__(self, shared: nn.Module, feature_dim: int) -> None:
        super().__init__(shared)
        self.scale = nn.Parameter(torch.zeros(feature_dim))
        self.shift = nn.Parameter(torch.zeros(feature_dim))

    def forward(self, x: Tensor) -> Tensor:
        h_BF: Tensor = self.shared(x).float() * (1 + self.scale) + self.shift
        return h_BF


class SharedDecoder(_Shared):
    """p(x_i | z) of the common decoder at z + embedding_i."""

    def __init__(self, shared: nn.Module, latent_dim: int) -> None:
        super().__init__(shared)
        self.embedding = nn.Parameter(torch.randn(latent_dim))

    def forward(self, z_BD: Tensor) -> Likelihood:
        likelihood: Likelihood = self.shared(z_BD + self.embedding)
        return likelihood


def call_frozen(encoder: nn.Module, x: Any) -> Tensor:
    """Return features of x by an encoder that gets no gradient, but passes it on to x."""
    if isinstance(encoder, SharedEncoder):
        return call_frozen(encoder.shared, x).float() * (1 + encoder.scale.detach()) + encoder.shift.detach()
    frozen = {name: p.detach() for name, p in encoder.named_parameters()}
    h_BF: Tensor = torch.func.functional_call(encoder, frozen, (x,))
    return h_BF
