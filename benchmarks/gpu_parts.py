"""The parts of gpu_check.py. Each writes its figures as soon as it has them.

python benchmarks/gpu_parts.py PART FIGURES.json [--device auto]
    [--polymnist POLYMNIST.npz --judge-data JUDGE_DATA.npz]
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from gpu_common import Check
from gpu_correctness import equality, graphs, nccl, waits
from gpu_rates import prior, rates, refiner, shards
from gpu_runs import polymnist, run

from shala_framework.support.machine import describe_machine, resolve_device
from shala_framework.training.precision import choose_precision

PARTS: dict[str, Callable[[Check], None]] = {
    part.__name__: part for part in (equality, waits, graphs, nccl, rates, shards, prior, refiner, run, polymnist)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("path", type=Path)
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--polymnist", type=Path)
    parser.add_argument("--judge-data", type=Path)
    args = parser.parse_args()
    device = resolve_device(args.device)
    check = Check(device, args.path, args.polymnist, args.judge_data)
    chosen = choose_precision("auto", device)
    check.say("machine", describe_machine(device))
    check.say("precision", f"{chosen.name}: {chosen.reason}")
    PARTS[args.part](check)


if __name__ == "__main__":
    main()
