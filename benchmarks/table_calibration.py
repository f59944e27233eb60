"""Stated intervals of missing cells against the truth, on a mixed set whose conditionals are known.

    python benchmarks/table_calibration.py [--steps 3000] [--rows 20000] [--seeds 2] [--threads 1]

A row has three modalities: a label c of three classes; a table of eight numbers and one column of three categories, in
which 15 % of the cells are missing at random; and a vector of six numbers. Given c, all numbers are linear in a shared
latent t ~ N(0, I) of three dimensions, with means that depend on c and noise of a scale of its own for each column; the
categories depend on c alone. Every conditional of a number is then a mixture of at most three Gaussians in closed form.

The model is trained by `shala_framework.train`. In each held-out row one known number of the table is hidden. The model
is given (a) the other known cells of the table, (b) these, the label and the vector, or (c) the label and the vector
alone, and generates the table 100 times from the diffusion prior. Between the quantiles of the draws lie the stated
50, 80 and 95 % intervals; the shares of rows whose hidden cell lies within are to be 50, 80 and 95 %. Beside them:

    width      mean length of the stated 80 % interval over that of the exact conditional
    error      root mean squared error of the mean of the draws over that of the exact mean

Coverage alone would be right for the marginal too, whose intervals are wider and errors larger. "exact" is the same of
draws of the exact conditional, and shows what is chance; "posterior" is that of q(z | x_S) of stage 1 in place of the
prior.
"""

import argparse
import json
import math
import time

import attrs
import numpy as np
import torch
from shala_label import Label
from shala_table import Table
from torch import Tensor

import shala_framework as shala
from shala_framework.plugin import Modality, encode_npy
from shala_framework.prior.temperature import describe_temperatures
from shala_framework.support.machine import describe_machine

CLASSES, LATENT, NUMBERS, SIGNALS, CATEGORIES = 3, 3, 8, 6, 3
MISSING_SHARE = 0.15
VALIDATION_ROWS = 1_000
LEVELS = (0.5, 0.8, 0.95)
NAMES = [f"n{i}" for i in range(NUMBERS)]


Mixture = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights, means and deviations of Gaussians


class World:
    """The joint distribution of label, table and vector."""

    def __init__(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        columns = NUMBERS + SIGNALS
        self.share = np.array([0.5, 0.3, 0.2])
        self.mean = generator.normal(0, 1.0, (CLASSES, columns))
        self.loading = generator.normal(0, 1.0, (columns, LATENT))
        self.noise = generator.uniform(0.3, 0.8, columns)
        self.of_category = generator.dirichlet(np.ones(CATEGORIES), CLASSES)
        self.covariance = self.loading @ self.loading.T + np.diag(self.noise**2)
        # The unit of each column: what the model sees is neither centred nor of one scale.
        self.unit, self.origin = 10.0 ** generator.uniform(-3, 3, columns), generator.normal(0, 100, columns)

    def draw(self, count: int, generator: np.random.Generator) -> "Rows":
        """Complete rows, in standard units."""
        label = generator.choice(CLASSES, count, p=self.share)
        latent = generator.normal(size=(count, LATENT))
        noise = self.noise * generator.normal(size=(count, NUMBERS + SIGNALS))
        numbers = self.mean[label] + latent @ self.loading.T + noise
        uniform = generator.random(count)
        category = (uniform[:, None] > self.of_category[label].cumsum(1)).sum(1).clip(0, CATEGORIES - 1)
        known = generator.random((count, NUMBERS + 1)) >= MISSING_SHARE
        return Rows(label, latent, numbers, category, known)

    def conditional(
        self, numbers: np.ndarray, known: np.ndarray, target: int, label: int | None, category: int | None
    ) -> Mixture:
        """Weights, means and deviations of the Gaussians of one number given known ones."""
        classes = range(CLASSES) if label is None else [label]
        given = np.flatnonzero(known)
        covariance = self.covariance[np.ix_(given, given)]
        solved = np.linalg.solve(covariance, self.covariance[given, target]) if len(given) else np.zeros(0)
        variance = self.covariance[target, target] - self.covariance[target, given] @ solved
        log_weights, means = [], []
        for c in classes:
            gap = numbers[given] - self.mean[c, given]
            means.append(self.mean[c, target] + solved @ gap)
            evidence = -0.5 * gap @ np.linalg.solve(covariance, gap) if len(given) else 0.0
            of_category = 0.0 if category is None else math.log(self.of_category[c, category])
            log_weights.append(math.log(self.share[c]) + evidence + of_category)
        weights = np.exp(np.array(log_weights) - np.logaddexp.reduce(log_weights))
        return weights, np.array(means), np.full(len(means), math.sqrt(variance))


@attrs.frozen(eq=False)
class Rows:
    """Rows of the world: label [N], t [N, 3], numbers of table and vector [N, 14], category [N], known cells [N, 9]."""

    label: np.ndarray
    latent: np.ndarray
    numbers: np.ndarray
    category: np.ndarray
    known: np.ndarray


HEAD = "| seed | given | draws | within 50 % | within 80 % | within 95 % | width | error |\n" + 8 * "|---" + "|"
KIND = ["kind"]  # the column of categories, which comes first in the table, as the options name it


def cells_of(world: World, rows: Rows) -> np.ndarray:
    """Cells [N, 9] of the table in its units: the category, then the numbers; NaN where one is missing."""
    numbers = (rows.numbers * world.unit + world.origin)[:, :NUMBERS]
    return np.where(rows.known, np.concatenate([rows.category[:, None], numbers], 1), np.nan)


def signals_of(world: World, rows: Rows) -> np.ndarray:
    """Numbers [N, 6] of the vector in its units."""
    return (rows.numbers * world.unit + world.origin)[:, NUMBERS:]


def fitted(world: World, rows: Rows, cell_dropout: float) -> dict[str, Modality]:
    """The modalities, fitted to training rows as they would lie in shards."""
    table = Table(categorical=tuple(KIND), cell_dropout=cell_dropout, width=64)
    modalities = {"label": Label(width=32), "table": table, "vector": Table(allow_missing=False, width=64)}
    names = [*KIND, *NAMES]
    records = (
        {name: cell for name, cell in zip(names, row, strict=True) if cell == cell} for row in cells_of(world, rows)
    )
    modalities["label"].fit({"cls": str(c).encode()} for c in rows.label)
    records = (dict(zip(names, row.tolist(), strict=True)) for row in cells_of(world, rows))
    table.fit({"table.json": json.dumps(record).encode()} for record in records)
    modalities["vector"].fit({"npy": encode_npy(row)} for row in signals_of(world, rows))
    assert [column.name for column in table.columns] == names
    return modalities


def tensors(world: World, rows: Rows, modalities: dict[str, Modality]) -> dict[str, Tensor]:
    """What the modalities read of rows."""
    table, vector = modalities["table"], modalities["vector"]
    assert isinstance(table, Table)
    assert isinstance(vector, Table)
    return {
        "label": torch.from_numpy(rows.label)[:, None].long(),
        "table": table.tensor(cells_of(world, rows)),
        "vector": vector.tensor(signals_of(world, rows)),
    }


@attrs.frozen(eq=False)
class Question:
    """Hidden numbers of held-out rows, and what a model may know.

    Attributes:
        name: What is given.
        given: Modality name to x, of each row.
        exact: Weights, means and deviations of the exact conditional of each hidden number.
    """

    name: str
    given: dict[str, Tensor]
    exact: list[Mixture]


def questions(world: World, rows: Rows, target: np.ndarray, x: dict[str, Tensor]) -> list[Question]:
    """The three questions about one hidden number of each row."""
    table = x["table"].clone()
    index = torch.arange(len(table))
    table[index, :, torch.from_numpy(target) + 1] = 0.0
    asked = []
    for name, given in (
        ("the other cells", {"table": table}),
        ("the other cells, label, vector", {**x, "table": table}),
        ("label, vector", {"label": x["label"], "vector": x["vector"]}),
    ):
        exact = []
        for row in range(len(target)):
            known = np.zeros(NUMBERS + SIGNALS, dtype=bool)
            if "table" in given:
                known[:NUMBERS] = rows.known[row, 1:]
                known[target[row]] = False
            known[NUMBERS:] = "vector" in given
            category = int(rows.category[row]) if "table" in given and rows.known[row, 0] else None
            label = int(rows.label[row]) if "label" in given else None
            exact.append(world.conditional(rows.numbers[row], known, int(target[row]), label, category))
        asked.append(Question(name, given, exact))
    return asked


def draws_of(
    parts: tuple[np.ndarray, np.ndarray, np.ndarray], count: int, generator: np.random.Generator
) -> np.ndarray:
    """Draws of a mixture of Gaussians."""
    weights, means, deviations = parts
    component = generator.choice(len(weights), count, p=weights)
    drawn: np.ndarray = generator.normal(means[component], deviations[component])
    return drawn


def intervals(draws_NS: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of the central interval of each row's draws."""
    # The k-th of S ordered draws of the truth's distribution has a share of k / (S + 1) below it on average.
    low, high = np.quantile(draws_NS, [(1 - level) / 2, (1 + level) / 2], axis=1, method="weibull")
    return low, high


def figures(draws_NS: np.ndarray, truth_N: np.ndarray, exact_NS: np.ndarray) -> list[float]:
    """Coverage at each level, width and error."""
    covered = []
    for level in LEVELS:
        low, high = intervals(draws_NS, level)
        covered.append(float(((low <= truth_N) & (truth_N <= high)).mean()))
    low, high = intervals(draws_NS, 0.8)
    exact_low, exact_high = intervals(exact_NS, 0.8)
    error, exact_error = (np.sqrt(((draws.mean(1) - truth_N) ** 2).mean()) for draws in (draws_NS, exact_NS))
    return [*covered, float((high - low).mean() / (exact_high - exact_low).mean()), float(error / exact_error)]


def train(world: World, args: argparse.Namespace, seed: int) -> tuple[shala.ShaLa, dict[str, Modality]]:
    """A model trained by the framework's own loops."""
    rows = world.draw(args.rows, np.random.default_rng(1_000 + seed))
    modalities = fitted(world, rows, args.cell_dropout)
    model = shala.ShaLa(
        modalities,
        latent_dim=args.latent_dim,
        feature_dim=64,
        hidden_dim=128,
        modality_dropout=args.modality_dropout,
        prior={"hidden_dim": 128, "unconditional_share": 0.2, "log_sigma_mean": -0.4},
        generate={"num_steps": 18},
        seed=seed,
    )
    stage = {"likelihood_rescaling": False, "batch_size": 256, "kl_warmup_steps": args.steps // 4, "warmup_steps": 50}
    held_out = world.draw(VALIDATION_ROWS, np.random.default_rng(3_000 + seed))
    shala.train(
        model,
        tensors(world, rows, modalities),
        validation=tensors(world, held_out, modalities),
        autoencoder={**stage, "steps": args.steps},
        prior={"steps": args.prior_steps, "batch_size": 512, "learning_rate": 2e-3},
    )
    return model, modalities


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=3_000, help="steps of stage 1")
    parser.add_argument("--prior-steps", type=int, default=4_000, help="steps of stage 2")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--held-out", type=int, default=800, help="rows with a hidden number")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--latent-dim", type=int, default=8)
    parser.add_argument("--cell-dropout", type=float, default=0.2)
    parser.add_argument("--modality-dropout", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args}; {describe_machine()}\n")
    print(HEAD)
    found: dict[tuple[str, str], list[list[float]]] = {}
    start = time.perf_counter()
    for seed in range(args.seeds):
        world = World(seed)
        model, modalities = train(world, args, seed)
        temperatures = describe_temperatures(model.prior.squared_temperatures)
        print(f"trained after {time.perf_counter() - start:.0f} s; temperatures {temperatures}", flush=True)
        generator = np.random.default_rng(2_000 + seed)
        rows = world.draw(args.held_out, generator)
        rows.known[~rows.known[:, 1:].any(1), 1] = True
        target = np.array([generator.choice(np.flatnonzero(known)) for known in rows.known[:, 1:]])
        truth = rows.numbers[np.arange(len(target)), target]
        table = modalities["table"]
        assert isinstance(table, Table)
        for question in questions(world, rows, target, tensors(world, rows, modalities)):
            exact = draws_of_exact(question, args.draws, generator)
            asked = {"exact": draws_of_exact(question, args.draws, generator)}
            for prior in ("diffusion", "posterior"):
                x = model.generate(
                    args.draws, given=question.given, draw=True, prior=prior, seed=seed, batch_size=4096
                )["table"]
                cells = table.values(x)[np.arange(len(target)), :, target + 1]
                asked[prior] = (cells - world.origin[target, None]) / world.unit[target, None]
            for name, draws in asked.items():
                row = figures(draws, truth, exact)
                found.setdefault((question.name, name), []).append(row)
                print(
                    f"| {seed} | {question.name} | {name} | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True
                )
    print("\nmean of the seeds\n")
    for (given, name), values in found.items():
        print(f"| {given} | {name} | {shown(np.mean(values, 0).tolist())} |")
    print(f"\n{time.perf_counter() - start:.0f} s")


def shown(row: list[float]) -> str:
    """Figures as cells of a table."""
    return " | ".join(f"{value:.3f}" for value in row)


def draws_of_exact(question: Question, count: int, generator: np.random.Generator) -> np.ndarray:
    """Draws [N, S] of the exact conditionals."""
    return np.stack([draws_of(parts, count, generator) for parts in question.exact])


if __name__ == "__main__":
    main()
