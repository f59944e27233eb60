"""The contract between the core and a method of inference: how features become q(z | x_S), and what stage 1 maximises.

Shapes: B batch, C components, M modalities, F feature_dim, D latent_dim. An ellipsis stands for any number of draws.
"""

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import attrs
import torch
from torch import Tensor, nn

from shala_framework.plugin.denoising import DenoiserSizes, LatentDenoiser
from shala_framework.plugin.modality import Likelihood


@attrs.frozen(eq=False)
class GaussianPosterior:
    """q(z | x) = N(mean, diag exp(log_var)), both [B, D]."""

    mean_BD: Tensor
    log_var_BD: Tensor

    def sample(self) -> Tensor:
        """A reparametrised draw z [B, D] from torch's global generator."""
        return self.draw(torch.randn_like(self.mean_BD))

    def draw(self, noise_BD: Tensor, uniform_B: Tensor | None = None) -> Tensor:
        """The reparametrised draw z [..., B, D] that standard normal noise of this shape makes.

        Args:
            noise_BD: The noise.
            uniform_B: Not used here; a mixture picks its component by it.
        """
        return self.mean_BD + torch.exp(0.5 * self.log_var_BD) * noise_BD

    def picked(self, uniform_B: Tensor) -> "GaussianPosterior":
        """The Gaussian itself; a mixture picks one of its components in each row."""
        return self

    def log_prob(self, z_BD: Tensor) -> Tensor:
        """Log density of z [..., B, D] in nats: [..., B]."""
        squared_BD = (z_BD - self.mean_BD).square() * (-self.log_var_BD).exp()
        return -0.5 * (squared_BD + self.log_var_BD + math.log(2 * math.pi)).sum(-1)

    def kl_BD(self) -> Tensor:
        """KL(q(z | x) || N(0, I)) of each dimension in nats: [B, D]."""
        return 0.5 * (self.mean_BD.square() + self.log_var_BD.exp() - 1 - self.log_var_BD)

    def kl_to(self, other: "GaussianPosterior") -> Tensor:
        """KL(self || other) in nats: [B]."""
        gap_BD = (self.mean_BD - other.mean_BD).square() + self.log_var_BD.exp()
        log_ratio_BD = other.log_var_BD - self.log_var_BD
        return 0.5 * (gap_BD * (-other.log_var_BD).exp() - 1 + log_ratio_BD).sum(1)

    def detach(self) -> "GaussianPosterior":
        """The same distribution, cut from the graph."""
        return GaussianPosterior(self.mean_BD.detach(), self.log_var_BD.detach())

    def to(self, device: torch.device | str) -> "GaussianPosterior":
        """The same distribution on a device."""
        return GaussianPosterior(self.mean_BD.to(device), self.log_var_BD.to(device))

    def take(self, rows_K: Tensor) -> "GaussianPosterior":
        """Rows by number."""
        return GaussianPosterior(self.mean_BD[rows_K], self.log_var_BD[rows_K])


@attrs.frozen(eq=False)
class MixturePosterior:
    """q(z | x) as a mixture of Gaussians whose number of components may differ among rows.

    Attributes:
        mean_CBD: Means.
        log_var_CBD: Log-variances.
        log_weight_CB: Logarithms of the components' weights; -inf where a row lacks one.
    """

    mean_CBD: Tensor
    log_var_CBD: Tensor
    log_weight_CB: Tensor

    @classmethod
    def uniform(cls, components: Sequence[GaussianPosterior], present_CB: Tensor) -> "MixturePosterior":
        """The mixture of equal weights; N(0, I) in rows that have no component.

        Args:
            components: C Gaussians.
            present_CB: bool, which of them each row has.
        """
        zeros_BD = torch.zeros_like(components[0].mean_BD)
        parts = [*components, GaussianPosterior(zeros_BD, zeros_BD)]
        present_CB = torch.cat([present_CB, ~present_CB.any(0, keepdim=True)])
        log_count_B = present_CB.sum(0).float().log()
        log_weight_CB = (-log_count_B).expand(len(parts), -1).masked_fill(~present_CB, -math.inf)
        means, log_vars = (part.mean_BD for part in parts), (part.log_var_BD for part in parts)
        return cls(torch.stack(list(means)), torch.stack(list(log_vars)), log_weight_CB)

    @property
    def mean_BD(self) -> Tensor:
        """Mean of the mixture."""
        return (self.log_weight_CB.exp()[..., None] * self.mean_CBD).sum(0)

    @property
    def log_var_BD(self) -> Tensor:
        """Logarithm of each dimension's variance under the mixture."""
        squared_CBD = (self.mean_CBD - self.mean_BD).square() + self.log_var_CBD.exp()
        return (self.log_weight_CB.exp()[..., None] * squared_CBD).sum(0).log()

    def sample(self) -> Tensor:
        """A draw z [B, D] from torch's global generator, reparametrised within its component."""
        noise_BD = torch.randn_like(self.mean_CBD[0])
        return self.draw(noise_BD, torch.rand(len(noise_BD), device=noise_BD.device))

    def draw(self, noise_BD: Tensor, uniform_B: Tensor) -> Tensor:
        """The draw z [..., B, D] of the components that numbers from [0, 1) pick, and standard normal noise."""
        return self.picked(uniform_B).draw(noise_BD)

    def picked(self, uniform_B: Tensor) -> GaussianPosterior:
        """The component of each row that a number from [0, 1) picks; the same numbers pick the same components."""
        edge_CB = self.log_weight_CB.exp().cumsum(0)
        chosen_B = (edge_CB <= uniform_B.clamp_max(1 - 1e-6) * edge_CB[-1]).sum(0)
        rows_B = torch.arange(len(chosen_B), device=chosen_B.device)
        return GaussianPosterior(self.mean_CBD[chosen_B, rows_B], self.log_var_CBD[chosen_B, rows_B])

    def log_prob(self, z_BD: Tensor) -> Tensor:
        """Log density of z [..., B, D] in nats: [..., B]."""
        squared_CBD = (z_BD.unsqueeze(-3) - self.mean_CBD).square() * (-self.log_var_CBD).exp()
        log_prob_CB = -0.5 * (squared_CBD + self.log_var_CBD + math.log(2 * math.pi)).sum(-1)
        return (log_prob_CB + self.log_weight_CB).logsumexp(-2)

    def detach(self) -> "MixturePosterior":
        """The same distribution, cut from the graph."""
        return MixturePosterior(self.mean_CBD.detach(), self.log_var_CBD.detach(), self.log_weight_CB)

    def to(self, device: torch.device | str) -> "MixturePosterior":
        """The same distribution on a device."""
        return MixturePosterior(self.mean_CBD.to(device), self.log_var_CBD.to(device), self.log_weight_CB.to(device))

    def take(self, rows_K: Tensor) -> "MixturePosterior":
        """Rows by number."""
        return MixturePosterior(self.mean_CBD[:, rows_K], self.log_var_CBD[:, rows_K], self.log_weight_CB[:, rows_K])


AnyPosterior = GaussianPosterior | MixturePosterior


def standard_normal_log_prob(z_BD: Tensor) -> Tensor:
    """Log density of z [..., B, D] under N(0, I) in nats: [..., B]."""
    return -0.5 * (z_BD.square() + math.log(2 * math.pi)).sum(-1)


def either_posterior(first_B: Tensor, one: AnyPosterior, other: AnyPosterior) -> AnyPosterior:
    """In each row the one posterior where `first_B` holds, else the other."""
    if isinstance(one, GaussianPosterior) and isinstance(other, GaussianPosterior):
        first_B1 = first_B[:, None]
        return GaussianPosterior(
            torch.where(first_B1, one.mean_BD, other.mean_BD), torch.where(first_B1, one.log_var_BD, other.log_var_BD)
        )
    parts = [as_mixture(one), as_mixture(other)]
    chosen = (first_B, ~first_B)
    weights = [part.log_weight_CB.masked_fill(~mine, -math.inf) for part, mine in zip(parts, chosen, strict=True)]
    means, log_vars = ([part.mean_CBD for part in parts], [part.log_var_CBD for part in parts])
    return MixturePosterior(torch.cat(means), torch.cat(log_vars), torch.cat(weights))


def as_mixture(posterior: AnyPosterior) -> MixturePosterior:
    """The same distribution as a mixture; of one component if it is a Gaussian."""
    if isinstance(posterior, MixturePosterior):
        return posterior
    mean_BD, log_var_BD = posterior.mean_BD, posterior.log_var_BD
    return MixturePosterior(mean_BD[None], log_var_BD[None], mean_BD.new_zeros(1, mean_BD.shape[0]))


class GaussianHead(nn.Module):
    """Mean and log-variance of z from features or whatever a network makes of them, [B, width]."""

    LOG_VAR_RANGE = (-14.0, 4.0)  # keeps exp() and its gradient finite

    def __init__(self, width: int, latent_dim: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, latent_dim)
        self.log_var = nn.Linear(width, latent_dim)
        nn.init.zeros_(self.log_var.weight)
        nn.init.constant_(self.log_var.bias, -6.0)  # a noisy start hides z from the decoders

    def forward(self, hidden_BW: Tensor) -> GaussianPosterior:
        low, high = self.LOG_VAR_RANGE
        return GaussianPosterior(self.mean(hidden_BW).float(), self.log_var(hidden_BW).float().clamp(low, high))


@attrs.frozen(kw_only=True)
class MethodSizes:
    """Sizes of the networks around a method.

    Attributes:
        num_modalities: Number of modalities M.
        feature_dim: Dimensions of a feature h.
        hidden_dim: Width of the method's own hidden layers.
        latent_dim: Dimensions of z.
    """

    num_modalities: int
    feature_dim: int
    hidden_dim: int
    latent_dim: int


@attrs.frozen(kw_only=True, eq=False)
class EncodedRows:
    """A batch of stage 1 whose modalities are encoded, and everything that an objective may ask for.

    Attributes:
        x: Every modality's tensor [B, ...]; anything finite in rows that lack it.
        presence_BM: bool, the modalities that each row has.
        h: Feature of every modality [B, F], in the order of presence's columns.
        kl_weight: Weight of the KL term, which grows from 0 in a warm-up: train.autoencoder.kl_weight at its end.
        likelihood_weights: Weight of each modality's log-likelihood; a modality that is not in it has 1.
        training: Whether this is a training step.
    """

    x: Mapping[str, Tensor]
    presence_BM: Tensor
    h: Mapping[str, Tensor]
    kl_weight: float | Tensor
    likelihood_weights: Mapping[str, float]
    training: bool
    _decode: Callable[[Tensor], dict[str, Likelihood]]
    _randn: Callable[..., Tensor]
    _rand: Callable[..., Tensor]
    _random_subsets: Callable[[Tensor], Tensor]
    _score: Callable[[Likelihood, Tensor], Tensor] = attrs.field(default=lambda likelihood, x: likelihood.log_prob(x))
    _decoded: list[tuple[Tensor, dict[str, Likelihood]]] = attrs.field(factory=list, init=False)

    @property
    def h_MBF(self) -> list[Tensor]:
        """The features, as `PosteriorMethod.fuse` takes them."""
        return list(self.h.values())

    def randn(self, *shape: int) -> Tensor:
        """Standard normal draws [B, *shape], in each process those of its own rows; draw from here alone."""
        return self._randn(len(self.presence_BM), *shape, device=self.presence_BM.device)

    def rand(self, *shape: int) -> Tensor:
        """Uniform draws from [0, 1): [B, *shape], as for `randn`."""
        return self._rand(len(self.presence_BM), *shape, device=self.presence_BM.device)

    def random_subsets(self) -> Tensor:
        """A random non-empty subset of what each row has: size uniform, then members uniform; bool [B, M]."""
        return self._random_subsets(self.presence_BM)

    def decode(self, z_BD: Tensor) -> dict[str, Likelihood]:
        """p(x_i | z) of every modality; decodes the same tensor once."""
        for z, likelihoods in self._decoded:
            if z is z_BD:
                return likelihoods
        self._decoded.append((z_BD, self._decode(z_BD)))
        return self._decoded[-1][1]

    def log_prob(self, z_BD: Tensor) -> dict[str, Tensor]:
        """Log p(x_i | z) of every modality in nats, for z [B, D] or [..., B, D]: [B] or [..., B].

        It is 0 in rows that lack the modality.
        """
        # A product with zero, not a selection of rows: every process touches every modality's parameters.
        if z_BD.dim() == 2:
            likelihoods = self.decode(z_BD)
            return {
                name: self._score(likelihood, self.x[name]) * self.presence_BM[:, i]
                for i, (name, likelihood) in enumerate(likelihoods.items())
            }
        leading = z_BD.shape[:-2]
        num_draws = leading.numel()
        found = {}
        for i, (name, likelihood) in enumerate(self._decode(z_BD.flatten(0, -2)).items()):
            x = self.x[name]
            repeated = x.expand(num_draws, *x.shape).flatten(0, 1)
            found[name] = self._score(likelihood, repeated).view(*leading, len(x)) * self.presence_BM[:, i]
        return found

    def weighted(self, log_prob: Mapping[str, Tensor]) -> Tensor:
        """Sum over modalities of log-likelihoods by their `likelihood_weights`: [..., B]."""
        return torch.stack([self.likelihood_weights.get(n, 1.0) * value for n, value in log_prob.items()]).sum(0)


@attrs.frozen(kw_only=True, eq=False)
class Objective:
    """What stage 1 maximises on a batch.

    Attributes:
        value_B: The objective of each row in nats, by the batch's weights.
        z_BD: One draw of z a row, whose decoded modalities the recognition and texture terms look at.
        log_prob: Modality name to log p(x_i | z) [B], unweighted, to be reported.
        kl_B: KL(q(z | x) || p(z)) of each row or an estimate of it, unweighted, to be reported.
        figures: Further scalars to be reported, by name.
        losses: Scalars that are added to the loss as they are, by name, such as of a network that only imitates others.
            The loss is otherwise the negative mean of value_B over the number of values in a row.
    """

    value_B: Tensor
    z_BD: Tensor
    log_prob: Mapping[str, Tensor]
    kl_B: Tensor
    figures: Mapping[str, Tensor] = attrs.field(factory=dict)
    losses: Mapping[str, Tensor] = attrs.field(factory=dict)


class PosteriorMethod(nn.Module, abc.ABC):
    """A method of inference. A plugin's class is final and declares a frozen attrs class `Options`.

    Attributes:
        Options: Frozen attrs class of the options, the table [posterior.options].
        needs_complete_rows: Whether training needs every modality in every row; other rows are then an error.
        has_densities: Whether q(z | x_S) is a density for every subset S, beside which N(0, I) is a prior. A method of
            deterministic encoders says False: evaluations then leave out the controls "normal" and "posterior" and
            log-likelihoods, which would say nothing.
        maximises_elbo: Whether the objective at weights of 1 is the evidence lower bound of `fuse` under N(0, I), by a
            draw of z. If it is not, validations compute that bound beside the objective.
    """

    Options: ClassVar[type[Any]]
    needs_complete_rows: ClassVar[bool] = False
    has_densities: ClassVar[bool] = True
    maximises_elbo: ClassVar[bool] = False

    def __init__(self, options: Any, sizes: MethodSizes) -> None:
        """Make the method's networks.

        Raises:
            ValueError: The method does not suit these sizes; it becomes an error of the spec.
        """
        super().__init__()
        self.options, self.sizes = options, sizes

    @abc.abstractmethod
    def fuse(self, h_MBF: list[Tensor], presence_BM: Tensor) -> AnyPosterior:
        """q(z | x) of rows as the data have them. Stage 2 learns the latents that are drawn from it.

        Args:
            h_MBF: One feature tensor [B, F] for each modality; rows that lack it may hold anything finite.
            presence_BM: bool, the modalities to look at; a row may have none.
        """

    def fuse_subset(self, h_MBF: list[Tensor], subset_BM: Tensor) -> AnyPosterior:
        """q(z | x_S) of a subset of what rows would have; the same as `fuse` unless a method tells them apart."""
        return self.fuse(h_MBF, subset_BM)

    def own_prior(self) -> AnyPosterior | None:
        """p(z) of one row, with which stage 1 is trained, where that is not N(0, I); it is then the control "own"."""
        return None

    def decoder_dimensions(self, modality: int) -> Sequence[int] | None:
        """Return the dimensions of z that the decoder of a modality sees; the default, None, shows all of them.

        A method with latents that belong to one modality hides them from the decoders of the others this way.

        Args:
            modality: Index of the modality, in the order of presence's columns.
        """
        return None

    def latent_denoiser(self, sizes: DenoiserSizes) -> LatentDenoiser | None:
        """Make a network for stage 2; the default, None, uses the core's network.

        The core calls it twice: for the denoiser and for the guide. Stage 2 then standardises each dimension of z
        separately, refuses prior.whiten, and knows a single cluster.

        Args:
            sizes: Sizes of the network.
        """
        return None

    @abc.abstractmethod
    def objective(self, batch: EncodedRows) -> Objective:
        """What stage 1 maximises. It draws from `batch.randn` and `batch.rand` alone and never branches on values.

        Every parameter of the method takes part, whatever rows have, as several processes may train together.
        """
