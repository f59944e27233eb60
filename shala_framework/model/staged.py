"""A model as its stages: its spec, its networks, and the files that hold them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from shala_framework.autoencoder.contracts import check_contracts, check_groups
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.model.checkpoints import STAGES, read_stage, write_stages
from shala_framework.model.denoisers import make_prior
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.plugin.posterior import PosteriorMethod
from shala_framework.refiner import Refiner, check_refiner
from shala_framework.spec import Spec, unstructure
from shala_framework.spec.fingerprint import run_fingerprint
from shala_framework.support.checkpoint import digest, load_module
from shala_framework.support.distributed.sharded_layers import has_sharded_layers
from shala_framework.support.seeds import forked_rng, mix_seed


class Staged:
    """Modalities and the networks of every stage.

    Attributes:
        spec: The resolved spec: sizes, and what the model was trained on and with.
        modalities: Modalities by name.
        autoencoder: Stage 1.
        prior: Stage 2; its weights are the moving average once it is trained.
        refiner: Stage 3, of the modalities that offer a network; its weights are the moving average too.
        stages: Stages that are trained: "autoencoder", "prior", "refiner".
        synthetic: Whether the training data were made by a stand-in.
        fingerprint: Name of the run, which its files contain; it depends on every part of the spec that training
            depends on.
    """

    def _begin(
        self,
        modalities: Mapping[str, Modality],
        spec: Spec,
        *,
        synthetic: bool,
        method: type[PosteriorMethod] | None = None,
    ) -> None:
        self.modalities: dict[str, Modality] = dict(modalities)
        self._method = method
        self.synthetic = synthetic
        self.stages: set[str] = set()
        self.describe(spec)

    def describe(self, spec: Spec) -> None:
        """Set the spec of a run, from which the fingerprint follows; sizes and modalities stay those of the model."""
        self.spec: Spec = spec
        self.fingerprint = run_fingerprint({"spec": unstructure(spec), "stand_in_used": self.synthetic})

    @property
    def is_built(self) -> bool:
        """Whether the networks are made."""
        return "autoencoder" in self.__dict__

    def build(self) -> Self:
        """Make the networks, initialised from the spec's seed. Every modality must be fitted or have its state.

        Raises:
            PluginError: A modality's encoder or decoder, or the method, does not keep its contract.
        """
        spec = self.spec
        groups = {name: table.group for name, table in spec.modality.items() if table.group}
        check_groups(groups, self.modalities)
        with forked_rng():
            torch.manual_seed(mix_seed(spec.seed, 0))
            self.autoencoder = Autoencoder(self.modalities, spec.posterior, groups, self._method)
            self.prior = make_prior(
                self.autoencoder.method,
                spec.prior,
                latent_dim=spec.posterior.latent_dim,
                num_modalities=len(self.modalities),
                feature_dim=spec.posterior.feature_dim,
            )
            check_contracts(self.autoencoder, self.modalities)
            # Made last, so that the other stages start from the same weights with and without it.
            self.refiner = Refiner(self.modalities, latent_dim=spec.posterior.latent_dim, share=spec.refine.share)
            check_refiner(self.refiner, self.autoencoder.decoders, self.modalities)
        return self

    def __getattr__(self, name: str) -> Any:
        if name in ("autoencoder", "prior", "refiner"):
            waiting = [other for other, modality in self.modalities.items() if needs_fit(modality)]
            raise RuntimeError(
                f"this model has no networks yet, as {waiting} learn from training samples first; train it on shards, "
                "or fit these modalities and call build()"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the modalities, in the spec's order."""
        return tuple(self.modalities)

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self.prior.z_mean.device

    def to(self, device: torch.device | str) -> Self:
        """Move the networks, and return self."""
        for module in (self.autoencoder, self.prior, self.refiner):
            module.to(device)
        return self

    @property
    def planned_stages(self) -> tuple[str, ...]:
        """Stages that a run of the spec trains; the refiner is left out without networks and with steps = 0."""
        refined = bool(self.refiner.names) and self.spec.train.refiner.steps > 0
        return STAGES if refined else tuple(stage for stage in STAGES if stage != "refiner")

    @property
    def refined_names(self) -> tuple[str, ...]:
        """Modalities whose samples are refined: those that offer a network, once stage 3 is trained."""
        return self.refiner.names if "refiner" in self.stages else ()

    def description(self) -> dict[str, Any]:
        """Return the metadata of a checkpoint: the resolved spec and what `fit` learned."""
        return {
            "format": 2,
            "fingerprint": self.fingerprint,
            "spec": unstructure(self.spec),
            "synthetic": self.synthetic,
            "modality_states": {name: modality.state() for name, modality in self.modalities.items()},
        }

    @contextmanager
    def kept_on_error(self) -> Iterator[None]:
        """Give a trained model its spec, stages and weights back if the block fails or is interrupted.

        A model without a trained stage keeps what the block did to it, so that a finished stage is not lost. Weights
        that the block has sharded over processes stay as they are, and count as not trained.
        """
        if not self.stages:
            yield
            return
        spec, synthetic, stages = self.spec, self.synthetic, set(self.stages)
        networks = {"autoencoder": self.autoencoder, "prior": self.prior, "refiner": self.refiner}
        before = {
            name: {key: value.detach().to("cpu", copy=True) for key, value in network.state_dict().items()}
            for name, network in networks.items()
        }
        try:
            yield
        except BaseException:
            self.synthetic = synthetic
            self.describe(spec)
            if not any(map(has_sharded_layers, networks.values())):
                for name, network in networks.items():
                    load_module(network, before[name], Path(name))
                self.stages = stages
            raise

    def autoencoder_digest(self) -> str:
        """Return a digest of stage 1's weights, which identifies files that depend on them."""
        return digest(self.autoencoder.state_dict())

    def save(self, folder: str | Path) -> None:
        """Write each trained stage to a file in a folder: `autoencoder.safetensors` and so on."""
        described = self.description() | {"autoencoder_digest": self.autoencoder_digest()}
        write_stages(Path(folder), {stage: self._networks(stage) for stage in self.stages}, described)

    def load_stage(self, folder: Path, stage: str) -> None:
        """Load the weights of a stage from a folder; later stages must have been trained on this stage 1.

        Raises:
            CheckpointError: The file is damaged, or belongs to another run or another stage 1.
        """
        made_with = self.autoencoder_digest() if stage != "autoencoder" else None
        read_stage(folder, stage, self._networks(stage), self.fingerprint, made_with)
        self.stages.add(stage)

    def _networks(self, stage: str) -> dict[str, nn.Module]:
        """Return the networks in the checkpoint of a stage, by the first part of their tensors' names."""
        if stage == "autoencoder":
            return {"": self.autoencoder}
        if stage == "refiner":
            return {"": self.refiner}
        return {"prior": self.prior}
