"""Whether one modality tells something of another: its log-likelihood given the right row against given another row.

    python benchmarks/given_or_shuffled.py runs/cub --given image --of caption [--split test]

The score of a row is log p(x_of | z) averaged over samples of z from p(z | x_given) (in probability, not in log),
divided by the number of the row's tokens where x_of is integer ids padded by 0, and by the number of values
elsewhere. The control scores the same x_of under latents of other rows, a mean over several shifts of the whole
split. The interval is a bootstrap over rows.
"""

import argparse
from pathlib import Path

import torch
from coherence import machine, shards

from shala_framework.data.rows import load_rows
from shala_framework.evaluation.likelihood import conditional_log_likelihood
from shala_framework.model import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--given", required=True)
    parser.add_argument("--of", required=True)
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--samples", type=int, default=16, help="latents a row")
    parser.add_argument("--rows", type=int, default=400, help="most rows, evenly spread over the split")
    parser.add_argument("--shifts", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = load(args.run)
    rows = load_rows(shards(args.run, model, args.split), model.modalities)
    columns = [list(rows.x).index(name) for name in (args.given, args.of)]
    both = torch.nonzero(rows.presence[:, columns].all(1))[:, 0]
    chosen = both[torch.linspace(0, len(both) - 1, min(args.rows, len(both))).round().long()]
    rows = rows.take(chosen)
    x = rows.x[args.of].flatten(1)
    counts = (
        (x != 0).sum(1) if not x.is_floating_point() and x.dtype != torch.uint8 else torch.full((len(x),), x[0].numel())
    )
    # Neighbouring rows are often of one class: shifts are spread over the whole split.
    shifts = [0, *(len(rows) * (i + 1) // (args.shifts + 1) for i in range(args.shifts))]
    scores = [
        conditional_log_likelihood(
            model, rows, args.given, args.of, num_samples=args.samples, shift=shift, seed=args.seed
        )
        / counts
        for shift in shifts
    ]
    difference = scores[0] - torch.stack(scores[1:]).mean(0)
    generator = torch.Generator().manual_seed(args.seed)
    draws = torch.randint(len(rows), (2000, len(rows)), generator=generator)
    low, high = difference[draws].mean(1).quantile(torch.tensor([0.025, 0.975])).tolist()
    print(f"{args.run}, {args.split} split, {len(rows)} rows, {args.samples} latents a row, seed {args.seed}")
    print(machine())
    print(f"  log p({args.of} | {args.given}) a unit        {scores[0].mean():8.4f} nats")
    print(f"  the same, given other rows          {torch.stack(scores[1:]).mean():8.4f} nats")
    print(f"  difference                          {difference.mean():8.4f} nats, 95 % from {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
