"""MLD: deterministic autoencoders, and a masked multi-time diffusion over their concatenated latents.

Reference: Bounoua, Franzese and Michiardi 2024, "Multi-modal Latent Diffusion", Entropy 26(4), arXiv 2306.04445.

Each modality has an autoencoder of its own without any noise, and what is maximised in stage 1 is

    sum_i log p(x_i | z_i),    z_i = h_i,

the log-likelihood of each modality given the feature of its encoder. The latent of a row is z = (z_1, ..., z_M), so
that posterior.latent_dim has to be posterior.feature_dim times the number of modalities; decoder i sees z_i alone. As
no parameter is shared, the autoencoders are trained as they would be one by one, apart from gradient clipping.

Stage 2 is one denoiser for every subset S of given modalities. It sees the given z_i clean, at noise level 0, and the
others at the level sigma of the diffusion, together with which is which: the multi-time vector. What is given stays as
it is, and the error is that of the others. Sampling denoises them from noise, with the given ones held fixed, also
under guidance. The network alone sees a given value of more than ten deviations as a smaller one.

What differs from the authors' code (github.com/MustaphaBounoua/MLD): the diffusion is EDM's, with its weights, noise
levels and sampler, where that code has a variance-preserving one from beta 0.1 to 20, sampled with repainting in 250
steps and jumps of 10; a row's error is averaged over all of z, where that code rescales it by the share that is not
given; a subset's size is uniform; the network is a residual MLP, where that code has one in the shape of a U-Net.
Settings in that code for PolyMNIST: 160 dimensions for each modality, Laplace likelihoods, no regularisation, a given
subset in 0.2 of the batches (prior.unconditional_share = 0.8), width 1,536, Adam at 1e-4, a moving average of 0.999.
Of [prior], condition has no effect, and feature_noise has to be 0, its default here. Guidance is no part of the paper.

The paper has no posterior of a subset and no prior N(0, I), and z given x has no density: evaluations leave out these
controls and log-likelihoods. It needs complete rows.

Shapes: B batch, M modalities, F feature_dim, D = M F latent_dim, W hidden_dim.
"""

import math
from collections.abc import Sequence
from typing import final

import attrs
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    DenoiserSizes,
    EncodedRows,
    GaussianHead,
    GaussianPosterior,
    LatentDenoiser,
    MethodSizes,
    Objective,
    PosteriorMethod,
    RowDropout,
)

NUM_FREQUENCIES = 64


@final
class MLD(PosteriorMethod):
    """MLD (Bounoua et al. 2024): deterministic autoencoders, masked multi-time diffusion; complete rows only."""

    needs_complete_rows = True
    has_densities = False

    @attrs.frozen(kw_only=True)
    class Options:
        """None."""

    def __init__(self, options: Options, sizes: MethodSizes) -> None:
        super().__init__(options, sizes)
        needed = sizes.num_modalities * sizes.feature_dim
        if sizes.latent_dim != needed:
            raise ValueError(
                f"expected latent_dim = {needed}, as the features of {sizes.num_modalities} modalities of feature_dim "
                f"{sizes.feature_dim} are its latents, got {sizes.latent_dim}"
            )

    def decoder_dimensions(self, modality: int) -> Sequence[int]:
        width = self.sizes.feature_dim
        return range(modality * width, (modality + 1) * width)

    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> GaussianPosterior:
        """All but a point where x is given: of the least variance that a posterior may have."""
        has_BD = presence_BM.repeat_interleave(self.sizes.feature_dim, 1)
        mean_BD = torch.cat(h_MBF, 1)
        least, _ = GaussianHead.LOG_VAR_RANGE
        return GaussianPosterior(
            mean_BD.masked_fill(~has_BD, 0.0), torch.zeros_like(mean_BD).masked_fill(has_BD, least)
        )

    def objective(self, batch: EncodedRows) -> Objective:
        q = self.fuse(batch.h_MBF, batch.presence_BM)
        log_prob = batch.log_prob(q.mean_BD)
        return Objective(
            value_B=batch.weighted(log_prob), z_BD=q.mean_BD, log_prob=log_prob, kl_B=q.detach().kl_BD().sum(1)
        )

    def latent_denoiser(self, sizes: DenoiserSizes) -> LatentDenoiser:
        return MultiTimeDenoiser(self.sizes, sizes)


class MultiTimeDenoiser(LatentDenoiser):
    """Sees given latents clean and the others noisy, and returns what makes the denoiser keep the given ones."""

    frequencies: Tensor

    def __init__(self, latents: MethodSizes, sizes: DenoiserSizes) -> None:
        super().__init__()
        dim, width = latents.latent_dim, sizes.hidden_dim
        self.feature_dim = latents.feature_dim
        steps = torch.linspace(math.log(0.5), math.log(32.0), NUM_FREQUENCIES)
        self.register_buffer("frequencies", steps.exp(), persistent=False)
        self.time = nn.Linear(2 * NUM_FREQUENCIES, width)
        self.given = nn.Linear(latents.num_modalities, width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.enter = nn.Linear(dim, width)
        self.blocks: nn.Module = nn.ModuleList(_ModulatedBlock(width, sizes.dropout) for _ in range(sizes.num_blocks))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def features(self, h_MBF: list[Tensor], subset_BM: Tensor) -> Tensor:
        """The given latents, 0 for the others, and which are given: [B, D + M]."""
        given_BD = subset_BM.repeat_interleave(self.feature_dim, 1)
        return torch.cat([torch.cat(h_MBF, 1).masked_fill(~given_BD, 0.0), subset_BM.float()], 1)

    def kept(self, h_MBF: Sequence[Tensor], subset_BM: Tensor) -> tuple[Tensor, Tensor]:
        """The given latents, as `MLD.fuse` has them."""
        return torch.cat(list(h_MBF), 1), subset_BM.repeat_interleave(self.feature_dim, 1)

    def forward(self, scaled_BD: Tensor, c_noise_B: Tensor, condition_BW: Tensor) -> Tensor:
        clean_BD, subset_BM = condition_BW.split([scaled_BD.shape[1], self.given.in_features], 1)
        given_BD = subset_BM.bool().repeat_interleave(self.feature_dim, 1)
        angles = c_noise_B[:, None] * self.frequencies
        c_BW = self.mix(self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.given(subset_BM))
        x_BW = self.enter(torch.where(given_BD, clean_BD, scaled_BD))
        for block in self.blocks.children():
            x_BW = block(x_BW, c_BW)
        raw_BD = self.leave(self.norm(x_BW))
        sigma_B1 = (4 * c_noise_B).exp()[:, None]
        total_B1 = (sigma_B1.square() + 1).sqrt()
        kept_BD = (clean_BD - scaled_BD / total_B1) * total_B1 / sigma_B1  # with which D(z; sigma) is the clean latent
        return torch.where(given_BD, kept_BD, raw_BD)


class _ModulatedBlock(nn.Module):
    """x + gate(c) * MLP(scale(c) * norm(x) + shift(c)), the identity at the start."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.net = nn.Sequential(
            nn.Linear(width, 2 * width), nn.SiLU(), RowDropout(dropout), nn.Linear(2 * width, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BW: Tensor, c_BW: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(c_BW).chunk(3, 1)
        change: Tensor = gate * self.net(self.norm(x_BW) * (1 + scale) + shift)
        return x_BW + change
