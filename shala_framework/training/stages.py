"""Training of stage 1: its loss, and its figures on held-out rows."""

import math
from collections.abc import Iterable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.stage_pass import Bound
from shala_framework.data.rows import Rows
from shala_framework.plugin.modality import counts_values
from shala_framework.spec.schema import AutoencoderStage
from shala_framework.support.distributed.processes import barrier, mean_of
from shala_framework.training.averages import MovingAverage
from shala_framework.training.best_weights import BestWeights
from shala_framework.training.contrast_gate import ContrastGate
from shala_framework.training.metrics import WEIGHT
from shala_framework.training.precision import FLOAT32, Precision
from shala_framework.training.row_batches import RowBatches

COUNTED_ROWS = 512  # first training rows whose values are counted before the first step
NUM_VALUES = "num_values"  # name of the counts in the extra state


class AutoencoderTraining(RowBatches):
    """Stage 1: maximise the objective of the method of inference; the ELBO for the default method.

    The loss is divided by the (weighted) number of values in a row. It is then in nats a value, so that one learning
    rate and one clipping norm suit both a handful of joints and a long video. The added terms are added to it. The
    default method has a term of its own, in nats a latent dimension: it trains the posterior of every subset, which
    keeps each feature informative on its own, and does not ask decoders for what a subset leaves open. (Hiding
    modalities from the posterior while reconstructing all would also train subsets, but inflates the learned scales:
    a skeleton does not tell the colour of a shirt.)

    Attributes:
        num_values: Number of values of an x of each modality: of all of its shape or, after `count`, the mean of those
            that rows have.
        likelihood_weights: Weight of each modality's log-likelihood.
        loss_unit: Nats by which the loss is divided.
        average: Moving average of the weights, which is then measured and kept in their place; None without one.
        kept: Weights with the lowest loss on held-out rows so far.
        gate: Weight of the contrastive terms by what they teach about held-out rows.
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
        self.held_out, self.precision = _mixed(held_out), precision
        autoencoder.recomputes = settings.activation_checkpointing
        halflife = settings.ema_halflife_steps
        self.average = MovingAverage(autoencoder, halflife, trained_only=True) if halflife else None
        self.gate = ContrastGate(autoencoder, self.held_out, settings, device)
        self.kept = BestWeights(self.name, settings, self._trained(), validated=held_out is not None)
        self._weigh({name: float(math.prod(modality.shape)) for name, modality in autoencoder.modalities.items()})

    def _trained(self) -> dict[str, Tensor]:
        """Return the weights and buffers that training can change; sharded ones as this process's shards."""
        frozen = {name for name, p in self.module.named_parameters() if not p.requires_grad}
        return {name: value for name, value in self.module.state_dict().items() if name not in frozen}

    def _weigh(self, num_values: Mapping[str, float]) -> None:
        """Set the weights and the unit of the loss by the number of values of each modality."""
        self.num_values, rescaling = dict(num_values), self.settings.likelihood_rescaling
        largest = max(num_values.values())
        self.likelihood_weights = {name: largest / n if rescaling else 1.0 for name, n in num_values.items()}
        self.loss_unit = sum(n * self.likelihood_weights[name] for name, n in num_values.items())

    @property
    def needs_counts(self) -> bool:
        """Whether weights depend on the rows, because some modality has padding or unknown parts."""
        return any(map(counts_values, self.autoencoder.modalities.values()))

    def count(self, batches: Iterable[Rows]) -> None:
        """Weigh modalities by the mean number of values that their rows have, over some rows of all processes.

        The mean of a modality's rows, not the number of each row: a row of few words or cells knows less about z, and
        a weight that made up for it would hide this from q(z | x).
        """
        counted = {n: modality for n, modality in self.autoencoder.modalities.items() if counts_values(modality)}
        sums = {name: torch.zeros(2, device=self.device) for name in counted}  # values, rows
        for batch in batches:
            for name, modality in counted.items():
                present = batch.presence[:, self.autoencoder.names.index(name)]
                count_K = modality.count_values(batch.x[name][present])
                sums[name] += torch.tensor([int(count_K.sum()), len(count_K)], device=self.device)
        barrier()  # each process reads at its own pace
        # Six digits: the same for any number of processes.
        means = {name: float(f"{values / rows:.6g}") for name, (values, rows) in mean_of(sums).items() if values}
        self._weigh({**self.num_values, **means})

    def describe_weights(self) -> str:
        """Say by how much likelihoods are weighted, and so the KL term beside each; empty if all weights are 1."""
        if all(weight == 1 for weight in self.likelihood_weights.values()):
            return ""
        parts = (
            f"{name} {weight:.4g} ({self.num_values[name]:.6g} values, so that its KL weight is "
            f"{self.settings.kl_weight / weight:.3g})"
            for name, weight in self.likelihood_weights.items()
        )
        return f"weights of the log-likelihoods: {', '.join(parts)}"

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
        return bound.loss(self.loss_unit), self._terms(bound, rows.presence) | self.gate.terms()

    def _terms(self, bound: Bound, presence_BM: Tensor) -> dict[str, Tensor]:
        terms = {"kl": bound.kl_B.detach().mean()} | {name: value.detach() for name, value in bound.added.items()}
        for i, (name, value) in enumerate(bound.log_prob.items()):
            terms[f"log_prob/{name}"] = value.detach().mean()
            terms[WEIGHT + f"log_prob/{name}"] = presence_BM[:, i].float().mean()
        return terms

    def after_step(self, step: int) -> None:
        if self.average is not None:
            self.average.update(step)
        self.kept.after_step(step)
        self.gate.after_step(step)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return figures of held-out rows with all weights at 1, and `loss`, which decides which weights are kept.

        `loss` is the loss of training with the final weight of the KL term, so that figures during the warm-up compare
        with later ones. The draws are the same in each validation, for the same reason. If there is a moving average of
        the weights, it is what is measured and kept.
        """
        if self.held_out is None:
            return {}
        self.module.eval()
        figures: dict[str, float] = {}
        with self.average.applied() if self.average is not None else nullcontext():
            for terms in (self._held_out_terms, self._held_out_loss):
                torch.manual_seed(0)
                figures |= self.means(self.held_out, self.settings.batch_size, terms)
            self.kept.add(figures["loss"], self._trained())
        return figures

    def _held_out_terms(self, rows: Rows) -> dict[str, Tensor]:
        bound = self.autoencoder.bound(rows.x, rows.presence)
        return {**self._bounds(rows, bound), **self._terms(bound, rows.presence)}

    def _bounds(self, rows: Rows, bound: Bound) -> dict[str, Tensor]:
        """Return the mean evidence lower bound of rows, if there is one, and the objective if it is another bound."""
        method = self.autoencoder.method
        if method.maximises_elbo:
            return {"elbo": bound.value_B.mean()}
        figures = {"objective": bound.value_B.mean()}
        if method.has_densities:
            figures["elbo"] = self.autoencoder.elbo(rows.x, rows.presence).mean()
        return figures

    def _held_out_loss(self, rows: Rows) -> dict[str, Tensor]:
        bound = self.autoencoder.bound(rows.x, rows.presence, self.settings.kl_weight, self.likelihood_weights)
        return {"loss": bound.loss(self.loss_unit)}

    def finish(self) -> str:
        """Give the module the weights to keep, and return what held-out rows say of them and of the contrast."""
        if self.average is not None:
            self.average.copy_to_module()
        trained = self._trained()
        return "\n".join(filter(None, (self.kept.finish(trained, trained), self.gate.describe())))

    def extra_state(self) -> dict[str, Tensor]:
        counts = torch.tensor(list(self.num_values.values()), dtype=torch.float64)
        average = self.average.state() if self.average is not None else {}
        return {NUM_VALUES: counts, **average, **self.kept.state(), **self.gate.state()}

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        if NUM_VALUES in tensors:  # a state of a version that did not count goes on as it began
            self._weigh(dict(zip(self.num_values, tensors[NUM_VALUES].tolist(), strict=True)))
        if self.average is not None:
            self.average.load(tensors)
        self.kept.load(tensors)
        self.gate.load(tensors)


def _mixed(rows: Rows | None) -> Rows | None:
    """Return held-out rows in a fixed random order.

    They may be sorted by class, and the contrast of a batch of one class is that of a guess.
    """
    if rows is None:
        return None
    return rows.take(torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)))
