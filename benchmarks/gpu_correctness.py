"""Whether a GPU computes the same as a CPU, and takes correct steps: parts of gpu_check.py."""

import collections
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_common import (
    BFLOAT16,
    FLOAT32,
    SEED,
    Check,
    model_of,
    products,
    random_rows,
    relative_difference,
    reported,
    stage_1,
    stage_3,
    step_of_prior,
)
from torch import Tensor

from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.model import ShaLa
from shala_framework.training.graphs import Steps
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.precision import Precision
from shala_framework.training.steps import take_step

# Norm of a tensor's error divided by its own norm, up to which a number format explains it.
TOLERANCES = {"float32": 1e-3, "TF32": 5e-3, "bfloat16": 5e-2}


def passed(model: ShaLa, rows: Rows, device: torch.device, precision: Precision) -> dict[str, Tensor]:
    """Compute features, latents, decoder outputs, gradients and samples of the same weights and rows on a device."""
    model.to(device)
    on_device = rows.to(device)
    autoencoder, prior = model.autoencoder.eval(), model.prior.eval()  # in training mode some parts are random
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
            total = total + log_prob.mean() / math.prod(model.modalities[name].shape)
    autoencoder.zero_grad(set_to_none=True)
    total.backward()
    for name in model.names:
        for kind, module in (("encoder", autoencoder.encoders[name]), ("decoder", autoencoder.decoders[name])):
            gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
            found[f"{name} {kind} gradient"] = torch.cat(gradients)
    with torch.no_grad(), precision.autocast(device):
        noise = torch.randn(len(rows), prior.latent_dim, generator=torch.Generator().manual_seed(1)).to(device)
        condition = prior.condition(list(h.values()), on_device.presence)
        cluster = torch.zeros(len(rows), dtype=torch.int64, device=device)
        found["denoised"] = prior.denoise(noise, torch.full((len(rows),), 0.7, device=device), condition, cluster)
    autoencoder.zero_grad(set_to_none=True)
    return {name: value.detach().float().cpu() for name, value in found.items()}


def equality(check: Check) -> None:
    """Compare every plugin in both directions with float32 on the CPU."""
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
                error = relative_difference(value, expected[name])
                worst[kind] = max(worst.get(kind, (0.0, "")), (error, f"{spec}, {name}"))
                if not error <= TOLERANCES[kind]:
                    check.say(f"beyond {TOLERANCES[kind]:g} in {kind}: {spec}, {name}", error)
    for kind, (error, where) in worst.items():
        check.say(f"greatest error in {kind}, of at most {TOLERANCES[kind]:g}", f"{error:.2g} ({where})")


def places_of_waits(work: Callable[[], Any]) -> dict[str, int]:
    """Return where the processor waited for the device, and how often."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [w for w in caught if "called a synchronizing" in str(w.message)]
    counted = collections.Counter(f"{'/'.join(Path(w.filename).parts[-3:])}:{w.lineno}" for w in found)
    return dict(counted.most_common())


def waits(check: Check) -> None:
    """Count waits in a step of each stage, and in sampling."""
    for spec in ("polymnist", "ntu_rgb_skeleton", "mimic_cxr", "digits5"):
        model = model_of(spec)
        stage = stage_1(model, check.device, BFLOAT16)
        rows, settings = random_rows(model, 16), model.spec.train.autoencoder
        optimizers = make_optimizers(stage.module, settings, matrix_dtype=BFLOAT16.dtype)
        loss = shared_loss(stage, check.device)

        def step(number: int, parts: tuple[Any, ...] = (stage, settings, optimizers, loss, rows)) -> None:
            take_step(*parts, number)

        third = stage_3(model, check.device, BFLOAT16, rows)
        settings_3 = model.spec.train.refiner
        optimizers_3 = make_optimizers(third.module, settings_3, matrix_dtype=BFLOAT16.dtype)
        parts_3 = (third, settings_3, optimizers_3, shared_loss(third, check.device), rows)
        for name, take in {"stage 1": step, "stage 3": partial(step, parts=parts_3)}.items():
            for number in range(2):
                take(number)
            if check.is_gpu:
                check.say(f"waits in a step of {name}, {spec}", places_of_waits(partial(take, 2)))
    for placed in (False, True):
        _, step_2 = step_of_prior(check, model, batch_size=64, on_device=placed)
        step_2(0)
        if check.is_gpu:
            where = "on the device" if placed else "in memory"
            check.say(f"waits in a step of stage 2, latents {where}", places_of_waits(partial(step_2, 1)))
    model.stages |= {"autoencoder", "prior", "refiner"}
    z = model.sample_latents(64 if check.is_gpu else 4)
    model.decode(z, refine=True)
    if check.is_gpu:
        check.say("clusters of the latents", model.prior.mixture.num_components)
        check.say("waits in 18 Heun steps of 64 samples", places_of_waits(lambda: model.sample_latents(64)))
        check.say("waits in decoding and refining them", places_of_waits(lambda: model.decode(z, refine=True)))


def graphs(check: Check) -> None:
    """Check that steps as one graph equal steps launched kernel by kernel, in each stage of four specs."""
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
    """Return losses and last weights of some steps of all stages in float32."""
    model, found = model_of(spec), {}
    rows = random_rows(model, 64 if check.is_gpu else 4)
    first = stage_1(model, check.device, FLOAT32)
    batch_size = len(rows) // 2
    order = shuffled_batches(len(rows), batch_size, SEED)
    batches: Iterator[Any] = (rows.take(index) for index in order)
    third = stage_3(model, check.device, FLOAT32, rows)
    second, _ = step_of_prior(check, model, batch_size=batch_size, on_device=True, num_rows=256)
    second.precision = FLOAT32
    for stage, settings, source in (
        (first, model.spec.train.autoencoder, batches),
        (second, model.spec.train.prior, shuffled_batches(256, batch_size, SEED)),
        (third, model.spec.train.refiner, batches),
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


def nccl(check: Check) -> None:
    """Exchange gradients and rows in a group of one process, as in a larger group."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from shala_framework.support.distributed.processes import _Gather, any_process
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
        check.say("difference of gathered rows", float((gathered - x).detach().abs().max()))
        check.say("difference of their gradient", float((x.grad - 2 * x).abs().max()))
        flag = torch.tensor([1.0], device=check.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        check.say("a flag of all processes", f"{bool(flag)}, {any_process((True, False))}")
        dist.destroy_process_group()
