"""Rates of training, reading and sampling, each beside what it is to be compared with, in one call.

    python benchmarks/throughput.py BENCH POLYMNIST.npz [--peers-python PEERS/bin/python] [--only SECTION ...]
        [--repeats 5] [--seconds 15] [--threads 2]

Sections:
    stage1      rows a second of stage 1 on the five PolyMNIST modalities, with layers and batch of BENCH's peers.py:
                this framework's loop as it comes and without its contrastive terms, a bare loop around the same loss
                and optimiser, and MVTCAE and MoPoE of MultiVae
    stream      rows a second of stage 1 from memory, from prepared shards and from PNG files in shards
    decoding    files a second of JPEG pictures and H.264 clips, read from shards as modalities, and by Pillow and PyAV
                alone, all with one thread
    modalities  seconds and memory of a step of 2 to 32 modalities, and the exponent of the seconds in their number
    sampling    seconds for 10,000 latents: 18 Heun steps here, and diffusers' EDM scheduler around the same network
    start       seconds from the command to the first training step with 100 shards, and of --help

Everything that is compared takes turns, so that a busy machine is busy for all. Figures are medians, and a ratio is the
median of the ratios of each turn.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import attrs
import av
import numpy as np
import torch
from pictures import FEATURE_DIM, SIDE, Picture, as_rows, load_pictures, modalities
from PIL import Image
from scripts import markdown
from torch import Tensor, nn

from shala_framework.autoencoder import Autoencoder
from shala_framework.data.indexed import index_shards
from shala_framework.data.order import SampleOrder
from shala_framework.data.packing import pack
from shala_framework.data.prepared import Preparation
from shala_framework.data.rows import Rows, load_rows, shuffled_batches
from shala_framework.data.streams import IndexedStream, stream_batches
from shala_framework.dataset import Dataset, Sample
from shala_framework.machine import describe_machine
from shala_framework.media import encode_mp4
from shala_framework.modality import Modality
from shala_framework.plugins import load_modality
from shala_framework.prior import DiffusionPrior, karras_sigmas, row_noise, sample_heun
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage, Posterior
from shala_framework.training.compiling import compiled
from shala_framework.training.loop import train
from shala_framework.training.metrics import MetricsFile
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.progress import Silent
from shala_framework.training.stages import AutoencoderTraining

BATCH_SIZE, LATENT_DIM = 128, 64
HERE = Path(__file__).parent
PLAIN = {"contrast_weight": 0.0, "recognition_weight": 0.0, "texture_weight": 0.0}
PEER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import numpy as np
import torch
from scripts import load_script
peers = load_script(Path(sys.argv[2]))
torch.set_num_threads(int(sys.argv[6]))
x = np.load(sys.argv[4])["train_x"]
model = peers.build(sys.argv[3], 0.75)
peers.train(model, x, 2.0)
print(peers.train(model, x, float(sys.argv[5])))
"""


class OutOfTimeError(Exception):
    """The measurement is over."""


class Clock(Silent):
    """Stops a training after some seconds and knows its rate; the first steps do not count."""

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


def new_stage(count: int, **posterior: Any) -> tuple[AutoencoderTraining, AutoencoderStage]:
    """Stage 1 as a run would have it, on so many picture modalities."""
    torch.manual_seed(0)
    sizes = {"latent_dim": LATENT_DIM, "feature_dim": FEATURE_DIM, "hidden_dim": 256}
    table = structure({**sizes, **posterior}, Posterior)
    settings = structure(
        {"steps": 1_000_000, "batch_size": BATCH_SIZE, "save_every_steps": 1_000_000}, AutoencoderStage
    )
    autoencoder = Autoencoder.from_table(modalities(count), table)
    return AutoencoderTraining(autoencoder, table, settings, torch.device("cpu")), settings


def rate_of_loop(batches: Callable[[int], Iterator[Rows]], seconds: float, **posterior: Any) -> float:
    """Rows a second of the framework's own loop."""
    stage, settings = new_stage(5, **posterior)
    clock = Clock(seconds)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OutOfTimeError):
        train(
            stage,
            settings,
            batches,
            seed=0,
            state_file=Path(folder) / "state.safetensors",
            fingerprint="",
            matrix_dtype=torch.bfloat16,
            metrics=MetricsFile(Path(folder) / "metrics.jsonl"),
            reporter=clock,
        )
    return clock.rate * BATCH_SIZE


def rate_of_compiled_loop(rows: Rows, seconds: float) -> float:
    """Rows a second of the bare loop, once encoders and decoders are compiled."""
    stage, settings = new_stage(5)
    with compiled(stage.autoencoder.networks, torch.device("cpu")):
        return rate_of_steps(stage, settings, rows, seconds)


def rate_of_bare_loop(rows: Rows, seconds: float, **posterior: Any) -> float:
    """Rows a second of forward, backward and optimiser step on one batch, with nothing around them."""
    stage, settings = new_stage(5, **posterior)
    return rate_of_steps(stage, settings, rows, seconds)


def rate_of_steps(stage: AutoencoderTraining, settings: AutoencoderStage, rows: Rows, seconds: float) -> float:
    """Of a batch taken again and again; the first steps do not count."""
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=torch.bfloat16)
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


def by_turns(measure: Mapping[str, Callable[[], float]], repeats: int, bases: Sequence[str], unit: str) -> str:
    """A table of what takes turns: medians, and each one's ratio to some of them, with the least and greatest."""
    found: dict[str, list[float]] = {name: [] for name in measure}
    for _ in range(repeats):
        for name, call in measure.items():
            found[name].append(call())
            print(f"  {name}: {found[name][-1]:.4g}", file=sys.stderr, flush=True)
    lines = [["", unit, *(f"ratio to {base}" for base in bases)]]
    for name, values in found.items():
        line = [name, f"{median(values):.4g}"]
        for base in bases:
            ratios = [value / other for value, other in zip(values, found[base], strict=True)]
            line.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(line)
    return markdown(lines)


def stage1(args: argparse.Namespace) -> str:
    rows = as_rows(load_pictures(args.data, "train"))

    def batches(start: int) -> Iterator[Rows]:
        return (rows.take(index) for index in shuffled_batches(len(rows), BATCH_SIZE, 0, start))

    def peer(name: str) -> float:
        line = [str(args.peers_python), "-c", PEER, str(HERE), str(args.bench / "peers.py"), name, str(args.data)]
        line += [str(args.seconds), str(args.threads)]
        return float(subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])

    measure: dict[str, Callable[[], float]] = {
        "this framework": lambda: rate_of_loop(batches, args.seconds),
        "bare loop": lambda: rate_of_bare_loop(rows, args.seconds),
        "bare loop, compiled": lambda: rate_of_compiled_loop(rows, args.seconds),
        "this framework, no contrastive terms": lambda: rate_of_loop(batches, args.seconds, **PLAIN),
        "bare loop, no contrastive terms": lambda: rate_of_bare_loop(rows, args.seconds, **PLAIN),
    }
    if args.peers_python is not None:
        measure |= {"MVTCAE": lambda: peer("mvtcae"), "MoPoE": lambda: peer("mopoe")}
    return by_turns(measure, args.repeats, [name for name in measure if name in BASES], "rows a second")


BASES = ("bare loop", "bare loop, no contrastive terms", "MVTCAE", "MoPoE")


class Stored(Picture):
    """A picture in a field of a sample."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Which field."""

        field: str

    options: Options

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.options.field,)

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        picture = Image.open(io.BytesIO(sample[self.options.field])).convert("RGB")
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).contiguous()


class Files(Dataset):
    """Samples of files that are at hand."""

    @attrs.frozen(kw_only=True)
    class Options:
        """None."""

    needs_source: ClassVar[bool] = False

    def __init__(self, fields: Iterable[Mapping[str, bytes]]) -> None:
        super().__init__(self.Options())
        self.fields = fields

    def samples(self, source: Path | None) -> Iterator[Sample]:
        for number, fields in enumerate(self.fields):
            yield Sample(key=f"{number:06d}", split="train", fields=fields)


def encoded(picture_HWC: np.ndarray, kind: str) -> bytes:
    """A picture as Pillow writes it."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, kind)
    return buffer.getvalue()


def stored_modalities() -> dict[str, Stored]:
    return {f"m{i}": Stored(Stored.Options(field=f"m{i}.png")) for i in range(5)}


def pack_pictures(data: Path, folder: Path, *, prepared: bool, count: int, shard_samples: int) -> list[str]:
    x = {name: of_modality[:count] for name, of_modality in load_pictures(data, "train").items()}
    preparation = Preparation(stored_modalities()) if prepared else None
    rows = (
        {f"{name}.png": encoded(of_modality[row].permute(1, 2, 0).numpy(), "png") for name, of_modality in x.items()}
        for row in range(len(x["m0"]))
    )
    report = pack(Files(rows), None, folder, shard_samples=shard_samples, preparation=preparation)
    return [str(path) for path in report.shards]


def stream(args: argparse.Namespace) -> str:
    with tempfile.TemporaryDirectory() as folder:
        urls = {
            what: pack_pictures(args.data, Path(folder) / what, prepared=ready, count=6_000, shard_samples=500)
            for what, ready in (("prepared", True), ("PNG", False))
        }
        members = stored_modalities()
        rows = load_rows(urls["prepared"], members)

        def memory(start: int) -> Iterator[Rows]:
            return (rows.take(index) for index in shuffled_batches(len(rows), BATCH_SIZE, 0, start))

        def shards(what: str, workers: int) -> Callable[[int], Iterator[Rows]]:
            def batches(start: int) -> Iterator[Rows]:
                found = index_shards(urls[what])
                assert found is not None
                order = SampleOrder(found.counts, seed=0, lanes=8, window=512)
                source = IndexedStream(found, members, order, batch_size=BATCH_SIZE, start_step=start)
                return stream_batches(source, workers)

            return batches

        def alone(what: str) -> float:
            """Rows a second of reading by itself."""
            source, start = shards(what, 0)(0), time.perf_counter()
            count = sum(len(batch) for batch in islice(source, 30))
            return count / (time.perf_counter() - start)

        measure: dict[str, Callable[[], float]] = {
            "memory": lambda: rate_of_loop(memory, args.seconds),
            **{
                f"{what} shards, {workers} workers": lambda what=what, workers=workers: rate_of_loop(  # type: ignore[misc]
                    shards(what, workers), args.seconds
                )
                for what in urls
                for workers in (0, 1)
            },
            **{f"{what} shards, reading alone": lambda what=what: alone(what) for what in urls},  # type: ignore[misc]
        }
        return by_turns(measure, args.repeats, ["memory"], "rows a second")


def moving_clip(seed: int) -> np.ndarray:
    """Frames uint8 [60, 240, 320, 3] of a picture of smooth noise that moves, with grain of its own in each."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)).resize(
        (480, 360), Image.Resampling.BICUBIC
    )
    picture = np.asarray(coarse).astype(np.int16)
    frames = [picture[t : t + 240, 2 * t : 2 * t + 320] + rng.integers(-6, 7, (240, 320, 1)) for t in range(60)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def by_pillow(content: bytes) -> None:
    """Decode a picture and scale its middle, as it is read here."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture.resize((64, 64), Image.Resampling.BICUBIC, (40, 0, 280, 240))


def by_pyav(content: bytes) -> None:
    """Decode every frame of a clip, and do nothing with it."""
    with av.open(io.BytesIO(content)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


def rate_of_decoding(decode: Callable[[bytes], None], contents: Sequence[bytes]) -> float:
    """Files a second of a library alone."""
    begun = time.perf_counter()
    for content in contents:
        decode(content)
    return len(contents) / (time.perf_counter() - begun)


def rate_of_reading(urls: Sequence[str], modality: Modality, count: int) -> float:
    """Files a second from shards of so many, in eight batches."""
    found = index_shards(list(urls))
    assert found is not None
    order = SampleOrder(found.counts, seed=0, lanes=8, window=512)
    source = IndexedStream(found, {"x": modality}, order, batch_size=count // 8)
    begun = time.perf_counter()
    for _ in islice(source, 8):
        pass
    return count / (time.perf_counter() - begun)


def decoding(args: argparse.Namespace) -> str:
    clips = [moving_clip(seed) for seed in range(32)]
    kinds: list[tuple[str, str, str, Callable[[bytes], None], list[bytes]]] = [
        ("image", "jpg", "Pillow", by_pillow, [encoded(frame, "jpeg") for clip in clips for frame in clip[::3]]),
        ("video", "mp4", "PyAV", by_pyav, [encode_mp4(clip, 24) for clip in clips]),
    ]
    tables = []
    for plugin, field, library, decode, contents in kinds:
        cls = load_modality(plugin)
        modality = cls(cls.Options(height=64, width=64))
        with tempfile.TemporaryDirectory() as folder:
            samples = Files([{field: content} for content in contents])
            urls = [str(p) for p in pack(samples, None, Path(folder), shard_samples=len(contents) // 8).shards]
            measure = {
                f"{field} by {library}": partial(rate_of_decoding, decode, contents),
                f"{field} in shards, read as 64 x 64": partial(rate_of_reading, urls, modality, len(contents)),
            }
            tables.append(by_turns(measure, args.repeats, [f"{field} by {library}"], "files a second"))
    return "\n\n".join(tables)


def measure_step(count: int, steps: int, threads: int) -> dict[str, float]:
    """Seconds of a step of 32 rows of so many modalities, and the process's peak memory."""
    torch.set_num_threads(threads)
    stage, settings = new_stage(count)
    optimizers = make_optimizers(stage.module, settings, matrix_dtype=torch.bfloat16)
    x = {f"m{i}": torch.randint(0, 256, (32, 3, SIDE, SIDE), dtype=torch.uint8) for i in range(count)}
    rows, seconds = as_rows(x), []
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
        for count in counts:  # a process each, whose peak memory is its own
            line = [sys.executable, __file__, "--step", str(count), "--threads", str(args.threads), "-", "-"]
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
    denoise = prior.denoiser(h, nothing)

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
            raw = prior.network(scaled, (sigma.log() / 4).expand(number).float(), prior.condition(h, nothing))
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
    parser.add_argument("bench", type=Path)
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
