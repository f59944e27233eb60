"""ShaLa: both stages assembled. One model generates all modalities together, or any from any others.

Shapes: N rows, S samples a row, M modalities, F feature_dim, D latent_dim.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.contracts import check_contracts, check_groups
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.plugin.modality import Modality
from shala_framework.prior import DiffusionPrior, GaussianMixture
from shala_framework.prior.priors import (
    DENSITY_STEPS,
    DiffusedPrior,
    Given,
    LatentPrior,
    MixturePrior,
    NormalPrior,
    SamplerName,
    Sampling,
    SubsetPosterior,
)
from shala_framework.spec import LoadedSpec, Spec, unstructure
from shala_framework.spec.fingerprint import run_fingerprint
from shala_framework.support.checkpoint import (
    ForeignFileError,
    digest,
    load_module,
    part,
    prefixed,
    read_checkpoint,
    write_checkpoint,
)
from shala_framework.support.errors import CheckpointError
from shala_framework.support.modes import evaluating
from shala_framework.support.seeds import mix_seed

AUTOENCODER_FILE = "autoencoder.safetensors"
PRIOR_FILE = "prior.safetensors"
PriorName = Literal["diffusion", "mixture", "normal", "posterior"]


class ShaLa:
    """A spec's modalities, its autoencoder (stage 1) and its prior over the shared latent (stage 2).

    Attributes:
        spec: The resolved spec.
        modalities: By name.
        autoencoder: Stage 1.
        prior: Stage 2; its weights are the moving average once it is trained.
        mixture: The Gaussian-mixture control, over standardised latents.
        stages: Stages that are trained: "autoencoder", "prior".
        synthetic: Whether the training data were made by a stand-in.
        fingerprint: Name of the run, which its files have: it depends on all of the spec that training depends on.
    """

    def __init__(self, loaded: LoadedSpec) -> None:
        spec = loaded.spec
        self.spec: Spec = spec
        self.synthetic = loaded.stand_in_used
        self.fingerprint = run_fingerprint({"spec": unstructure(spec), "stand_in_used": loaded.stand_in_used})
        self.stages: set[str] = set()
        self.modalities: dict[str, Modality] = {
            name: loaded.modality_classes[name](loaded.options[name]) for name in spec.modality
        }

    def build(self) -> "ShaLa":
        """Make the networks, once every modality is fitted or has its state; initialised from the spec's seed.

        Raises:
            PluginError: A modality's encoder or decoder does not keep its contract.
        """
        spec = self.spec
        groups = {name: table.group for name, table in spec.modality.items() if table.group}
        check_groups(groups, self.modalities)
        with torch.random.fork_rng():
            torch.manual_seed(mix_seed(spec.seed, 0))
            self.autoencoder = Autoencoder.from_table(self.modalities, spec.posterior, groups)
            self.prior = DiffusionPrior.from_table(
                spec.prior,
                latent_dim=spec.posterior.latent_dim,
                num_modalities=len(self.modalities),
                feature_dim=spec.posterior.feature_dim,
            )
            self.mixture = GaussianMixture(spec.prior.mixture_components, spec.posterior.latent_dim)
            check_contracts(self.autoencoder, self.modalities)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Modalities, in the spec's order."""
        return tuple(self.modalities)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.prior.z_mean.device

    def to(self, device: torch.device | str) -> "ShaLa":
        """Move the networks; returns self."""
        for module in (self.autoencoder, self.prior, self.mixture):
            module.to(device)
        return self

    def parts(self) -> dict[str, nn.Module]:
        """The model's parts by name, for counting and printing."""
        stage1 = self.autoencoder
        return {
            **{f"{name} encoder": stage1.encoders[name] for name in self.names},
            **({"shared encoders": stage1.shared_encoders} if len(stage1.shared_encoders) else {}),
            "posterior": stage1.posterior,
            **{f"{name} decoder": stage1.decoders[name] for name in self.names},
            **({"shared decoders": stage1.shared_decoders} if len(stage1.shared_decoders) else {}),
            "prior": self.prior,
        }

    @torch.no_grad()
    def embed(self, x: Mapping[str, Tensor], *, batch_size: int = 64) -> Tensor:
        """Posterior mean of z given any subset of the modalities.

        Args:
            x: Modality name to tensor [N, ...]; every row has each of them.
            batch_size: Rows at a time.

        Returns:
            float tensor [N, D] on the CPU.

        Raises:
            ValueError: x names no modality of this model, or rows differ in number.
        """
        num_rows = self._check_given(x)
        return SubsetPosterior(self.autoencoder).of_rows(*self._features(x, num_rows, batch_size)).mean_BD.cpu()

    @torch.no_grad()
    def generate(
        self,
        num_samples: int = 1,
        *,
        given: Mapping[str, Tensor] | None = None,
        guidance_scale: float | None = None,
        autoguidance_scale: float | None = None,
        num_steps: int | None = None,
        seed: int = 0,
        prior: PriorName = "diffusion",
        draw: bool = False,
        batch_size: int = 64,
    ) -> dict[str, Tensor]:
        """Sample the shared latent once for each sample and decode every modality from it.

        Args:
            num_samples: Joint samples, or samples for each row of `given`.
            given: Modality name to tensor [N, ...]; None or empty for joint synthesis.
            guidance_scale: w in D_uncond + w (D_cond - D_uncond); None takes the spec's.
            autoguidance_scale: v in D_guide + v (D - D_guide), of joint synthesis too; None takes the spec's.
            num_steps: Sampler steps; None takes the spec's.
            seed: Of the noise that samples start from: the same call gives the same samples, and of more rows or more
                joint samples the first are the same.
            prior: "diffusion"; or a control: "mixture" and "normal" without `given`, and with it "posterior",
                which samples q(z | x_given) of stage 1.
            draw: Whether to draw from each likelihood; otherwise its mode is returned.
            batch_size: Latents decoded at a time.

        Returns:
            Every modality, those given included, in the dtype and range of its plugin, on the CPU:
            [num_samples, ...], or [N, num_samples, ...] with `given`.

        Raises:
            ValueError: Arguments do not fit the model or each other.
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
        x = self.decode(z_ND, draw=draw, seed=seed, batch_size=batch_size)
        if given:
            x = {name: value.unflatten(0, (-1, num_samples)) for name, value in x.items()}
        return x

    @torch.no_grad()
    def sample_latents(
        self,
        num_samples: int,
        *,
        given: Mapping[str, Tensor] | None = None,
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
        if num_samples < 1:
            raise ValueError(f"expected num_samples >= 1, got {num_samples}")
        num_rows = self._check_given(given) if given else 1
        source, settings = self._prior(prior, given), self.spec.generate
        sampling = Sampling(
            guidance_scale=settings.guidance_scale if guidance_scale is None else guidance_scale,
            autoguidance_scale=settings.autoguidance_scale if autoguidance_scale is None else autoguidance_scale,
            guidance_sigma_min=settings.guidance_sigma_min,
            guidance_sigma_max=settings.guidance_sigma_max,
            num_steps=num_steps or settings.num_steps,
            sampler=sampler or settings.sampler,
        )
        return source.sample(seed, self._given(given or {}, num_rows, num_samples), sampling)

    @torch.no_grad()
    def latent_log_prob(
        self,
        z_NSD: Tensor,
        *,
        given: Mapping[str, Tensor] | None = None,
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
        num_rows = len(z_NSD)
        if given and self._check_given(given) != num_rows:
            raise ValueError(f"expected latents of {self._check_given(given)} given rows, got {num_rows}")
        known = self._given(given or {}, num_rows, z_NSD.shape[1])
        z_KD = z_NSD.flatten(0, 1).to(self.device)
        return self._prior(prior, given).log_prob(z_KD, known, num_steps).cpu().view(num_rows, -1)

    @torch.no_grad()
    def decode(self, z_ND: Tensor, *, draw: bool = False, seed: int = 0, batch_size: int = 64) -> dict[str, Tensor]:
        """Every modality of some latents [N, D], on the CPU; the likelihood's mode, or a draw."""
        generator = torch.Generator(self.device).manual_seed(mix_seed(seed, 2))
        parts: dict[str, list[Tensor]] = {name: [] for name in self.names}
        with evaluating(self.autoencoder):
            for z in z_ND.split(batch_size):
                for name, likelihood in self.autoencoder.decode(z.to(self.device)).items():
                    parts[name].append((likelihood.sample(generator) if draw else likelihood.mode()).cpu())
        return {name: torch.cat(values) for name, values in parts.items()}

    @property
    def priors(self) -> dict[PriorName, LatentPrior]:
        """The distributions that a latent can be drawn from: the diffusion prior and its controls."""
        table = self.spec.prior
        return {
            "diffusion": DiffusedPrior(self.prior, table.sigma_min, table.sigma_max),
            "mixture": MixturePrior(self.mixture, self.prior),
            "normal": NormalPrior(self.autoencoder),
            "posterior": SubsetPosterior(self.autoencoder),
        }

    def _prior(self, name: PriorName, given: Mapping[str, Tensor] | None) -> LatentPrior:
        """The prior of a name, if it is trained and suits what is given."""
        found = self.priors[name]
        if found.stage not in self.stages:
            raise CheckpointError(
                f"expected a trained {found.stage} for prior={name!r}; this model has {sorted(self.stages)}"
            )
        if found.given is not None and found.given != bool(given):
            choice = [repr(other) for other, prior in self.priors.items() if prior.given in (None, bool(given))]
            how = "with" if given else "without"
            raise ValueError(f"expected prior {' or '.join(choice)} {how} given modalities, got {name!r}")
        return found

    def _given(self, given: Mapping[str, Tensor], num_rows: int, num_samples: int) -> Given:
        """Features of the given modalities, for so many draws of each row."""
        h_MNF, subset_NM = self._features(given, num_rows)
        row_K = torch.arange(num_rows, device=self.device).repeat_interleave(num_samples)
        return Given(h_MNF=h_MNF, subset_NM=subset_NM, row_K=row_K)

    def _check_given(self, given: Mapping[str, Tensor]) -> int:
        unknown = sorted(set(given) - set(self.names))
        if unknown or not given:
            raise ValueError(f"expected modalities among {list(self.names)}, got {unknown or 'none'}")
        sizes = {name: len(value) for name, value in given.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"expected the same number of rows of each given modality, got {sizes}")
        for name, value in given.items():
            if tuple(value.shape[1:]) != tuple(self.modalities[name].shape):
                shape = ("N", *self.modalities[name].shape)
                raise ValueError(f"expected {name!r} of shape {shape}, got {tuple(value.shape)}")
            if value.dtype != self.modalities[name].dtype:
                raise ValueError(f"expected {name!r} of {self.modalities[name].dtype}, got {value.dtype}")
        return next(iter(sizes.values()))

    def _presence(self, given: Mapping[str, Tensor], num_rows: int) -> Tensor:
        return torch.tensor([name in given for name in self.names], device=self.device).expand(num_rows, -1)

    def _features(
        self, given: Mapping[str, Tensor], num_rows: int, batch_size: int = 64
    ) -> tuple[list[Tensor], Tensor]:
        """Features of every modality, zeros for those not given, and which are given."""
        h = {name: torch.zeros(num_rows, self.autoencoder.feature_dim, device=self.device) for name in self.names}
        with evaluating(self.autoencoder):
            for rows in torch.arange(num_rows).split(batch_size) if given else ():
                batch = {name: value[rows].to(self.device) for name, value in given.items()}
                for name, feature in self.autoencoder.encode(batch).items():
                    h[name][rows] = feature
        return [h[name] for name in self.names], self._presence(given, num_rows)

    def description(self) -> dict[str, Any]:
        """What a checkpoint says of itself: the resolved spec and what `fit` learned."""
        return {
            "format": 2,
            "fingerprint": self.fingerprint,
            "spec": unstructure(self.spec),
            "synthetic": self.synthetic,
            "modality_states": {name: modality.state() for name, modality in self.modalities.items()},
        }

    def autoencoder_digest(self) -> str:
        """A name of stage 1's weights, which what is made of them has in its files."""
        return digest(self.autoencoder.state_dict())

    def save(self, folder: str | Path) -> None:
        """Write the trained stages to `autoencoder.safetensors` and `prior.safetensors` in a folder."""
        folder = Path(folder)
        stage_1 = {"autoencoder_digest": self.autoencoder_digest()}
        if "autoencoder" in self.stages:
            tensors = self.autoencoder.state_dict()
            write_checkpoint(folder / AUTOENCODER_FILE, tensors, self.description() | stage_1)
        if "prior" in self.stages:
            tensors = prefixed(self.prior.state_dict(), "prior") | prefixed(self.mixture.state_dict(), "mixture")
            write_checkpoint(folder / PRIOR_FILE, tensors, self.description() | stage_1)

    def load_stages(self, folder: Path) -> "ShaLa":
        """Take the weights of the stages that a folder holds; returns self.

        Raises:
            CheckpointError: A file is damaged, belongs to another run, or to another stage 1 than the folder's.
        """
        for stage, load in (("autoencoder", self.load_autoencoder), ("prior", self.load_prior)):
            if (folder / f"{stage}.safetensors").exists():
                load(folder)
        return self

    def load_autoencoder(self, folder: Path) -> None:
        """Take the weights of stage 1."""
        path = folder / AUTOENCODER_FILE
        tensors, _ = read_checkpoint(path, self.fingerprint)
        load_module(self.autoencoder, tensors, path)
        self.stages.add("autoencoder")

    def load_prior(self, folder: Path) -> None:
        """Take the weights of stage 2, which was trained on this very stage 1."""
        path = folder / PRIOR_FILE
        tensors, description = read_checkpoint(path, self.fingerprint)
        if description.get("autoencoder_digest") != self.autoencoder_digest():
            raise ForeignFileError(
                f"{path} was trained on another stage 1 than {AUTOENCODER_FILE} beside it; put the file back that "
                "belongs to it, or remove this one and repeat the run's command, which trains stage 2 again"
            )
        load_module(self.prior, part(tensors, "prior"), path)
        load_module(self.mixture, part(tensors, "mixture"), path)
        self.stages.add("prior")
