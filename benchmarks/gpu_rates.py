"""How fast a GPU trains and samples: parts of gpu_check.py."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from gpu_common import (
    BFLOAT16,
    FLOAT32,
    SEED,
    Check,
    Clock,
    OverError,
    batches_of,
    model_of,
    products,
    random_rows,
    rate_of,
    reported,
    stage_1,
    stage_3,
    step_of_prior,
)

from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.model import ShaLa
from shala_framework.training.compiling import compiled
from shala_framework.training.loop import train
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.precision import Precision
from shala_framework.training.steps import take_step


def rate_of_loop(check: Check, model: ShaLa, rows: Rows, batch_size: int, precision: Precision) -> float:
    """Return steps a second of the framework's own loop."""
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
    """Return steps a second of forward, backward and optimiser on one batch on the device, kernel by kernel."""
    stage = stage_1(model, check.device, precision)
    optimizers = make_optimizers(stage.module, model.spec.train.autoencoder, matrix_dtype=precision.dtype)
    batch = rows.take(torch.arange(batch_size)).to(check.device)

    def step(number: int) -> None:
        loss, _ = stage.loss(batch, number)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return rate_of(check, step, 1.5)


def kernels_of_step(check: Check, model: ShaLa, rows: Rows, batch_size: int, precision: Precision) -> tuple[int, float]:
    """Return the number of kernels in a step, and the seconds that the device works on them."""
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
    """Measure three specs with their real settings; with small ones on a CPU."""
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


def shards(check: Check) -> None:
    """Measure the five pictures of PolyMNIST from memory, and from prepared shards by workers."""
    from pictures import modalities
    from reading_rates import Files, encoded, stored_modalities

    from shala_framework.data.order import SampleOrder
    from shala_framework.data.packing import pack
    from shala_framework.data.prepared import Preparation
    from shala_framework.data.random_access import index_shards
    from shala_framework.data.streams import IndexedStream, stream_batches
    from shala_framework.run.python_data import rows_of_tensors

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
        order = SampleOrder(found.counts, seed=SEED, interleave=8, window=512)
        x = {f"m{i}": torch.from_numpy(p).permute(0, 3, 1, 2).contiguous() for i, p in enumerate(pictures)}
        rows = rows_of_tensors(x, modalities(len(x)))
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


def prior(check: Check) -> None:
    """Measure training and sampling: as they are, compiled and, for training, as a graph with a fixed learning rate."""
    for batch_size in (512, 4_096) if check.is_gpu else (16,):
        model = model_of("polymnist")
        _, step = step_of_prior(check, model, batch_size=batch_size, on_device=True, num_rows=20_000)
        check.say(f"steps/s of stage 2, {batch_size} rows, kernel by kernel", rate_of(check, step, 1.5))
        with reported(check, f"stage 2, {batch_size} rows, in the loop"):
            check.say(f"steps/s of stage 2, {batch_size} rows, in the loop", rate_of_prior_loop(check, batch_size))
        if check.is_gpu:
            with reported(check, f"stage 2, {batch_size} rows, graph"):
                check.say(f"steps/s of stage 2, {batch_size} rows, as a graph", rate_of_graph(check, batch_size))
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
    if check.is_gpu:  # compiling takes longest
        with reported(check, "stage 2, compiled"):
            model = model_of("polymnist")
            with compiled([model.prior.network, model.prior.guide], check.device):
                _, step = step_of_prior(check, model, batch_size=512, on_device=True)
                check.say("steps/s of stage 2, 512 rows, compiled", rate_of(check, step, 2.0))


def refiner(check: Check) -> None:
    """Measure stage 3 of five pictures: its steps, and the time to decode and refine latents."""
    for batch_size in (64, 1024) if check.is_gpu else (4,):
        model = model_of("polymnist")
        rows, settings = random_rows(model, 2 * batch_size), model.spec.train.refiner
        precision = BFLOAT16 if check.is_gpu else FLOAT32
        stage = stage_3(model, check.device, precision, rows)
        optimizers = make_optimizers(stage.module, settings, matrix_dtype=precision.dtype)
        parts = stage, settings, optimizers, shared_loss(stage, check.device)
        batch = rows.take(torch.arange(batch_size)).to(check.device)
        step = partial(take_step, *parts, batch)
        check.say(
            f"rows/s of stage 3, {batch_size} rows, kernel by kernel", round(batch_size * rate_of(check, step, 1.5))
        )
        with reported(check, f"stage 3, {batch_size} rows, in the loop"):
            clock = Clock(check, 2.0 if check.is_gpu else 0.2)
            endless = attrs.evolve(settings, steps=10**6, batch_size=batch_size, save_every_steps=10**6)
            batches = partial(batches_of, rows, batch_size)
            with contextlib.suppress(OverError):
                train(stage, endless, batches, seed=SEED, matrix_dtype=precision.dtype, reporter=clock)
            check.say(f"rows/s of stage 3, {batch_size} rows, in the loop", round(batch_size * clock.rate))
    model.stages |= {"autoencoder", "refiner"}
    z = torch.randn(64 if check.is_gpu else 4, model.prior.latent_dim)
    for refine in (False, True):
        model.decode(z, refine=refine)
        check.wait()
        start = time.perf_counter()
        model.decode(z, refine=refine)
        check.say(f"seconds to {'refine' if refine else 'decode'} {len(z)} rows", time.perf_counter() - start)


def rate_of_prior_loop(check: Check, batch_size: int) -> float:
    """Return steps a second of the framework's own loop."""
    model, clock = model_of("polymnist"), Clock(check, 2.0 if check.is_gpu else 0.2)
    stage, _ = step_of_prior(check, model, batch_size=batch_size, on_device=True, num_rows=20_000)
    settings = attrs.evolve(model.spec.train.prior, steps=10**6, batch_size=batch_size, save_every_steps=10**6)
    batches = partial(shuffled_batches, 20_000, batch_size, SEED)
    with contextlib.suppress(OverError):
        train(stage, settings, batches, seed=SEED, matrix_dtype=stage.precision.dtype, reporter=clock)
    return clock.rate


def rate_of_graph(check: Check, batch_size: int) -> float:
    """Return steps a second of forward, backward and optimiser as one CUDA graph, at a fixed learning rate."""
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
