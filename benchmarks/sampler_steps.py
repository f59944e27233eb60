"""How many steps of the sampler a run's prior needs: Frechet distance in latent space, by steps.

    python benchmarks/sampler_steps.py RUN [--num 10000] [--steps 5 9 18 36 256] [--seeds 3]

Joint latents of the diffusion prior, without guidance and with the run's own sampler, against as many draws of the
posteriors of training rows, in standard deviations of those. "ratio" compares each number of steps with the greatest.
"posterior draws" is the distance of two sets of draws of the same rows' posteriors. Seeds are those of the noise; means
over seeds, with the least and the greatest.
"""

import argparse
from pathlib import Path

import torch
from scripts import cell, markdown
from torch import Tensor

from shala_framework.data.latents import collect_latents
from shala_framework.data.rows import load_rows
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.machine import describe_machine
from shala_framework.model import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 9, 18, 36, 256])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    model = load(args.run)
    torch.manual_seed(0)
    rows = load_rows(model.urls("train", args.run), model.modalities)
    store = collect_latents(model.autoencoder, (rows.take(i) for i in torch.arange(len(rows)).split(250)), model.device)
    reference, other = (store.take(torch.arange(args.num) % len(store)).sample() for _ in range(2))
    mean, std = reference.mean(0), reference.std(0)

    def distance(z: Tensor) -> float:
        return frechet_distance((z - mean) / std, (reference - mean) / std)

    found = {
        steps: [
            distance(model.sample_latents(args.num, num_steps=steps, autoguidance_scale=1, seed=seed).cpu())
            for seed in range(args.seeds)
        ]
        for steps in sorted(args.steps)
    }
    most = found[max(found)]
    print(f"{args.run.name}: {args.num} latents, sampler {model.spec.generate.sampler!r}; {describe_machine()}\n")
    body = [
        [
            f"{steps} steps",
            cell(values),
            cell([value / at_most for value, at_most in zip(values, most, strict=True)]),
        ]
        for steps, values in found.items()
    ]
    print(markdown([["", "Frechet distance", f"ratio to {max(found)} steps"], *body]))
    print(f"\nposterior draws: {distance(other):.2g}")


if __name__ == "__main__":
    main()
