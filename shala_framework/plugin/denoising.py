"""The contract of a denoiser of latents that a method of inference brings for stage 2.

Shapes: B batch, M modalities, F feature_dim, D latent_dim, W width of the condition.
"""

import abc
from collections.abc import Sequence

import attrs
from torch import Tensor, nn


@attrs.frozen(kw_only=True)
class DenoiserSizes:
    """Sizes that a spec's [prior] sets.

    Attributes:
        hidden_dim: Width of the network.
        num_blocks: Number of its residual blocks.
        dropout: Dropout rate inside the blocks.
    """

    hidden_dim: int
    num_blocks: int
    dropout: float


class LatentDenoiser(nn.Module, abc.ABC):
    """The raw network F of EDM's denoiser D(z; sigma) = z / (sigma^2 + 1) + sigma / sqrt(sigma^2 + 1) F.

    Latents and features are standardised: each dimension has mean 0 and variance 1 over the training rows.
    """

    @abc.abstractmethod
    def features(self, h_MBF: list[Tensor], subset_BM: Tensor) -> Tensor:
        """Represent the given modalities for `forward`: [B, W].

        Args:
            h_MBF: Standardised features of every modality. Those that are not given may have any finite values.
            subset_BM: bool, the given modalities. Rows may have none.
        """

    def kept(self, h_MBF: Sequence[Tensor], subset_BM: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return the latents that the given modalities determine, which samples then have exactly; None, the default.

        D(z; sigma) is these latents, whatever `forward` and guidance say, so that a sampler leads to them.

        Args:
            h_MBF: Features of every modality as the encoders return them, not standardised.
            subset_BM: bool, the given modalities. Rows may have none.

        Returns:
            Latents [B, D] in the units of stage 1, anything finite where they are open, and bool [B, D], which of them
            are determined.
        """
        return None

    @abc.abstractmethod
    def forward(self, scaled_BD: Tensor, c_noise_B: Tensor, condition_BW: Tensor) -> Tensor:
        """F: [B, D].

        Args:
            scaled_BD: Noisy latents, z / sqrt(sigma^2 + 1).
            c_noise_B: log(sigma) / 4.
            condition_BW: Result of `features`.
        """
