"""ShaLa: the stages assembled. One model generates all modalities together, or any from any others.

Shapes: N rows, S samples a row, M modalities, F feature_dim, D latent_dim.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
from torch import Tensor

from shala_framework.autoencoder.contracts import check_given
from shala_framework.model.arguments import check_count, check_latents, check_modalities, given_scales
from shala_framework.model.decoding import decode_latents
from shala_framework.model.given import GivenValue, read_given
from shala_framework.model.staged import Staged
from shala_framework.plugin.loading import load_method, name_of_class
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.plugin.posterior import AnyPosterior, GaussianPosterior, PosteriorMethod, standard_normal_log_prob
from shala_framework.prior.guidance import Guidance
from shala_framework.prior.priors import (
    DENSITY_STEPS,
    DiffusedPrior,
    Given,
    LatentPrior,
    MixturePrior,
    NormalPrior,
    OwnPrior,
    SamplerName,
    Sampling,
    SubsetPosterior,
    check_choice,
    posterior_draws,
)
from shala_framework.refiner import Refinement
from shala_framework.spec import LoadedSpec, make_spec, read_spec, unstructure
from shala_framework.spec.schema import DEFAULT_METHOD, ModalityTable
from shala_framework.support.modes import evaluating

PriorName = Literal["diffusion", "mixture", "normal", "own", "posterior"]


class ShaLa(Staged):
    """Modalities, an autoencoder (stage 1), a prior over the shared latent (stage 2) and a refiner (stage 3).

    In Python a model is made of modality objects, and sizes are keyword arguments:

        ShaLa({"photo": Image(height=64, width=64), "caption": Text(max_tokens=40)}, latent_dim=64)

    Attributes are those of `Staged`.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        *,
        prior: Mapping[str, Any] | None = None,
        refine: Mapping[str, Any] | None = None,
        generate: Mapping[str, Any] | None = None,
        groups: Mapping[str, str] | None = None,
        seed: int = 0,
        method: str | type[PosteriorMethod] = DEFAULT_METHOD,
        **posterior: Any,
    ) -> None:
        """Describe a model; its networks are made at once if no modality has to be fitted to training samples first.

        Args:
            modalities: Modality objects by name; their order is that of the networks' inputs.
            prior: Keys of a spec's [prior] table, such as {"hidden_dim": 512}.
            refine: Keys of a spec's [refine] table, such as {"num_steps": 8}.
            generate: Keys of a spec's [generate] table, the defaults of sampling.
            groups: Group of each modality that shares its encoder and decoder with the others of its group.
            seed: Seed of the networks' first weights and of everything random in training.
            method: Name of the method of inference, or a class of your own; its options are `options={...}`.
            **posterior: Further keys of a spec's [posterior] table, such as latent_dim=64.

        Raises:
            SpecError: A key is unknown, or a value has another type or range than its key.
        """
        check_modalities(modalities)
        tables = {
            name: ModalityTable(plugin=name_of_class(type(modality)), options=unstructure(modality.options))
            for name, modality in modalities.items()
        }
        own = {name_of_class(method): method} if isinstance(method, type) else {}
        spec, kind = make_spec(
            tables,
            posterior=posterior | {"method": next(iter(own), method)},
            prior=prior or {},
            refine=refine or {},
            generate=generate or {},
            groups=groups or {},
            seed=seed,
            load_method=lambda name: own[name] if name in own else load_method(name),
        )
        self._begin(modalities, spec, synthetic=False, method=kind)
        if not any(needs_fit(modality) for modality in modalities.values()):
            self.build()

    @classmethod
    def from_spec(cls, spec: str | Path | LoadedSpec, *, profile: str | None = None) -> "ShaLa":
        """The model that a spec describes: a path of a TOML file, or what `read_spec` returned.

        Args:
            spec: The spec.
            profile: Name of the file's profile to apply.

        Raises:
            SpecError: The file has mistakes; every one is listed with its line.
        """
        loaded = spec if isinstance(spec, LoadedSpec) else read_spec(Path(spec), profile=profile)
        modalities = {name: loaded.modality_classes[name](loaded.options[name]) for name in loaded.spec.modality}
        model = cls.__new__(cls)
        model._begin(modalities, loaded.spec, synthetic=loaded.stand_in_used, method=loaded.method_class)
        return model

    def read(self, given: Mapping[str, GivenValue]) -> dict[str, Tensor]:
        """Tensors of what a person gives: `model.read({"caption": "a red circle", "photo": Path("a.jpg")})`.

        Args:
            given: Modality name to a text, to the Path of a file, to a list of texts or paths, or to a tensor [N, ...],
                which stays as it is. A str is always the text itself, never the name of a file.

        Returns:
            Modality name to tensor [N, ...], N = 1 for a single text or file.

        Raises:
            DataError: A text or a file does not hold the modality.
            ValueError: A name is unknown, rows differ in number, or a text is given for a modality that has none.
        """
        x = read_given(self.modalities, given)
        check_given(self.modalities, x)
        return x

    @torch.no_grad()
    def posterior(
        self, x: Mapping[str, GivenValue], *, presence: Tensor | None = None, batch_size: int = 64
    ) -> AnyPosterior:
        """q(z | x) given any subset of the modalities.

        Args:
            x: Modality name to what `read` takes: a tensor [N, ...], a text, or the Path of a file.
            presence: bool [N, M], which modalities each row has, with a column for each of `names`; rows that lack one
                of x may hold anything finite in it. None if every row has each modality of x.
            batch_size: Rows at a time.

        Returns:
            Means and log-variances [N, D] on the CPU; of a mixture, where the method has mixtures.

        Raises:
            ValueError: x names no modality of this model, rows differ in number, or presence has another shape or type.
            DataError: A text or a file does not hold its modality.
        """
        x = self.read(x)
        num_rows = len(next(iter(x.values())))
        given_NM = self._presence(x, num_rows)
        if presence is not None:
            if presence.dtype != torch.bool or presence.shape != given_NM.shape:
                raise ValueError(
                    f"expected presence of torch.bool {tuple(given_NM.shape)}, got {presence.dtype} "
                    f"{tuple(presence.shape)}"
                )
            given_NM = given_NM & presence.to(self.device)
        h_MNF = self._features(x, num_rows, batch_size)
        return SubsetPosterior(self.autoencoder).of_rows(h_MNF, given_NM).to("cpu")

    def embed(self, x: Mapping[str, GivenValue], *, presence: Tensor | None = None, batch_size: int = 64) -> Tensor:
        """Posterior mean of z: float [N, D] on the CPU; arguments and errors are those of `posterior`."""
        return self.posterior(x, presence=presence, batch_size=batch_size).mean_BD

    @torch.no_grad()
    def elbo(self, x: Mapping[str, GivenValue], *, num_samples: int = 1, seed: int = 0, batch_size: int = 64) -> Tensor:
        """Lower bound of log p(x_1, ..., x_M) of complete rows under stage 1 and N(0, I), in nats: [N].

        Args:
            x: Every modality, as `read` takes it.
            num_samples: Draws of z a row, over which the bound is averaged.
            seed: Seed of the draws.
            batch_size: Latents decoded at a time.

        Raises:
            ValueError: A modality is missing, or rows differ in number.
        """
        if set(x) != set(self.names):
            raise ValueError(f"expected every modality of {list(self.names)}, got {list(x)}")
        x = self.read(x)
        q = self.posterior(x)
        rows_K = torch.arange(len(q.mean_BD)).repeat_interleave(num_samples)
        z_KD = posterior_draws(q.take(rows_K), seed)
        parts = [self.autoencoder.decoded_log_prob(x, n, z_KD, rows_K, batch_size=batch_size) for n in self.names]
        log_prob_N = torch.stack(parts).sum(0).view(-1, num_samples).mean(1)
        if isinstance(q, GaussianPosterior):
            return log_prob_N - q.kl_BD().sum(1)
        z_SND = z_KD.unflatten(0, (-1, num_samples)).transpose(0, 1)
        return log_prob_N - (q.log_prob(z_SND) - standard_normal_log_prob(z_SND)).mean(0)

    @torch.no_grad()
    def generate(
        self,
        num_samples: int = 1,
        *,
        given: Mapping[str, GivenValue] | None = None,
        guidance_scale: float | None = None,
        autoguidance_scale: float | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        prior: PriorName = "diffusion",
        refine: bool | Mapping[str, Any] = True,
        draw: bool = False,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """Sample the shared latent once for each sample and decode every modality from it.

        Args:
            num_samples: Joint samples, or samples for each row of `given`.
            given: Modality name to what `read` takes: a tensor [N, ...], a text, or the Path of a file; None or empty
                for joint synthesis.
            guidance_scale: w in D_uncond + w (D_cond - D_uncond); None takes that of `guidance`.
            autoguidance_scale: v in D_guide + v (D - D_guide), of joint synthesis too; None takes that of `guidance`.
            num_steps: Sampler steps; None takes the spec's.
            seed: Seed of the noise that samples start from. The same call gives the same samples; with more rows or
                more joint samples, the first ones stay the same.
            prior: "diffusion"; or a control: "mixture" and "normal" without `given`, also "own" where the method of
                inference has a prior of its own, and with it "posterior", which samples q(z | x_given) of stage 1.
            refine: Whether stage 3 adds what the decoders leave out, where it is trained; or keys of a spec's [refine]
                that change its sampler, such as {"sigma_max": 10.0, "num_steps": 12}.
            draw: Whether to draw from each likelihood that is not refined; otherwise its mode is returned. The same
                call gives the same draws, but another number of rows or samples, or batch_size, gives others.
            batch_size: Latents decoded at a time.

        Returns:
            Every modality in the dtype and range of its plugin, on the CPU: [num_samples, ...], or [N, num_samples,
            ...] with `given`. A given modality is included too, in the version that the model generates.

        Raises:
            ValueError: Arguments do not fit the model or each other.
            DataError: A text or a file does not hold its modality.
            CheckpointError: The stage that is asked for is not trained.
        """
        z_ND = self.sample_latents(
            num_samples,
            given=given,
            guidance_scale=guidance_scale,
            autoguidance_scale=autoguidance_scale,
            num_steps=num_steps,
            seed=seed,
            prior=prior,
        )
        x = self.decode(z_ND, refine=refine, draw=draw, seed=seed, batch_size=batch_size)
        if given:
            x = {name: value.unflatten(0, (-1, num_samples)) for name, value in x.items()}
        return x

    @torch.no_grad()
    def sample_latents(
        self,
        num_samples: int,
        *,
        given: Mapping[str, GivenValue] | None = None,
        guidance_scale: float | None = None,
        autoguidance_scale: float | None = None,
        num_steps: int | None = None,
        sampler: SamplerName | None = None,
        seed: int = 0,
        prior: PriorName = "diffusion",
    ) -> Tensor:
        """The latents that `generate` decodes: float [num_samples, D], or [N * num_samples, D] row by row.

        `sampler` None takes the spec's; everything else as for `generate`.
        """
        check_count("num_samples", num_samples)
        scales = given_scales({"guidance_scale": guidance_scale, "autoguidance_scale": autoguidance_scale})
        x = self.read(given) if given else {}
        num_rows = len(next(iter(x.values()))) if x else 1
        source, settings = self._prior(prior, given=bool(x)), self.spec.generate
        sampling = Sampling(
            guidance=attrs.evolve(self.guidance, **scales),
            num_steps=settings.num_steps if num_steps is None else num_steps,
            sampler=sampler or settings.sampler,
        )
        return source.sample(seed, self._given(x, num_rows, num_samples), sampling)

    @torch.no_grad()
    def log_prob(
        self,
        z_NSD: Tensor,
        *,
        given: Mapping[str, GivenValue] | None = None,
        num_steps: int = DENSITY_STEPS,
        prior: PriorName = "diffusion",
    ) -> Tensor:
        """Log density of latents: log p(z), or log p(z | x_given); of the diffusion prior without any guidance.

        Args:
            z_NSD: S latents for each row of `given`; any N without it.
            given: As for `generate`.
            num_steps: Steps in which the diffusion prior's ODE is solved; the error falls with their square.
            prior: As for `generate`.

        Returns:
            float tensor [N, S], nats.

        Raises:
            ValueError: Arguments do not fit the model or each other.
            CheckpointError: The stage that is asked for is not trained.
        """
        check_latents(z_NSD, self.autoencoder.latent_dim, "N, S, D")
        x = self.read(given) if given else {}
        num_rows = len(next(iter(x.values()))) if x else len(z_NSD)
        if len(z_NSD) != num_rows:
            raise ValueError(f"expected latents of {num_rows} given rows, got {len(z_NSD)}")
        known = self._given(x, num_rows, z_NSD.shape[1])
        z_KD = z_NSD.flatten(0, 1).to(self.device)
        return self._prior(prior, given=bool(x)).log_prob(z_KD, known, num_steps).cpu().view(num_rows, -1)

    @torch.no_grad()
    def decode(
        self,
        z_ND: Tensor,
        *,
        refine: bool | Mapping[str, Any] = False,
        draw: bool = False,
        seed: int = 0,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """Every modality of some latents [N, D], on the CPU: the likelihood's mode, a draw, or a refined draw.

        A refined draw depends on (seed, row) and its latent alone, whatever the batch. `refine` is as for `generate`.

        Raises:
            ValueError: `refine` changes what is not of the sampler, or no stage 3 is trained that it could change; or
                latents have another shape or are not finite.
        """
        check_latents(z_ND, self.autoencoder.latent_dim, "N, D")
        changes = {} if isinstance(refine, bool) else refine
        refined = self.refined_names if refine is not False else ()
        if changes and not refined:
            raise ValueError(f"refine: expected a model whose stage 3 is trained, to change its {', '.join(changes)}")
        return decode_latents(
            self.autoencoder,
            z_ND,
            refiner=self.refiner,
            refined=refined,
            refinement=Refinement.from_table(self.spec.refine, changes),
            draw=draw,
            seed=seed,
            batch_size=batch_size,
        )

    @property
    def guidance(self) -> Guidance:
        """The guidance of samples unless another is asked for: that of the spec's [generate]."""
        settings = self.spec.generate
        return Guidance(
            guidance_scale=settings.guidance_scale,
            autoguidance_scale=settings.autoguidance_scale,
            sigma_min=settings.guidance_sigma_min,
            sigma_max=math.inf if settings.guidance_sigma_max is None else settings.guidance_sigma_max,
        )

    @property
    def priors(self) -> dict[PriorName, LatentPrior]:
        """The distributions that a latent can be drawn from: the diffusion prior and its controls."""
        table, own = self.spec.prior, self.autoencoder.method.own_prior()
        found: dict[PriorName, LatentPrior] = {
            "diffusion": DiffusedPrior(self.prior, table.sigma_min, table.sigma_max),
            "mixture": MixturePrior(self.prior),
            "normal": NormalPrior(self.autoencoder),
            "posterior": SubsetPosterior(self.autoencoder),
        }
        return found if own is None else {**found, "own": OwnPrior(own)}

    def _prior(self, name: PriorName, *, given: bool) -> LatentPrior:
        """The prior of a name, if it is trained and suits whether anything is given."""
        check_choice(name, self.priors, given=given, trained=self.stages)
        return self.priors[name]

    def _given(self, given: Mapping[str, Tensor], num_rows: int, num_samples: int) -> Given:
        """Features of the given modalities, for so many draws of each row."""
        h_MNF, subset_NM = self._features(given, num_rows), self._presence(given, num_rows)
        row_K = torch.arange(num_rows, device=self.device).repeat_interleave(num_samples)
        return Given(h_MNF=h_MNF, subset_NM=subset_NM, row_K=row_K)

    def _presence(self, given: Mapping[str, Tensor], num_rows: int) -> Tensor:
        return torch.tensor([name in given for name in self.names], device=self.device).expand(num_rows, -1)

    def _features(self, given: Mapping[str, Tensor], num_rows: int, batch_size: int = 64) -> list[Tensor]:
        """Features [N, F] of every modality; zeros for those not given."""
        h = {name: torch.zeros(num_rows, self.autoencoder.feature_dim, device=self.device) for name in self.names}
        with evaluating(self.autoencoder):
            for rows in torch.arange(num_rows).split(batch_size) if given else ():
                batch = {name: value[rows].to(self.device) for name, value in given.items()}
                for name, feature in self.autoencoder.encode(batch).items():
                    h[name][rows] = feature
        return list(h.values())
