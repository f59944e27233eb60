"""Coherence and Frechet distances of a run, beside its controls.

    shala-run specs/ntu_rgb_skeleton.toml
    python benchmarks/coherence.py runs/ntu_rgb_skeleton [--split test] [--samples 1000] [--guidance 1 2]

Judges are classifiers of each modality with its own encoder, trained on the run's training shards; their accuracy on
the real rows of the evaluated split, and on reconstructions of them, is printed beside. Joint coherence: all judges
name one class. Conditional coherence: the judge of the generated modality names the class of the row that was given.
Frechet distance: between joint samples and the split's real rows, in the judges' features. Controls: N(0, I) and the
Gaussian mixture in place of the diffusion prior for joint samples; the first stage's q(z | x_given) for conditional
ones; for distances, the training rows. Intervals are 95 % of the binomial. The evaluated shards are those of the run's
stand-in, or lie beside the spec's training shards with the split's name in place of "train". Tables are Markdown.
"""

import argparse
import json
import math
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shala_framework.data.rows import Rows, load_rows
from shala_framework.evaluation.coherence import agreement, conditional_coherence
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.judges import Judge, train_judge
from shala_framework.model import PriorName, ShaLa, load
from shala_framework.urls import expand_urls

CONTROLS: dict[PriorName, str] = {"mixture": "Gaussian mixture", "normal": "N(0, I)"}


def shards(run: Path, model: ShaLa, split: str) -> list[str]:
    """The run's shards of a split."""
    if model.synthetic and (run / "data").exists():
        return sorted(str(path) for path in (run / "data").glob(f"{split}-*.tar"))
    train = model.spec.data.train
    names = (train,) if isinstance(train, str) else train
    return expand_urls(tuple(name.replace("train-", f"{split}-") for name in names))


def machine() -> str:
    """What the figures were measured on."""
    models = [line.partition(":")[2].strip() for line in cpu_lines() if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def training_seconds(run: Path) -> str:
    """Time of each stage's steps by the run's metrics, without reading, saving and validating."""
    seconds: dict[str, float] = {}
    done: dict[str, int] = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        if "steps_per_second" in line:
            stage, step = line["stage"], line["step"]
            seconds[stage] = seconds.get(stage, 0.0) + (step - done.get(stage, 0)) / line["steps_per_second"]
            done[stage] = step
    return ", ".join(f"{stage} {done[stage]} steps in {value:.0f} s" for stage, value in seconds.items())


def rows_with(rows: Rows, name: str) -> Rows:
    """The rows that have a modality."""
    return rows.take(torch.nonzero(rows.presence[:, list(rows.x).index(name)])[:, 0])


def share(value: float, count: int) -> str:
    """A share with its 95 % interval."""
    return f"{value:.3f} +- {1.96 * math.sqrt(value * (1 - value) / count):.3f}"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    every = [list(head), ["---"] * len(head), *map(list, lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in every) + "\n"


def judge_table(model: ShaLa, judges: Mapping[str, Judge], rows: Rows) -> tuple[str, dict[str, float]]:
    """What the judges are worth on real rows, and what they say of reconstructions."""
    reconstructed = model.decode(model.embed(rows.x)) if bool(rows.presence.all()) else None
    lines, figures = [], {}
    for name, judge in judges.items():
        some = rows_with(rows, name)
        figures[f"judge of {name}, real"] = real = judge.accuracy(some, name)
        line = [name, share(real, len(some)), ""]
        if reconstructed is not None:
            right = judge.classify(reconstructed[name]) == judge.targets(rows.labels)
            figures[f"judge of {name}, reconstructed"] = accuracy = float(right.float().mean())
            line[2] = share(accuracy, len(rows))
        lines.append(line)
    real_rows = rows.take(torch.nonzero(rows.presence.all(1))[:, 0])
    if len(real_rows):
        real = agreement({name: judge.classify(real_rows.x[name]) for name, judge in judges.items()})
        figures["all judges agree, real"] = real
        lines.append(["all agree", share(real, len(real_rows)), ""])
    return table(["judge", "right on real rows", "right on reconstructions"], lines), figures


def joint_table(
    model: ShaLa,
    judges: Mapping[str, Judge],
    train: Rows,
    rows: Rows,
    samples: int,
    autoguidance: Sequence[float],
    seed: int,
) -> tuple[str, dict[str, float]]:
    """Joint coherence, and the Frechet distance of each modality, under the prior and its two controls."""
    figures: dict[str, float] = {}
    columns: list[list[str]] = []
    real: dict[str, Tensor] = {name: judge.features(rows_with(rows, name).x[name]) for name, judge in judges.items()}
    settings: list[tuple[PriorName, str, float | None]] = [
        ("diffusion", f"diffusion prior, autoguidance {scale:g}", scale) for scale in autoguidance
    ]
    settings += [(prior, title, None) for prior, title in CONTROLS.items()]
    for prior, title, scale in settings:
        x = model.generate(samples, prior=prior, autoguidance_scale=scale, seed=seed)
        together = agreement({name: judge.classify(x[name]) for name, judge in judges.items()})
        distances = {name: frechet_distance(judge.features(x[name]), real[name]) for name, judge in judges.items()}
        figures |= {f"joint coherence, {title}": together}
        figures |= {f"Frechet distance of {name}, {title}": value for name, value in distances.items()}
        columns.append([title, share(together, samples), *(f"{value:.2f}" for value in distances.values())])
    distances = {}
    for name, judge in judges.items():
        some = rows_with(train, name)
        chosen = torch.linspace(0, len(some) - 1, min(samples, len(some))).round().long()
        distances[name] = frechet_distance(judge.features(some.x[name][chosen]), real[name])
    columns.append(["training rows", "", *(f"{value:.2f}" for value in distances.values())])
    head = ["", "joint coherence", *(f"Frechet distance, {name}" for name in judges)]
    return table(head, columns), figures


def conditional_table(
    model: ShaLa, judges: Mapping[str, Judge], rows: Rows, prior: PriorName, scale: float | None, votes: int, seed: int
) -> tuple[str, dict[str, float]]:
    """Conditional coherence of each modality given each other one, of single samples or of the vote of several."""
    figures, lines = {}, []
    for given in model.names:
        some = rows_with(rows, given)
        found = conditional_coherence(
            model, judges, some, given, prior=prior, guidance_scale=scale, num_votes=votes, seed=seed
        )
        note = f", guidance {scale:g}" if scale is not None else ""
        note += f", vote of {votes}" if votes > 1 else ""
        figures |= {f"{name} given {given}, {prior}{note}": value for name, value in found.items()}
        lines.append([given, *(share(found[n], len(some)) if n in found else "" for n in model.names)])
    return table(["given \\ generated", *model.names], lines), figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--judge-steps", type=int, default=600)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument(
        "--autoguidance", type=float, nargs="+", default=[1.0, 2.0], help="of joint samples; of others the spec's holds"
    )
    parser.add_argument("--votes", type=int, default=1, help="samples a row that vote, to compare with a classifier")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the figures as well")
    args = parser.parse_args()
    start = time.perf_counter()
    model = load(args.run)
    train, rows = (load_rows(shards(args.run, model, split), model.modalities) for split in ("train", args.split))
    judges = {
        name: train_judge(m, name, rows_with(train, name), steps=args.judge_steps)
        for name, m in model.modalities.items()
    }
    print(f"{args.run}, {args.split} split ({len(rows)} rows), {args.samples} joint samples, seed {args.seed}")
    print(f"training: {training_seconds(args.run)}; {machine()}\n", flush=True)
    text, figures = judge_table(model, judges, rows)
    print(text, flush=True)
    text, found = joint_table(model, judges, train, rows, args.samples, args.autoguidance, args.seed)
    print(text, flush=True)
    figures |= found
    away = f"autoguidance {model.spec.generate.autoguidance_scale:g}"
    settings: list[tuple[str, PriorName, float | None, int]] = [
        (f"diffusion prior, guidance {scale:g}, {away}", "diffusion", scale, 1) for scale in args.guidance
    ]
    if args.votes > 1:
        title = f"diffusion prior, guidance 1, {away}, most frequent class of {args.votes} samples a row"
        settings.append((title, "diffusion", 1.0, args.votes))
    for title, prior, scale, votes in [*settings, ("q(z | x_given) without diffusion", "posterior", None, 1)]:
        text, found = conditional_table(model, judges, rows, prior, scale, votes, args.seed)
        print(f"{title}\n\n{text}", flush=True)
        figures |= found
    print(f"evaluated in {time.perf_counter() - start:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
