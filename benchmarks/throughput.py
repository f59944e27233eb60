"""Rates of training, reading and sampling, each next to a reference, in one call.

    python benchmarks/throughput.py POLYMNIST.npz [--peers-python PEERS/bin/python] [--only SECTION ...]
        [--repeats 5] [--seconds 15] [--threads 2]

Sections:
    stage1      rows a second of stage 1 on the five PolyMNIST modalities, with layers and batch of peer_models.py:
                this framework's loop in float32, without its contrastive terms and in the format that precision =
                "auto" chooses on this machine, a bare loop with
                the same loss and optimiser, and MVTCAE and MoPoE of MultiVae; and the rate that the same layers would
                reach in float32 if they ran as fast as large matrix products
    stream      rows a second of stage 1 from memory, from prepared shards and from PNG files in shards
    decoding    files a second of JPEG pictures and H.264 clips, read from shards as modalities, and by Pillow and PyAV
                alone, all with one thread
    modalities  seconds and memory of a step of 2 to 32 modalities, and the exponent of the seconds in their number
    sampling    seconds for 10,000 latents: 18 Heun steps here, and diffusers' EDM scheduler around the same network
    start       seconds from the command to the first training step with 100 shards, and of --help

Everything in a comparison takes turns, so that other work on the machine affects all alike. Figures are medians, and a
ratio is the median of the ratios of each turn.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from pictures import SIDE, load_pictures, modalities
from reading_rates import decoding, pack_pictures, stream
from scripts import by_turns, markdown
from torch import Tensor, nn
from training_rates import (
    BATCH_SIZE,
    LATENT_DIM,
    matrix_dtype,
    new_stage,
    operations_per_row,
    rate_of_bare_loop,
    rate_of_compiled_loop,
    rate_of_loop,
    rate_of_products,
)

from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.prior import DiffusionPrior, karras_sigmas, row_noise, sample_heun
from shala_framework.run.python_data import rows_of_tensors
from shala_framework.support.machine import describe_machine
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.precision import choose_precision

HERE = Path(__file__).parent
BASES = ("bare loop", "bare loop, no contrastive terms", "MVTCAE", "MoPoE")
PLAIN = {"contrast_weight": 0.0, "recognition_weight": 0.0, "texture_weight": 0.0}
PEER = """
import sys
here, method, data, seconds, threads = sys.argv[1:]
sys.path.insert(0, here)
import numpy as np
import peer_models
import torch
torch.set_num_threads(int(threads))
x = np.load(data)["train_x"]
model = peer_models.build(method, len(x))
peer_models.train_model(model, x, 0, seconds=2.0)
print(peer_models.train_model(model, x, 0, seconds=float(seconds))["samples_per_second"])
"""


def stage1(args: argparse.Namespace) -> str:
    rows = rows_of_tensors(load_pictures(args.data, "train"), modalities(5))

    def batches(start: int) -> Iterator[Rows]:
        return (rows.take(index) for index in shuffled_batches(len(rows), BATCH_SIZE, 0, start))

    def peer(name: str) -> float:
        line = [str(args.peers_python), "-c", PEER, str(HERE), name, str(args.data)]
        line += [str(args.seconds), str(args.threads)]
        return float(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])

    fast = choose_precision("auto", torch.device("cpu"))
    auto = f"precision auto ({fast.name})"
    operations = operations_per_row(rows, **PLAIN)
    measure: dict[str, Callable[[], float]] = {
        "this framework": lambda: rate_of_loop(batches, args.seconds),
        "bare loop": lambda: rate_of_bare_loop(rows, args.seconds),
        "bare loop, compiled": lambda: rate_of_compiled_loop(rows, args.seconds),
        f"this framework, {auto}": lambda: rate_of_loop(batches, args.seconds, precision=fast),
        "this framework, no contrastive terms": lambda: rate_of_loop(batches, args.seconds, **PLAIN),
        f"this framework, {auto}, no contrastive terms": lambda: rate_of_loop(
            batches, args.seconds, precision=fast, **PLAIN
        ),
        "bare loop, no contrastive terms": lambda: rate_of_bare_loop(rows, args.seconds, **PLAIN),
        "as fast as products, no contrastive terms": lambda: rate_of_products(args.seconds) / operations,
    }
    if args.peers_python is not None:
        measure |= {"MVTCAE": lambda: peer("mvtcae"), "MoPoE": lambda: peer("mopoe")}
    return by_turns(measure, args.repeats, [name for name in measure if name in BASES], "rows a second")


def measure_step(count: int, steps: int, threads: int) -> dict[str, float]:
    """Return seconds of a step of 32 rows with this many modalities, and the process's peak memory."""
    torch.set_num_threads(threads)
    stage, settings = new_stage(count)
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=matrix_dtype())
    x = {f"m{i}": torch.randint(0, 256, (32, 3, SIDE, SIDE), dtype=torch.uint8) for i in range(count)}
    rows, seconds = rows_of_tensors(x, modalities(len(x))), []
    for step in range(steps + 3):
        start = time.perf_counter()
        loss, _ = stage.loss(rows, step)
        loss.backward()
        nn.utils.clip_grad_norm_(stage.module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - start)
    return {"seconds": median(seconds[3:]), "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def many(args: argparse.Namespace) -> str:
    counts = (2, 4, 8, 16, 32)
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for _ in range(args.repeats):
        for count in counts:  # one process each, to measure its peak memory
            line = [sys.executable, __file__, "--step", str(count), "--threads", str(args.threads), "-"]
            output = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[count].append(json.loads(output))
            print(f"  {count}: {output.strip()}", file=sys.stderr, flush=True)
    seconds = {count: median(f["seconds"] for f in values) for count, values in found.items()}
    memory = {count: median(f["gib"] for f in values) for count, values in found.items()}
    exponents = [
        np.polyfit(np.log(counts), np.log([found[count][turn]["seconds"] for count in counts]), 1)[0]
        for turn in range(args.repeats)
    ]
    slope, base = np.polyfit(counts, [memory[count] for count in counts], 1)
    lines = [["modalities", "seconds a step", "peak GiB", f"{base:.2f} + {slope:.4f} M"]]
    lines += [[str(c), f"{seconds[c]:.4f}", f"{memory[c]:.3f}", f"{base + slope * c:.3f}"] for c in counts]
    return f"{markdown(lines)}\n\nexponent of seconds in the number of modalities: {median(exponents):.3f}"


def sampling(args: argparse.Namespace) -> str:
    try:
        from diffusers import EDMEulerScheduler
    except ImportError:
        return "left out: diffusers is not installed"
    torch.manual_seed(0)
    prior = DiffusionPrior(latent_dim=LATENT_DIM, num_modalities=2, feature_dim=8).eval()
    for parameter in prior.network.parameters():
        nn.init.normal_(parameter, std=0.05)
    number = 10_000
    h, nothing = [torch.zeros(number, 8)] * 2, torch.zeros(number, 2, dtype=torch.bool)
    cluster = torch.zeros(number, dtype=torch.int64)
    denoise = prior.denoiser(h, nothing, cluster)

    @torch.no_grad()
    def own(steps: int = 18) -> Tensor:
        return sample_heun(denoise, row_noise(0, range(number), LATENT_DIM), karras_sigmas(steps, 0.01, 40.0))

    @torch.no_grad()
    def theirs() -> Tensor:
        scheduler = EDMEulerScheduler(sigma_min=0.01, sigma_max=40.0, sigma_data=1.0)
        scheduler.set_timesteps(35)  # as many evaluations as 18 steps of Heun's method
        z = row_noise(0, range(number), LATENT_DIM).float() * scheduler.init_noise_sigma
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            scaled = scheduler.scale_model_input(z, t)
            level = (sigma.log() / 4).expand(number).float()
            raw = prior.network(scaled, level, prior.condition(h, nothing), cluster)
            z = scheduler.step(raw, t, z).prev_sample
        return z

    def seconds(call: Callable[[], Tensor]) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return by_turns(
        {"18 Heun steps": lambda: seconds(own), "diffusers, 35 Euler steps": lambda: seconds(theirs)},
        args.repeats,
        ["18 Heun steps"],
        "seconds",
    )


def start(args: argparse.Namespace) -> str:
    spec = """
schema = 1
name = "start"
[data]
train = "{folder}/train-*.tar"
num_workers = 0
{tables}
[posterior]
latent_dim = 64
[train.autoencoder]
steps = 100000
log_every_steps = 1
[evaluate]
at_end = false
"""
    table = '[modality.m{i}]\nplugin = "image"\noptions = {{ fields = ["m{i}.png"], height = 28, width = 28 }}\n'
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    shala_run = str(Path(sys.executable).with_name("shala-run"))
    with tempfile.TemporaryDirectory() as folder:
        pack_pictures(args.data, Path(folder) / "shards", prepared=False, count=2_000, shard_samples=20)
        tables = "".join(table.format(i=i) for i in range(5))
        (Path(folder) / "start.toml").write_text(spec.format(folder=Path(folder) / "shards", tables=tables))
        turns = iter(range(args.repeats))

        def first_step() -> float:
            out = Path(folder) / f"run{next(turns)}"
            begun = time.perf_counter()
            process = subprocess.Popen(
                [shala_run, str(Path(folder) / "start.toml"), "--out", str(out)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            metrics = out / "metrics.jsonl"
            while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
                time.sleep(0.01)
            spent = time.perf_counter() - begun
            assert process.poll() is None
            process.kill()
            process.wait()
            return spent

        def help_text() -> float:
            begun = time.perf_counter()
            subprocess.run([shala_run, "--help"], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - begun

        return by_turns(
            {"first step, 100 shards": first_step, "--help": help_text},
            args.repeats,
            ["first step, 100 shards"],
            "seconds",
        )


SECTIONS = {
    "stage1": stage1,
    "stream": stream,
    "decoding": decoding,
    "modalities": many,
    "sampling": sampling,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.step:
        print(json.dumps(measure_step(args.step, 12, args.threads)))
        return
    print(f"{describe_machine()}; {args.repeats} turns\n")
    for name in args.only:
        print(f"## {name}\n\n{SECTIONS[name](args)}\n", flush=True)


if __name__ == "__main__":
    main()
