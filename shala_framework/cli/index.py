"""`shala index`: write the index of shards that another program made, or that were changed on purpose."""

from contextlib import closing
from pathlib import Path

from shala_framework.cli.commands import FILE, argument, verb
from shala_framework.cli.output import say
from shala_framework.support.errors import DataError


@verb("  shala index shards/mine\n")
@argument("shards", "Folder of shards (*.tar).", metavar="DIR", type=FILE)
def index(shards: Path) -> None:
    """Write the index of shards that another program made: lengths, fields and checksums of their samples."""
    from shala_framework.cli.progress_display import make_reporter
    from shala_framework.data.shard_index import write_index
    from shala_framework.data.tally import Tally

    if not shards.is_dir():
        raise DataError(f"expected a folder of shards, got {str(shards)!r}")
    with closing(make_reporter()) as reporter:
        reporter.begin("shards", len(list(shards.glob("*.tar"))), "shard")
        tally = Tally()
        lengths = write_index(shards, reporter.advance, tally)
        reporter.finish()
        for sentence in tally.sentences():
            reporter.note(f"{shards}: {sentence}")
    num_bytes, num_samples = (sum(column) for column in list(zip(*lengths.values(), strict=True))[:2])
    say(f"{shards}: {len(lengths)} shards, {num_samples} samples, {num_bytes / 2**20:.1f} MiB")
