"""What a batch from a worker costs the training process: one message in shared memory, beside torch's way.

    python benchmarks/batch_passing.py [--rows 512] [--batches 60] [--workers 1]

Batches have the five pictures of PolyMNIST. Wall time is that of receiving a batch which is ready; a worker that
decodes meanwhile answers torch's connections, one for each tensor, only when it lets its threads take turns.
"""

import argparse
import os
import time
from collections.abc import Iterator
from itertools import islice
from statistics import median

import torch
from scripts import markdown

from shala_framework.data.rows import Rows
from shala_framework.data.workers import work

AHEAD_SECONDS = 0.05  # in which a worker without other work has a batch ready


class Pictures:
    """Endless equal batches.

    Args:
        num_rows: Number of rows of a batch.
        torchs_way: Whether workers pass them in torch's way.
    """

    def __init__(self, num_rows: int, *, torchs_way: bool) -> None:
        self.num_rows, self.torchs_way = num_rows, torchs_way

    def read(self, index: int, count: int) -> Iterator[Rows]:
        """Yield the batches of one of `count` readers."""
        if self.torchs_way and hasattr(os, "memfd_create"):
            del os.memfd_create
        presence = torch.ones(self.num_rows, 5, dtype=torch.bool)
        keys, labels = tuple(f"{row:07d}" for row in range(self.num_rows)), ("3",) * self.num_rows
        while True:
            x = {f"m{i}": torch.full((self.num_rows, 3, 28, 28), i, dtype=torch.uint8) for i in range(5)}
            yield Rows(x=x, presence=presence.clone(), keys=keys, labels=labels)


def measure(stream: Pictures, args: argparse.Namespace) -> list[str]:
    """Return milliseconds of wall and of processor time for a batch."""
    batches = work(stream, args.workers)
    for _ in islice(batches, 4 * args.workers):
        pass
    wall, processor = [], []
    for _ in range(args.batches):
        time.sleep(AHEAD_SECONDS)
        begun, used = time.perf_counter(), time.process_time()
        next(batches)
        wall.append(1e3 * (time.perf_counter() - begun))
        processor.append(1e3 * (time.process_time() - used))
    batches.close()  # type: ignore[attr-defined]
    return [f"{median(wall):.2f}", f"{median(processor):.2f}"]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512, help="rows of a batch")
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    lines = [["", "wall ms a batch", "processor ms"]]
    for name, torchs_way in (("torch's way", True), ("one message", False)):
        lines.append([name, *measure(Pictures(args.rows, torchs_way=torchs_way), args)])
    print(markdown(lines))


if __name__ == "__main__":
    main()
