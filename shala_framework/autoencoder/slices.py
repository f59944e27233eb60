"""A decoder that sees some dimensions of z alone, for methods with latents that belong to one modality.

Shapes: B batch, D latent_dim, S dimensions that the decoder sees.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shala_framework.plugin.modality import Likelihood
from shala_framework.support.errors import PluginError


class DecoderOfSlice(nn.Module):
    """p(x_i | z) of a decoder that takes S of the D dimensions."""

    index_S: Tensor

    def __init__(self, decoder: nn.Module, dimensions: Sequence[int]) -> None:
        super().__init__()
        self.decoder = decoder
        self.register_buffer("index_S", torch.tensor(list(dimensions)), persistent=False)

    def forward(self, z_BD: Tensor) -> Likelihood:
        likelihood: Likelihood = self.decoder(z_BD.index_select(1, self.index_S))
        return likelihood


def check_dimensions(dimensions: Sequence[int], latent_dim: int, method: str) -> None:
    """Check which dimensions of z a method shows to a decoder.

    Raises:
        PluginError: There is none, or one is out of range or named twice.
    """
    chosen = list(dimensions)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= dimension < latent_dim for dimension in chosen):
        raise PluginError(
            f"{method}.decoder_dimensions returned {chosen}; expected distinct numbers from 0 to {latent_dim - 1}, at "
            "least one, or None"
        )
