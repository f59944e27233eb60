"""The refiner: one denoiser of residuals for each kind of modality, conditioned on the latent and the decoder's mean.

Shapes: B batch, D latent_dim, K rows of all modalities that share a network; an ellipsis is the shape of one x.
Reference: Karras et al. 2022 (EDM) for preconditioning, loss weight and noise distribution, with sigma_data = 1 but for
c_skip and c_out, as residuals are measured in their own standard deviation; Pandey et al. 2022 (DiffuseVAE) for
refining the coarse output of a frozen autoencoder; Ho and Salimans 2022 for guidance by a dropped condition.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from shala_framework.plugin.modality import Likelihood, Modality
from shala_framework.plugin.refining import Refinable
from shala_framework.prior.sampling import SAMPLERS, Denoise, karras_sigmas, num_evaluations
from shala_framework.refiner.linear import LinearFilter
from shala_framework.refiner.residuals import ResidualUnit
from shala_framework.spec import structure, unstructure
from shala_framework.spec.schema import Refine
from shala_framework.support.distributed.processes import rows_rand, rows_randn
from shala_framework.support.errors import PluginError
from shala_framework.support.structuring import InvalidValueError

# Residuals are near 0 at most places and large at edges. With EDM's preconditioning for their overall spread of 1, a
# network of zeros would keep half of a noise of level 1; it would have to reproduce noise in order to remove it. With a
# smaller spread it outputs the residual itself at all but the lowest levels, and an undertrained one adds little.
SKIP_SPREAD, OUT_GAIN = 0.25, 2.0
# An adversarial refiner makes a residual at a level at which u is nearly all noise. With a larger gain its output
# changes faster, in steps of one learning rate, than the critic's verdict; with a small one, the critic runs ahead.
ONE_STEP_SIGMA, ONE_STEP_GAIN = 80.0, 2.0


def skip_and_out(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Return c_skip and c_out of EDM at a noise level, for data of the spread SKIP_SPREAD."""
    total = sigma.square() + SKIP_SPREAD**2
    return SKIP_SPREAD**2 / total, OUT_GAIN * SKIP_SPREAD * sigma / total.sqrt()


@attrs.frozen(kw_only=True)
class Refinement:
    """Settings for refining draws and for bounding their density.

    Attributes:
        num_steps: Number of sampler steps.
        sampler: Name of the sampler.
        guidance_scale: w in D_dropped + w (D - D_dropped), where D_dropped does not see z; 1 is no guidance.
        sigma_min: Lowest noise level of the sampler, in standard deviations of the residual.
        sigma_max: Highest noise level of the sampler.
        num_levels: Number of noise levels of each row in the bound.
        one_step: Whether the refiner is adversarial and makes a draw in one step; the sampler's settings then do not
            count.
        bound_sigma_min: Lowest noise level of the bound; for discrete x it follows from the distance of values.
        bound_sigma_max: Highest noise level of the bound.
    """

    num_steps: int = 5
    sampler: str = "dpm"
    guidance_scale: float = 1.0
    sigma_min: float = 0.1
    sigma_max: float = 1.5
    num_levels: int = 8
    one_step: bool = False
    bound_sigma_min: float = 0.03
    bound_sigma_max: float = 20.0

    @classmethod
    def from_table(cls, table: Refine, changes: Mapping[str, Any] | None = None) -> "Refinement":
        """Return the settings of a spec's [refine], with some keys of its sampler changed.

        Raises:
            ValueError: A changed key is not of the sampler, or its value has another type or range.
        """
        if changes:
            if of_training := [key for key in changes if key not in table.SAMPLING_KEYS]:
                raise ValueError(f"refine: expected keys of {list(table.SAMPLING_KEYS)}, got {of_training[0]!r}")
            if table.method == "adversarial":
                raise ValueError(f"refine: an adversarial refiner has no sampler to set, got {next(iter(changes))!r}")
            try:
                table = structure({**unstructure(table), **changes}, Refine)
            except InvalidValueError as error:
                raise ValueError(f"refine: {error}") from error
        return cls(
            num_steps=table.num_steps,
            sampler=table.sampler,
            guidance_scale=table.guidance_scale,
            sigma_min=table.sigma_min,
            sigma_max=table.sigma_max,
            num_levels=table.num_levels,
            one_step=table.method == "adversarial",
        )

    @property
    def num_evaluations(self) -> int:
        """Return the denoiser evaluations for one draw."""
        if self.one_step:
            return 1
        return num_evaluations(self.sampler, self.num_steps) * (1 if self.guidance_scale == 1 else 2)


@attrs.frozen(kw_only=True, eq=False)
class Denoised:
    """The refiner's result for noisy residuals of one modality.

    Attributes:
        loss_B: Weighted denoising error of each row, averaged over elements.
        clean: Predicted x in the likelihood's space, float [B, ...].
        residual: The residual's coordinates.
    """

    loss_B: Tensor
    clean: Tensor
    residual: ResidualUnit


class Refiner(nn.Module):
    """D(u; sigma, mean, z) of every modality that offers a network.

    Attributes:
        names: Names of the refined modalities.
        networks: Networks by the name of the modality, or of the first modality that shares the network.
        filters: Linear parts of the denoisers of modalities with correlated residuals.
    """

    z_mean: Tensor
    z_std: Tensor
    spread: Tensor

    def __init__(self, modalities: Mapping[str, Modality], *, latent_dim: int, share: bool = True) -> None:
        """Make the networks.

        Args:
            modalities: Modalities by name.
            latent_dim: Number of dimensions of z.
            share: Whether modalities of one class and shape share a network if theirs are alike.

        Raises:
            PluginError: A modality with correlated residuals has too long an axis.
        """
        super().__init__()
        self.latent_dim = latent_dim
        self.networks, self.filters, self.embeddings = nn.ModuleDict(), nn.ModuleDict(), nn.ParameterDict()
        self.home: dict[str, str] = {}
        for name, modality in modalities.items():
            network = modality.refiner(latent_dim)
            if network is None:
                continue
            alike = [
                home
                for home, other in self.networks.items()
                if share and _kind(modality) == _kind(modalities[home]) and _are_alike(network, other)
            ]
            self.home[name] = alike[0] if alike else name
            if not alike:
                self.networks[name] = network
            if modality.correlated_residuals:
                try:
                    self.filters[name] = LinearFilter(modality.shape)
                except ValueError as error:
                    raise PluginError(f"modality {name!r} has correlated_residuals: {error}") from None
        for name, home in self.home.items():
            if list(self.home.values()).count(home) > 1:
                self.embeddings[name] = nn.Parameter(torch.randn(latent_dim))
        self.names = tuple(self.home)
        self.dropped = nn.Parameter(torch.zeros(latent_dim))
        self.register_buffer("z_mean", torch.zeros(latent_dim))
        self.register_buffer("z_std", torch.ones(latent_dim))
        self.register_buffer("spread", torch.ones(len(self.names)))

    @property
    def linear_filters(self) -> dict[str, LinearFilter]:
        """`filters`, by modality."""
        return {name: linear for name, linear in self.filters.items() if isinstance(linear, LinearFilter)}

    def set_statistics(self, z_mean: Tensor, z_std: Tensor, spread: Mapping[str, float]) -> None:
        """Set mean and deviation of latents [D], and the residuals' deviations in units of the likelihoods' scales."""
        self.z_mean.copy_(z_mean)
        self.z_std.copy_(z_std.clamp_min(1e-6))
        for i, name in enumerate(self.names):
            self.spread[i] = max(1e-6, spread.get(name, 1.0))

    def before_loading(self, tensors: Mapping[str, Tensor]) -> None:
        """Leave out the filters that a checkpoint of an earlier version does not have."""
        had = {key.split(".")[1] for key in tensors if key.startswith("filters.")}
        for name in [name for name in self.filters if name not in had]:
            del self.filters[name]

    def residual(self, name: str, likelihood: object) -> ResidualUnit:
        """Return the residual's coordinates for a modality.

        Raises:
            TypeError: The likelihood is not `Refinable`.
        """
        if not isinstance(likelihood, Refinable):
            raise TypeError(f"expected a Refinable likelihood of {name!r}, got {type(likelihood).__name__}")
        return ResidualUnit(likelihood.residual_space(), self.spread[self.names.index(name)])

    def condition(self, name: str, z_BD: Tensor, dropped_B: Tensor | None = None) -> Tensor:
        """Return the network's input from z: [B, D]."""
        told_BD = (z_BD - self.z_mean) / self.z_std
        if dropped_B is not None:
            told_BD = torch.where(dropped_B[:, None], self.dropped, told_BD)
        if name in self.embeddings:
            told_BD = told_BD + self.embeddings[name]
        return told_BD

    def denoise(self, name: str, residual: ResidualUnit, u: Tensor, sigma_B: Tensor, condition_BD: Tensor) -> Tensor:
        """D(u; sigma): the expected clean residual."""
        raw = self._raw(self.home[name], u, sigma_B, residual.mean, condition_BD)
        return self._combined(name, residual, u, sigma_B, raw)

    def _raw(self, home: str, u: Tensor, sigma_B: Tensor, mean: Tensor, condition_BD: Tensor) -> Tensor:
        """Output of a network, for rows of any of its modalities."""
        sigma = _shaped(sigma_B, u)
        raw: Tensor = self.networks[home](u / (sigma.square() + 1).sqrt(), mean, condition_BD, sigma_B.log() / 4)
        return raw.float()

    def _combined(self, name: str, residual: ResidualUnit, u: Tensor, sigma_B: Tensor, raw: Tensor) -> Tensor:
        """The linear part and the network's."""
        sigma = _shaped(sigma_B, u)
        skip, out = skip_and_out(sigma)
        linear: Tensor = self.filters[name](u, sigma, residual) if name in self.filters else skip * u
        return linear + out * raw

    def denoised(
        self,
        z_BD: Tensor,
        likelihoods: Mapping[str, Likelihood],
        x: Mapping[str, Tensor],
        *,
        log_sigma_mean: float,
        log_sigma_std: float,
        latent_noise: float,
        latent_dropout: float,
    ) -> dict[str, Denoised]:
        """Add noise to every modality's residual and denoise it; modalities that share a network form one batch.

        Args:
            z_BD: Draws of q(z | x).
            likelihoods: p(x | z) of each modality at z.
            x: Every modality's tensor [B, ...]; rows that lack it may hold anything finite.
            log_sigma_mean: P_mean of EDM.
            log_sigma_std: P_std of EDM.
            latent_noise: Noise added to the z that the network sees, in deviations of z.
            latent_dropout: Probability that the network does not see z.
        """
        noise_BD = rows_randn(*z_BD.shape, device=z_BD.device)
        seen_BD = z_BD + latent_noise * self.z_std * noise_BD
        found: dict[str, Denoised] = {}
        for members in self._members():
            parts = [
                self._noised(name, seen_BD, likelihoods[name], x[name], log_sigma_mean, log_sigma_std, latent_dropout)
                for name in members
            ]
            u, sigma_K, mean, condition_KD = (
                torch.cat(tensors) for tensors in zip(*(p[2:] for p in parts), strict=True)
            )
            raw = self._raw(self.home[members[0]], u, sigma_K, mean, condition_KD)
            for name, (residual, r, own_u, sigma_B, *_), own_raw in zip(
                members, parts, raw.split(len(z_BD)), strict=True
            ):
                clean = self._combined(name, residual, own_u, sigma_B, own_raw)
                weight_B = (sigma_B.square() + 1) / sigma_B.square()
                loss_B = weight_B * (clean - r).square().flatten(1).mean(1)
                found[name] = Denoised(loss_B=loss_B, clean=residual.restore(clean), residual=residual)
        return {name: found[name] for name in self.names}

    def _members(self) -> list[Sequence[str]]:
        """Return the modalities of each network."""
        return [[name for name in self.names if self.home[name] == home] for home in self.networks]

    def _noised(
        self,
        name: str,
        z_BD: Tensor,
        likelihood: Likelihood,
        x: Tensor,
        log_sigma_mean: float,
        log_sigma_std: float,
        latent_dropout: float,
    ) -> tuple[ResidualUnit, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Coordinates, r, u = r + sigma * noise, sigma, mean and condition."""
        residual = self.residual(name, likelihood)
        r, device = residual.of(x), z_BD.device
        sigma_B = (log_sigma_mean + log_sigma_std * rows_randn(len(r), device=device)).exp()
        u = r + _shaped(sigma_B, r) * rows_randn(*r.shape, device=device)
        dropped_B = rows_rand(len(r), device=device) < latent_dropout
        return residual, r, u, sigma_B, residual.mean, self.condition(name, z_BD, dropped_B)

    def denoiser(self, name: str, residual: ResidualUnit, z_BD: Tensor, guidance_scale: float = 1.0) -> Denoise:
        """D(u; sigma) for fixed latents: D_dropped + w (D - D_dropped); D_dropped does not see z."""
        told_BD = self.condition(name, z_BD)
        every_B = torch.ones(len(z_BD), dtype=torch.bool, device=z_BD.device)
        untold_BD = self.condition(name, z_BD, every_B)

        def denoise(z_ND: Tensor, sigma_N: Tensor) -> Tensor:
            plain = self.denoise(name, residual, z_ND, sigma_N, told_BD)
            if guidance_scale == 1:
                return plain
            return torch.lerp(self.denoise(name, residual, z_ND, sigma_N, untold_BD), plain, guidance_scale)

        return denoise

    def generated(self, name: str, residual: ResidualUnit, z_BD: Tensor, noise: Tensor) -> Tensor:
        """Make a residual of noise in the shape of x, in one step, as adversarial training trains it."""
        every_B = torch.full((len(z_BD),), ONE_STEP_SIGMA, device=z_BD.device)
        none_B = torch.zeros(len(z_BD), dtype=torch.bool, device=z_BD.device)  # all parameters take part in each step
        u = noise * math.sqrt(ONE_STEP_SIGMA**2 + 1)
        raw = self._raw(self.home[name], u, every_B, residual.mean, self.condition(name, z_BD, none_B))
        return ONE_STEP_GAIN * raw

    def sample(self, name: str, likelihood: Likelihood, z_BD: Tensor, noise: Tensor, refinement: Refinement) -> Tensor:
        """Return refined draws x [B, ...] of p(x | z), in the dtype and range of `Modality.read`.

        Args:
            name: The modality.
            likelihood: Stage 1's p(x | z).
            z_BD: Latents of the rows.
            noise: Standard Gaussian noise in the shape of x.
            refinement: Sampler and levels.
        """
        residual = self.residual(name, likelihood)
        if refinement.one_step:
            return residual.x(self.generated(name, residual, z_BD, noise))
        sigmas = karras_sigmas(refinement.num_steps, refinement.sigma_min, refinement.sigma_max)
        denoise = self.denoiser(name, residual, z_BD, refinement.guidance_scale)
        # At the highest level, u = r + sigma * noise also has the residual's variance of 1.
        start = noise * math.sqrt(1 + 1 / refinement.sigma_max**2)
        return residual.x(SAMPLERS[refinement.sampler](denoise, start, sigmas))


def _shaped(sigma_B: Tensor, like: Tensor) -> Tensor:
    return sigma_B.view(-1, *(1,) * (like.ndim - 1))


def _kind(modality: Modality) -> tuple[type[Modality], torch.dtype, tuple[int, ...]]:
    return type(modality), modality.dtype, tuple(modality.shape)


def _are_alike(network: nn.Module, other: nn.Module) -> bool:
    """Return whether two networks have parameters of the same names and shapes, and equal constants."""
    mine, theirs = ({name: p.shape for name, p in n.named_parameters()} for n in (network, other))
    constants = [dict(n.named_buffers()) for n in (network, other)]
    return (
        mine == theirs
        and constants[0].keys() == constants[1].keys()
        and all(torch.equal(value, constants[1][name]) for name, value in constants[0].items())
    )
