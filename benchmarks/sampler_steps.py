"""How many sampler steps a run's prior needs, and what they cost: Frechet distance of latents, by number of steps.

    python benchmarks/sampler_steps.py RUN [--num 10000] [--steps 5 9 18 36 256] [--seeds 3]

Joint latents of the diffusion prior, without guidance and with the run's own sampler, are compared with as many draws
of the posteriors of training rows, in standard deviations of those. "ratio" divides by the figure of the largest number
of steps. "posterior draws" is the distance between two sets of draws of the same rows' posteriors. Seeds are those of
the noise; figures are means over seeds, with the least and the greatest. Milliseconds are those of one latent in
batches of --num.

The second table needs no network: it shows the effect of the run's noise levels on the variance of a Gaussian, whose
denoiser is known, for both samplers with about as many evaluations. 1 is exact.
"""

import argparse
import time
from pathlib import Path

import torch
from scripts import cell, markdown
from torch import Tensor

from shala_framework.data.latent_store import latents_of
from shala_framework.data.rows import load_rows
from shala_framework.data.splits import split_urls
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.prior import karras_sigmas
from shala_framework.prior.sampling import SAMPLERS, num_evaluations
from shala_framework.run.loading import load
from shala_framework.support.machine import describe_machine

DEVIATIONS = (1.0, 0.5, 0.25, 0.1)  # deviations of the Gaussians, in those of the latent


def variance_ratio(sampler: str, sigmas: Tensor, deviation: float) -> float:
    """Return the variance of a sampler's draws of N(0, deviation^2) by its exact denoiser, relative to the true one."""

    def denoise(z_ND: Tensor, sigma_N: Tensor) -> Tensor:
        return z_ND * (deviation**2 / (deviation**2 + sigma_N**2))[:, None]

    drawn = SAMPLERS[sampler](denoise, torch.ones(1, 1, dtype=torch.float64), sigmas)  # linear in the noise
    return float((drawn / deviation) ** 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 9, 18, 36, 256])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    model = load(args.run)
    torch.manual_seed(0)
    rows = load_rows(split_urls(model.spec.data, "train", args.run if model.synthetic else None), model.modalities)
    store = latents_of(model.autoencoder, rows, model.device, 250)
    reference, other = (store.take(torch.arange(args.num) % len(store)).sample() for _ in range(2))
    mean, std = reference.mean(0), reference.std(0)

    def distance(z: Tensor) -> float:
        return frechet_distance((z - mean) / std, (reference - mean) / std)

    found: dict[int, list[float]] = {}
    cost: dict[int, list[float]] = {}  # milliseconds a latent
    for steps in sorted(args.steps):
        found[steps], cost[steps] = [], []
        for seed in range(args.seeds):
            start = time.perf_counter()
            z = model.sample_latents(args.num, num_steps=steps, autoguidance_scale=1, seed=seed).cpu()
            cost[steps].append(1_000 * (time.perf_counter() - start) / args.num)
            found[steps].append(distance(z))
    most, clusters = found[max(found)], model.prior.clusters.num_components
    sampler, machine = model.spec.generate.sampler, describe_machine()
    print(f"{args.run.name}: {args.num} latents, sampler {sampler!r}, {clusters} clusters; {machine}\n")
    body = [
        [
            f"{steps} steps",
            cell(values),
            cell([value / at_most for value, at_most in zip(values, most, strict=True)]),
            cell(cost[steps]),
        ]
        for steps, values in found.items()
    ]
    print(markdown([["", "Frechet distance", f"ratio to {max(found)} steps", "milliseconds"], *body]))
    print(f"\nposterior draws: {distance(other):.2g}\n")
    body = []
    for steps in sorted(args.steps):
        for sampler, count in (("heun", steps), ("dpm", 2 * steps)):
            sigmas = karras_sigmas(count, model.spec.prior.sigma_min, model.spec.prior.sigma_max)
            ratios = [f"{variance_ratio(sampler, sigmas, deviation):.3f}" for deviation in DEVIATIONS]
            body.append([f"{sampler}, {count} steps", str(num_evaluations(sampler, count)), *ratios])
    print(markdown([["variance of a Gaussian of deviation", "evaluations", *map(str, DEVIATIONS)], *body]))


if __name__ == "__main__":
    main()
