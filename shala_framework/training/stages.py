"""Training of stage 1: its loss, and its figures on held-out rows."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.stage_pass import Bound
from shala_framework.data.rows import Rows
from shala_framework.spec.schema import AutoencoderStage
from shala_framework.training.metrics import WEIGHT
from shala_framework.training.precision import FLOAT32, Precision
from shala_framework.training.row_batches import RowBatches


class AutoencoderTraining(RowBatches):
    """Stage 1: maximise the objective of the method of inference; the ELBO for the default method.

    The loss is divided by the (weighted) number of values in a row. It is then in nats a value, so that one learning
    rate and one clipping norm suit both a handful of joints and a long video. The added terms are added to it. The
    default method has a term of its own, in nats a latent dimension: it trains the posterior of every subset, which
    keeps each feature informative on its own, and does not ask decoders for what a subset leaves open. (Hiding
    modalities from the posterior while reconstructing all would also train subsets, but inflates the learned scales:
    a skeleton does not tell the colour of a shirt.)
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
        super().__init__(device)
        self.autoencoder = autoencoder
        self.module: nn.Module = autoencoder
        self.settings = settings
        self.held_out, self.precision = held_out, precision
        num_values = autoencoder.num_values
        largest = max(num_values.values())
        rescaling = self.settings.likelihood_rescaling
        self.likelihood_weights = {name: largest / n if rescaling else 1.0 for name, n in num_values.items()}
        self.loss_unit = sum(n * self.likelihood_weights[name] for name, n in num_values.items())

    def kl_weight(self, step: int | Tensor) -> float | Tensor:
        """Return the KL term's weight at a step. It rises linearly from 0."""
        share = (step + 1) / max(1, self.settings.kl_warmup_steps)
        return self.settings.kl_weight * (share.clamp_max(1.0) if isinstance(share, Tensor) else min(1.0, share))

    def loss(self, batch: Rows, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows = batch.to(self.device)
        with self.precision.autocast(self.device):
            bound = self.autoencoder.bound(
                rows.x, rows.presence, self.kl_weight(step), self.likelihood_weights, corrupted=rows.corrupted
            )
        return bound.loss(self.loss_unit), self._terms(bound, rows.presence)

    def _terms(self, bound: Bound, presence_BM: Tensor) -> dict[str, Tensor]:
        terms = {"kl": bound.kl_B.detach().mean()} | {name: value.detach() for name, value in bound.added.items()}
        for i, (name, value) in enumerate(bound.log_prob.items()):
            terms[f"log_prob/{name}"] = value.detach().mean()
            terms[WEIGHT + f"log_prob/{name}"] = presence_BM[:, i].float().mean()
        return terms

    def after_step(self, step: int) -> None: ...

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        self.module.eval()
        return self.means(self.held_out, self.settings.batch_size, self._held_out_terms)

    def _held_out_terms(self, rows: Rows) -> dict[str, Tensor]:
        bound = self.autoencoder.bound(rows.x, rows.presence)
        return {"elbo": bound.value_B.mean(), **self._terms(bound, rows.presence)}

    def extra_state(self) -> dict[str, Tensor]:
        return {}

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None: ...
