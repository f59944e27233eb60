"""How smoothly generated skeletons move: their jerk, and how fast the standing foot slides, beside real ones.

    python benchmarks/smoothness.py runs/ntu_rgb_skeleton [--modality skeleton] [--split test] [--feet 14,15 18,19]
        [--num 288] [--sigma-max 1.5 10] [--seed 0]

Joint samples without guidance, by the mode of stage 1 and refined from each highest noise level (--sigma-max; levels of
4 and more take 12 steps), and real rows. Columns, with means over sequences, bodies and frames:

    jerk        root of the mean squared jerk of all joints, the third derivative of their position: m/s^3
    foot        speed of the slower foot, which is that of a standing one while a person stands or walks: m/s
    pose        root of the mean squared distance between two sequences: m

The numbers of --feet are joints of each foot, counted from 0; the default is ankle and foot of NTU's 25 joints.
"""

import argparse
from pathlib import Path

import torch
from scripts import markdown
from torch import Tensor

from shala_framework.data.rows import load_rows
from shala_framework.data.splits import split_urls
from shala_framework.run.loading import load
from shala_framework.support.machine import describe_machine

FAR, STEPS = 4.0, {False: 5, True: 12}  # highest level from which refining takes more steps; steps below and from there


def derivative(x_NT: Tensor, order: int, frames_per_second: float) -> Tensor:
    """Differences of an order along time, over frames [N, T, ...], per second."""
    return x_NT.diff(n=order, dim=1) * frames_per_second**order


def figures(x: Tensor, feet: list[list[int]], frames_per_second: float) -> list[float]:
    """Return the columns of sequences [N, T, P, J, C]; a body that is all zeros in a sequence does not count."""
    bodies = x.transpose(1, 2).flatten(0, 1).double()  # [N * P, T, J, C]
    bodies = bodies[bodies.flatten(1).abs().amax(1) > 0]
    jerk = derivative(bodies, 3, frames_per_second).square().sum(-1).mean().sqrt()
    speed = derivative(bodies, 1, frames_per_second).norm(dim=-1)
    standing = torch.stack([speed[..., joints].mean(-1) for joints in feet]).amin(0).mean()
    apart = (bodies - bodies.roll(1, 0)).square().sum(-1).mean().sqrt()
    return [float(jerk), float(standing), float(apart)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--modality", default="skeleton")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--feet", nargs="+", default=["14,15", "18,19"])
    parser.add_argument("--num", type=int, default=288)
    parser.add_argument("--sigma-max", type=float, nargs="+", default=[1.5, 10.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load(args.run)
    frames_per_second = model.modalities[args.modality].options.frames_per_second
    feet = [[int(joint) for joint in text.split(",")] for text in args.feet]
    rows = load_rows(split_urls(model.spec.data, args.split, args.run if model.synthetic else None), model.modalities)
    real = rows.x[args.modality][rows.presence[:, model.names.index(args.modality)]]
    z = model.sample_latents(args.num, guidance_scale=1.0, autoguidance_scale=1.0, seed=args.seed)
    found = {f"real rows of the {args.split} split": real, "modes": model.decode(z)[args.modality]}
    for sigma in args.sigma_max if args.modality in model.refined_names else ():
        sampler = {"sigma_max": sigma, "num_steps": STEPS[sigma >= FAR]}
        found[f"refined from {sigma:g}"] = model.decode(z, refine=sampler, seed=args.seed)[args.modality]
    lines = [["", "jerk", "foot", "pose"]]
    lines += [[name, *(f"{value:.3g}" for value in figures(x, feet, frames_per_second))] for name, x in found.items()]
    print(f"{args.num} samples, seed {args.seed}; {describe_machine()}\n\n{markdown(lines)}")


if __name__ == "__main__":
    main()
