"""Start and memory of streaming a very large set, of which most shards are links to one.

    python benchmarks/large_set.py [--shards 10000] [--samples 1000] [--batches 300]

The set has an image-like field and a class. One shard is written, and the others are hard links to it and to its index,
so that the set takes little room but is read like any other. The table has the seconds until the index is read and
until the first batch, and the memory that a worker then takes, beside that of a worker of a set of one shard.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import ClassVar

import attrs
import torch
from pictures import Picture
from scripts import markdown
from torch import Tensor

from shala_framework.data.identity import describe_shards
from shala_framework.data.order import SampleOrder, default_window
from shala_framework.data.packing import pack
from shala_framework.data.random_access import index_shards
from shala_framework.data.rows import Rows
from shala_framework.data.shard_index import INDEX_FILE, parse_summary, write_summary
from shala_framework.data.streams import IndexedStream
from shala_framework.data.workers import work
from shala_framework.plugin.dataset import Account, Dataset, Sample

MIB = 1 << 20


class Blank(Picture):
    """A black picture, whatever the field."""

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        return torch.zeros(self.shape, dtype=torch.uint8)


class Small(Dataset):
    """Samples of a few bytes."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            count: Number of samples.
        """

        count: int

    needs_source: ClassVar[bool] = False
    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        for number in range(self.options.count):
            yield Sample(
                key=f"S001C002P003R{number:08d}", split="train", fields={"png": b"x" * 64}, label=str(number % 9)
            )


class Measured:
    """A stream whose last batches come with the memory of the worker, as labels of their rows."""

    def __init__(self, stream: IndexedStream) -> None:
        self.stream = stream

    def read(self, index: int, count: int) -> Iterator[Rows]:
        """Yield the batches of one of `count` readers."""
        for rows in self.stream.read(index, count):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            yield attrs.evolve(rows, labels=(str(peak),) * len(rows))


def measure(urls: list[str], batches: int) -> list[str]:
    """Return seconds to the order of the samples and to the first batch, and a worker's peak of memory in MiB."""
    begun = time.perf_counter()
    describe_shards(urls)
    shards = index_shards(urls)
    assert shards is not None
    order = SampleOrder(shards.counts, seed=0, interleave=8, window=default_window(remote=False))
    source = IndexedStream(shards, {"x": Blank()}, order, batch_size=64)
    known = time.perf_counter() - begun
    begun = time.perf_counter()
    next(iter(source))
    first = time.perf_counter() - begun
    shards.close()
    readers = work(Measured(source), 1)
    begun = time.perf_counter()
    peak = [int(rows.labels[0] or 0) for rows in islice(readers, batches)][-1]
    rate = 64 * batches / (time.perf_counter() - begun)
    readers.close()  # type: ignore[attr-defined]
    return [f"{known:.1f}", f"{first:.2f}", f"{peak / MIB:.0f}", f"{rate:.0f}"]


def main() -> None:
    """Pack, link and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1_000, help="samples of a shard")
    parser.add_argument("--batches", type=int, default=300, help="batches after which memory is measured")
    args = parser.parse_args()
    head = ["samples", "seconds to the index", "to a batch", "MiB of a worker", "rows a second with its start"]
    lines = [head]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (first,) = pack(Small(Small.Options(count=args.samples)), None, folder, shard_samples=args.samples).shards
        (listed,) = parse_summary((folder / INDEX_FILE).read_bytes(), INDEX_FILE).values()
        names = [f"train-{number:06d}" for number in range(args.shards)]
        for stem in names[1:]:
            os.link(first, folder / f"{stem}.tar")
            os.link(folder / f"{first.stem}.index.json", folder / f"{stem}.index.json")
        write_summary(folder, {f"{stem}.tar": listed for stem in names})
        for count in (1, args.shards):
            urls = [str(folder / f"{stem}.tar") for stem in names[:count]]
            lines.append([f"{count * args.samples:,}", *measure(urls, args.batches)])
            print(markdown(lines[-2:]), flush=True)
    print(markdown(lines))


if __name__ == "__main__":
    main()
