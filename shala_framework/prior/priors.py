"""The distributions that a latent can be sampled from: the diffusion prior, and the controls that it must beat.

Each one samples and has a density, in the units of stage 1's latents. Shapes: N given rows, K samples, M modalities, F
feature_dim, D latent_dim.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import attrs
import torch
from torch import Tensor

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.plugin.posterior import AnyPosterior, GaussianPosterior, either_posterior
from shala_framework.prior.density import log_density
from shala_framework.prior.diffusion import DiffusionPrior
from shala_framework.prior.guidance import NO_GUIDANCE, Guidance
from shala_framework.prior.sampling import SAMPLERS, karras_sigmas, row_noise
from shala_framework.support.errors import CheckpointError
from shala_framework.support.modes import evaluating
from shala_framework.support.seeds import mix_seed

SamplerName = Literal["heun", "dpm"]
DENSITY_STEPS = 36  # steps of Heun's method, which follow the diffusion prior's ODE closely enough for a density
DENSITY_ROWS = 512  # rows whose density is computed at a time
LEAST_SHARE = 1e-4  # of a latent's density, in clusters for which it is computed


@attrs.frozen(kw_only=True)
class Sampling:
    """Settings for sampling from the diffusion prior.

    Attributes:
        guidance: Guidance of both kinds.
        num_steps: Number of sampler steps.
        sampler: Name of the sampler.
    """

    guidance: Guidance = NO_GUIDANCE
    num_steps: int = 18
    sampler: SamplerName = "heun"


@attrs.frozen(kw_only=True, eq=False)
class Given:
    """The given features, and the row that each sample belongs to.

    Attributes:
        h_MNF: Features of every modality; zeros for those that are not given.
        subset_NM: bool, which modalities are given.
        row_K: int64, row of each sample.
    """

    h_MNF: Sequence[Tensor]
    subset_NM: Tensor
    row_K: Tensor


class LatentPrior(Protocol):
    """A distribution over latents.

    Attributes:
        stage: Stage that must be trained for this distribution.
        given: Whether modalities must be given (True), must not be given (False), or may be given (None).
    """

    stage: ClassVar[str]
    given: ClassVar[bool | None]

    def sample(self, seed: int, given: Given, sampling: Sampling) -> Tensor:
        """Draw samples [K, D]. Sample k depends only on (seed, k) and its row."""
        ...

    def log_prob(self, z_KD: Tensor, given: Given, num_steps: int = DENSITY_STEPS) -> Tensor:
        """Log density of latents in nats, without guidance: [K].

        Args:
            z_KD: Latents.
            given: Given features of equally many samples.
            num_steps: Number of steps for solving an ODE, if there is one. The error decreases with their square.
        """
        ...


@attrs.frozen(eq=False)
class NormalPrior:
    """N(0, I)."""

    stage: ClassVar[str] = "autoencoder"
    given: ClassVar[bool | None] = False
    autoencoder: Autoencoder

    def sample(self, seed: int, given: Given, sampling: Sampling) -> Tensor:
        return row_noise(seed, range(len(given.row_K)), self.autoencoder.latent_dim).to(given.row_K.device)

    def log_prob(self, z_KD: Tensor, given: Given, num_steps: int = DENSITY_STEPS) -> Tensor:
        return GaussianPosterior(torch.zeros_like(z_KD), torch.zeros_like(z_KD)).log_prob(z_KD)


@attrs.frozen(eq=False)
class OwnPrior:
    """p(z) with which a method of inference trains stage 1, where that is not N(0, I).

    Attributes:
        own: p(z), as a distribution of one row.
    """

    stage: ClassVar[str] = "autoencoder"
    given: ClassVar[bool | None] = False
    own: AnyPosterior

    def sample(self, seed: int, given: Given, sampling: Sampling) -> Tensor:
        return posterior_draws(self.own.take(torch.zeros_like(given.row_K)), seed)

    def log_prob(self, z_KD: Tensor, given: Given, num_steps: int = DENSITY_STEPS) -> Tensor:
        return self.own.take(torch.zeros_like(given.row_K)).log_prob(z_KD)


@attrs.frozen(eq=False)
class MixturePrior:
    """A Gaussian mixture that is fitted to samples of the aggregate posterior."""

    stage: ClassVar[str] = "prior"
    given: ClassVar[bool | None] = False
    prior: DiffusionPrior

    def sample(self, seed: int, given: Given, sampling: Sampling) -> Tensor:
        return self.prior.restore(self.prior.mixture.sample(seed, range(len(given.row_K))))

    def log_prob(self, z_KD: Tensor, given: Given, num_steps: int = DENSITY_STEPS) -> Tensor:
        return _restored(self.prior.mixture.log_prob(self.prior.standardise(z_KD)), self.prior)


@attrs.frozen(eq=False)
class SubsetPosterior:
    """q(z | x_S) of stage 1, without diffusion."""

    stage: ClassVar[str] = "autoencoder"
    given: ClassVar[bool | None] = True
    autoencoder: Autoencoder

    def sample(self, seed: int, given: Given, sampling: Sampling) -> Tensor:
        return posterior_draws(self._of_draws(given), seed)

    def log_prob(self, z_KD: Tensor, given: Given, num_steps: int = DENSITY_STEPS) -> Tensor:
        return self._of_draws(given).log_prob(z_KD)

    def _of_draws(self, given: Given) -> AnyPosterior:
        return self.of_rows(given.h_MNF, given.subset_NM).take(given.row_K)

    def of_rows(self, h_MNF: Sequence[Tensor], subset_NM: Tensor) -> AnyPosterior:
        """Return q(z | x_S) of each row. With all modalities it is the posterior of stage 1's own rows."""
        h: Mapping[str, Tensor] = dict(zip(self.autoencoder.names, h_MNF, strict=True))
        with evaluating(self.autoencoder):
            whole, part = self.autoencoder.fuse(h, subset_NM), self.autoencoder.fuse_subset(h, subset_NM)
        return either_posterior(subset_NM.all(1), whole, part)


def posterior_draws(q: AnyPosterior, seed: int) -> Tensor:
    """Draws [K, D], one of each row, of which draw k depends on (seed, k) and its row alone."""
    num_draws, latent_dim = q.mean_BD.shape
    device = q.mean_BD.device
    noise_KD = row_noise(seed, range(num_draws), latent_dim).to(device)
    if isinstance(q, GaussianPosterior):
        return q.draw(noise_KD)
    uniform_K = torch.special.ndtr(row_noise(mix_seed(seed, 6), range(num_draws), 1)[:, 0]).to(device)
    return q.draw(noise_KD, uniform_K)


@attrs.frozen(eq=False)
class DiffusedPrior:
    """p(z | h_S) of stage 2, with or without given modalities.

    Attributes:
        prior: Denoiser.
        sigma_min: Smallest noise level of the sampler.
        sigma_max: Largest noise level of the sampler.
    """

    stage: ClassVar[str] = "prior"
    given: ClassVar[bool | None] = None
    prior: DiffusionPrior
    sigma_min: float
    sigma_max: float

    def sample(self, seed: int, given: Given, sampling: Sampling) -> Tensor:
        noise_KD = row_noise(seed, range(len(given.row_K)), self.prior.latent_dim).to(given.row_K.device)
        h_MKF, subset_KM = [h[given.row_K] for h in given.h_MNF], given.subset_NM[given.row_K]
        sigmas = karras_sigmas(sampling.num_steps, self.sigma_min, self.sigma_max)
        with evaluating(self.prior):
            cluster_K = self.prior.draw_clusters(mix_seed(seed, 7), h_MKF, subset_KM)
            return self.prior.sample(
                noise_KD,
                h_MKF,
                subset_KM,
                cluster_K,
                sigmas,
                sampler=SAMPLERS[sampling.sampler],
                guidance=sampling.guidance,
            )

    def log_prob(self, z_KD: Tensor, given: Given, num_steps: int = DENSITY_STEPS) -> Tensor:
        unit_KD = self.prior.standardise(z_KD)
        with evaluating(self.prior):
            draw_P, cluster_P, log_prob_P = self._possible_clusters(unit_KD, given)
            sigmas = karras_sigmas(num_steps, self.sigma_min, self.sigma_max)
            for pairs in torch.arange(len(draw_P), device=z_KD.device).split(DENSITY_ROWS):
                log_prob_P[pairs] += self._log_density(unit_KD, given, draw_P[pairs], cluster_P[pairs], sigmas)
        by_cluster_KC = unit_KD.new_full((len(z_KD), self.prior.clusters.num_components), -math.inf)
        by_cluster_KC[draw_P, cluster_P] = log_prob_P
        return _restored(by_cluster_KC.logsumexp(1), self.prior)

    def _log_density(self, unit_KD: Tensor, given: Given, draw_P: Tensor, cluster_P: Tensor, sigmas: Tensor) -> Tensor:
        """Return log p(z | h_S, cluster) of pairs of a latent and a cluster."""
        clusters, rows = self.prior.clusters, given.row_K[draw_P]
        denoise = self.prior.denoiser([h[rows] for h in given.h_MNF], given.subset_NM[rows], cluster_P)
        sigma_P = unit_KD.new_full((len(draw_P),), float(sigmas[sigmas > 0].min()))
        steady_PD = clusters.to_steady(unit_KD[draw_P], sigma_P, cluster_P)
        log_scale_P = clusters.scale(sigma_P, cluster_P).log().sum(1)
        first_P = self.prior.temperature(given.subset_NM[rows]).square()
        return log_density(clusters.steady(denoise, cluster_P), steady_PD, sigmas, first_P) - log_scale_P

    def _possible_clusters(self, unit_KD: Tensor, given: Given) -> tuple[Tensor, Tensor, Tensor]:
        """Return pairs [P] of a latent and a cluster that it may be of, and log p(cluster | h_S).

        Clusters whose Gaussians leave them less than LEAST_SHARE of the density are left out.
        """
        log_probs_NC = self.prior.cluster_log_probs(given.h_MNF, given.subset_NM)
        log_probs_KC = log_probs_NC[given.row_K]
        clusters = self.prior.clusters
        log_weights_C = clusters.weights[: clusters.num_components].log()
        log_joint_KC = clusters.log_joint(unit_KD) - log_weights_C + log_probs_KC
        draw_P, cluster_P = (log_joint_KC.softmax(1) >= LEAST_SHARE).nonzero(as_tuple=True)
        return draw_P, cluster_P, log_probs_KC[draw_P, cluster_P]


def check_choice(name: str, priors: Mapping[Any, LatentPrior], *, given: bool, trained: Collection[str]) -> None:
    """Check that a prior can be sampled.

    Args:
        name: Name of the prior.
        priors: Priors of the model, by name.
        given: Whether modalities are given.
        trained: Stages that are trained.

    Raises:
        CheckpointError: The stage of the prior is not trained.
        ValueError: The model has no such prior, or it needs given modalities, or takes none.
    """
    if name not in priors:
        raise ValueError(f"expected prior {', '.join(map(repr, priors))}, got {name!r}")
    found = priors[name]
    if found.stage not in trained:
        raise CheckpointError(f"expected a trained {found.stage} for prior={name!r}; this model has {sorted(trained)}")
    if found.given is not None and found.given != given:
        choice = [repr(other) for other, prior in priors.items() if prior.given in (None, given)]
        how = "with" if given else "without"
        raise ValueError(f"expected prior {' or '.join(choice)} {how} given modalities, got {name!r}")


def _restored(log_prob_K: Tensor, prior: DiffusionPrior) -> Tensor:
    """Convert the density of standardised latents to that of the latents, by change of variables."""
    return log_prob_K - prior.log_volume()
