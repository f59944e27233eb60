"""Training of stage 3: denoise the detail that the decoders of a frozen stage 1 leave out.

Shapes: B batch, D latent_dim.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from shala_framework.autoencoder.maps import MapRecorder, map_statistics
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.shared_networks import call_frozen
from shala_framework.autoencoder.terms.texture import texture_distance
from shala_framework.data.rows import Rows
from shala_framework.plugin.modality import Likelihood
from shala_framework.refiner import Refiner, ResidualUnit
from shala_framework.refiner.model import Denoised
from shala_framework.spec.schema import Refine, RefinerStage
from shala_framework.support.checkpoint import part
from shala_framework.support.distributed.processes import barrier, copied_from_first, rows_rand, rows_randn, sum_of
from shala_framework.support.modes import evaluating
from shala_framework.training.averages import MovingAverage
from shala_framework.training.best_weights import BestWeights
from shala_framework.training.metrics import WEIGHT
from shala_framework.training.precision import FLOAT32, Precision
from shala_framework.training.row_batches import RowBatches

VALIDATION_PASSES = 4  # number of passes over the held-out rows, each with other noise


class RefinerTraining(RowBatches):
    """Stage 3: the denoising loss of residuals, with a moving average of the weights.

    Stage 1 is frozen and in evaluation mode: it encodes each batch, draws z from q(z | x) and decodes it. The loss is
    the mean over modalities, elements and rows. With a texture weight, statistics of the encoders' convolutional maps
    are compared between the predicted clean x and the data.
    """

    name = "refiner"
    loss_decides: ClassVar[bool] = True  # whether the loss of held-out rows tells which weights are best
    always_needs_maps: ClassVar[bool] = False  # whether training needs maps of encoders without a texture term

    def __init__(
        self,
        refiner: Refiner,
        autoencoder: Autoencoder,
        table: Refine,
        settings: RefinerStage,
        device: torch.device,
        held_out: Rows | None = None,
        *,
        precision: Precision = FLOAT32,
    ) -> None:
        super().__init__(device)
        self.refiner, self.autoencoder = refiner, autoencoder
        self.module: nn.Module = refiner
        self.table, self.settings = table, settings
        self.held_out, self.precision = held_out, precision
        self.average = MovingAverage(refiner, settings.ema_halflife_steps)
        validated = self.loss_decides and held_out is not None
        self.kept = BestWeights(self.name, settings, self.average.shadow, validated=validated)
        autoencoder.eval()
        needs_maps = self.always_needs_maps or table.texture_weight
        self._recorders = (autoencoder.recorders or self._new_recorders()) if needs_maps else {}
        self._prepare()

    def _prepare(self) -> None:
        """Make what only some kinds of training have."""

    def _new_recorders(self) -> dict[str, MapRecorder]:
        autoencoder = self.autoencoder
        of_groups = {group: MapRecorder(encoder) for group, encoder in autoencoder.shared_encoders.items()}
        return {
            name: of_groups[autoencoder.groups[name]]
            if name in autoencoder.groups
            else MapRecorder(autoencoder.encoders[name])
            for name in self.refiner.names
        }

    @property
    def measurements(self) -> tuple[Callable[[Iterable[Rows]], None], ...]:
        """What to measure before the first step, one after the other, each on the same rows of all processes."""
        return (self.measure_units, self.measure_directions) if self.refiner.filters else (self.measure_units,)

    @torch.no_grad()
    def measure_units(self, batches: Iterable[Rows]) -> None:
        """Take the statistics of latents and residuals, and the axes of filters."""
        refiner, filters = self.refiner, self.refiner.linear_filters
        refiner.spread.fill_(1.0)
        sums = self._sums(batches, lambda name, residual, r, has_B: filters[name].axis_sums(residual.mean[has_B], r))
        mean_D = sums["z"] / sums["rows"]
        variance_D = (sums["z squared"] / sums["rows"] - mean_D.square()).clamp_min(0)
        measured = [name for name in refiner.names if sums[f"{name} rows"] > 0]
        spread = {name: float((sums[f"{name} squared"] / sums[f"{name} values"]).sqrt()) for name in measured}
        refiner.set_statistics(mean_D, variance_D.sqrt(), spread)
        for name in (name for name in measured if name in filters):
            filters[name].set_axes(part(sums, name), float(sums[f"{name} rows"]))
            filters[name].load_state_dict(copied_from_first(filters[name].state_dict()))  # eigenvectors are not unique

    @torch.no_grad()
    def measure_directions(self, batches: Iterable[Rows]) -> None:
        """Take what filters keep of each direction of a residual, once its unit and its axes are set."""
        filters = self.refiner.linear_filters
        sums = self._sums(
            batches,
            lambda name, residual, r, has_B: filters[name].moment_sums(filters[name].offset(residual)[has_B], r),
        )
        for name in (name for name in filters if sums[f"{name} rows"] > 0):
            filters[name].set_moments(part(sums, name), float(sums[f"{name} rows"]))

    def _sums(
        self, batches: Iterable[Rows], of_filter: Callable[[str, ResidualUnit, Tensor, Tensor], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return sums over the rows of all processes: of latents, residuals and what the filters need.

        Args:
            batches: The rows.
            of_filter: Returns a filter's sums, of a modality's name, its residual's coordinates, the residual of rows
                that have the modality, and which ones these are.
        """
        sums: dict[str, Tensor] = {}

        def add(name: str, value: Tensor | float) -> None:
            value = torch.as_tensor(value, dtype=torch.float64, device=self.device)
            sums[name] = sums[name] + value if name in sums else value

        for batch in batches:
            rows = batch.to(self.device)
            z_BD, likelihoods = self._decoded(rows)
            add("rows", len(z_BD))
            add("z", z_BD.double().sum(0))
            add("z squared", z_BD.double().square().sum(0))
            for name in self.refiner.names:
                present_B = rows.presence[:, self.autoencoder.names.index(name)]
                residual = self.refiner.residual(name, likelihoods[name])
                r = residual.of(rows.x[name])[present_B]
                add(f"{name} rows", len(r))
                add(f"{name} squared", r.double().square().sum())
                add(f"{name} values", r.numel())
                if name in self.refiner.filters:
                    for key, value in of_filter(name, residual, r, present_B).items():
                        add(f"{name}.{key}", value)
        barrier()  # each process reads at its own pace
        return sum_of(sums)

    def loss(self, batch: Rows, step: int | Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        rows = batch.to(self.device)
        with self.precision.autocast(self.device):
            denoised = self._denoised(rows)
            denoising, terms = self._terms(denoised, rows)
            texture = self._texture(denoised, rows) if self._recorders else None
        if texture is None:
            return denoising, terms
        return denoising + self.table.texture_weight * texture, {**terms, "texture": texture.detach()}

    def _decoded(self, rows: Rows) -> tuple[Tensor, dict[str, Likelihood]]:
        """Return a draw of q(z | x) and p(x | z) for it, without gradients."""
        with torch.no_grad(), evaluating(self.autoencoder):
            q = self.autoencoder.fuse(self.autoencoder.encode(rows.x), rows.presence)
            count = len(rows.presence)  # each row has its own draws, whichever process has it
            noise_BD = rows_randn(count, self.refiner.latent_dim, device=self.device)
            z_BD = q.draw(noise_BD, rows_rand(count, device=self.device))
            return z_BD, self.autoencoder.decode(z_BD)

    def _denoised(self, rows: Rows) -> dict[str, Denoised]:
        table = self.table
        z_BD, likelihoods = self._decoded(rows)
        return self.refiner.denoised(
            z_BD,
            likelihoods,
            rows.x,
            log_sigma_mean=table.log_sigma_mean,
            log_sigma_std=table.log_sigma_std,
            latent_noise=table.latent_noise,
            latent_dropout=table.latent_dropout if self.refiner.training else 0.0,
        )

    def _terms(self, denoised: Mapping[str, Denoised], rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss and the logged terms: the error of each modality over the rows that have it."""
        total, terms = rows.presence.new_zeros((), dtype=torch.float32), {}
        for name, found in denoised.items():
            # Multiply by zero rather than select rows, so that every process uses every modality's parameters.
            present_B = rows.presence[:, self.autoencoder.names.index(name)]
            mean = (found.loss_B * present_B).mean()
            total = total + mean / len(denoised)
            terms[f"denoising/{name}"] = mean.detach()
            terms[WEIGHT + f"denoising/{name}"] = present_B.float().mean()
        return total, {"denoising": total.detach(), **terms}

    def _texture(self, denoised: Mapping[str, Denoised], rows: Rows) -> Tensor:
        distances = []
        for name, found in denoised.items():
            recorder, encoder = self._recorders[name], self.autoencoder.encoders[name]
            with torch.no_grad(), recorder.recording() as maps:
                encoder(rows.x[name])
            real = map_statistics(maps, len(rows))
            with recorder.recording() as maps:
                call_frozen(encoder, found.residual.space.to_encoder(found.clean))
            if maps:
                present_B = rows.presence[:, self.autoencoder.names.index(name)]
                distances.append(
                    texture_distance(map_statistics(maps, len(rows)), real, present_B, gathered=self.refiner.training)
                )
        return torch.stack(distances).mean() if distances else rows.presence.new_zeros((), dtype=torch.float32)

    def after_step(self, step: int) -> None:
        self.average.update(step)
        self.kept.after_step(step)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        if self.held_out is None:
            return {}
        self.module.eval()
        torch.manual_seed(0)  # the same noise in each validation, so that figures are comparable
        with self.average.applied():
            figures = self.means(
                self.held_out,
                self.settings.batch_size,
                lambda rows: self._terms(self._denoised(rows), rows)[1],
                passes=VALIDATION_PASSES,
            )
        self.kept.add(figures["denoising"], self.average.shadow)
        return figures

    def finish(self) -> str:
        """Give the module the weights to sample from, and return what `BestWeights.finish` says."""
        return self.kept.finish(self.average.shadow, dict(self.refiner.named_parameters()))

    def extra_state(self) -> dict[str, Tensor]:
        return {**self.average.state(), **self.kept.state()}

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.average.load(tensors)
        self.kept.load(tensors)
