"""Whether one modality is informative about another: its log-likelihood given the right row and given another row.

    python benchmarks/given_or_shuffled.py runs/cub --given image --of caption [--split test]

The score of a row is log p(x_of | z) averaged over samples of z from p(z | x_given) (in probability, not in log),
divided by the number of the row's tokens if x_of is integer ids padded by 0, and by the number of values
otherwise. The control scores the same x_of under latents of other rows, as a mean over several shifts of the whole
split. Rows that share the given x or the scored one (captions of one picture, pictures of one report) are not
independent. Therefore shifts are chosen that rarely make them each other's control, and the bootstrap draws them
together.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from shala_framework.data.rows import load_rows
from shala_framework.data.splits import split_urls
from shala_framework.evaluation.likelihood import conditional_log_likelihood
from shala_framework.run.loading import load
from shala_framework.support.machine import describe_machine


def clusters(*x: Tensor) -> Tensor:
    """Return a group number for each row [N]; rows that share an x, directly or through other rows, have one number."""
    group = torch.arange(len(x[0]))
    for _ in range(len(group)):
        before = group.clone()
        for values in x:
            _, same = values.flatten(1).unique(dim=0, return_inverse=True)
            lowest = torch.full((int(same.max()) + 1,), len(group)).scatter_reduce(0, same, group, "amin")
            group = lowest[same]
        if torch.equal(group, before):
            break
    return group


def control_shifts(groups: Tensor, count: int) -> list[int]:
    """Return shifts spread over the whole split that put few rows beside one of their own group.

    Neighbouring rows are often of one class, and groups of one size can line up with an evenly spaced shift.
    """
    num_rows = len(groups)
    chosen = []
    for i in range(count):
        middle = num_rows * (i + 1) // (count + 1)
        near = range(max(1, middle - 10), min(num_rows - 1, middle + 10) + 1)
        chosen.append(min(near, key=lambda shift: int((groups == groups.roll(-shift)).sum())))
    return chosen


def bootstrap_interval(values: Tensor, groups: Tensor, seed: int, draws: int = 2_000) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values [N]; the bootstrap draws whole groups [N]."""
    _, index = groups.unique(return_inverse=True)
    num_groups = int(index.max()) + 1
    totals, sizes = (torch.zeros(num_groups).index_add(0, index, v) for v in (values, torch.ones_like(values)))
    picked = torch.randint(num_groups, (draws, num_groups), generator=torch.Generator().manual_seed(seed))
    means = totals[picked].sum(1) / sizes[picked].sum(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--given", required=True)
    parser.add_argument("--of", required=True)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--samples", type=int, default=16, help="latents a row")
    parser.add_argument("--rows", type=int, default=400, help="largest number of rows, evenly spread over the split")
    parser.add_argument("--shifts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load(args.run)
    rows = load_rows(split_urls(model.spec.data, args.split, args.run if model.synthetic else None), model.modalities)
    columns = [list(rows.x).index(name) for name in (args.given, args.of)]
    both = torch.nonzero(rows.presence[:, columns].all(1))[:, 0]
    chosen = both[torch.linspace(0, len(both) - 1, min(args.rows, len(both))).round().long()]
    rows = rows.take(chosen)
    x = rows.x[args.of].flatten(1)
    counts = (
        (x != 0).sum(1) if not x.is_floating_point() and x.dtype != torch.uint8 else torch.full((len(x),), x[0].numel())
    )
    groups = clusters(rows.x[args.given], rows.x[args.of])
    scores = [
        conditional_log_likelihood(
            model, rows, args.given, args.of, num_samples=args.samples, shift=shift, seed=args.seed
        )
        / counts
        for shift in (0, *control_shifts(groups, args.shifts))
    ]
    difference = scores[0] - torch.stack(scores[1:]).mean(0)
    low, high = bootstrap_interval(difference, groups, args.seed)
    num_groups = len(groups.unique())
    print(f"{args.run}, {args.split} split, {len(rows)} rows in {num_groups} groups, {args.samples} latents a row")
    print(describe_machine())
    print(f"  log p({args.of} | {args.given}) a unit        {scores[0].mean():8.4f} nats")
    print(f"  the same, given other rows          {torch.stack(scores[1:]).mean():8.4f} nats")
    print(f"  difference                          {difference.mean():8.4f} nats, 95 % from {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
