"""Coherence of a run of specs/ntu_rgb_skeleton.toml on its synthetic stand-in, beside its controls.

    shala-run specs/ntu_rgb_skeleton.toml
    python benchmarks/ntu_synthetic.py runs/ntu_rgb_skeleton [--split test] [--samples 600]

Judges are classifiers of each modality, trained on the run's training split; their accuracy on the real rows of the
evaluated split is printed beside. Joint coherence: both judges name one action. Conditional coherence: the judge
of the generated modality names the action of the row that was given. Controls: N(0, I) and the Gaussian mixture in
place of the diffusion prior for joint samples; the first stage's q(z | x_given) for conditional ones. Intervals are
95 % of the binomial.
"""

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch

from shala_framework.data.rows import load_rows
from shala_framework.evaluation.coherence import conditional_coherence, joint_coherence
from shala_framework.evaluation.judges import train_judge
from shala_framework.model import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--judge-steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load(args.run)
    shards = {split: sorted(map(str, (args.run / "data").glob(f"{split}-*.tar"))) for split in ("train", args.split)}
    train, rows = (load_rows(urls, model.modalities) for urls in shards.values())
    start = time.perf_counter()
    judges = {name: train_judge(m, name, train, steps=args.judge_steps) for name, m in model.modalities.items()}
    figures = {
        f"judge accuracy, real {name}": (judge.accuracy(rows, name), len(rows)) for name, judge in judges.items()
    }
    reconstructed = model.decode(model.embed(rows.x))
    targets = next(iter(judges.values())).targets(rows.labels)
    for name, judge in judges.items():
        hits = float((judge.classify(reconstructed[name]) == targets).float().mean())
        figures[f"judge accuracy, reconstructed {name}"] = (hits, len(rows))
    for prior in ("diffusion", "mixture", "normal"):
        share = joint_coherence(model, judges, args.samples, prior=prior, seed=args.seed)
        figures[f"joint coherence, {prior}"] = (share, args.samples)
    for given in model.names:
        for prior, scale in (("diffusion", 1.0), ("diffusion", 2.0), ("posterior", None)):
            shares = conditional_coherence(
                model, judges, rows, given, prior=prior, guidance_scale=scale, seed=args.seed
            )
            note = f", guidance {scale:g}" if scale is not None else ""
            for name, share in shares.items():
                figures[f"{name} given {given}, {prior}{note}"] = (share, len(rows))
    seconds = time.perf_counter() - start
    print(f"{args.run}, {args.split} split ({len(rows)} rows), seed {args.seed}, {seconds:.0f} s to evaluate")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, (share, count) in figures.items():
        print(f"  {name:<48}{share:6.3f} +- {1.96 * math.sqrt(share * (1 - share) / count):.3f}  (n = {count})")
    print(json.dumps({name: round(share, 4) for name, (share, _) in figures.items()}))


if __name__ == "__main__":
    main()
