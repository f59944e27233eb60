"""Adversarial training of stage 3: a sample in one step, which a critic cannot tell from data.

Shapes: B batch, D latent_dim, M modalities.
Reference: Goodfellow et al. 2014 and Lim and Ye 2017 (hinge loss) for the game; Chen et al. 2016 (InfoGAN) for the
latent that samples are to show.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from shala_framework.autoencoder.maps import map_statistics
from shala_framework.autoencoder.shared_networks import call_frozen
from shala_framework.autoencoder.terms.texture import texture_distance
from shala_framework.data.rows import Rows
from shala_framework.refiner import ResidualUnit
from shala_framework.spec.schema import Refine
from shala_framework.support.checkpoint import part, prefixed
from shala_framework.support.distributed.processes import rows_rand, rows_randn, sum_of, world_size
from shala_framework.support.modes import frozen
from shala_framework.training.critic import Critic, hinge_loss, mean_verdict
from shala_framework.training.metrics import WEIGHT
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.refinement import RefinerTraining
from shala_framework.training.steps import set_rate

CRITICS, MOMENTS = "critics", "critic_moments"  # prefixes of the names in the extra state


@attrs.frozen(kw_only=True, eq=False)
class _Encoded:
    """Rows of one modality, data or samples, as stage 1's encoder sees them.

    Attributes:
        x: What encoders take.
        maps: Maps [N, C, ...] of the frozen encoder.
        h_BF: Its features.
    """

    x: Tensor
    maps: list[Tensor]
    h_BF: Tensor

    @property
    def judged(self) -> list[Tensor]:
        """What critics get of the frozen encoder: its maps, or its features if it has none."""
        return self.maps or [self.h_BF[:, :, None]]

    def detach(self) -> "_Encoded":
        return _Encoded(x=self.x.detach(), maps=[found.detach() for found in self.maps], h_BF=self.h_BF.detach())


@attrs.frozen(kw_only=True, eq=False)
class _Shown:
    """One modality of a batch, as critics see it.

    Attributes:
        name: The modality.
        present_B: Rows that have it.
        made: Refined samples at the rows' latents, with gradients.
        real: The data.
    """

    name: str
    present_B: Tensor
    made: _Encoded
    real: _Encoded


class AdversarialTraining(RefinerTraining):
    """Stage 3 by a critic for each modality, which is dropped in the end.

    A sample is mean + scale * r, where the network makes r of noise, the mean and z. In each step, the critics learn
    first. Samples are then to raise their verdict. They are also to show z as the data do: -log q(z | x) by stage 1's
    posterior of the modality alone may not exceed that of the row whose z it is. No held-out loss tells which weights
    are best, so the last ones are kept. Critics start from torch's generator.
    """

    beta_1 = 0.0  # with an average of gradients, samples and critics circle around each other
    can_be_captured = False  # critics take a step within the loss
    loss_decides, always_needs_maps = False, True

    def _prepare(self) -> None:
        self.critics = nn.ModuleDict({name: self._new_critic(name) for name in self.refiner.names}).to(self.device)
        # AdamW alone (see Spec), whose products need no format of their own.
        self._optimizers = make_optimizers(self.critics, self.settings, matrix_dtype=torch.float32, beta_1=self.beta_1)

    def _new_critic(self, name: str) -> Critic:
        modality, z_BD = self.autoencoder.modalities[name], torch.zeros(1, self.refiner.latent_dim, device=self.device)
        with torch.no_grad():
            residual = self.refiner.residual(name, self.autoencoder.decoders[name](z_BD))
            seen = self._encoded(name, residual.space.to_encoder(residual.mean))
        encoder = modality.encoder(self.autoencoder.feature_dim).to(self.device)
        return Critic(encoder, seen.judged, seen.x, self.refiner.latent_dim)

    def _encoded(self, name: str, x: Tensor) -> _Encoded:
        """Encode with stage 1's frozen encoder; x gets gradients, if it has any."""
        with self._recorders[name].recording() as maps:
            h_BF = call_frozen(self.autoencoder.encoders[name], x)
        return _Encoded(x=x, maps=[found.float() for found in maps], h_BF=h_BF.float())

    def loss(self, batch: Rows, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows = batch.to(self.device)
        with self.precision.autocast(self.device):
            z_BD, told_BD, shown = self._shown(rows)
            critic, of_critics = self._critic_loss(shown, told_BD)
        self._train_critics(critic, int(step))
        with self.precision.autocast(self.device):
            verdict, of_verdicts = self._verdict_loss(shown, told_BD)
            rest, terms = self._likeness(shown, z_BD, learning=True)
        return verdict + rest, {**of_critics, **of_verdicts, **terms}

    def _shown(self, rows: Rows) -> tuple[Tensor, Tensor, list[_Shown]]:
        """Return draws of q(z | x), the same as critics are told them, and the refined modalities."""
        z_BD, likelihoods = self._decoded(rows)
        seen_BD = z_BD + self.table.latent_noise * self.refiner.z_std * rows_randn(*z_BD.shape, device=self.device)
        shown = []
        for name in self.refiner.names:
            residual = self.refiner.residual(name, likelihoods[name])
            noise = rows_randn(*residual.mean.shape, device=self.device)
            r = self.refiner.generated(name, residual, seen_BD, noise)
            made = self._encoded(name, residual.space.to_encoder(residual.restore(r)))
            present_B = rows.presence[:, self.autoencoder.names.index(name)]
            shown.append(
                _Shown(name=name, present_B=present_B, made=made, real=self._real(name, residual, rows.x[name]))
            )
        return z_BD, (seen_BD - self.refiner.z_mean) / self.refiner.z_std, shown

    @torch.no_grad()
    def _real(self, name: str, residual: ResidualUnit, x: Tensor) -> _Encoded:
        """Encode data. Discrete values get noise of their distance, by which a critic could tell them otherwise."""
        value, levels = residual.space.to_space(x).float(), residual.space.levels
        if levels is not None:
            value = value + levels.step * (rows_rand(*value.shape, device=self.device) - 0.5)
        return self._encoded(name, residual.space.to_encoder(value))

    def _critic_loss(self, shown: Sequence[_Shown], told_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        def of_rows(of: _Shown) -> Tensor:
            critic, made = self.critics[of.name], of.made.detach()
            return hinge_loss(critic(of.real.x, of.real.judged, told_BD), critic(made.x, made.judged, told_BD))

        return self._mean("critic", {of: of_rows(of) for of in shown})

    def _train_critics(self, loss: Tensor, step: int) -> None:
        loss.backward()
        gradients = {name: p.grad for name, p in self.critics.named_parameters() if p.grad is not None}
        if world_size() > 1:
            for name, total in sum_of(gradients).items():
                gradients[name].copy_(total / world_size())
        nn.utils.clip_grad_norm_(self.critics.parameters(), self.settings.gradient_clip)
        set_rate(self._optimizers, self.settings, step)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _verdict_loss(self, shown: Sequence[_Shown], told_BD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with frozen(self.critics):
            judged = {of: -mean_verdict(self.critics[of.name](of.made.x, of.made.judged, told_BD)) for of in shown}
        return self._mean("verdict", judged)

    def _likeness(self, shown: Sequence[_Shown], z_BD: Tensor, *, learning: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of how samples show z, and their difference from data in texture."""
        total, terms = self._mean("recognition", {of: self._recognition(of, z_BD) for of in shown})
        total = self.table.recognition_weight * total
        for of in shown:
            if of.made.maps and (self.table.texture_weight or not learning):
                made, real = (map_statistics(encoded.maps, len(z_BD)) for encoded in (of.made, of.real))
                texture = texture_distance(made, real, of.present_B, gathered=learning)
                total = total + self.table.texture_weight * texture / len(shown)
                terms[f"texture/{of.name}"] = texture.detach()
        return total, terms

    def _recognition(self, of: _Shown, z_BD: Tensor) -> Tensor:
        """Return by how much samples show z less than the data do, in nats a latent dimension: [B]."""
        names = self.autoencoder.names
        alone_BM = torch.zeros(len(z_BD), len(names), dtype=torch.bool, device=self.device)
        alone_BM[:, names.index(of.name)] = True
        with frozen(self.autoencoder):
            surprise_B, least_B = (
                -self.autoencoder.fuse_subset({of.name: encoded.h_BF}, alone_BM).log_prob(z_BD)
                for encoded in (of.made, of.real)
            )
        return nn.functional.relu(surprise_B - least_B) / z_BD.shape[1]

    def _mean(self, term: str, losses: Mapping[_Shown, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean of the modalities' losses [B] over rows, and the terms to log."""
        means, terms = [], {}
        for of, loss_B in losses.items():
            # Multiply by zero rather than select rows, so that every process uses every modality's parameters.
            means.append((loss_B * of.present_B).mean())
            terms[f"{term}/{of.name}"] = means[-1].detach()
            terms[f"{WEIGHT}{term}/{of.name}"] = of.present_B.float().mean()
        return torch.stack(means).mean(), terms

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return by how much refined held-out rows differ from data in texture, and show z less than they do."""
        if self.held_out is None:
            return {}
        self.module.eval()
        torch.manual_seed(0)  # the same noise in each validation, so that figures are comparable

        def terms(rows: Rows) -> dict[str, Tensor]:
            z_BD, _, shown = self._shown(rows)
            return self._likeness(shown, z_BD, learning=False)[1]

        with self.average.applied():
            return self.means(self.held_out, self.settings.batch_size, terms)

    def extra_state(self) -> dict[str, Tensor]:
        moments = {
            f"{i}.{key}.{j}": value
            for i, optimizer in enumerate(self._optimizers)
            for j, state in optimizer.state_dict()["state"].items()
            for key, value in state.items()
        }
        critics = {**prefixed(self.critics.state_dict(), CRITICS), **prefixed(moments, MOMENTS)}
        return {**super().extra_state(), **critics}

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        super().load_extra_state(tensors)
        self.critics.load_state_dict(part(tensors, CRITICS))
        states: dict[int, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
        for name, value in part(tensors, MOMENTS).items():
            number, key, parameter = name.split(".")
            states[int(number)][int(parameter)][key] = value
        for i, optimizer in enumerate(self._optimizers):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states[i]})


def refiner_training(table: Refine) -> type[RefinerTraining]:
    """Return how stage 3 is trained by [refine]."""
    return AdversarialTraining if table.method == "adversarial" else RefinerTraining
