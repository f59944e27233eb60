"""Stage 1 of ShaLa: encoders, posterior and decoders, trained by a method of inference.

Shapes: B batch, M modalities, F feature_dim, D latent_dim.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.maps import MapRecorder, map_statistics
from shala_framework.autoencoder.methods import check_objective, method_of
from shala_framework.autoencoder.posterior import random_subsets
from shala_framework.autoencoder.recomputing import Result, recomputed
from shala_framework.autoencoder.shared_networks import SharedDecoder, SharedEncoder, call_frozen
from shala_framework.autoencoder.slices import DecoderOfSlice, check_dimensions
from shala_framework.autoencoder.stage_pass import Bound, Pass, Reencoded, share_of_rows
from shala_framework.autoencoder.terms import Term, make_terms
from shala_framework.plugin.modality import Divisible, Likelihood, Modality, Relaxed
from shala_framework.plugin.posterior import (
    AnyPosterior,
    EncodedRows,
    GaussianPosterior,
    MethodSizes,
    PosteriorMethod,
    standard_normal_log_prob,
)
from shala_framework.spec.schema import Posterior
from shala_framework.support.distributed.processes import rows_rand, rows_randn
from shala_framework.support.errors import PluginError
from shala_framework.support.modes import evaluating


class Autoencoder(nn.Module):
    """p(x_1..x_M | z) = prod_i p(x_i | z) with q(z | x_present).

    Attributes:
        names: Modalities, in the order of every presence matrix's columns.
        modalities: Modalities by name.
        recomputes: Whether the backward pass of a training step computes encoders and decoders again instead of keeping
            their activations.
    """

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        table: Posterior,
        groups: Mapping[str, str] | None = None,
        method: type[PosteriorMethod] | None = None,
    ) -> None:
        """Make the networks.

        Args:
            modalities: Modalities by name.
            table: Sizes, the method of inference and weights of the added terms.
            groups: Group of each modality that shares its encoder and decoder with the others of the group.
            method: Class of the method; None takes the table's from the installed plugins.
        """
        super().__init__()
        self.names, self.modalities = tuple(modalities), dict(modalities)
        self.latent_dim, self.feature_dim = table.latent_dim, table.feature_dim
        self.shared_encoders, self.shared_decoders = nn.ModuleDict(), nn.ModuleDict()
        self._shared_dims: dict[str, int] = {}
        numbers = {group: f"group_{number}" for number, group in enumerate(dict.fromkeys((groups or {}).values()))}
        self.groups = {name: numbers[group] for name, group in (groups or {}).items()}
        self.encoders = nn.ModuleDict({name: self._encoder(name, m) for name, m in modalities.items()})
        sizes = MethodSizes(
            num_modalities=len(modalities),
            feature_dim=table.feature_dim,
            hidden_dim=table.hidden_dim,
            latent_dim=table.latent_dim,
        )
        self.method = method_of(table, sizes, method)
        self.decoders = nn.ModuleDict({name: self._decoder(name, m) for name, m in modalities.items()})
        self.terms = make_terms(table, sizes)
        self.recomputes = False
        self.reencoded_share = table.auxiliary_share
        self.recorders = self._recorders() if any(term.needs_maps for term in self.added_terms.values()) else {}

    @property
    def added_terms(self) -> dict[str, Term]:
        """Return the terms that stage 1 adds to the method's objective, by name."""
        return {name: term for name, term in self.terms.items() if isinstance(term, Term)}

    def _encoder(self, name: str, modality: Modality) -> nn.Module:
        group = self.groups.get(name)
        if group is None:
            return modality.encoder(self.feature_dim)
        if group not in self.shared_encoders:
            self.shared_encoders[group] = modality.encoder(self.feature_dim)
        return SharedEncoder(self.shared_encoders[group], self.feature_dim)

    def _decoder(self, name: str, modality: Modality) -> nn.Module:
        dimensions = self.method.decoder_dimensions(self.names.index(name))
        if dimensions is None:
            return self._whole_decoder(name, modality, self.latent_dim)
        check_dimensions(dimensions, self.latent_dim, type(self.method).__name__)
        return DecoderOfSlice(self._whole_decoder(name, modality, len(dimensions)), dimensions)

    def _whole_decoder(self, name: str, modality: Modality, latent_dim: int) -> nn.Module:
        """The decoder of a modality for latents of so many dimensions, or its part of the group's."""
        group = self.groups.get(name)
        if group is None:
            return modality.decoder(latent_dim)
        if group not in self.shared_decoders:
            self.shared_decoders[group] = modality.decoder(latent_dim)
            self._shared_dims[group] = latent_dim
        if self._shared_dims[group] != latent_dim:
            raise PluginError(
                f"{type(self.method).__name__}.decoder_dimensions shows {latent_dim} dimensions to modality {name!r} "
                f"and {self._shared_dims[group]} to another of its group; expected as many for all that share a decoder"
            )
        return SharedDecoder(self.shared_decoders[group], latent_dim)

    def _recorders(self) -> dict[str, MapRecorder]:
        """Encoders by modality; members of a group have one."""
        of_groups = {group: MapRecorder(encoder) for group, encoder in self.shared_encoders.items()}
        return {
            name: of_groups[self.groups[name]] if name in self.groups else MapRecorder(encoder)
            for name, encoder in self.encoders.items()
        }

    @property
    def networks(self) -> list[nn.Module]:
        """Return encoders and decoders, shared ones once."""
        return [
            module
            for own, shared in ((self.encoders, self.shared_encoders), (self.decoders, self.shared_decoders))
            for module in (*(m for name, m in own.items() if name not in self.groups), *shared.values())
        ]

    def _recorded(self, name: str) -> AbstractContextManager[list[Tensor]]:
        recorder = self.recorders.get(name)
        return nullcontext([]) if recorder is None else recorder.recording()

    @property
    def hiding(self) -> dict[int, str]:
        """Return the modalities that hide parts of x from their encoders in training, by their columns of presence."""
        return {i: name for i, name in enumerate(self.names) if self.modalities[name].hidden_share > 0}

    def _seen(self, name: str, x: Tensor) -> Tensor:
        """Return x with the parts hidden that a training step hides from the encoder."""
        share = self.modalities[name].hidden_share
        if not self.training or not share:
            return x
        uniform = rows_rand(*x.shape, device=x.device)
        return self.modalities[name].hide(x, torch.full_like(uniform.flatten(1)[:, 0], share), uniform)

    def encode(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return features h_i = I(x_i) of the modalities in x: name to float [B, F]."""
        return {name: self._part(self.encoders[name], x[name]).float() for name in self.names if name in x}

    def _part(self, compute: Callable[..., Result], *inputs: Tensor | Likelihood) -> Result:
        """Compute a part of a step whose activations may be computed again instead of kept."""
        return recomputed(compute, *inputs) if self.recomputes and self.training else compute(*inputs)

    def fuse(self, h: Mapping[str, Tensor], presence_BM: Tensor) -> AnyPosterior:
        """Return q(z | x) of rows as they are in the data, from all features in h that are present."""
        return self.method.fuse(*self._aligned(h, presence_BM))

    def fuse_subset(self, h: Mapping[str, Tensor], subset_BM: Tensor) -> AnyPosterior:
        """Return q(z | x_S) of a subset of the modalities that rows have."""
        return self.method.fuse_subset(*self._aligned(h, subset_BM))

    def _aligned(self, h: Mapping[str, Tensor], presence_BM: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return a feature of every modality, zeros for those not in h, and their presence."""
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
        """Return p(x_i | z) of every modality."""
        return {name: self._part(self.decoders[name], z_BD) for name in self.names}

    @torch.no_grad()
    def decoded_log_prob(
        self, x: Mapping[str, Tensor], name: str, z_KD: Tensor, rows_K: Tensor, *, batch_size: int = 64
    ) -> Tensor:
        """Return log p(x_name | z) of rows of x under latents, in evaluation mode and in nats: [K] on the CPU.

        Args:
            x: Modality name to tensor [N, ...].
            name: Modality that is scored.
            z_KD: Latents.
            rows_K: int64, the row of x that each latent is scored on.
            batch_size: Number of latents decoded at a time.
        """
        device = next(self.parameters()).device
        found = []
        with evaluating(self):
            for part in torch.arange(len(rows_K)).split(batch_size):
                likelihood = self.decoders[name](z_KD[part].to(device))
                found.append(likelihood.log_prob(x[name][rows_K[part]].to(device)).cpu())
        return torch.cat(found)

    def bound(
        self,
        x: Mapping[str, Tensor],
        presence_BM: Tensor,
        kl_weight: float | Tensor = 1.0,
        likelihood_weights: Mapping[str, float] | None = None,
        *,
        corrupted: Mapping[str, Tensor] | None = None,
    ) -> Bound:
        """Estimate the method's objective, and compute the terms added to it.

        Args:
            x: Every modality's tensor [B, ...]; rows that lack it may hold anything finite.
            presence_BM: bool [B, M].
            kl_weight: Weight of the KL term.
            likelihood_weights: Weight of each modality's log-likelihood; None weights all by 1.
            corrupted: What encoders see of some modalities instead of x, which their likelihoods take.

        Raises:
            PluginError: The method does not keep its contract.
        """
        h, statistics = self._encode_rows(x, corrupted or {})
        rows = EncodedRows(
            x=x,
            presence_BM=presence_BM,
            h=h,
            kl_weight=kl_weight,
            likelihood_weights=likelihood_weights or {},
            training=self.training,
            decode=self.decode,
            score=lambda likelihood, x: self._part(likelihood.log_prob, x),
            randn=rows_randn,
            rand=rows_rand,
            random_subsets=random_subsets,
        )
        objective = self.method.objective(rows)
        check_objective(objective, type(self.method).__name__, len(presence_BM))
        batch = Pass(
            x=x,
            presence_BM=presence_BM,
            h=h,
            statistics=statistics,
            num_reencoded=share_of_rows(self.reencoded_share, len(presence_BM)),
            training=self.training,
            decode=lambda: rows.decode(objective.z_BD),
            encode=self._reencode,
        )
        added, losses = dict(objective.figures), dict(objective.losses)
        for name, term in self.added_terms.items():
            value = term(batch)
            if value is not None:
                added[name], losses[name] = value, term.loss(value)
        return Bound(objective.value_B, objective.log_prob, objective.kl_B, added, losses)

    def elbo(self, x: Mapping[str, Tensor], presence_BM: Tensor) -> Tensor:
        """Estimate the evidence lower bound of what rows have under N(0, I), by a draw of q(z | x): [B], in nats.

        It does not depend on what the method maximises. The arguments are those of `bound`.
        """
        q = self.fuse(self.encode(x), presence_BM)
        noise_BD = rows_randn(len(presence_BM), self.latent_dim, device=presence_BM.device)
        if isinstance(q, GaussianPosterior):
            z_BD, kl_B = q.draw(noise_BD), q.kl_BD().sum(1)
        else:
            z_BD = q.draw(noise_BD, rows_rand(len(presence_BM), 1, device=presence_BM.device)[:, 0])
            kl_B = q.log_prob(z_BD) - standard_normal_log_prob(z_BD)
        decoded = enumerate(self.decode(z_BD).items())
        return sum((p.log_prob(x[name]) * presence_BM[:, i] for i, (name, p) in decoded), start=-kl_B)

    def _reencode(self, name: str, likelihood: Likelihood, num_rows: int) -> Reencoded | None:
        some = likelihood.first_rows(num_rows) if isinstance(likelihood, Divisible) else likelihood
        if not isinstance(some, Relaxed):
            return None
        decoded = some

        def encode(_: Tensor) -> Reencoded:
            with self._recorded(name) as maps:
                h_QF = call_frozen(self.encoders[name], decoded.relaxed()[:num_rows]).float()
            return Reencoded(h_QF, map_statistics(maps, num_rows))

        return self._part(encode, next(self.parameters()))  # a tensor, whose device's random draws are repeated

    def _encode_rows(
        self, x: Mapping[str, Tensor], corrupted: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
        """Return features of what encoders see, and statistics of the maps of x in encoders that have recorders."""
        h: dict[str, Tensor] = {}
        statistics: dict[str, list[Tensor]] = {}
        for name in self.names:
            with self._recorded(name) as maps:
                h |= self.encode({name: self._seen(name, corrupted.get(name, x[name]))})
            if maps and name in corrupted:
                with torch.no_grad(), self._recorded(name) as maps:
                    self.encode({name: x[name]})
            if maps:
                with torch.no_grad():
                    statistics[name] = map_statistics(maps, len(x[name]))
        return h, statistics
