"""Stage 1 of ShaLa: encoders, posterior and decoders, trained by the evidence lower bound.

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.maps import MapRecorder, map_statistics
from shala_framework.autoencoder.posterior import FUSIONS, GaussianPosterior, random_subsets
from shala_framework.autoencoder.shared_networks import SharedDecoder, SharedEncoder, call_frozen
from shala_framework.autoencoder.stage_pass import Bound, Pass, Reencoded, share_of_rows
from shala_framework.autoencoder.terms import Sizes, Term, make_terms
from shala_framework.distributed.processes import rows_rand
from shala_framework.plugin.modality import Likelihood, Modality, Relaxed
from shala_framework.spec.schema import Posterior
from shala_framework.support.modes import evaluating


class Autoencoder(nn.Module):
    """p(x_1..x_M | z) = prod_i p(x_i | z) with q(z | x_present).

    Attributes:
        names: Modalities, in the order of every presence matrix's columns.
        num_values: Numbers in one x of each modality.
    """

    def __init__(
        self, modalities: Mapping[str, Modality], table: Posterior, groups: Mapping[str, str] | None = None
    ) -> None:
        """Make the networks.

        Args:
            modalities: By name.
            table: Sizes, fusion and weights of the added terms.
            groups: Group of each modality that shares its encoder and decoder with the others of the group.
        """
        super().__init__()
        self.names = tuple(modalities)
        self.latent_dim, self.feature_dim = table.latent_dim, table.feature_dim
        self.num_values = {name: torch.Size(modality.shape).numel() for name, modality in modalities.items()}
        self.shared_encoders, self.shared_decoders = nn.ModuleDict(), nn.ModuleDict()
        numbers = {group: f"group_{number}" for number, group in enumerate(dict.fromkeys((groups or {}).values()))}
        self.groups = {name: numbers[group] for name, group in (groups or {}).items()}
        self.encoders = nn.ModuleDict({name: self._encoder(name, m) for name, m in modalities.items()})
        self.posterior, self.subset_posterior = (
            FUSIONS[table.fusion](len(modalities), table.feature_dim, table.hidden_dim, table.latent_dim)
            for _ in range(2)
        )
        self.decoders = nn.ModuleDict({name: self._decoder(name, m) for name, m in modalities.items()})
        sizes = Sizes(num_modalities=len(modalities), feature_dim=table.feature_dim, latent_dim=table.latent_dim)
        self.terms = make_terms(table, sizes)
        self.reencoded_share, self.modality_dropout = table.auxiliary_share, table.modality_dropout
        self.recorders = self._recorders() if any(term.needs_maps for term in self.added_terms.values()) else {}

    @property
    def added_terms(self) -> dict[str, Term]:
        """The terms that stage 1 adds to the ELBO, by name."""
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}

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

    @torch.no_grad()
    def decoded_log_prob(
        self, x: Mapping[str, Tensor], name: str, z_KD: Tensor, rows_K: Tensor, *, batch_size: int = 64
    ) -> Tensor:
        """Log p(x_name | z) of rows of x under latents, in evaluation mode and in nats: [K] on the CPU.

        Args:
            x: Modality name to tensor [N, ...].
            name: Modality that is scored.
            z_KD: Latents.
            rows_K: int64, the row of x that each latent is scored on.
            batch_size: Latents decoded at a time.
        """
        device = next(self.parameters()).device
        found = []
        with evaluating(self):
            for part in torch.arange(len(rows_K)).split(batch_size):
                likelihood = self.decoders[name](z_KD[part].to(device))
                found.append(likelihood.log_prob(x[name][rows_K[part]].to(device)).cpu())
        return torch.cat(found)

    def bound(self, x: Mapping[str, Tensor], presence_BM: Tensor) -> Bound:
        """One-sample estimate of the ELBO's terms, and the values of the terms added to it.

        Args:
            x: Every modality's tensor [B, ...]; rows that lack it may hold anything finite.
            presence_BM: bool [B, M].
        """
        batch = self._pass(x, presence_BM)
        log_prob, kl_B = batch.log_prob(), batch.posterior.kl_BD().sum(1)
        values = {name: term(batch) for name, term in self.added_terms.items()}
        return Bound(log_prob, kl_B, {name: value for name, value in values.items() if value is not None})

    def _pass(self, x: Mapping[str, Tensor], presence_BM: Tensor) -> Pass:
        h, statistics = self._encode_rows(x)
        seen_BM = presence_BM
        if self.training and self.modality_dropout:
            kept_B1 = rows_rand(len(presence_BM), 1, device=presence_BM.device) >= self.modality_dropout
            seen_BM = torch.where(kept_B1, presence_BM, random_subsets(presence_BM))
        posterior = self.fuse(h, seen_BM)
        subset = self.fuse_subset({name: value.detach() for name, value in h.items()}, random_subsets(presence_BM))
        return Pass(
            x=x,
            presence_BM=presence_BM,
            h=h,
            statistics=statistics,
            posterior=posterior,
            subset_posterior=subset,
            likelihoods=self.decode(posterior.sample()),
            num_reencoded=share_of_rows(self.reencoded_share, len(presence_BM)),
            training=self.training,
            encode=self._reencode,
        )

    def _reencode(self, name: str, likelihood: Likelihood, num_rows: int) -> Reencoded | None:
        if not isinstance(likelihood, Relaxed):
            return None
        with self._recorded(name) as maps:
            h_QF = call_frozen(self.encoders[name], likelihood.relaxed()[:num_rows]).float()
        return Reencoded(h_QF, map_statistics(maps, num_rows))

    def _encode_rows(self, x: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Features of every modality, and statistics of the maps of those whose encoders have recorders."""
        h: dict[str, Tensor] = {}
        statistics: dict[str, list[Tensor]] = {}
        for name in self.names:
            with self._recorded(name) as maps:
                h |= self.encode({name: x[name]})
            if maps:
                with torch.no_grad():
                    statistics[name] = map_statistics(maps, len(x[name]))
        return h, statistics
