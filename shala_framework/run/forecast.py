"""Forecast of what the stages of a spec cost on the present device, before there is a run, from shapes and a few steps.

Operations, launches and memory of a step are counted on the meta device, at the batch size of the spec. Some steps are
then timed with random weights and rows that the untrained decoders draw. If a step would take long, it is timed with
fewer rows, and its time is scaled by the operations.
"""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import attrs
import torch

from shala_framework.data.latent_store import LatentStore
from shala_framework.data.rows import Rows
from shala_framework.model import ShaLa
from shala_framework.run.training import SUPPOSED_CLUSTERS
from shala_framework.spec.schema import Stage
from shala_framework.support.machine import resolve_device
from shala_framework.support.modes import evaluating
from shala_framework.support.seeds import forked_rng
from shala_framework.training.adversarial import refiner_training
from shala_framework.training.budget import measure_stage, stages_of
from shala_framework.training.counting import META, StepCount, count_step
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.precision import Precision, choose_precision
from shala_framework.training.prior_stage import PriorTraining
from shala_framework.training.stages import AutoencoderTraining
from shala_framework.training.steps import take_step

STEP_OPERATIONS = 3e10  # operations of a timed step on a CPU: a second or two
DRAWN_ROWS = 2  # rows that are drawn; a batch repeats them

MakeStage = Callable[[Any, int, torch.device], tuple[Any, Any]]  # networks, rows, device: the stage and a batch


@attrs.frozen(kw_only=True)
class StageForecast:
    """What a stage costs.

    Attributes:
        settings: Settings of the stage.
        count: Counts of a step; None if it cannot be counted.
        reason: Reason why it cannot be counted.
        step_seconds: Estimated seconds of a step.
        timed_rows: Number of rows of the timed steps.
        measured_bytes: Most memory in use during the timed steps, if they had all rows on a CUDA device.
    """

    settings: Stage
    count: StepCount | None
    reason: str = ""
    step_seconds: float
    timed_rows: int
    measured_bytes: int | None = None

    @property
    def hours(self) -> float:
        """Hours of all steps, without reading data and validating."""
        return self.settings.steps * self.step_seconds / 3600


@attrs.frozen(kw_only=True)
class Forecast:
    """What the stages of a spec cost on a device.

    Attributes:
        stages: Stages that are trained, by name.
        device: The device.
        precision: Number format of the timed steps. Counts of memory are of float32.
    """

    stages: dict[str, StageForecast]
    device: torch.device
    precision: Precision


def forecast(model: ShaLa) -> Forecast:
    """Count and time the steps of every stage of a built model, whose weights stay as they are."""
    spec = model.spec
    asked = spec.train.device
    device = resolve_device("cpu" if asked == "cuda" and not torch.cuda.is_available() else asked)
    precision = choose_precision(spec.train.precision, device)
    drawn = _drawn_rows(model)
    with model.prior.mixture.supposed(SUPPOSED_CLUSTERS):
        return _forecast(model, device, precision, drawn)


def _forecast(model: ShaLa, device: torch.device, precision: Precision, drawn: dict[str, torch.Tensor]) -> Forecast:
    spec = model.spec
    memo = {id(modality): modality for modality in model.modalities.values()}  # not copied
    networks = (model.autoencoder, model.prior, model.refiner)
    shapes = tuple(module.to(META) for module in copy.deepcopy(networks, memo))
    model.to(device)
    makers: dict[str, MakeStage] = {
        "autoencoder": partial(_autoencoder_stage, model, precision, drawn),
        "prior": partial(_prior_stage, model, precision),
        "refiner": partial(_refiner_stage, model, precision, drawn),
    }
    stages = {
        name: _forecast_stage(makers[name], shapes, networks, settings, device, precision, _least_rows(model, name))
        for name, settings in stages_of(spec.train).items()
        if name in model.planned_stages
    }
    return Forecast(stages=stages, device=device, precision=precision)


def _forecast_stage(
    make: MakeStage,
    shapes: Any,
    networks: Any,
    settings: Stage,
    device: torch.device,
    precision: Precision,
    least_rows: int,
) -> StageForecast:
    rows, count, reason = settings.batch_size, None, ""
    try:
        count = _count(make, shapes, settings)
        if device.type == "cpu":
            affordable = int(settings.batch_size * STEP_OPERATIONS / max(1, count.operations))
            rows = min(settings.batch_size, max(least_rows, affordable))
    except (RuntimeError, NotImplementedError) as error:  # a network of some plugin asks for values
        reason = str(error).splitlines()[0]
        rows = min(settings.batch_size, least_rows)
    timed = settings if rows == settings.batch_size else attrs.evolve(settings, batch_size=rows, micro_batches=1)
    stage, batch = make(networks, rows, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    cost = measure_stage(stage, timed, lambda _: _endless(batch), matrix_dtype=precision.dtype, seconds=0.0)
    scale = settings.batch_size / rows
    if count is not None and scale > 1:
        scale = count.operations / _count(make, shapes, timed).operations
    return StageForecast(
        settings=settings,
        count=count,
        reason=reason,
        step_seconds=cost.step_seconds * scale,
        timed_rows=rows,
        measured_bytes=torch.cuda.max_memory_allocated(device) if device.type == "cuda" and scale == 1 else None,
    )


def _endless(batch: Any) -> Iterator[Any]:
    return repeat(batch)


def _count(make: MakeStage, shapes: Any, settings: Stage) -> StepCount:
    stage, batch = make(shapes, settings.batch_size, META)
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=torch.float32)
    step_loss = shared_loss(stage, META, exchange_gradients=False)
    stage.module.train()
    with forked_rng():
        return count_step(
            partial(take_step, stage, settings, optimizers, step_loss, batch, 0),
            tensors=(*stage.module.parameters(), *stage.module.buffers(), *stage.extra_state().values()),
        )


def _least_rows(model: ShaLa, stage: str) -> int:
    """Return a number of rows of which whole rows are encoded again, so that shares are those of a large batch."""
    return (
        max(DRAWN_ROWS, math.ceil(1 / model.spec.posterior.auxiliary_share)) if stage == "autoencoder" else DRAWN_ROWS
    )


@torch.no_grad()
def _drawn_rows(model: ShaLa) -> dict[str, torch.Tensor]:
    """Draw x of every modality from the untrained decoders: valid for any plugin."""
    with forked_rng(), evaluating(model.autoencoder):
        torch.manual_seed(0)
        z_BD = torch.randn(DRAWN_ROWS, model.spec.posterior.latent_dim)
        return {name: likelihood.sample() for name, likelihood in model.autoencoder.decode(z_BD).items()}


def _rows(drawn: dict[str, torch.Tensor], num_rows: int, device: torch.device) -> Rows:
    index = torch.arange(num_rows) % DRAWN_ROWS
    x = {
        name: torch.empty((num_rows, *value.shape[1:]), dtype=value.dtype, device=META)
        if device == META
        else value[index].to(device)
        for name, value in drawn.items()
    }
    presence = torch.ones(num_rows, len(x), dtype=torch.bool, device=device)
    return Rows(x=x, presence=presence, keys=("",) * num_rows, labels=(None,) * num_rows)


def _held_out(model: ShaLa, rows: Any) -> Any:
    """Return rows to validate on if the spec has any; stages then hold copies of their best weights."""
    return rows if model.spec.data.validation else None


def _autoencoder_stage(
    model: ShaLa,
    precision: Precision,
    drawn: dict[str, torch.Tensor],
    networks: Any,
    num_rows: int,
    device: torch.device,
) -> tuple[Any, Any]:
    rows, settings = _rows(drawn, num_rows, device), model.spec.train.autoencoder
    stage = AutoencoderTraining(networks[0], settings, device, _held_out(model, rows), precision=precision)
    return stage, rows


def _prior_stage(
    model: ShaLa, precision: Precision, networks: Any, num_rows: int, device: torch.device
) -> tuple[Any, Any]:
    table, prior = model.spec.posterior, networks[1]
    latents = LatentStore.blank(
        num_rows,
        latent_dim=table.latent_dim,
        num_modalities=len(model.names),
        feature_dim=table.feature_dim,
        device=device,
    )
    held_out = _held_out(model, latents)
    stage = PriorTraining(prior, model.spec.prior, model.spec.train.prior, latents, held_out, precision=precision)
    return stage, torch.arange(num_rows, device=device)


def _refiner_stage(
    model: ShaLa,
    precision: Precision,
    drawn: dict[str, torch.Tensor],
    networks: Any,
    num_rows: int,
    device: torch.device,
) -> tuple[Any, Any]:
    rows, (autoencoder, _, refiner) = _rows(drawn, num_rows, device), networks
    settings = model.spec.train.refiner
    held_out = _held_out(model, rows)
    table = model.spec.refine
    stage = refiner_training(table)(refiner, autoencoder, table, settings, device, held_out, precision=precision)
    return stage, rows
