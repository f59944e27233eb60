"""Training of stage 2: the denoising loss over stored latents, and the choice of the weights to keep.

A network can memorise a small training set: the conditional prior then returns each row's own latent, and the loss on
held-out rows rises. Therefore each validation measures the moving average on held-out rows and, by default, keeps the
weights of the lowest loss, also in the state files.
"""

from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor, nn

from shala_framework.autoencoder.posterior import random_subsets
from shala_framework.data.latent_store import Latents, LatentStore, latent_statistics, rows_behind
from shala_framework.prior import DiffusionPrior
from shala_framework.spec.schema import Prior, PriorStage
from shala_framework.support.checkpoint import part, prefixed
from shala_framework.support.distributed.processes import barrier, copied_from_first, rows_rand, rows_randn
from shala_framework.support.machine import to_device
from shala_framework.support.seeds import forked_rng
from shala_framework.training.averages import MovingAverage
from shala_framework.training.best_weights import BestWeights
from shala_framework.training.optimizers import BETA_1
from shala_framework.training.precision import FLOAT32, Precision
from shala_framework.training.trainable import refilled

LEAST_DRAWS, MOST_DRAWS = 1_000, 20_000  # number of latents that the mixture is fitted to
HELD_OUT_DRAWS = 4_096  # a validation repeats held-out rows up to about this number
OF_CLUSTERS = "clusters"  # prefix in the names of the extra state
PriorBatch = Tensor | LatentStore
FEW_ROWS = 300  # training rows for which the noise on features is as large as their deviation
CLUSTERS = "cluster_network."  # prefix of the names of weights that the loss of clusters trains


def fit_to_latents(prior: DiffusionPrior, latents: Latents, *, seed: int) -> None:
    """Fit what stage 2 needs before its first step: the scale of latents, and their clusters.

    Args:
        prior: Takes the scale, and the clusters of draws of the aggregate posterior; several draws a row if rows are
            few.
        latents: Latents of the training rows, some of them several times if rows have weights.
        seed: Seed of the draws and of k-means.
    """
    device = prior.z_mean.device
    prior.set_statistics(*latent_statistics(latents))
    with forked_rng(), torch.no_grad():
        torch.manual_seed(seed)
        rows = torch.randperm(len(latents)).repeat(max(1, -(-LEAST_DRAWS // len(latents))))[:MOST_DRAWS]
        draws_ND = prior.standardise(latents.take(rows).to(device).sample())
        prior.mixture.fit(draws_ND, seed=seed, row_N=rows_behind(latents)[rows])
        barrier()  # each process reads the latents at its own pace
        fitted = copied_from_first(dict(prior.mixture.named_buffers()))
        prior.mixture.load_state_dict(fitted)
    # Of a single cluster there is nothing to learn, and processes wait for the gradients of all weights that have one.
    # A method's own denoiser knows a single one, however many the mixture has that is its control.
    prior.cluster_network.requires_grad_(prior.clusters.num_components > 1)


class PriorTraining:
    """Stage 2: the denoising loss over the latent store, with a moving average of the weights.

    A batch is the numbers of its rows, or the rows themselves where latents are read from files.

    Attributes:
        average: Moving average of the weights.
        kept: Averages with the lowest held-out denoising loss so far.
        kept_clusters: The same of the network of clusters, which learns faster and so has a best step of its own.
        feature_noise: Standard deviation of the noise on standardised features in training.
    """

    name = "prior"
    beta_1, can_be_captured = BETA_1, True

    def __init__(
        self,
        prior: DiffusionPrior,
        table: Prior,
        settings: PriorStage,
        latents: Latents,
        held_out: LatentStore | None = None,
        *,
        hiding: Sequence[int] = (),
        precision: Precision = FLOAT32,
    ) -> None:
        """Begin the stage.

        Args:
            prior: The prior, with the statistics of the latents.
            table: [prior].
            settings: [train.prior].
            latents: Latents of the training rows.
            held_out: Latents of held-out rows; None validates nothing.
            hiding: Columns of the modalities of which latents have copies with hidden parts.
            precision: Number format of the computation.
        """
        self.prior, self.hiding = prior, tuple(hiding)
        self.module: nn.Module = prior
        self.table, self.settings = table, settings
        self.latents, self.held_out, self.precision = latents, held_out, precision
        self.feature_noise = _feature_noise(prior, table, len(latents))
        self.average = MovingAverage(prior, self.settings.ema_halflife_steps)
        self.kept, self.kept_clusters = (
            BestWeights(self.name, settings, weights, validated=held_out is not None) for weights in self._averages()
        )

    def _averages(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the averaged weights of the denoisers, and those of the network of clusters."""
        shadow = self.average.shadow
        clusters = {name: value for name, value in shadow.items() if name.startswith(CLUSTERS)}
        return {name: value for name, value in shadow.items() if name not in clusters}, clusters

    def placed(self, batch: PriorBatch, *, copy: bool = False) -> PriorBatch:
        device = self.prior.z_mean.device
        if isinstance(batch, LatentStore):
            return batch.to(device, copy=copy)
        moved = to_device(batch, device)
        return moved.clone() if copy else moved

    def refill(self, placed: PriorBatch, batch: PriorBatch) -> bool:
        return refilled(list(zip(_tensors(placed), _tensors(batch), strict=True)))

    def loss(self, batch: PriorBatch, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        device, table = self.prior.z_mean.device, self.table
        rows = (batch if isinstance(batch, LatentStore) else self.latents.take(batch)).to(device)
        if self.hiding:
            rows = rows.partly_hidden(self.hiding, rows_rand(len(rows), len(self.hiding), device=device))
        with self.precision.autocast(device):
            losses = self.prior.losses(
                rows.sample(rows_randn(*rows.mean_ND.shape, device=device)),
                rows.h_NMF.unbind(1),
                rows.presence_NM,
                unconditional_share=table.unconditional_share,
                log_sigma_mean=table.log_sigma_mean,
                log_sigma_std=table.log_sigma_std,
                feature_noise=self.feature_noise,
            )
        # They share no parameter, so each gets the gradient of its own loss.
        means = {name: loss_N.mean() for name, loss_N in losses.items()}
        return torch.stack(list(means.values())).sum(), {name: mean.detach() for name, mean in means.items()}

    def split(self, batch: PriorBatch, parts: int) -> Sequence[PriorBatch]:
        if isinstance(batch, LatentStore):
            return [batch.take(rows) for rows in torch.arange(len(batch)).chunk(parts)]
        return batch.chunk(parts)

    def after_step(self, step: int) -> None:
        self.average.update(step)
        self.kept.after_step(step)
        self.kept_clusters.after_step(step)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the moving average's loss on held-out rows, for subsets as in training and for each size of subset.

        The noise is the same in each validation, so that figures are comparable.
        """
        if self.held_out is None:
            return {}
        self.module.eval()
        with self.average.applied():
            errors_N, surprise_N, sizes_N = self._held_out_errors(self.held_out)
        figures = {"denoising": float(errors_N.mean())}
        for size in sizes_N.unique().tolist():
            figures[f"denoising/given_{size}"] = float(errors_N[sizes_N == size].mean())
        denoisers, clusters = self._averages()
        self.kept.add(figures["denoising"], denoisers)
        if self.prior.clusters.num_components > 1 and bool(sizes_N.any()):
            figures["clusters"] = float(surprise_N[sizes_N > 0].mean())
            self.kept_clusters.add(figures["clusters"], clusters)
        return figures

    def _held_out_errors(self, held_out: LatentStore) -> tuple[Tensor, Tensor, Tensor]:
        """Return each held-out row's denoising error and cluster loss, and the size of its given subset.

        Rows are repeated with other noise.
        """
        device, table = held_out.mean_ND.device, self.table
        rows = held_out.take(torch.arange(len(held_out)).repeat(max(1, HELD_OUT_DRAWS // len(held_out))))
        count = len(rows)
        generator = torch.Generator().manual_seed(0)  # on the CPU: the same draws for any device
        posterior_noise, noise = (torch.randn(rows.mean_ND.shape, generator=generator).to(device) for _ in range(2))
        # Levels at evenly spaced quantiles of their distribution, in random order, have less variance than free draws.
        quantiles = (torch.randperm(count, generator=generator).double() + 0.5) / count
        log_sigma = table.log_sigma_mean + table.log_sigma_std * torch.special.ndtri(quantiles).float()
        with forked_rng():
            torch.manual_seed(0)
            subset = random_subsets(rows.presence_NM.cpu()) & (torch.rand(count, 1) >= table.unconditional_share)
            if self.hiding:
                rows = rows.partly_hidden(self.hiding, torch.rand(count, len(self.hiding)).to(device))
        subset = subset.to(device)
        condition = self.prior.condition(rows.h_NMF.unbind(1), subset)
        sigma = log_sigma.exp().to(device)
        z = rows.sample(posterior_noise)
        surprise = self.prior.cluster_loss(z, rows.h_NMF.unbind(1), subset)
        return self.prior.errors(z, sigma, noise, condition), surprise, subset.sum(1)

    def finish(self) -> str:
        """Give the module the weights to sample from, and return what `BestWeights.finish` says of the denoisers."""
        (denoisers, clusters), parameters = self._averages(), dict(self.module.named_parameters())
        self.kept_clusters.finish(clusters, parameters)
        return self.kept.finish(denoisers, parameters)

    def extra_state(self) -> dict[str, Tensor]:
        return {
            **self.average.state(),
            **self.kept.state(),
            **prefixed(self.kept_clusters.state(), OF_CLUSTERS),
        }

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.average.load(tensors)
        self.kept.load(tensors)
        self.kept_clusters.load(part(tensors, OF_CLUSTERS))


def _tensors(batch: PriorBatch) -> tuple[Tensor, ...]:
    return attrs.astuple(batch, recurse=False) if isinstance(batch, LatentStore) else (batch,)


def _feature_noise(prior: DiffusionPrior, table: Prior, num_rows: int) -> float:
    """Return the table's noise on features, or the default for a number of training rows."""
    if table.feature_noise is not None:
        return table.feature_noise
    return min(1.0, FEW_ROWS / num_rows) if prior.few_rows_have_noise else 0.0
