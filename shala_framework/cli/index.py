"""`shala index`: the index of shards that something else made, or that were changed on purpose."""

import argparse
from contextlib import closing

from shala_framework.cli.output import say
from shala_framework.cli.progress import make_reporter
from shala_framework.data.index import write_index
from shala_framework.data.tally import Tally
from shala_framework.errors import DataError


def index(arguments: argparse.Namespace) -> int:
    """Write it and print how much it lists."""
    if not arguments.shards.is_dir():
        raise DataError(f"expected a folder of shards, got {str(arguments.shards)!r}")
    with closing(make_reporter()) as reporter:
        reporter.begin("shards", len(list(arguments.shards.glob("*.tar"))), "shard")
        tally = Tally()
        lengths = write_index(arguments.shards, reporter.advance, tally)
        reporter.finish()
        for sentence in tally.sentences():
            reporter.note(f"{arguments.shards}: {sentence}")
    num_bytes, num_samples = (sum(column) for column in list(zip(*lengths.values(), strict=True))[:2])
    say(f"{arguments.shards}: {len(lengths)} shards, {num_samples} samples, {num_bytes / 2**20:.1f} MiB")
    return 0
