"""Stage 1 of ShaLa: encoders, posterior and decoders, trained by the evidence lower bound.

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
"""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import attrs
import torch
from torch import Tensor, nn

from shala_framework.autoencoder.contrast import Contrast
from shala_framework.autoencoder.posterior import FUSIONS, GaussianPosterior, random_subsets
from shala_framework.autoencoder.shared_networks import SharedDecoder, SharedEncoder, call_frozen
from shala_framework.autoencoder.texture import MapRecorder, map_statistics, texture_distance
from shala_framework.distributed.processes import rows_rand
from shala_framework.plugin.modality import Likelihood, Modality, Relaxed
from shala_framework.spec.schema import Posterior


@attrs.frozen(eq=False)
class Bound:
    """The terms of the ELBO of each row, in nats.

    Attributes:
        log_prob: Modality name to log p(x_i | z) [B], 0 in rows that lack it.
        kl_B: KL(q(z|x) || N(0, I)).
        subset_kl_B: KL(q(z|x) || q(z|x_S)) for a random subset S of what is present, with a gradient in the network of
            q(z|x_S) alone.
        contrast: InfoNCE between the modalities' features, nats; a scalar, 0 where it is not asked for.
        recognition: InfoNCE between features of what is decoded and of the other modalities, likewise.
        texture: Distance between statistics of what is decoded and of the data in the encoders' maps, likewise.
    """

    log_prob: dict[str, Tensor]
    kl_B: Tensor
    subset_kl_B: Tensor
    contrast: Tensor
    recognition: Tensor
    texture: Tensor

    def elbo(self, kl_weight: float | Tensor = 1.0, likelihood_weights: Mapping[str, float] | None = None) -> Tensor:
        """Weighted sum of the log-likelihoods of the present modalities less the weighted KL: [B].

        Without arguments it is the evidence lower bound.
        """
        weights = likelihood_weights or {}
        terms = [weights.get(name, 1.0) * value for name, value in self.log_prob.items()]
        return torch.stack(terms).sum(0) - kl_weight * self.kl_B


class Autoencoder(nn.Module):
    """p(x_1..x_M | z) = prod_i p(x_i | z) with q(z | x_present).

    Attributes:
        names: Modalities, in the order of every presence matrix's columns.
        num_values: Numbers in one x of each modality.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        *,
        latent_dim: int,
        feature_dim: int,
        hidden_dim: int,
        fusion: str = "concatenation",
        modality_dropout: float = 0.0,
        contrastive: bool = False,
        recognised: bool = False,
        textured: bool = False,
        auxiliary_share: float = 1.0,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.names = tuple(modalities)
        self.latent_dim, self.feature_dim = latent_dim, feature_dim
        self.num_values = {name: torch.Size(modality.shape).numel() for name, modality in modalities.items()}
        self.shared_encoders, self.shared_decoders = nn.ModuleDict(), nn.ModuleDict()
        numbers = {group: f"group_{number}" for number, group in enumerate(dict.fromkeys((groups or {}).values()))}
        self.groups = {name: numbers[group] for name, group in (groups or {}).items()}
        self.encoders = nn.ModuleDict({name: self._encoder(name, m) for name, m in modalities.items()})
        self.posterior, self.subset_posterior = (
            FUSIONS[fusion](len(modalities), feature_dim, hidden_dim, latent_dim) for _ in range(2)
        )
        self.decoders = nn.ModuleDict({name: self._decoder(name, m) for name, m in modalities.items()})
        self.contrast = Contrast(len(modalities), feature_dim) if contrastive and len(modalities) > 1 else None
        self.recognised = recognised and self.contrast is not None
        self.auxiliary_share = auxiliary_share
        self.recorders = self._recorders() if textured else {}
        self.modality_dropout = modality_dropout

    @classmethod
    def from_table(
        cls, modalities: Mapping[str, Modality], table: Posterior, groups: Mapping[str, str] | None = None
    ) -> "Autoencoder":
        """The one that a spec's [posterior] describes; `groups` names the group of each modality that shares."""
        return cls(
            modalities,
            latent_dim=table.latent_dim,
            feature_dim=table.feature_dim,
            hidden_dim=table.hidden_dim,
            fusion=table.fusion,
            modality_dropout=table.modality_dropout,
            contrastive=table.contrast_weight > 0,
            recognised=table.recognition_weight > 0,
            textured=table.texture_weight > 0,
            auxiliary_share=table.auxiliary_share,
            groups=groups,
        )

    def _encoder(self, name: str, modality: Modality) -> nn.Module:
        group = self.groups.get(name)
        if group is None:
            return modality.encoder(self.feature_dim)
        if group not in self.shared_encoders:
            self.shared_encoders[group] = modality.encoder(self.feature_dim)
        return SharedEncoder(self.shared_encoders[group], self.feature_dim)

    def _decoder(self, name: str, modality: Modality) -> nn.Module:
        group = self.groups.get(name)
        if group is None:
            return modality.decoder(self.latent_dim)
        if group not in self.shared_decoders:
            self.shared_decoders[group] = modality.decoder(self.latent_dim)
        return SharedDecoder(self.shared_decoders[group], self.latent_dim)

    def _recorders(self) -> dict[str, MapRecorder]:
        """By modality; those of a group have one."""
        of_groups = {group: MapRecorder(encoder) for group, encoder in self.shared_encoders.items()}
        return {
            name: of_groups[self.groups[name]] if name in self.groups else MapRecorder(encoder)
            for name, encoder in self.encoders.items()
        }

    @property
    def textured(self) -> bool:
        """Whether what is decoded is compared with the data by statistics of maps."""
        return bool(self.recorders)

    @property
    def networks(self) -> list[nn.Module]:
        """Encoders and decoders; of a group, those that it shares."""
        return [
            module
            for own, shared in ((self.encoders, self.shared_encoders), (self.decoders, self.shared_decoders))
            for module in (*(m for name, m in own.items() if name not in self.groups), *shared.values())
        ]

    def _recorded(self, name: str) -> AbstractContextManager[list[Tensor]]:
        recorder = self.recorders.get(name)
        return nullcontext([]) if recorder is None else recorder.recording()

    def encode(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features h_i = I(x_i) of the modalities in x: name to float [B, F]."""
        return {name: self.encoders[name](x[name]).float() for name in self.names if name in x}

    def fuse(self, h: Mapping[str, Tensor], presence_BM: Tensor) -> GaussianPosterior:
        """q(z | x) of rows as the data have them: of all that is in h and present."""
        posterior: GaussianPosterior = self.posterior(*self._aligned(h, presence_BM))
        return posterior

    def fuse_subset(self, h: Mapping[str, Tensor], subset_BM: Tensor) -> GaussianPosterior:
        """q(z | x_S) of a subset of what rows would have, learned from `fuse` by distillation."""
        posterior: GaussianPosterior = self.subset_posterior(*self._aligned(h, subset_BM))
        return posterior

    def _aligned(self, h: Mapping[str, Tensor], presence_BM: Tensor) -> tuple[list[Tensor], Tensor]:
        """A feature of every modality, zeros for those not in h, and which are there."""
        some = next(iter(h.values()))
        absent = some.new_zeros(len(presence_BM), self.feature_dim)
        known_BM = presence_BM.bool()
        if len(h) < len(self.names):
            known_BM = known_BM.clone()
            for i, name in enumerate(self.names):
                if name not in h:
                    known_BM[:, i] = False
        return [h.get(name, absent) for name in self.names], known_BM

    def decode(self, z_BD: Tensor) -> dict[str, Likelihood]:
        """p(x_i | z) of every modality."""
        return {name: self.decoders[name](z_BD) for name in self.names}

    def bound(self, x: Mapping[str, Tensor], presence_BM: Tensor) -> Bound:
        """One-sample estimate of the ELBO's terms, and how far the posterior of a random subset is from it.

        Args:
            x: Every modality's tensor [B, ...]; rows that lack it may hold anything finite.
            presence_BM: bool [B, M].
        """
        h, real_maps = self._encode_rows(x)
        seen_BM = presence_BM
        if self.training and self.modality_dropout:
            kept_B1 = rows_rand(len(presence_BM), 1, device=presence_BM.device) >= self.modality_dropout
            seen_BM = torch.where(kept_B1, presence_BM, random_subsets(presence_BM))
        posterior = self.fuse(h, seen_BM)
        subset = self.fuse_subset({name: value.detach() for name, value in h.items()}, random_subsets(presence_BM))
        log_prob, decoded, textures = {}, {}, []
        num_checked = math.ceil(self.auxiliary_share * len(presence_BM))
        for i, (name, likelihood) in enumerate(self.decode(posterior.sample()).items()):
            # A product with zero, not a selection of rows: every rank touches every modality's parameters.
            log_prob[name] = likelihood.log_prob(x[name]) * presence_BM[:, i]
            if isinstance(likelihood, Relaxed) and (self.recognised or name in real_maps):
                with self._recorded(name) as maps:
                    decoded[i] = call_frozen(self.encoders[name], likelihood.relaxed()[:num_checked]).float()
                if name in real_maps:
                    real = [statistics[:num_checked] for statistics in real_maps[name]]
                    textures.append(
                        texture_distance(
                            map_statistics(maps, num_checked),
                            real,
                            presence_BM[:num_checked, i],
                            gathered=self.training,  # a validation is one process's alone
                        )
                    )
        kl_B = posterior.kl_BD().sum(1)
        contrast = recognition = kl_B.new_zeros(())
        if self.contrast is not None:
            contrast = self.contrast(list(h.values()), presence_BM)
            if decoded and self.recognised:
                recognition = self.contrast.recognition(decoded, list(h.values()), presence_BM)
        texture = torch.stack(textures).mean() if textures else kl_B.new_zeros(())
        return Bound(log_prob, kl_B, posterior.detach().kl_to(subset), contrast, recognition, texture)

    def _encode_rows(self, x: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Features of every modality, and statistics of the maps of those that have convolutions, if they are asked."""
        h: dict[str, Tensor] = {}
        statistics: dict[str, list[Tensor]] = {}
        for name in self.names:
            with self._recorded(name) as maps:
                h |= self.encode({name: x[name]})
            if maps:
                with torch.no_grad():
                    statistics[name] = map_statistics(maps, len(x[name]))
        return h, statistics
