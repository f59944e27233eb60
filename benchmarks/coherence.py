"""Coherence and Frechet distances of a run, beside its controls.

    shala-run specs/ntu_rgb_skeleton.toml
    python benchmarks/coherence.py runs/ntu_rgb_skeleton [--split test] [--samples 1000] [--guidance 1 2]

Judges are classifiers of each modality with its own encoder, trained on the run's training shards; their accuracy on
the real rows of the evaluated split, and on reconstructions of them, is printed beside. Joint coherence: all judges
name one class. Conditional coherence: the judge of the generated modality names the class of the row that was given.
Frechet distance: between joint samples and the split's real rows, in the judges' features. Controls: N(0, I) and the
Gaussian mixture in place of the diffusion prior for joint samples; the first stage's q(z | x_given) for conditional
ones. Intervals are 95 % of the binomial. The evaluated shards are those of the run's stand-in, or lie beside the
spec's training shards with the split's name in place of "train".
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch

from shala_framework.data.rows import Rows, load_rows
from shala_framework.evaluation.coherence import agreement, conditional_coherence
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.judges import Judge, train_judge
from shala_framework.model import ShaLa, load
from shala_framework.urls import expand_urls


def shards(run: Path, model: ShaLa, split: str) -> list[str]:
    """The run's shards of a split."""
    if model.synthetic and (run / "data").exists():
        return sorted(str(path) for path in (run / "data").glob(f"{split}-*.tar"))
    train = model.spec.data.train
    names = (train,) if isinstance(train, str) else train
    return expand_urls(tuple(name.replace("train-", f"{split}-") for name in names))


def rows_with(rows: Rows, name: str) -> Rows:
    """The rows that have a modality."""
    return rows.take(torch.nonzero(rows.presence[:, list(rows.x).index(name)])[:, 0])


def joint_figures(
    model: ShaLa, judges: dict[str, Judge], rows: Rows, samples: int, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Joint coherence, and the Frechet distance of each modality, under the prior and its two controls."""
    coherence, frechet = {}, {}
    real = {name: judge.features(rows_with(rows, name).x[name]) for name, judge in judges.items()}
    for prior in ("diffusion", "mixture", "normal"):
        x = model.generate(samples, prior=prior, seed=seed)
        coherence[f"joint coherence, {prior}"] = agreement({n: judge.classify(x[n]) for n, judge in judges.items()})
        for name, judge in judges.items():
            frechet[f"Frechet distance of {name}, {prior}"] = frechet_distance(judge.features(x[name]), real[name])
    return coherence, frechet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--judge-steps", type=int, default=600)
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    model = load(args.run)
    train, rows = (load_rows(shards(args.run, model, split), model.modalities) for split in ("train", args.split))
    judges = {
        name: train_judge(m, name, rows_with(train, name), steps=args.judge_steps)
        for name, m in model.modalities.items()
    }
    shares: dict[str, tuple[float, int]] = {}
    reconstructed = model.decode(model.embed(rows.x)) if bool(rows.presence.all()) else None
    for name, judge in judges.items():
        some = rows_with(rows, name)
        shares[f"judge accuracy, real {name}"] = (judge.accuracy(some, name), len(some))
        if reconstructed is not None:
            right = judge.classify(reconstructed[name]) == judge.targets(rows.labels)
            shares[f"judge accuracy, reconstructed {name}"] = (float(right.float().mean()), len(rows))
    coherence, frechet = joint_figures(model, judges, rows, args.samples, args.seed)
    shares |= {name: (share, args.samples) for name, share in coherence.items()}
    for given in model.names:
        count = len(rows_with(rows, given))
        settings = [("diffusion", scale) for scale in args.guidance] + [("posterior", None)]
        for prior, scale in settings:
            note = f", guidance {scale:g}" if scale is not None else ""
            for name, share in conditional_coherence(
                model, judges, rows, given, prior=prior, guidance_scale=scale, seed=args.seed
            ).items():
                shares[f"{name} given {given}, {prior}{note}"] = (share, count)
    seconds = time.perf_counter() - start
    print(f"{args.run}, {args.split} split ({len(rows)} rows), seed {args.seed}, {seconds:.0f} s to evaluate")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, (share, count) in shares.items():
        print(f"  {name:<52}{share:6.3f} +- {1.96 * math.sqrt(share * (1 - share) / count):.3f}  (n = {count})")
    for name, distance in frechet.items():
        print(f"  {name:<52}{distance:8.3f}  (n = {args.samples} samples, {len(rows)} rows)")
    print(json.dumps({name: round(share, 4) for name, (share, _) in shares.items()} | frechet))


if __name__ == "__main__":
    main()
