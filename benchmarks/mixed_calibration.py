"""Stated intervals of missing cells of a table beside a picture and a caption, against the truth.

    python benchmarks/mixed_calibration.py [--steps 4000] [--rows 20000] [--seeds 2] [--threads 1]

A row is one of table_calibration.py, but for its vector: a class, t ~ N(0, I) of three dimensions, and a table of eight
numbers and a category, in which 15 % of the cells are missing at random. The picture shows a disc whose place is given
by the first two numbers of t, in the colour of the class. The caption names the colour, and by a word which quarter of
its values the third number of t lies in. Picture and caption together so leave open where in this quarter it lies, and
each cell's own noise.

The model is trained by `shala_framework.train`. In each held-out row one known number of the table is hidden. The model
is given (a) the other known cells, (b) picture and caption, or (c) both, and generates the table 100 times from the
diffusion prior. Columns are those of table_calibration.py; the exact conditionals of (b) and (c) are integrals over the
third number of t, on a grid.
"""

import argparse
import json
import math
import time
from typing import Literal

import attrs
import numpy as np
import torch
from shala_image import Image
from shala_table import Table
from shala_text import Text
from table_calibration import KIND, LATENT, NAMES, NUMBERS, Rows, World, cells_of, draws_of, figures, shown
from torch import Tensor

import shala_framework as shala
from shala_framework.plugin import Modality
from shala_framework.support.machine import describe_machine

SIDE, RADIUS, MOVE, PIXEL_NOISE = 28, 4.0, 3.0, 8.0  # pixels, pixels for one unit of t, and levels of 256
COLOURS = {"red": (220, 60, 50), "green": (50, 170, 80), "blue": (60, 90, 220)}
QUARTERS = (-0.6744898, 0.0, 0.6744898)  # quartiles of N(0, 1)
WORDS = ("dull", "pale", "bright", "vivid")
GRID = np.linspace(-5, 5, 2_001)
PRIORS: tuple[Literal["diffusion", "posterior"], ...] = ("diffusion", "posterior")
HEAD = "| seed | given | draws | within 50 % | within 80 % | within 95 % | width | error |\n" + 8 * "|---" + "|"


def pictures_of(rows: Rows, generator: np.random.Generator) -> Tensor:
    """Pictures of the rows, uint8 [N, 3, 28, 28]."""
    places = np.arange(SIDE) - (SIDE - 1) / 2
    across, down = (MOVE * np.clip(rows.latent[:, i], -3, 3)[:, None] for i in (0, 1))
    distance = np.hypot((places - across)[:, None, :], (places - down)[:, :, None])
    inside = np.clip(RADIUS + 0.5 - distance, 0, 1)[:, None]
    colour = np.array(list(COLOURS.values()))[rows.label][:, :, None, None]
    clean = 255 * (1 - inside) + colour * inside
    noisy = clean + PIXEL_NOISE * generator.normal(size=clean.shape)
    return torch.from_numpy(noisy.round().clip(0, 255).astype(np.uint8))


def quarters_of(rows: Rows) -> np.ndarray:
    """Number of the quarter in which the third number of t lies: [N]."""
    return np.searchsorted(QUARTERS, rows.latent[:, 2])


def captions_of(rows: Rows) -> list[dict[str, bytes]]:
    """Captions of the rows, as samples."""
    names = list(COLOURS)
    return [
        {"txt": f"a {WORDS[quarter]} {names[label]} disc".encode()}
        for quarter, label in zip(quarters_of(rows), rows.label, strict=True)
    ]


def fitted(world: World, rows: Rows) -> dict[str, Modality]:
    """The modalities, fitted to training rows as they would lie in shards."""
    table = Table(categorical=tuple(KIND), width=64)
    text = Text(max_tokens=8, vocabulary_size=300, width=64, num_layers=1)
    names = [*KIND, *NAMES]
    records = (dict(zip(names, row.tolist(), strict=True)) for row in cells_of(world, rows))
    table.fit({"table.json": json.dumps(record).encode()} for record in records)
    text.fit(captions_of(rows))
    return {"picture": Image(height=SIDE, width=SIDE), "table": table, "caption": text}


def tensors(
    world: World, rows: Rows, modalities: dict[str, Modality], generator: np.random.Generator
) -> dict[str, Tensor]:
    """What the modalities read of rows."""
    table, text = modalities["table"], modalities["caption"]
    assert isinstance(table, Table)
    read = [text.read(caption) for caption in captions_of(rows)]
    return {
        "picture": pictures_of(rows, generator),
        "table": table.tensor(cells_of(world, rows)),
        "caption": torch.stack([x for x in read if x is not None]),
    }


def exact_draws(
    world: World, rows: Rows, row: int, target: int, count: int, generator: np.random.Generator, *, cells: bool
) -> np.ndarray:
    """Draws of a hidden number given picture and caption, and the other known cells where `cells`: [S]."""
    label, seen = rows.label[row], rows.latent[row, :2]
    mean = world.mean[label] + world.loading[:, :2] @ seen  # of all numbers where the third number of t is 0
    slope = world.loading[:, 2]
    log_weight = -0.5 * GRID**2
    log_weight[np.searchsorted(QUARTERS, GRID) != quarters_of(rows)[row]] = -math.inf
    for number in np.flatnonzero(rows.known[row, 1:]) if cells else ():
        if number != target:
            gap = rows.numbers[row, number] - mean[number] - slope[number] * GRID
            log_weight = log_weight - 0.5 * (gap / world.noise[number]) ** 2
    weight = np.exp(log_weight - log_weight.max())
    third = generator.choice(GRID, count, p=weight / weight.sum())
    drawn: np.ndarray = mean[target] + slope[target] * third + world.noise[target] * generator.normal(size=count)
    return drawn


@attrs.frozen(eq=False)
class Question:
    """What is given of each row, and draws of the exact conditional of its hidden number, [N, S] twice."""

    name: str
    given: dict[str, Tensor]
    exact: tuple[np.ndarray, np.ndarray]


def questions(
    world: World, rows: Rows, target: np.ndarray, x: dict[str, Tensor], count: int, generator: np.random.Generator
) -> list[Question]:
    """The three questions about one hidden number of each row."""
    table, index = x["table"].clone(), torch.arange(len(target))
    table[index, :, torch.from_numpy(target) + 1] = 0.0
    shown_both = {"picture": x["picture"], "caption": x["caption"]}

    def of_cells(row: int) -> np.ndarray:
        known = np.zeros(len(world.noise), dtype=bool)
        known[:NUMBERS] = rows.known[row, 1:]
        known[target[row]] = False
        category = int(rows.category[row]) if rows.known[row, 0] else None
        mixture = world.conditional(rows.numbers[row], known, int(target[row]), None, category)
        return draws_of(mixture, count, generator)

    def twice(draw: str) -> tuple[np.ndarray, np.ndarray]:
        def one(row: int) -> np.ndarray:
            if draw == "cells":
                return of_cells(row)
            return exact_draws(world, rows, row, int(target[row]), count, generator, cells=draw == "both")

        first, second = (np.stack([one(row) for row in range(len(target))]) for _ in range(2))
        return first, second

    return [
        Question("the other cells", {"table": table}, twice("cells")),
        Question("picture and caption", shown_both, twice("shown")),
        Question("the other cells, picture and caption", {**shown_both, "table": table}, twice("both")),
    ]


def train(
    world: World, args: argparse.Namespace, seed: int, generator: np.random.Generator
) -> tuple[shala.ShaLa, dict[str, Modality]]:
    """A model trained by the framework's own loops."""
    rows = world.draw(args.rows, generator)
    modalities = fitted(world, rows)
    model = shala.ShaLa(
        modalities,
        latent_dim=args.latent_dim,
        feature_dim=64,
        hidden_dim=128,
        prior={"hidden_dim": 128, "unconditional_share": 0.2},
        generate={"num_steps": 18},
        seed=seed,
    )
    stage = {"likelihood_rescaling": False, "batch_size": 64, "kl_warmup_steps": args.steps // 4, "warmup_steps": 50}
    shala.train(
        model,
        tensors(world, rows, modalities, generator),
        autoencoder={**stage, "steps": args.steps},
        prior={"steps": args.prior_steps, "batch_size": 512, "learning_rate": 2e-3},
    )
    return model, modalities


@torch.no_grad()
def drawn_tables(
    model: shala.ShaLa,
    table: Table,
    given: dict[str, Tensor],
    count: int,
    prior: Literal["diffusion", "posterior"],
    seed: int,
) -> np.ndarray:
    """Cells [N, S, 9] of tables that are drawn for each row; pictures and captions are not decoded."""
    z_KD = model.sample_latents(count, given=given, prior=prior, seed=seed)
    decoder = model.autoencoder.decoders["table"].eval()
    x_K = decoder(z_KD).sample(torch.Generator().manual_seed(seed))
    return table.values(x_K.unflatten(0, (-1, count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4_000, help="steps of stage 1, of 64 rows")
    parser.add_argument("--prior-steps", type=int, default=4_000, help="steps of stage 2, of 512 rows")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--held-out", type=int, default=800, help="rows with a hidden number")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    assert LATENT == 3, "two numbers of t are the disc's place and the third one is in the caption"
    torch.set_num_threads(args.threads)
    print(f"{args}; {describe_machine()}\n\n{HEAD}", flush=True)
    found: dict[tuple[str, str], list[list[float]]] = {}
    start = time.perf_counter()
    for seed in range(args.seeds):
        world, generator = World(seed), np.random.default_rng(1_000 + seed)
        model, modalities = train(world, args, seed, generator)
        print(f"trained after {time.perf_counter() - start:.0f} s", flush=True)
        rows = world.draw(args.held_out, generator)
        rows.known[~rows.known[:, 1:].any(1), 1] = True
        target = np.array([generator.choice(np.flatnonzero(known)) for known in rows.known[:, 1:]])
        index = np.arange(len(target))
        truth, table = rows.numbers[index, target], modalities["table"]
        assert isinstance(table, Table)
        x = tensors(world, rows, modalities, generator)
        for question in questions(world, rows, target, x, args.draws, generator):
            asked = {"exact": question.exact[1]}
            for prior in PRIORS:
                cells = drawn_tables(model, table, question.given, args.draws, prior, seed)[index, :, target + 1]
                asked[prior] = (cells - world.origin[target, None]) / world.unit[target, None]
            for name, draws in asked.items():
                row = figures(draws, truth, question.exact[0])
                found.setdefault((question.name, name), []).append(row)
                print(f"| {seed} | {question.name} | {name} | {shown(row)} |", flush=True)
    print("\nmean of the seeds\n")
    for (given, name), values in found.items():
        print(f"| {given} | {name} | {shown(np.mean(values, 0).tolist())} |")
    print(f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
