"""The parts of gpu_check.py: each writes its figures as it finds them.

python benchmarks/gpu_parts.py PART FIGURES.json [--device auto]
    [--bench BENCH --polymnist POLYMNIST.npz --judge-data JUDGE_DATA.npz]
"""

import argparse
import collections
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import tomli
import torch
from scripts import load_script
from torch import Tensor

from shala_framework.data.latents import LatentStore
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.model import ShaLa
from shala_framework.spec import resolve_spec
from shala_framework.support.machine import describe_machine, resolve_device
from shala_framework.support.progress import Silent
from shala_framework.training.compiling import compiled
from shala_framework.training.graphs import Steps
from shala_framework.training.loop import train
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.precision import Precision, choose_precision
from shala_framework.training.stages import AutoencoderTraining, PriorTraining
from shala_framework.training.steps import take_step

HERE = Path(__file__).parent
SPECS = HERE.parent / "specs"
BFLOAT16, FLOAT32 = Precision(name="bfloat16"), Precision()
# Norm of a tensor's error over its own norm that a number format explains.
TOLERANCES = {"float32": 1e-3, "TF32": 5e-3, "bfloat16": 5e-2}
SEED = 0


@attrs.define(eq=False)
class Check:
    """What every part works with.

    Attributes:
        device: That is checked.
        path: Of the figures.
        bench: Folder of the judge, where it is at hand.
        polymnist: Its data, likewise.
        judge_data: What the judges learn from, likewise.
    """

    device: torch.device
    path: Path
    bench: Path | None
    polymnist: Path | None
    judge_data: Path | None
    figures: dict[str, Any] = attrs.field(factory=dict)

    @property
    def is_gpu(self) -> bool:
        """Whether sizes are those of a GPU."""
        return self.device.type == "cuda"

    def say(self, name: str, value: Any) -> None:
        """Keep a figure, at once in the file."""
        self.figures[name] = f"{value:.4g}" if isinstance(value, float) else value
        self.path.write_text(json.dumps({"machine": describe_machine(self.device), "figures": self.figures}))
        print(name, self.figures[name], flush=True)

    def wait(self) -> None:
        """Until the device has done what it was asked for."""
        if self.is_gpu:
            torch.cuda.synchronize()


class OverError(Exception):
    """A measurement is over."""


class Clock(Silent):
    """Ends a training after some seconds and knows how many steps it took in each of them."""

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
    """The model of a shipped spec with its settings for real data, without any; keys of options may be changed."""
    raw = tomli.loads((SPECS / f"{name}.toml").read_text())
    raw["data"].pop("stand_in", None)
    for path, value in changes.items():
        *tables, key = path.split("/")
        table = raw
        for part in tables:
            table = table[part]
        table[key] = value
    return ShaLa(resolve_spec(raw, name)).build()


def random_rows(model: ShaLa, count: int) -> Rows:
    """Rows of every modality, of noise."""
    generator = torch.Generator().manual_seed(SEED)
    x = {}
    for name, modality in model.modalities.items():
        shape = (count, *modality.shape)
        x[name] = (
            torch.randn(shape, generator=generator).to(modality.dtype)
            if modality.dtype.is_floating_point
            else torch.randint(0, 255, shape, generator=generator, dtype=modality.dtype)
        )
    presence = torch.ones(count, len(x), dtype=torch.bool)
    return Rows(x=x, presence=presence, keys=tuple(map(str, range(count))), labels=(None,) * count)


def stage_1(model: ShaLa, device: torch.device, precision: Precision) -> AutoencoderTraining:
    """Stage 1 of a spec's model."""
    model.to(device)
    return AutoencoderTraining(
        model.autoencoder, model.spec.posterior, model.spec.train.autoencoder, device, precision=precision
    )


@contextlib.contextmanager
def products(name: str) -> Iterator[Precision]:
    """A context in which products of matrices and convolutions are in a number format."""
    tf32 = name == "TF32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield BFLOAT16 if name == "bfloat16" else FLOAT32
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


# -- equality ---------------------------------------------------------------------------------------------------------


def passed(model: ShaLa, rows: Rows, device: torch.device, precision: Precision) -> dict[str, Tensor]:
    """Features, latents, parameters of decoders, gradients and samples of the same weights and rows on a device."""
    model.to(device)
    on_device = rows.to(device)
    autoencoder, prior = model.autoencoder.eval(), model.prior.eval()  # in training some of it is random
    found: dict[str, Tensor] = {}
    with precision.autocast(device):
        h = autoencoder.encode(on_device.x)
        posterior = autoencoder.fuse(h, on_device.presence)
        found |= {f"{name} feature": value for name, value in h.items()}
        found["posterior mean"] = posterior.mean_BD
        total = torch.zeros((), device=device)
        for name, likelihood in autoencoder.decode(posterior.mean_BD).items():
            log_prob = likelihood.log_prob(on_device.x[name])
            found[f"{name} log_prob"] = log_prob
            total = total + log_prob.mean() / autoencoder.num_values[name]
    autoencoder.zero_grad(set_to_none=True)
    total.backward()
    for name in model.names:
        for kind, module in (("encoder", autoencoder.encoders[name]), ("decoder", autoencoder.decoders[name])):
            gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
            found[f"{name} {kind} gradient"] = torch.cat(gradients)
    with torch.no_grad(), precision.autocast(device):
        noise = torch.randn(len(rows), prior.latent_dim, generator=torch.Generator().manual_seed(1)).to(device)
        condition = prior.condition(list(h.values()), on_device.presence)
        found["denoised"] = prior.denoise(noise, torch.full((len(rows),), 0.7, device=device), condition)
    autoencoder.zero_grad(set_to_none=True)
    return {name: value.detach().float().cpu() for name, value in found.items()}


def equality(check: Check) -> None:
    """Every plugin in both directions, against float32 on the CPU."""
    small = {
        "modality/rgb/options": {"frames": 8, "height": 32, "width": 32, "frames_per_second": 8},
        "modality/skeleton/options": {"frames": 16, "joints": 25, "bodies": 2, "frames_per_second": 16},
    }
    models = {
        "ntu_rgb_skeleton": partial(model_of, "ntu_rgb_skeleton", **small),
        "mimic_cxr": partial(model_of, "mimic_cxr"),
        "digits5": partial(model_of, "digits5"),
    }
    worst: dict[str, tuple[float, str]] = {}
    for spec, build in models.items():
        model = build()
        rows = random_rows(model, 8)
        with products("float32"):
            expected = passed(model, rows, torch.device("cpu"), FLOAT32)
        for kind in TOLERANCES:
            with products(kind) as precision:
                got = passed(model, rows, check.device, precision)
            for name, value in got.items():
                error = float((value - expected[name]).norm() / expected[name].norm().clamp_min(1e-12))
                worst[kind] = max(worst.get(kind, (0.0, "")), (error, f"{spec}, {name}"))
                if not error <= TOLERANCES[kind]:
                    check.say(f"beyond {TOLERANCES[kind]:g} in {kind}: {spec}, {name}", error)
    for kind, (error, where) in worst.items():
        check.say(f"greatest error in {kind}, of at most {TOLERANCES[kind]:g}", f"{error:.2g} ({where})")


# -- waits ------------------------------------------------------------------------------------------------------------


def places_of_waits(work: Callable[[], Any]) -> dict[str, int]:
    """Where the processor waited for the device, and how often."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "synchroniz" in str(w.message)]
    counted = collections.Counter(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in found)
    return dict(counted.most_common())


def waits(check: Check) -> None:
    """In a step of each stage, and in sampling."""
    for spec in ("polymnist", "ntu_rgb_skeleton", "mimic_cxr", "digits5"):
        model = model_of(spec)
        stage = stage_1(model, check.device, BFLOAT16)
        rows, settings = random_rows(model, 16), model.spec.train.autoencoder
        optimizers = make_optimizers(stage.module, settings, matrix_dtype=BFLOAT16.dtype)
        loss = shared_loss(stage, check.device)

        def step(number: int, parts: tuple[Any, ...] = (stage, settings, optimizers, loss, rows)) -> None:
            take_step(*parts, number)

        for number in range(2):
            step(number)
        if check.is_gpu:
            check.say(f"waits in a step of stage 1, {spec}", places_of_waits(partial(step, 2)))
    for placed in (False, True):
        _, step_2 = step_of_prior(check, model, batch_size=64, on_device=placed)
        step_2(0)
        if check.is_gpu:
            where = "on the device" if placed else "in memory"
            check.say(f"waits in a step of stage 2, latents {where}", places_of_waits(partial(step_2, 1)))
    model.stages |= {"autoencoder", "prior"}
    if check.is_gpu:
        check.say("waits in 18 Heun steps of 64 samples", places_of_waits(lambda: model.sample_latents(64)))
    model.sample_latents(4)


# -- graphs -----------------------------------------------------------------------------------------------------------


def graphs(check: Check) -> None:
    """That steps as one graph are the steps that are launched kernel by kernel, in each stage of four specs."""
    for spec in ("mimic_cxr", "digits5", "polymnist", "ntu_rgb_skeleton"):
        found: dict[bool, dict[str, Tensor]] = {}
        for captured in (False, True):
            with reported(check, f"{spec}, {'captured' if captured else 'as always'}"):
                found[captured] = trained(check, spec, captured=captured)
        if len(found) == 2:
            for name, value in found[True].items():
                check.say(
                    f"{spec}: greatest relative difference, {name}", relative_difference(value, found[False][name])
                )


def trained(check: Check, spec: str, *, captured: bool, num_steps: int = 12) -> dict[str, Tensor]:
    """Losses and last weights of some steps of both stages in float32."""
    model, found = model_of(spec), {}
    rows = random_rows(model, 64 if check.is_gpu else 4)
    first = stage_1(model, check.device, FLOAT32)
    batch_size = len(rows) // 2
    order = shuffled_batches(len(rows), batch_size, SEED)
    batches: Iterator[Any] = (rows.take(index) for index in order)
    second, _ = step_of_prior(check, model, batch_size=batch_size, on_device=True, num_rows=256)
    second.precision = FLOAT32
    for stage, settings, source in (
        (first, model.spec.train.autoencoder, batches),
        (second, model.spec.train.prior, shuffled_batches(256, batch_size, SEED)),
    ):
        optimizers = make_optimizers(stage.module, settings, matrix_dtype=torch.float32, capturable=captured)
        loss = shared_loss(stage, check.device)
        steps: Steps[Any] = Steps(
            stage,
            settings,
            optimizers,
            loss,
            captured=captured and check.is_gpu,
            note=partial(check.say, f"{spec}: note"),
        )
        stage.module.train()
        losses = []
        for number in range(num_steps):
            torch.manual_seed(number)
            losses.append(steps.take(next(source), number)["loss"].clone())
        found[f"losses of {stage.name}"] = torch.stack(losses).cpu()
        found[f"weights of {stage.name}"] = torch.cat([p.detach().flatten() for p in stage.module.parameters()]).cpu()
        if captured and check.is_gpu:
            check.say(f"{spec}: {stage.name} is captured", steps.captured)
    return found


def relative_difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


# -- nccl -------------------------------------------------------------------------------------------------------------


def nccl(check: Check) -> None:
    """A group of one: gradients and rows are exchanged as between many."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from shala_framework.distributed.processes import _Gather, any_process
    from shala_framework.training.parallel import _LossModule

    backend = "nccl" if check.is_gpu else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        model = model_of("polymnist")
        stage = stage_1(model, check.device, BFLOAT16 if check.is_gpu else FLOAT32)
        rows = random_rows(model, 8)
        torch.manual_seed(0)
        alone, _ = stage.loss(rows, 0)
        alone.backward()
        expected = [p.grad.clone() for p in stage.module.parameters() if p.grad is not None]
        stage.module.zero_grad(set_to_none=True)
        exchanged = DistributedDataParallel(
            _LossModule(stage), device_ids=[0] if check.is_gpu else None, broadcast_buffers=False
        )
        torch.manual_seed(0)
        loss, _ = exchanged(rows, 0)
        loss.backward()
        got = [p.grad for p in stage.module.parameters() if p.grad is not None]
        error = max(float((a - b).abs().max()) for a, b in zip(got, expected, strict=True))
        check.say(f"difference of gradients exchanged by {backend}", error)
        x = torch.randn(4, 3, device=check.device, requires_grad=True)
        gathered = _Gather.apply(x)
        gathered.square().sum().backward()
        assert x.grad is not None
        check.say("difference of gathered rows", float((gathered - x).abs().max()))
        check.say("difference of their gradient", float((x.grad - 2 * x).abs().max()))
        flag = torch.tensor([1.0], device=check.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        check.say("a flag of all processes", f"{bool(flag)}, {any_process((True, False), check.device)}")
        dist.destroy_process_group()


# -- rates ------------------------------------------------------------------------------------------------------------


def batches_of(rows: Rows, batch_size: int, start: int) -> Iterator[Rows]:
    return (rows.take(index) for index in shuffled_batches(len(rows), batch_size, SEED, start))


def rate_of_loop(check: Check, model: ShaLa, rows: Rows, batch_size: int, precision: Precision) -> float:
    """Steps a second of the framework's own loop."""
    stage = stage_1(model, check.device, precision)
    settings = attrs.evolve(
        model.spec.train.autoencoder, steps=10**6, batch_size=batch_size, save_every_steps=10**6, log_every_steps=50
    )
    clock = Clock(check, 2.0 if check.is_gpu else 0.2)
    with contextlib.suppress(OverError):
        train(
            stage,
            settings,
            partial(batches_of, rows, batch_size),
            seed=SEED,
            matrix_dtype=precision.dtype,
            reporter=clock,
        )
    return clock.rate


def rate_of_bare_loop(check: Check, model: ShaLa, rows: Rows, batch_size: int, precision: Precision) -> float:
    """Steps a second of forward, backward and optimiser on one batch that is on the device."""
    stage = stage_1(model, check.device, precision)
    optimizers = make_optimizers(stage.module, model.spec.train.autoencoder, matrix_dtype=precision.dtype)
    batch, clock, step = rows.take(torch.arange(batch_size)).to(check.device), Clock(check, 1.5), 0
    clock.seconds = 1.5 if check.is_gpu else 0.2
    while True:
        loss, _ = stage.loss(batch, step)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        try:
            clock.advance(step)
        except OverError:
            return clock.rate


def kernels_of_step(check: Check, model: ShaLa, rows: Rows, batch_size: int, precision: Precision) -> tuple[int, float]:
    """Kernels that a step launches, and seconds that the device works on them."""
    from torch.profiler import ProfilerActivity, profile

    stage = stage_1(model, check.device, precision)
    settings = model.spec.train.autoencoder
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=precision.dtype)
    loss = shared_loss(stage, check.device)
    batch, steps = rows.take(torch.arange(batch_size)), 3
    for step in range(3):
        take_step(stage, settings, optimizers, loss, batch, step)
    check.wait()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as trace:
        for step in range(steps):
            take_step(stage, settings, optimizers, loss, batch, step)
        check.wait()
    events = [event for event in trace.events() if str(event.device_type).endswith("CUDA")]
    return len(events) // steps, sum(event.device_time for event in events) / steps / 1e6


def rates(check: Check) -> None:
    """Of three specs in their real settings; small ones on a CPU."""
    small = {
        "ntu_rgb_skeleton": {
            "modality/rgb/options": {"frames": 4, "height": 16, "width": 16, "channels": 8, "frames_per_second": 8}
        }
    }
    specs = ("mimic_cxr", "ntu_rgb_skeleton", "polymnist")
    for spec in specs:
        changes: dict[str, Any] = {} if check.is_gpu else small.get(spec, {})
        for batch_size in (64, 1024) if check.is_gpu else (4,):
            rows = random_rows(model_of(spec, **changes), 2 * batch_size)
            for kind in ("float32", "TF32", "bfloat16") if batch_size == 1024 else ("bfloat16",):
                name = f"rows/s, {spec}, {batch_size} rows, {kind}"
                with products(kind) as precision, reported(check, name):
                    if check.is_gpu:
                        torch.cuda.reset_peak_memory_stats()
                    rate = rate_of_loop(check, model_of(spec, **changes), rows, batch_size, precision)
                    check.say(name, round(batch_size * rate))
                    if kind == "bfloat16" and check.is_gpu:
                        peak = torch.cuda.max_memory_allocated() / 2**30
                        count, seconds = kernels_of_step(check, model_of(spec), rows, batch_size, precision)
                        said = f"{count} kernels a step, device busy {seconds * rate:.0%}, peak {peak:.2f} GiB"
                        check.say(f"{spec}, {batch_size} rows, bfloat16", said)
                        bare = rate_of_bare_loop(check, model_of(spec, **changes), rows, batch_size, precision)
                        check.say(f"{name}, kernel by kernel, bare loop", round(batch_size * bare))
    if not check.is_gpu:
        return
    for spec in specs:  # compiling takes longest
        with reported(check, f"{spec}, compiled"):
            model, start = model_of(spec), time.perf_counter()
            with compiled(model.autoencoder.networks, check.device):
                rate = rate_of_loop(check, model, random_rows(model, 2048), 1024, BFLOAT16)
            check.say(f"rows/s, {spec}, 1024 rows, bfloat16, compiled", round(1024 * rate))
            check.say(f"{spec}: seconds with compiling", time.perf_counter() - start)


@contextlib.contextmanager
def reported(check: Check, name: str) -> Iterator[None]:
    """A context whose failure is a figure, as that of too little memory."""
    try:
        yield
    except Exception as error:
        check.say(f"{name}: failed", f"{type(error).__name__}: {str(error)[:200]}")
    if check.is_gpu:
        torch.cuda.empty_cache()


# -- shards -----------------------------------------------------------------------------------------------------------


def shards(check: Check) -> None:
    """The five pictures of PolyMNIST from memory, and from prepared shards by workers."""
    from pictures import as_rows
    from reading_rates import Files, encoded, stored_modalities

    from shala_framework.data.indexed import index_shards
    from shala_framework.data.order import SampleOrder
    from shala_framework.data.packing import pack
    from shala_framework.data.prepared import Preparation
    from shala_framework.data.streams import IndexedStream, stream_batches

    count, batch_size = (4_000, 512) if check.is_gpu else (64, 8)
    rng, members = np.random.default_rng(SEED), stored_modalities()
    pictures = rng.integers(0, 256, (5, count, 28, 28, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        fields = (
            {f"m{i}.png": encoded(of_modality[row], "png") for i, of_modality in enumerate(pictures)}
            for row in range(count)
        )
        report = pack(Files(fields), None, Path(folder), shard_samples=count // 8, preparation=Preparation(members))
        found = index_shards([str(path) for path in report.shards])
        assert found is not None
        order = SampleOrder(found.counts, seed=SEED, lanes=8, window=512)
        rows = as_rows({f"m{i}": torch.from_numpy(p).permute(0, 3, 1, 2).contiguous() for i, p in enumerate(pictures)})
        precision = BFLOAT16 if check.is_gpu else FLOAT32

        def of_shards(workers: int, start: int) -> Iterator[Rows]:
            source = IndexedStream(found, members, order, batch_size=batch_size, start_step=start)
            return stream_batches(source, workers)

        ways: dict[str, Callable[[int], Iterator[Rows]]] = {"memory": partial(batches_of, rows, batch_size)}
        ways |= {f"prepared shards, {n} workers": partial(of_shards, n) for n in ((1, 4, 8) if check.is_gpu else (0,))}
        for name, batches in ways.items():
            model = model_of("polymnist")
            stage = stage_1(model, check.device, precision)
            settings = attrs.evolve(
                model.spec.train.autoencoder, steps=10**6, batch_size=batch_size, save_every_steps=10**6
            )
            clock = Clock(check, 4.0 if check.is_gpu else 0.2)
            with contextlib.suppress(OverError):
                train(stage, settings, batches, seed=SEED, matrix_dtype=precision.dtype, reporter=clock)
            check.say(f"rows/s, {batch_size} rows from {name}", round(batch_size * clock.rate))


# -- prior ------------------------------------------------------------------------------------------------------------


def step_of_prior(
    check: Check, model: ShaLa, *, batch_size: int, on_device: bool, num_rows: int = 4_096
) -> tuple[PriorTraining, Callable[[int], None]]:
    """Stage 2 on latents of noise, and a step of it."""
    latent_dim, feature_dim, count = model.prior.latent_dim, model.autoencoder.feature_dim, len(model.names)
    torch.manual_seed(SEED)
    store = LatentStore(
        torch.randn(num_rows, latent_dim),
        torch.full((num_rows, latent_dim), -4.0),
        torch.randn(num_rows, count, feature_dim),
        torch.ones(num_rows, count, dtype=torch.bool),
    )
    store = store.to(check.device) if on_device else store
    model.to(check.device)
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
    """Calls a second."""
    clock, number = Clock(check, seconds if check.is_gpu else 0.2), 0
    while True:
        step(number)
        number += 1
        try:
            clock.advance(number)
        except OverError:
            return clock.rate


def prior(check: Check) -> None:
    """Training and sampling: as they are, compiled and, of training, as a graph of all but the optimiser's rate."""
    for batch_size in (512, 4_096) if check.is_gpu else (16,):
        model = model_of("polymnist")
        _, step = step_of_prior(check, model, batch_size=batch_size, on_device=True, num_rows=20_000)
        check.say(f"steps/s of stage 2, {batch_size} rows, kernel by kernel", rate_of(check, step, 1.5))
        with reported(check, f"stage 2, {batch_size} rows, in the loop"):
            check.say(f"steps/s of stage 2, {batch_size} rows, in the loop", rate_of_prior_loop(check, batch_size))
        if check.is_gpu:
            with reported(check, f"stage 2, {batch_size} rows, graph"):
                check.say(f"steps/s of stage 2, {batch_size} rows, as a graph", rate_of_graph(check, batch_size))
    if check.is_gpu:
        with reported(check, "stage 2, compiled"):
            model = model_of("polymnist")
            with compiled([model.prior.network, model.prior.guide], check.device):
                _, step = step_of_prior(check, model, batch_size=512, on_device=True)
                check.say("steps/s of stage 2, 512 rows, compiled", rate_of(check, step, 2.0))
    model = model_of("polymnist").to(check.device)
    model.stages |= {"autoencoder", "prior"}
    for count in (64, 4_096) if check.is_gpu else (8,):
        model.sample_latents(count)
        check.wait()
        start = time.perf_counter()
        z = model.sample_latents(count)
        check.wait()
        check.say(f"seconds for {count} latents by 18 Heun steps", time.perf_counter() - start)
    start = time.perf_counter()
    model.decode(z)
    check.say(f"seconds to decode {len(z)} latents of five pictures", time.perf_counter() - start)


def rate_of_prior_loop(check: Check, batch_size: int) -> float:
    """Steps a second of the framework's own loop."""
    model, clock = model_of("polymnist"), Clock(check, 2.0 if check.is_gpu else 0.2)
    stage, _ = step_of_prior(check, model, batch_size=batch_size, on_device=True, num_rows=20_000)
    settings = attrs.evolve(model.spec.train.prior, steps=10**6, batch_size=batch_size, save_every_steps=10**6)
    batches = partial(shuffled_batches, 20_000, batch_size, SEED)
    with contextlib.suppress(OverError):
        train(stage, settings, batches, seed=SEED, matrix_dtype=stage.precision.dtype, reporter=clock)
    return clock.rate


def rate_of_graph(check: Check, batch_size: int) -> float:
    """Steps a second of forward, backward and optimiser as one CUDA graph, at a fixed learning rate."""
    model = model_of("polymnist")
    stage, _ = step_of_prior(check, model, batch_size=batch_size, on_device=True, num_rows=20_000)
    settings = model.spec.train.prior
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=BFLOAT16.dtype)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if "capturable" in group:
                group["capturable"] = True
    index = torch.arange(batch_size, device=check.device)

    def work() -> None:
        loss, _ = stage.loss(index, 0)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        work()
    return rate_of(check, lambda _: graph.replay(), 1.5)


# -- run --------------------------------------------------------------------------------------------------------------


def run(check: Check) -> None:
    """The first command's spec, cut short: killed, resumed, sampled and evaluated."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        count, minutes = (600, 0.5) if check.is_gpu else (48, 1.0)
        changes = {
            "train.device": check.device.type,
            "data.stand_in.options.train": count,
            "data.stand_in.options.validation": max(16, count // 8),
            "data.stand_in.options.test": max(16, count // 8),
            "train.minutes": minutes,
            "train.autoencoder.save_every_steps": 50 if check.is_gpu else 5,
        }
        settings = [f"--set={key}={value}" for key, value in changes.items()]
        line = [sys.executable, "-c", "from shala_framework.cli.main import main; main()"]
        command = [*line, "run", str(SPECS / "ntu_rgb_skeleton.toml"), "--out", str(out), *settings]
        start = time.perf_counter()
        killed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        state = out / "state" / "autoencoder.safetensors"
        while killed.poll() is None and not state.exists():
            time.sleep(0.2)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        check.say("seconds until the first state, then killed", time.perf_counter() - start)
        for name, arguments in {
            "resumed": command[len(line) :],
            "shala sample": ["sample", str(out), "--num", "4", "--out", f"{folder}/samples"],
            "shala evaluate": ["evaluate", str(out)],
        }.items():
            start = time.perf_counter()
            done = subprocess.run([*line, *arguments], capture_output=True, text=True, check=False)
            said = f"exit {done.returncode} after {time.perf_counter() - start:.1f} s"
            check.say(name, said if done.returncode == 0 else f"{said}: {(done.stderr or done.stdout)[-600:]}")
            if name == "resumed":
                check.say("lines of the resumed run", done.stderr.strip().splitlines()[-25:])
        metrics = (out / "metrics.jsonl").read_text().splitlines()
        check.say("phases", json.loads(metrics[-1]).get("seconds", {}) if metrics else {})


# -- polymnist --------------------------------------------------------------------------------------------------------


def polymnist(check: Check) -> None:
    """A minute of training, scored by judges that are trained here, on the device, as the benchmark trains them."""
    assert check.bench is not None
    assert check.polymnist is not None
    judge = load_script(check.bench / "judge.py")
    seconds = 60.0 if check.is_gpu else 10.0
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npz"
        line = [sys.executable, str(HERE / "polymnist.py"), str(check.polymnist), "--out", str(samples)]
        line += ["--seconds", str(seconds), "--device", check.device.type, "--threads", str(os.cpu_count())]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        check.say("training", (done.stdout if done.returncode == 0 else done.stderr)[-1500:].strip())
        judges = Path(folder) / "judges.pt"
        train_judges(check, judge, judges)
        line = [sys.executable, str(check.bench / "judge.py"), "score", str(check.polymnist), str(judges), str(samples)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        check.say("scores", (done.stdout if done.returncode == 0 else done.stderr)[-1500:].strip())


def train_judges(check: Check, judge: Any, out: Path, num_epochs: int = 5, batch_size: int = 128) -> None:
    """The benchmark's judges by its own recipe, on the device."""
    assert check.judge_data is not None
    states = []
    with np.load(check.judge_data) as arrays:
        labels, train_x = torch.from_numpy(arrays["train_y"]).to(check.device), arrays["train_x"]
    for pictures in train_x:
        torch.manual_seed(SEED)
        net, x = judge.judge().to(check.device), judge.images(pictures).to(check.device)
        optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
        steps = num_epochs * -(-len(x) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
        for _ in range(num_epochs):
            for index in torch.randperm(len(x), device=check.device).split(batch_size):
                loss = torch.nn.functional.cross_entropy(net(x[index]), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        states.append({name: value.cpu() for name, value in net.state_dict().items()})
    torch.save(states, out)


PARTS: dict[str, Callable[[Check], None]] = {
    part.__name__: part for part in (equality, waits, graphs, nccl, rates, shards, prior, run, polymnist)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("path", type=Path)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--polymnist", type=Path)
    parser.add_argument("--judge-data", type=Path)
    args = parser.parse_args()
    device = resolve_device(args.device)
    check = Check(device, args.path, args.bench, args.polymnist, args.judge_data)
    chosen = choose_precision("auto", device)
    check.say("machine", describe_machine(device))
    check.say("precision", f"{chosen.name}: {chosen.reason}")
    PARTS[args.part](check)


if __name__ == "__main__":
    main()
