"""`shala pack`: turn raw files into shards."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shala_framework.cli.commands import FILE, argument, option, profile_option, set_option, verb
from shala_framework.cli.completion import complete_plugins
from shala_framework.cli.output import remark, say
from shala_framework.cli.overrides import structure_set
from shala_framework.spec import parse_override, read_spec
from shala_framework.support.errors import DataError
from shala_framework.support.hints import shortened
from shala_framework.support.structuring import format_path
from shala_framework.support.urls import permit_pipes

if TYPE_CHECKING:
    from shala_framework.data.prepared import Preparation
    from shala_framework.plugin.dataset import Dataset
    from shala_framework.spec.overrides import Override
    from shala_framework.support.progress import Reporter

MOST_WORKERS = 1_024  # processes; each takes about half a gigabyte


@verb(
    "  shala pack ntu raw/nturgbd shards/ntu120\n"
    "  shala pack ntu raw/nturgbd shards/ntu60 --set version=60 --set protocol=cross-view\n"
    "  shala pack folder rows.csv shards/rows --set 'columns={caption = \"txt\"}' --set 'path_columns={photo = \"\"}'\n"
    "  shala pack ntu-synthetic - shards/made --set train=1000\n"
    "  shala pack ntu raw/nturgbd shards/ntu120 --for specs/ntu_rgb_skeleton.toml --workers 8\n"
    "  shala pack ntu raw/nturgbd shards/ntu120 --part $SLURM_ARRAY_TASK_ID/100\n"
)
@argument("dataset", "Name of a data set plugin.", shell_complete=complete_plugins)
@argument(
    "source",
    "Folder of raw files, a table where the data set takes one, or - for a data set that needs none.",
    metavar="RAW_DIR",
    type=click.Path(readable=False),
)
@argument("out", "Folder for the shards.", metavar="OUT_DIR", type=FILE)
@set_option("Set an option of the data set.", complete=None)
@option(
    "--for",
    "spec",
    type=FILE,
    metavar="SPEC",
    help="Store the tensors that the modalities of this spec read, instead of the original bytes.",
)
@profile_option("Apply a profile of the spec that --for names.")
@option("--shard-samples", type=int, default=500, metavar="N", help="Samples in each shard.")
@option(
    "--shuffle/--no-shuffle",
    "shuffle",
    default=None,
    help="Mix samples across shards, or keep the order of the data set. By default, sets of more than 4,096 samples "
    "that are sorted by key are mixed, so that streaming from a server meets all classes at any time. While it packs, "
    "a mixed set takes twice its room.",
)
@option("--workers", type=int, default=0, metavar="N", help="Processes that decode for --for; 0 decodes in this one.")
@option("--part", default="1/1", metavar="I/N", help="Pack only part I of N, for job arrays. All parts form one set.")
def pack(
    dataset: str,
    source: str,
    out: Path,
    overrides: tuple[str, ...],
    spec: Path | None,
    profile: str | None,
    shard_samples: int,
    shuffle: bool | None,
    workers: int,
    part: str,
) -> None:
    """Turn a data set's raw files into shards."""
    from shala_framework.cli.progress_display import make_reporter
    from shala_framework.data.packing import describe_pack
    from shala_framework.data.packing import pack as pack_in_order
    from shala_framework.data.shuffling import pack_shuffled
    from shala_framework.data.writing import LEFT_OUT_FILE, part_file
    from shala_framework.plugin.loading import load_dataset

    dataset_class = load_dataset(dataset)
    table: dict[str, object] = {}
    for text in overrides:
        _set(table, parse_override(text))
    options = structure_set(table, dataset_class.Options)
    folder = _source(source, dataset_class, dataset)
    if shard_samples < 1:
        raise DataError(f"expected --shard-samples of at least 1, got {shard_samples}")
    if out.exists() and not out.is_dir():
        raise DataError(f"expected a folder for the shards, got {str(out)!r}, which is a file")
    if not 0 <= workers <= MOST_WORKERS:
        least = "at least 0" if workers < 0 else f"at most {MOST_WORKERS}"
        raise DataError(f"expected --workers of {least}, got {workers}")
    numbers = _part(part)
    if profile is not None and spec is None:
        raise DataError("expected --for SPEC beside --profile, got none")
    preparation = _preparation(spec, profile) if spec is not None else None
    with closing(make_reporter()) as reporter:
        phases = _Phases(reporter)
        if preparation is None:
            phases.advance(f"packing {dataset}", 0)
        try:
            pack_shards = (
                pack_in_order
                if shuffle is False
                else partial(
                    pack_shuffled, always=bool(shuffle), on_shuffle=lambda done: phases.advance("shuffling", done)
                )
            )
            report = pack_shards(
                dataset_class(options),
                folder,
                out,
                shard_samples=shard_samples,
                preparation=preparation,
                part=numbers,
                num_workers=workers,
                on_sample=lambda done: phases.advance(f"packing {dataset}", done),
                on_fit=lambda name, done: phases.advance(f"fitting {name}", done),
            )
        except KeyboardInterrupt:
            reporter.warn(f"stopped; whole shards stay in {out}; to resume, run the same command")
            raise
        phases.finish()
        if dataset_class.synthetic:
            reporter.warn(f"SYNTHETIC DATA: {dataset} generates its samples")
    say(describe_pack(report))
    say(f"{len(report.shards)} shards in {out}")
    if not report.complete:
        say(f"part {part}: the index is written when the last part is packed")
    for note in report.notes:
        remark(f"note: {note}")
    if report.left_out:
        listing = out / part_file(LEFT_OUT_FILE, numbers)
        remark(f"note: {listing} lists everything left out ({len(report.left_out)})")


class _Phases:
    """Report consecutive tasks. A task begins at the first report with its title."""

    def __init__(self, reporter: "Reporter") -> None:
        self.reporter, self.title = reporter, ""

    def advance(self, title: str, done: int) -> None:
        if title != self.title:
            self.finish()
            self.reporter.begin(title, None, "sample")
            self.title = title
        self.reporter.advance(done)

    def finish(self) -> None:
        if self.title:
            self.reporter.finish()
            self.title = ""


def _part(text: str) -> tuple[int, int]:
    """Parse text such as "3/8" into the number of the part, from 0, and the number of parts."""
    number, _, parts = text.partition("/")
    if len(text) > 20 or not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise DataError(f"expected --part as I/N with I from 1 to N, such as 3/8, got {shortened(text)}")
    return int(number) - 1, int(parts)


def _preparation(path: Path, profile: str | None) -> "Preparation":
    """Return the preparation for the modalities of a spec.

    The spec's shards are not opened, so URLs that run commands are permitted here.
    """
    from shala_framework.data.prepared import Preparation

    with permit_pipes():
        loaded = read_spec(path, profile=profile, use_stand_in=False)
    return Preparation({name: loaded.modality_classes[name](loaded.options[name]) for name in loaded.spec.modality})


def _set(table: dict[str, object], override: "Override") -> None:
    """Set an option, or a key of an option that is a table, such as `columns.caption=txt`."""
    *parents, last = override.path
    for parent in parents:
        inner = table.setdefault(str(parent), {})
        if not isinstance(inner, dict):
            raise DataError(f"--set: {format_path(override.path)}: {parent} is set to a value that has no keys")
        table = inner
    table[str(last)] = override.value


def _source(text: str, kind: "type[Dataset]", dataset: str) -> Path | None:
    """Return the folder or file of raw data, or None for a data set that needs none."""
    needed = kind.needs_source
    if text == "-":
        if needed:
            raise DataError(
                f"expected a folder of raw files for {dataset!r}, got '-', which is for data sets that need none"
            )
        return None
    path = Path(text)
    if needed and not path.is_dir() and not (kind.takes_file and path.is_file()):
        raise DataError(f"expected a folder of raw files for {dataset!r}, got {text!r}, which is not a folder")
    return path if needed else None
