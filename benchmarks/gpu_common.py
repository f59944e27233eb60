"""Tools for the parts of gpu_check.py: figures, a clock, models and rows of noise."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import tomli
import torch
from torch import Tensor

from shala_framework.data.latent_store import LatentStore
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.model import ShaLa
from shala_framework.spec import resolve_spec
from shala_framework.support.machine import describe_machine
from shala_framework.support.progress import Silent
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.precision import Precision
from shala_framework.training.prior_stage import PriorTraining, fit_to_latents
from shala_framework.training.refinement import RefinerTraining
from shala_framework.training.stages import AutoencoderTraining
from shala_framework.training.steps import take_step

HERE = Path(__file__).parent
SPECS = HERE.parent / "specs"
BFLOAT16, FLOAT32 = Precision(name="bfloat16"), Precision()
SEED = 0
NUM_CLUSTERS = 10  # of the latents that stage 2 is checked on


@attrs.define(eq=False)
class Check:
    """Settings of every part.

    Attributes:
        device: Device to check.
        path: File of the figures.
        polymnist: POLYMNIST.npz, if available.
        judge_data: JUDGE_DATA.npz, on which judges are trained, if available.
    """

    device: torch.device
    path: Path
    polymnist: Path | None
    judge_data: Path | None
    figures: dict[str, Any] = attrs.field(factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether to use the sizes for a GPU."""
        return self.device.type == "cuda"

    def say(self, name: str, value: Any) -> None:
        """Keep a figure, and write it to the file at once."""
        self.figures[name] = f"{value:.4g}" if isinstance(value, float) else value
        self.path.write_text(json.dumps({"machine": describe_machine(self.device), "figures": self.figures}))
        print(name, self.figures[name], flush=True)

    def wait(self) -> None:
        """Wait until the device has finished its work."""
        if self.is_gpu:
            torch.cuda.synchronize()


class OverError(Exception):
    """Ends a measurement."""


class Clock(Silent):
    """Ends a training after some seconds and counts the steps in each of them."""

    WARM_UP = 8

    def __init__(self, check: Check, seconds: float) -> None:
        self.check, self.seconds, self.start, self.rate = check, seconds, 0.0, 0.0

    def advance(self, done: int, terms: Any = None) -> None:
        if done == self.WARM_UP:
            self.check.wait()
            self.start = time.perf_counter()
        elif done > self.WARM_UP and time.perf_counter() - self.start > self.seconds:
            self.check.wait()
            self.rate = (done - self.WARM_UP) / (time.perf_counter() - self.start)
            raise OverError


def model_of(name: str, **changes: Any) -> ShaLa:
    """Make the model of a shipped spec with its settings for real data, but without data; options may be changed."""
    raw = tomli.loads((SPECS / f"{name}.toml").read_text())
    raw["data"].pop("stand_in", None)
    for path, value in changes.items():
        *tables, key = path.split("/")
        table = raw
        for part in tables:
            table = table[part]
        table[key] = value
    return ShaLa.from_spec(resolve_spec(raw, name)).build()


def random_rows(model: ShaLa, count: int) -> Rows:
    """Make rows of noise for every modality; those of integers but bytes are tokens, from 2 on, before zeros."""
    generator = torch.Generator().manual_seed(SEED)
    x = {}
    for name, modality in model.modalities.items():
        shape = (count, *modality.shape)
        if modality.dtype.is_floating_point:
            x[name] = torch.randn(shape, generator=generator).to(modality.dtype)
        elif modality.dtype == torch.uint8:
            x[name] = torch.randint(0, 256, shape, generator=generator, dtype=modality.dtype)
        else:
            tokens = torch.randint(2, 255, shape, generator=generator, dtype=modality.dtype)
            lengths = torch.randint(1, shape[1] + 1, (count, 1), generator=generator)
            x[name] = tokens * (torch.arange(shape[1]) < lengths)
    presence = torch.ones(count, len(x), dtype=torch.bool)
    return Rows(x=x, presence=presence, keys=tuple(map(str, range(count))), labels=(None,) * count)


def stage_1(model: ShaLa, device: torch.device, precision: Precision) -> AutoencoderTraining:
    """Make stage 1 of a spec's model."""
    model.to(device)
    return AutoencoderTraining(model.autoencoder, model.spec.train.autoencoder, device, precision=precision)


def stage_3(model: ShaLa, device: torch.device, precision: Precision, rows: Rows) -> RefinerTraining:
    """Make stage 3 of a spec's model, with the statistics of some rows."""
    model.to(device)
    settings = model.spec.train.refiner
    stage = RefinerTraining(model.refiner, model.autoencoder, model.spec.refine, settings, device, precision=precision)
    torch.manual_seed(SEED)
    for measure in stage.measurements:
        measure([rows])
    return stage


@contextlib.contextmanager
def products(name: str) -> Iterator[Precision]:
    """Compute matrix products and convolutions in a number format for the duration of a context."""
    tf32 = name == "TF32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield BFLOAT16 if name == "bfloat16" else FLOAT32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def batches_of(rows: Rows, batch_size: int, start: int) -> Iterator[Rows]:
    return (rows.take(index) for index in shuffled_batches(len(rows), batch_size, SEED, start))


def step_of_prior(
    check: Check, model: ShaLa, *, batch_size: int, on_device: bool, num_rows: int = 4_096
) -> tuple[PriorTraining, Callable[[int], None]]:
    """Make stage 2 on latents of noise in ten clusters, and a function that takes a step of it."""
    latent_dim, feature_dim, count = model.prior.latent_dim, model.autoencoder.feature_dim, len(model.names)
    torch.manual_seed(SEED)
    store = LatentStore(
        torch.randn(num_rows, latent_dim) + 6 * torch.randn(NUM_CLUSTERS, latent_dim).repeat(num_rows, 1)[:num_rows],
        torch.full((num_rows, latent_dim), -4.0),
        torch.randn(num_rows, count, feature_dim),
        torch.ones(num_rows, count, dtype=torch.bool),
    )
    store = store.to(check.device) if on_device else store
    model.to(check.device)
    fit_to_latents(model.prior, store, seed=SEED)
    precision = BFLOAT16 if check.is_gpu else FLOAT32
    settings = model.spec.train.prior
    stage = PriorTraining(model.prior, model.spec.prior, settings, store, precision=precision)
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=precision.dtype)
    loss = shared_loss(stage, check.device)
    batches = shuffled_batches(num_rows, batch_size, SEED)

    def step(number: int) -> None:
        take_step(stage, settings, optimizers, loss, next(batches), number)

    return stage, step


def rate_of(check: Check, step: Callable[[int], Any], seconds: float) -> float:
    """Return calls a second."""
    clock, number = Clock(check, seconds if check.is_gpu else 0.2), 0
    while True:
        step(number)
        number += 1
        try:
            clock.advance(number)
        except OverError:
            return clock.rate


def relative_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


@contextlib.contextmanager
def reported(check: Check, name: str) -> Iterator[None]:
    """Record a failure inside a context as a figure, such as too little memory."""
    try:
        yield
    except Exception as error:
        check.say(f"{name}: failed", f"{type(error).__name__}: {str(error)[:200]}")
    if check.is_gpu:
        torch.cuda.empty_cache()
