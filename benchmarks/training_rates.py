"""How fast stage 1 trains on the five PolyMNIST modalities, for the sections of throughput.py."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from pictures import FEATURE_DIM, modalities
from torch.utils.flop_counter import FlopCounterMode

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.rows import Rows
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage, Posterior
from shala_framework.support.progress import Silent
from shala_framework.training.compiling import compiled
from shala_framework.training.loop import train
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.precision import FLOAT32, Precision, choose_precision
from shala_framework.training.stages import AutoencoderTraining

BATCH_SIZE, LATENT_DIM = 128, 64


class OutOfTimeError(Exception):
    """Ends a measurement."""


class Clock(Silent):
    """Stops a training after some seconds and returns its rate; the first steps do not count."""

    WARM_UP = 5

    def __init__(self, seconds: float) -> None:
        self.seconds, self.start, self.rate = seconds, 0.0, 0.0

    def advance(self, done: int, terms: Mapping[str, float] | None = None) -> None:
        now = time.perf_counter()
        if done == self.WARM_UP:
            self.start = now
        elif done > self.WARM_UP and now - self.start > self.seconds:
            self.rate = (done - self.WARM_UP) / (now - self.start)
            raise OutOfTimeError


def matrix_dtype() -> torch.dtype:
    """Return the number format in which Muon multiplies matrices on this machine."""
    return choose_precision("auto", torch.device("cpu")).dtype


def new_stage(
    count: int, *, precision: Precision = FLOAT32, **posterior: Any
) -> tuple[AutoencoderTraining, AutoencoderStage]:
    """Make stage 1 as in a run, on a number of picture modalities."""
    torch.manual_seed(0)
    sizes = {"latent_dim": LATENT_DIM, "feature_dim": FEATURE_DIM, "hidden_dim": 256}
    table = structure({**sizes, **posterior}, Posterior)
    settings = structure(
        {"steps": 1_000_000, "batch_size": BATCH_SIZE, "save_every_steps": 1_000_000}, AutoencoderStage
    )
    autoencoder = Autoencoder(modalities(count), table)
    return AutoencoderTraining(autoencoder, settings, torch.device("cpu"), precision=precision), settings


def rate_of_loop(
    batches: Callable[[int], Iterator[Rows]], seconds: float, *, precision: Precision = FLOAT32, **posterior: Any
) -> float:
    """Return rows a second of the framework's own loop, in a number format."""
    stage, settings = new_stage(5, precision=precision, **posterior)
    clock = Clock(seconds)
    with contextlib.suppress(OutOfTimeError):
        train(stage, settings, batches, seed=0, matrix_dtype=matrix_dtype(), reporter=clock)
    return clock.rate * BATCH_SIZE


def rate_of_compiled_loop(rows: Rows, seconds: float) -> float:
    """Return rows a second of the bare loop with compiled encoders and decoders."""
    stage, settings = new_stage(5)
    with compiled(stage.autoencoder.networks, torch.device("cpu")):
        return rate_of_steps(stage, settings, rows, seconds)


def rate_of_bare_loop(rows: Rows, seconds: float, **posterior: Any) -> float:
    """Return rows a second of forward, backward and optimiser step on one batch, and nothing else."""
    stage, settings = new_stage(5, **posterior)
    return rate_of_steps(stage, settings, rows, seconds)


def rate_of_steps(stage: AutoencoderTraining, settings: AutoencoderStage, rows: Rows, seconds: float) -> float:
    """Return rows a second of repeating one batch; the first steps do not count."""
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=matrix_dtype())
    batch, step, start = rows.take(torch.arange(BATCH_SIZE)), 0, 0.0
    while True:
        loss, _ = stage.loss(batch, step)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        now = time.perf_counter()
        if step == Clock.WARM_UP:
            start = now
        elif step > Clock.WARM_UP and now - start > seconds:
            return BATCH_SIZE * (step - Clock.WARM_UP) / (now - start)


def operations_per_row(rows: Rows, **posterior: Any) -> int:
    """Return floating-point operations of the matrix products and convolutions, forward and backward."""
    stage, _ = new_stage(5, **posterior)
    with FlopCounterMode(display=False) as counter:
        loss, _ = stage.loss(rows.take(torch.arange(BATCH_SIZE)), 0)
        loss.backward()
    return counter.get_total_flops() // BATCH_SIZE


def rate_of_products(seconds: float, size: int = 2048) -> float:
    """Return floating-point operations a second of large float32 matrix products, the most that a layer could reach."""
    a, b = torch.randn(2, size, size)
    count, start = 0, 0.0
    while True:
        torch.mm(a, b)
        count += 1
        now = time.perf_counter()
        if count == Clock.WARM_UP:
            start = now
        elif count > Clock.WARM_UP and now - start > seconds:
            return 2 * size**3 * (count - Clock.WARM_UP) / (now - start)
