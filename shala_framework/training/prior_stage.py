"""Stage 2 as the loop sees it: the denoising loss over stored latents, and what it measures on held-out rows."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from shala_framework.data.latents import Latents, LatentStore
from shala_framework.distributed.processes import rows_randn
from shala_framework.prior import DiffusionPrior
from shala_framework.spec.schema import Prior, PriorStage
from shala_framework.support.machine import to_device
from shala_framework.training.averages import MovingAverage
from shala_framework.training.precision import FLOAT32, Precision
from shala_framework.training.trainable import refilled


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
