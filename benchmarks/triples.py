"""Does a conditional prior of few rows know what is left open? Pictures of coloured shapes, captions, and tones.

    python benchmarks/triples.py OUT [--rows 300] [--seed 0] [--set KEY=VALUE ...]

A synthetic set: a picture shows one shape in one colour, its caption names both, and the pitch of its tone tells only
the shape. Colours are uniform and independent of shapes, so captions sampled for one tone must spread evenly over the
five colours. A prior that has memorised its rows names one. `shala-run` trains on this many rows (a fifth as many,
at most 300, are held out), and 64 samples are drawn without guidance for each of 60 test tones:

    colour, total variation   distance of the captions' colours for one tone from the uniform distribution, mean over
                              tones; next to it the figure of 64 draws of that distribution itself
    shape                     share of captions that name the tone's shape
    agreement                 share of samples whose picture has the colour that the caption names

--set changes the spec, for both stages. OUT keeps the run, and the same command only samples again. A line of JSON
reports the figures.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import wave
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import shala_framework
from shala_framework.support.machine import describe_machine

COLOURS = {
    "red": (210, 45, 45), "green": (50, 170, 60), "blue": (50, 80, 210), "yellow": (225, 205, 50),
    "purple": (150, 60, 180),
}  # fmt: skip
SHAPES = {"circle": 300.0, "square": 520.0, "triangle": 900.0}  # with the pitch of their tones in Hz
SIDE, RATE_HZ, SECONDS = 32, 8_000, 0.4
NUM_TONES, NUM_SAMPLES, NUM_TEST = 60, 64, 60
SPEC = """\
schema = 1
name = "triples"
seed = {seed}

[data]
train = "{folder}/train.tar"
validation = "{folder}/validation.tar"
test = "{folder}/test.tar"
in_memory = true

[modality.picture]
plugin = "image"
options = {{ height = 32, width = 32, network_width = 8 }}

[modality.caption]
plugin = "text"
options = {{ vocabulary_size = 300, max_tokens = 16, width = 64, num_layers = 2 }}

[modality.tone]
plugin = "audio"
options.sample_rate_hz = 8000
options.clip_seconds = 0.4
options.mels = 16
options.hop_milliseconds = 25.0
options.window_milliseconds = 50.0
options.width = 32

[posterior]
latent_dim = 24
feature_dim = 64
hidden_dim = 128

[prior]
hidden_dim = 128

[train.autoencoder]
steps = 600
batch_size = 32
warmup_steps = 30
kl_warmup_steps = 150
save_every_steps = 200

[train.prior]
steps = 3000
save_every_steps = 100
log_every_steps = 100
ema_halflife_steps = 100

[generate]
num_joint = 0
num_rows = 0

[evaluate]
at_end = false
"""


def sample(rng: np.random.Generator) -> dict[str, bytes]:
    """Return the fields of one row."""
    colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(list(SHAPES)))
    texts = ("a {} {}", "one {} {}", "this is a {} {}", "a {} {} on grey")
    caption = texts[rng.integers(len(texts))].format(colour, shape)
    return {"png": _picture(colour, shape, rng), "txt": caption.encode(), "wav": _tone(SHAPES[shape], rng)}


def _picture(colour: str, shape: str, rng: np.random.Generator) -> bytes:
    ground = int(rng.integers(100, 150))
    picture = Image.new("RGB", (SIDE, SIDE), (ground, ground, ground))
    radius = rng.uniform(7, 11)
    x, y = rng.uniform(radius + 1, SIDE - radius - 1, 2)
    fill = tuple(int(np.clip(value + rng.normal(0, 8), 0, 255)) for value in COLOURS[colour])
    draw, box = ImageDraw.Draw(picture), (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill)
    elif shape == "square":
        draw.rectangle(box, fill)
    else:
        draw.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill)
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def _tone(pitch_hz: float, rng: np.random.Generator) -> bytes:
    """Make a tone with a pitch and random loudness, overtone, beginning and noise."""
    t = np.arange(int(RATE_HZ * SECONDS)) / RATE_HZ
    pitch = pitch_hz * rng.uniform(0.92, 1.08)
    x = np.sin(2 * np.pi * pitch * t) + rng.uniform(0, 0.5) * np.sin(4 * np.pi * pitch * t)
    x = x * rng.uniform(0.2, 0.5) * (t > rng.uniform(0, 0.1)) * np.exp(-t * rng.uniform(0, 5))
    x = x + 10 ** rng.uniform(-3, -2) * rng.standard_normal(len(t))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes((np.clip(x, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def write_shard(path: Path, count: int, seed: int) -> None:
    """Make this many rows from a seed."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            for extension, content in sample(rng).items():
                member = tarfile.TarInfo(f"{number:06d}.{extension}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def named(text: str, words: list[str]) -> int:
    """Return which of the words a caption names; -1 for none or several."""
    found = [number for number, word in enumerate(words) if word in text.split()]
    return found[0] if len(found) == 1 else -1


def seen_colour(picture: NDArray[np.uint8]) -> int:
    """Return the colour of a picture [3, H, W]: the nearest to its most colourful pixels."""
    pixels = picture.reshape(3, -1).T.astype(float)
    chroma = pixels.max(1) - pixels.min(1)
    mean = pixels[chroma >= np.quantile(chroma, 0.9)].mean(0)
    return int(np.argmin([np.square(mean - np.array(rgb)).sum() for rgb in COLOURS.values()]))


def total_variation(counts: NDArray[np.int64]) -> float:
    """Return the distance of counts [..., C] from the uniform distribution; captions without a colour count too."""
    shares = counts / NUM_SAMPLES
    missing = 1 - shares.sum(-1)
    return float((0.5 * (np.abs(shares - 1 / len(COLOURS)).sum(-1) + missing)).mean())


def measure(run: Path, folder: Path) -> dict[str, float]:
    """Sample and compare."""
    model = shala_framework.load(run)
    colours, shapes = list(COLOURS), list(SHAPES)
    tones, truths = [], []
    with tarfile.open(folder / "test.tar") as tar:
        for number in range(NUM_TONES):
            fields = {end: tar.extractfile(f"{number:06d}.{end}").read() for end in ("wav", "txt")}  # type: ignore[union-attr]
            tone = model.modalities["tone"].read(fields)
            assert tone is not None
            tones.append(tone)
            truths.append(named(fields["txt"].decode(), shapes))
    x = model.generate(NUM_SAMPLES, given={"tone": torch.stack(tones)}, guidance_scale=1.0, autoguidance_scale=1.0)
    counts = np.zeros((NUM_TONES, len(colours)), np.int64)
    right, agreeing = 0, 0
    for row in range(NUM_TONES):
        for n in range(NUM_SAMPLES):
            text = model.modalities["caption"].write(x["caption"][row, n])["txt"].decode()
            colour = named(text, colours)
            right += named(text, shapes) == truths[row]
            if colour >= 0:
                counts[row, colour] += 1
                agreeing += seen_colour(x["picture"][row, n].numpy()) == colour
    fair = np.random.default_rng(0).multinomial(NUM_SAMPLES, [1 / len(colours)] * len(colours), 10_000)
    total = NUM_TONES * NUM_SAMPLES
    return {
        "colour_total_variation": round(total_variation(counts), 3),
        "of_64_fair_draws": round(total_variation(fair), 3),
        "shape": round(right / total, 3),
        "agreement": round(agreeing / total, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    folder = args.out.resolve() / "data"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"train": args.rows, "validation": min(300, args.rows // 5), "test": NUM_TEST}
    for number, (split, count) in enumerate(sizes.items()):
        if not (folder / f"{split}.tar").exists():
            write_shard(folder / f"{split}.tar", count, 1_000 * (args.seed + 1) + number)
    spec, run = args.out / "triples.toml", args.out / "run"
    spec.write_text(SPEC.format(seed=args.seed, folder=folder))
    sets = [text for override in args.set for text in ("--set", override)]
    line = [sys.executable, "-m", "shala_framework", "run", str(spec), "--out", str(run), *sets]
    subprocess.run(line, check=True)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "validation_denoising" in line]
    held_out = [e["validation_denoising"] for e in losses]
    figures = {
        "rows": args.rows,
        "seed": args.seed,
        "set": args.set,
        **measure(run, folder),
        "held_out_lowest": round(min(held_out), 4),
        "at_step": losses[int(np.argmin(held_out))]["step"],
        "held_out_last": round(held_out[-1], 4),
        "steps": losses[-1]["step"],
    }
    print(json.dumps({**figures, "machine": describe_machine()}))


if __name__ == "__main__":
    main()
