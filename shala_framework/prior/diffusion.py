"""The conditional diffusion prior p(z | h_S) for every subset S of the modalities, including the empty one.

Shapes: B batch, M modalities, F feature_dim, D latent_dim, W hidden_dim, K clusters.
From the paper: a second-stage diffusion model closes the gap between the aggregate posterior and N(0, I). This
project's choices: one denoiser is conditioned on the features of a random subset and therefore samples every
conditional. Latents fall into clusters, mostly classes, between which a denoiser that has not learned them well puts
samples that are of no class. A sample therefore first draws its cluster, from p(k | h_S), and then its latent, from
p(z | k, h_S). The skip connection is the best denoiser of the cluster's Gaussian, and the network learns the rest.
Reference: Karras et al. 2022 (EDM) for preconditioning, loss weight and noise distribution, with sigma_data = 1 because
z is standardised; Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", for autoguidance: the
errors that a small network makes beyond those of the large one show the direction towards likely latents.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.posterior import random_subsets
from shala_framework.prior.guidance import NO_GUIDANCE, Guidance
from shala_framework.prior.mixture import GaussianMixture, draw_components
from shala_framework.prior.network import ClusterNetwork, PriorNetwork
from shala_framework.prior.sampling import Denoise, Sampler, sample_heun
from shala_framework.prior.temperature import temperature_of, without_temperature
from shala_framework.prior.whitening import whitening
from shala_framework.spec.schema import Prior
from shala_framework.support.autocasting import without_autocast
from shala_framework.support.distributed.processes import rows_rand, rows_randn

STRAIGHT: Final = 10.0  # deviations up to which a standardised feature enters as it is
CLUSTER_DROPOUT: Final = 0.3  # share of features without which clusters are learned, or few rows are known by heart


def bounded(h_BF: Tensor) -> Tensor:
    """Keep standardised features up to `STRAIGHT` and let them grow with the logarithm beyond.

    A feature that hardly varies over the training rows has a tiny deviation, by which a new row's value may become
    thousands, and would then decide alone what is sampled.
    """
    inner_BF = h_BF.clamp(-STRAIGHT, STRAIGHT)
    return inner_BF + h_BF.sign() * (h_BF - inner_BF).abs().log1p()


class DiffusionPrior(nn.Module):
    """A denoiser over standardised latents, with the statistics that standardise latents and features.

    Attributes:
        network: Raw network of the denoiser.
        cluster_network: Network of the clusters' probabilities.
        mixture: The clusters of standardised latents, each with its Gaussian: initially a single N(0, I).
        guide: Smaller network with the same task, which learns it less well, for autoguidance.
        squared_temperatures: See `prior.temperature`: [M + 1, 1 + M]; None if they were not fitted, for 1.
        temperatures: T by number of given modalities, of a checkpoint of an earlier version: [M + 1]; None in others.
        few_rows_have_noise: Whether features of a small training set have noise by default.
    """

    few_rows_have_noise: ClassVar[bool] = True
    z_mean: Tensor
    z_whiten: Tensor
    z_restore: Tensor
    h_mean: Tensor
    h_std: Tensor
    squared_temperatures: Tensor | None
    temperatures: Tensor | None

    def __init__(
        self,
        *,
        latent_dim: int,
        num_modalities: int,
        feature_dim: int,
        hidden_dim: int = 256,
        num_blocks: int = 3,
        guide_hidden_dim: int = 32,
        guide_num_blocks: int = 1,
        dropout: float = 0.0,
        condition: str = "sum",
        whiten: bool = False,
        max_clusters: int = 1,
    ) -> None:
        super().__init__()
        self.latent_dim, self.whiten = latent_dim, whiten
        self.network, self.guide = (
            PriorNetwork(
                latent_dim=latent_dim,
                num_modalities=num_modalities,
                feature_dim=feature_dim,
                hidden_dim=width,
                num_blocks=depth,
                dropout=dropout,
                condition=condition,
                max_clusters=max_clusters,
            )
            for width, depth in ((hidden_dim, num_blocks), (guide_hidden_dim, guide_num_blocks))
        )
        self.cluster_network = ClusterNetwork(
            num_modalities=num_modalities, feature_dim=feature_dim, hidden_dim=hidden_dim, max_clusters=max_clusters
        )
        self.mixture = GaussianMixture(max_clusters, latent_dim)
        self.register_buffer("z_mean", torch.zeros(latent_dim))
        self.register_buffer("z_whiten", torch.eye(latent_dim))
        self.register_buffer("z_restore", torch.eye(latent_dim))
        self.register_buffer("h_mean", torch.zeros(num_modalities, feature_dim))
        self.register_buffer("h_std", torch.ones(num_modalities, feature_dim))
        self.register_buffer("squared_temperatures", None)
        self.register_buffer("temperatures", None)

    @classmethod
    def from_table(cls, table: Prior, *, latent_dim: int, num_modalities: int, feature_dim: int) -> "DiffusionPrior":
        """Build the prior that a spec's [prior] describes."""
        return cls(
            latent_dim=latent_dim,
            num_modalities=num_modalities,
            feature_dim=feature_dim,
            hidden_dim=table.hidden_dim,
            num_blocks=table.num_blocks,
            guide_hidden_dim=table.guide_hidden_dim,
            guide_num_blocks=table.guide_num_blocks,
            dropout=table.dropout,
            condition=table.condition,
            whiten=table.whiten,
            max_clusters=table.max_clusters,
        )

    @property
    def clusters(self) -> GaussianMixture:
        """The clusters that the denoiser knows."""
        return self.mixture

    def set_statistics(
        self, z_mean_D: Tensor, z_covariance_DD: Tensor, h_mean_MF: Tensor, h_std_MF: Tensor, num_rows: int
    ) -> None:
        """Set the moments of the training set's latents and features, as returned by `latent_statistics`."""
        whiten_DD, restore_DD = whitening(z_covariance_DD, num_rows, enabled=self.whiten)
        for name, value in (
            ("z_mean", z_mean_D),
            ("z_whiten", whiten_DD),
            ("z_restore", restore_DD),
            ("h_mean", h_mean_MF),
            ("h_std", h_std_MF),
        ):
            getattr(self, name).copy_(value)

    def before_loading(self, tensors: Mapping[str, Tensor]) -> None:
        """Have temperatures if a checkpoint has them."""
        neutral = without_temperature(len(self.h_mean), self.z_mean)
        self.squared_temperatures = neutral if "squared_temperatures" in tensors else None
        self.temperatures = neutral[:, 0].clone() if "temperatures" in tensors else None

    def temperature_squares(self) -> Tensor:
        """Return the terms of `prior.temperature`, of any version: [M + 1, 1 + M]."""
        if self.squared_temperatures is not None:
            return self.squared_temperatures
        squares = without_temperature(len(self.h_mean), self.z_mean)
        if self.temperatures is not None:
            squares[:, 0] = self.temperatures.square()
        return squares

    def temperature(self, subset_BM: Tensor) -> Tensor:
        """Return the deviation of the noise that samples of each row begin with: [B]."""
        return temperature_of(self.temperature_squares(), subset_BM)

    def standardise(self, z_BD: Tensor) -> Tensor:
        """Convert the autoencoder's latents to the prior's units: mean zero, covariance near the identity."""
        with without_autocast(z_BD.device):
            return (z_BD - self.z_mean) @ self.z_whiten

    def restore(self, z_BD: Tensor) -> Tensor:
        """Invert `standardise`."""
        with without_autocast(z_BD.device):
            return z_BD @ self.z_restore + self.z_mean

    def log_volume(self) -> Tensor:
        """Log of the factor by which `restore` scales volumes, in nats."""
        return self.z_restore.double().slogdet()[1].float()

    def condition(
        self, h_MBF: Sequence[Tensor], subset_BM: Tensor, *, guide: bool = False, feature_noise: float = 0.0
    ) -> Tensor:
        """Return the vector [B, W] that represents a subset's features for the network or the guide.

        Args:
            h_MBF: Features of every modality. Those outside the subset may have any finite values.
            subset_BM: bool, the given modalities.
            guide: Whether the vector is for the guide.
            feature_noise: Standard deviation of the noise that is added to the standardised features.
        """
        scaled = self._scaled(h_MBF, feature_noise)
        vector: Tensor = (self.guide if guide else self.network).features(scaled, subset_BM)
        return vector

    def _scaled(self, h_MBF: Sequence[Tensor], feature_noise: float = 0.0) -> list[Tensor]:
        scaled = [bounded((h - self.h_mean[i]) / self.h_std[i]) for i, h in enumerate(h_MBF)]
        if feature_noise:
            scaled = [h + feature_noise * rows_randn(*h.shape, device=h.device) for h in scaled]
        return scaled

    def cluster_log_probs(
        self,
        h_MBF: Sequence[Tensor],
        subset_BM: Tensor,
        *,
        feature_noise: float = 0.0,
        feature_dropout: float = 0.0,
    ) -> Tensor:
        """Return log p(k | h_S): [B, K]. Rows without any given modality have the clusters' shares of the training set.

        Args:
            h_MBF: Features of every modality. Those outside the subset may have any finite values.
            subset_BM: bool, the given modalities.
            feature_noise: Standard deviation of the noise that is added to the standardised features.
            feature_dropout: Share of the standardised features that are replaced by 0, the mean.
        """
        scaled = self._scaled(h_MBF, feature_noise)
        if feature_dropout:
            kept = (rows_rand(*h.shape, device=h.device) >= feature_dropout for h in scaled)
            scaled = [h * kept_BF / (1 - feature_dropout) for h, kept_BF in zip(scaled, kept, strict=True)]
        log_weights_K = self.clusters.weights[: self.clusters.num_components].log()
        logits_BK = self.cluster_network(scaled, subset_BM)[:, : len(log_weights_K)]
        given_BK = (log_weights_K + logits_BK.float()).log_softmax(1)
        return torch.where(subset_BM.any(1, keepdim=True), given_BK, log_weights_K)

    def draw_clusters(self, seed: int, h_MBF: Sequence[Tensor], subset_BM: Tensor) -> Tensor:
        """Draw a cluster for each row, int64 [B]; draw b depends only on (seed, b) and its features."""
        return draw_components(seed, self.cluster_log_probs(h_MBF, subset_BM), range(len(subset_BM)))

    def denoise(
        self, z_BD: Tensor, sigma_B: Tensor, condition_BW: Tensor, cluster_B: Tensor, *, guide: bool = False
    ) -> Tensor:
        """D(z; sigma, h_S, k): the expected clean latent in standardised units, by the network or by the guide."""
        rest_BD = self._beyond_cluster(z_BD, sigma_B, condition_BW, cluster_B, guide=guide)
        return self.clusters.denoise(z_BD, sigma_B, cluster_B) + rest_BD

    def _beyond_cluster(
        self, z_BD: Tensor, sigma_B: Tensor, condition_BW: Tensor, cluster_B: Tensor, *, guide: bool
    ) -> Tensor:
        """Return what the network adds to the denoiser of the cluster's Gaussian."""
        sigma_B1 = sigma_B[:, None]
        total = (sigma_B1.square() + 1).sqrt()
        return sigma_B1 / total * self.raw(z_BD / total, sigma_B.log() / 4, condition_BW, cluster_B, guide=guide)

    def raw(
        self, z_BD: Tensor, level_B: Tensor, condition_BW: Tensor, cluster_B: Tensor, *, guide: bool = False
    ) -> Tensor:
        """Return the output of the network, or of the guide, for scaled noisy latents: [B, D]."""
        network = self.guide if guide else self.network
        output: Tensor = network(z_BD, level_B, condition_BW, cluster_B)
        return output

    def losses(
        self,
        z_BD: Tensor,
        h_MBF: Sequence[Tensor],
        presence_BM: Tensor,
        *,
        unconditional_share: float,
        log_sigma_mean: float,
        log_sigma_std: float,
        feature_noise: float = 0.0,
    ) -> dict[str, Tensor]:
        """Losses of each row for a random subset and noise level, by the name of what they train: each [B].

        "denoising" and "guide_denoising" are the weighted errors of `errors`, of the network and of the guide for the
        same noise; "clusters", if there are several, is the loss of `cluster_loss`.

        Args:
            z_BD: Samples of q(z | all present modalities), not standardised.
            h_MBF: Features of every modality. Rows that lack one may have any finite values.
            presence_BM: bool, modalities that may enter a row's subset S.
            unconditional_share: Probability that S is empty. Otherwise its size is uniform from 1 to all present
                modalities.
            log_sigma_mean: P_mean of EDM.
            log_sigma_std: P_std of EDM.
            feature_noise: Standard deviation of the noise on the standardised features.
        """
        device = z_BD.device
        any_BM = random_subsets(presence_BM)
        subset_BM = any_BM & (rows_rand(len(z_BD), 1, device=device) >= unconditional_share)
        sigma_B = (log_sigma_mean + log_sigma_std * rows_randn(len(z_BD), device=device)).exp()
        noise_BD = rows_randn(*z_BD.shape, device=device)
        clean_BD = self.standardise(z_BD)
        cluster_B = self.clusters.component_of(clean_BD)
        own_BW, guide_BW = (
            self.condition(h_MBF, subset_BM, guide=guide, feature_noise=feature_noise) for guide in (False, True)
        )
        own_B, guide_B = self._errors(clean_BD, sigma_B, noise_BD, [own_BW, guide_BW], cluster_B)
        found = {"denoising": own_B, "guide_denoising": guide_B}
        if self.clusters.num_components > 1:
            log_probs_BK = self.cluster_log_probs(
                h_MBF, any_BM, feature_noise=feature_noise, feature_dropout=CLUSTER_DROPOUT
            )
            found["clusters"] = nn.functional.nll_loss(log_probs_BK, cluster_B, reduction="none")
        return found

    def errors(self, z_BD: Tensor, sigma_B: Tensor, noise_BD: Tensor, condition_BW: Tensor) -> Tensor:
        """Weighted denoising error of each row, averaged over dimensions: [B].

        Args:
            z_BD: Latents, not standardised.
            sigma_B: Noise levels.
            noise_BD: Standard normal noise.
            condition_BW: Result of `condition`.
        """
        clean_BD = self.standardise(z_BD)
        cluster_B = self.clusters.component_of(clean_BD)
        return self._errors(clean_BD, sigma_B, noise_BD, [condition_BW], cluster_B)[0]

    def _errors(
        self,
        clean_BD: Tensor,
        sigma_B: Tensor,
        noise_BD: Tensor,
        conditions: Sequence[Tensor],
        cluster_B: Tensor,
    ) -> list[Tensor]:
        """Return the weighted errors of the network and, given a second condition, of the guide for the same noise."""
        noisy_BD = clean_BD + sigma_B[:, None] * noise_BD
        missed_BD = clean_BD - self.clusters.denoise(noisy_BD, sigma_B, cluster_B)
        weight_B = (sigma_B.square() + 1) / sigma_B.square()
        rests = [
            self._beyond_cluster(noisy_BD, sigma_B, condition_BW, cluster_B, guide=bool(guide))
            for guide, condition_BW in enumerate(conditions)
        ]
        return [weight_B * (rest_BD - missed_BD).square().mean(1) for rest_BD in rests]

    def cluster_loss(self, z_BD: Tensor, h_MBF: Sequence[Tensor], subset_BM: Tensor) -> Tensor:
        """Return -log p(k | h_S) of each row's own cluster, in nats: [B].

        Args:
            z_BD: Latents, not standardised.
            h_MBF: Features of every modality. Those outside the subset may have any finite values.
            subset_BM: bool, the given modalities.
        """
        cluster_B = self.clusters.component_of(self.standardise(z_BD))
        return nn.functional.nll_loss(self.cluster_log_probs(h_MBF, subset_BM), cluster_B, reduction="none")

    def sample(
        self,
        noise_BD: Tensor,
        h_MBF: Sequence[Tensor],
        subset_BM: Tensor,
        cluster_B: Tensor,
        sigmas: Tensor,
        *,
        sampler: Sampler = sample_heun,
        guidance: Guidance = NO_GUIDANCE,
    ) -> Tensor:
        """Turn noise into samples of p(z | h_S, k), in the units of stage 1: [B, D].

        Args:
            noise_BD: Standard Gaussian noise.
            h_MBF: Features of every modality. Those outside the subset may have any finite values.
            subset_BM: bool, the given modalities. Rows without any are unconditional.
            cluster_B: int64, the cluster of each row, as `draw_clusters` returns it.
            sigmas: Decreasing noise levels, the last of which is 0.
            sampler: Solver of the probability-flow ODE.
            guidance: Guidance to apply.
        """
        denoise = self.clusters.steady(self.denoiser(h_MBF, subset_BM, cluster_B, guidance), cluster_B)
        first_BD = self.temperature(subset_BM)[:, None] * noise_BD
        steady_BD = sampler(denoise, first_BD / sigmas[0].to(noise_BD), sigmas)
        return self.restore(self.clusters.from_steady(steady_BD, steady_BD.new_zeros(len(steady_BD)), cluster_B))

    def denoiser(
        self, h_MBF: Sequence[Tensor], subset_BM: Tensor, cluster_B: Tensor, guidance: Guidance = NO_GUIDANCE
    ) -> Denoise:
        """Return D(z; sigma) for fixed features and clusters, with or without guidance.

        Args:
            h_MBF: Features of every modality. Those outside the subset may have any finite values.
            subset_BM: bool, the given modalities. Rows without any are unconditional.
            cluster_B: int64, the cluster of each row.
            guidance: Guidance to apply. Each kind costs an extra evaluation at the noise levels where it has an effect.
        """
        given_BW = self.condition(h_MBF, subset_BM)
        towards_given, from_guide = guidance.extents(any_given=True)
        _, from_guide_alone = guidance.extents(any_given=False)
        some_B1 = subset_BM.any(1, keepdim=True)
        # What to move samples away from: how far, with which condition, and whether it is the guide's output.
        others: list[tuple[Tensor, Tensor, bool]] = []
        if towards_given and bool(some_B1.any()):
            extent_B1 = some_B1.to(given_BW.dtype) * towards_given
            others.append((extent_B1, self.condition(h_MBF, torch.zeros_like(subset_BM)), False))
        if from_guide:
            extent_B1 = torch.where(some_B1, from_guide, from_guide_alone)
            others.append((extent_B1, self.condition(h_MBF, subset_BM, guide=True), True))

        def denoise(z_ND: Tensor, sigma_N: Tensor) -> Tensor:
            plain_ND = guided_ND = self.denoise(z_ND, sigma_N, given_BW, cluster_B)
            if not others or not guidance.has_effect(sigma_N):
                return plain_ND
            share_N1 = guidance.share(sigma_N)[:, None]
            for extent_N1, condition_BW, guide in others:
                other_ND = self.denoise(z_ND, sigma_N, condition_BW, cluster_B, guide=guide)
                guided_ND = guided_ND + extent_N1 * share_N1 * (plain_ND - other_ND)
            return guided_ND

        return denoise
