"""The two stages as the loop sees them: what they minimise and what they measure on held-out rows."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.stage_pass import Bound
from shala_framework.data.latent_store import Latents, LatentStore
from shala_framework.data.rows import Rows
from shala_framework.distributed.processes import rows_randn
from shala_framework.prior import DiffusionPrior
from shala_framework.spec.schema import AutoencoderStage, Prior, PriorStage
from shala_framework.support.machine import to_device
from shala_framework.training.metrics import WEIGHT, weighted
from shala_framework.training.precision import FLOAT32, Precision


class AutoencoderTraining:
    """Stage 1: maximise what the method of inference says, the ELBO for the default one.

    The loss is divided by the (weighted) number of values in a row, so that it is nats a value and one learning rate
    and one clipping norm suit a handful of joints and a long video alike. To it come the added terms. The default
    method adds one of its own, in nats a latent dimension: it teaches the posterior of every subset, and so keeps each
    feature informative on its own, without asking decoders for what a subset leaves open. (Hiding modalities from the
    posterior while all are reconstructed also does the first, but inflates the learned scales: no latent of a skeleton
    tells the colour of a shirt.)
    """

    name = "autoencoder"

    def __init__(
        self,
        autoencoder: Autoencoder,
        settings: AutoencoderStage,
        device: torch.device,
        held_out: Rows | None = None,
        *,
        precision: Precision = FLOAT32,
    ) -> None:
        self.autoencoder = autoencoder
        self.module: nn.Module = autoencoder
        self.settings = settings
        self.device, self.held_out, self.precision = device, held_out, precision
        num_values = autoencoder.num_values
        largest = max(num_values.values())
        rescaling = self.settings.likelihood_rescaling
        self.likelihood_weights = {name: largest / n if rescaling else 1.0 for name, n in num_values.items()}
        self.loss_unit = sum(n * self.likelihood_weights[name] for name, n in num_values.items())

    def kl_weight(self, step: int | Tensor) -> float | Tensor:
        """The KL term's weight at a step: linear from 0."""
        share = (step + 1) / max(1, self.settings.kl_warmup_steps)
        return self.settings.kl_weight * (share.clamp_max(1.0) if isinstance(share, Tensor) else min(1.0, share))

    def placed(self, batch: Rows, *, copy: bool = False) -> Rows:
        return batch.to(self.device, copy=copy)

    def refill(self, placed: Rows, batch: Rows) -> bool:
        pairs = [(placed.presence, batch.presence), *((placed.x[name], value) for name, value in batch.x.items())]
        return refilled(pairs)

    def loss(self, batch: Rows, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows = batch.to(self.device)
        with self.precision.autocast(self.device):
            bound = self.autoencoder.bound(rows.x, rows.presence, self.kl_weight(step), self.likelihood_weights)
        return bound.loss(self.loss_unit), self._terms(bound, rows.presence)

    def _terms(self, bound: Bound, presence_BM: Tensor) -> dict[str, Tensor]:
        terms = {"kl": bound.kl_B.detach().mean()} | {name: value.detach() for name, value in bound.added.items()}
        for i, (name, value) in enumerate(bound.log_prob.items()):
            terms[f"log_prob/{name}"] = value.detach().mean()
            terms[WEIGHT + f"log_prob/{name}"] = presence_BM[:, i].float().mean()
        return terms

    def split(self, batch: Rows, parts: int) -> list[Rows]:
        return [batch.take(index) for index in torch.arange(len(batch)).chunk(parts)]

    def after_step(self, step: int) -> None: ...

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        self.module.eval()
        totals: dict[str, float] = {}
        for index in torch.arange(len(self.held_out)).split(self.settings.batch_size):
            rows = self.held_out.take(index).to(self.device)
            bound = self.autoencoder.bound(rows.x, rows.presence)
            terms = {"elbo": bound.value_B.mean(), **self._terms(bound, rows.presence)}
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(index)
        return weighted({name: total / len(self.held_out) for name, total in totals.items()})

    def extra_state(self) -> dict[str, Tensor]:
        return {}

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None: ...


class PriorTraining:
    """Stage 2: the denoising loss over the latent store, with a moving average of the weights."""

    name = "prior"

    def __init__(
        self,
        prior: DiffusionPrior,
        table: Prior,
        settings: PriorStage,
        latents: Latents,
        held_out: LatentStore | None = None,
        *,
        precision: Precision = FLOAT32,
    ) -> None:
        self.prior = prior
        self.module: nn.Module = prior
        self.table, self.settings = table, settings
        self.latents, self.held_out, self.precision = latents, held_out, precision
        self.average = MovingAverage(prior, self.settings.ema_halflife_steps)

    def placed(self, batch: Tensor, *, copy: bool = False) -> Tensor:
        device = self.prior.z_mean.device
        moved = to_device(batch, device)
        return moved.clone() if copy else moved

    def refill(self, placed: Tensor, batch: Tensor) -> bool:
        return refilled([(placed, batch)])

    def loss(self, batch: Tensor, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows = self.latents.take(batch).to(self.prior.z_mean.device)
        with self.precision.autocast(rows.mean_ND.device):
            own, guide = (self._loss(rows, guide=guide) for guide in (False, True))
        # They share no parameter, so that the gradient of each is its own.
        return own + guide, {"denoising": own.detach(), "guide_denoising": guide.detach()}

    def _loss(self, rows: LatentStore, *, guide: bool = False) -> Tensor:
        table = self.table
        return self.prior.loss(
            rows.sample(rows_randn(*rows.mean_ND.shape, device=rows.mean_ND.device)),
            rows.h_NMF.unbind(1),
            rows.presence_NM,
            unconditional_share=table.unconditional_share,
            log_sigma_mean=table.log_sigma_mean,
            log_sigma_std=table.log_sigma_std,
            guide=guide,
        ).mean()

    def split(self, batch: Tensor, parts: int) -> list[Tensor]:
        return list(batch.chunk(parts))

    def after_step(self, step: int) -> None:
        self.average.update(step)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        self.module.eval()
        torch.manual_seed(0)  # the same noise each time, so that figures compare
        rows = torch.arange(len(self.held_out), device=self.held_out.mean_ND.device)
        with self.average.applied():
            return {"denoising": float(self._loss(self.held_out.take(rows.repeat(8))))}

    def extra_state(self) -> dict[str, Tensor]:
        return self.average.shadow

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in self.average.shadow.items():
            value.copy_(tensors[name])


def refilled(pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Copy the second of each two tensors into the first; False, and nothing copied, where shapes differ."""
    if any(mine.shape != theirs.shape for mine, theirs in pairs):
        return False
    for mine, theirs in pairs:
        mine.copy_(theirs, non_blocking=True)
    return True


class MovingAverage:
    """Exponential moving average of a module's parameters.

    The half-life grows with the steps taken, up to its setting, so that early weights are soon forgotten.
    Reference: Karras et al. 2022 (EDM), whose training code ramps the half-life in the same way.
    """

    RAMP = 0.05

    def __init__(self, module: nn.Module, halflife_steps: float) -> None:
        self.module, self.halflife_steps = module, halflife_steps
        self.shadow = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step."""
        halflife = min(self.halflife_steps, max(1.0, step * self.RAMP))
        decay = 0.5 ** (1 / halflife)
        names = [name for name, _ in self.module.named_parameters()]
        current = [p.detach() for p in self.module.parameters()]
        torch._foreach_lerp_([self.shadow[name] for name in names], current, 1 - decay)

    def copy_to_module(self) -> None:
        """Give the module the averaged weights."""
        with torch.no_grad():
            for name, parameter in self.module.named_parameters():
                parameter.copy_(self.shadow[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the module has the averaged weights."""
        kept = {name: p.detach().clone() for name, p in self.module.named_parameters()}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.module.named_parameters():
                    parameter.copy_(kept[name])
