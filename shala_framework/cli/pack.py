"""`shala pack`: raw files to shards."""

import argparse
from contextlib import closing
from pathlib import Path

from shala_framework.cli.output import remark, say
from shala_framework.cli.overrides import structure_set
from shala_framework.cli.progress import make_reporter
from shala_framework.data.packing import describe_pack
from shala_framework.data.packing import pack as pack_shards
from shala_framework.data.prepared import Preparation
from shala_framework.data.writing import LEFT_OUT_FILE, part_file
from shala_framework.errors import DataError
from shala_framework.plugin.loading import load_dataset
from shala_framework.spec import parse_override, read_spec
from shala_framework.spec.structuring import format_path
from shala_framework.training.progress import Reporter
from shala_framework.urls import permit_pipes, shortened

MOST_WORKERS = 1_024  # processes, each of which takes half a gigabyte


def pack(arguments: argparse.Namespace) -> int:
    """Pack a data set and print what came of it."""
    dataset_class = load_dataset(arguments.dataset)
    table: dict[str, object] = {}
    for text in arguments.set:
        override = parse_override(text)
        table[format_path(override.path)] = override.value
    options = structure_set(table, dataset_class.Options)
    source = _source(arguments.source, dataset_class.needs_source, arguments.dataset)
    if arguments.shard_samples < 1:
        raise DataError(f"expected --shard-samples of at least 1, got {arguments.shard_samples}")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise DataError(f"expected a folder for the shards, got {str(arguments.out)!r}, which is a file")
    if not 0 <= arguments.workers <= MOST_WORKERS:
        least = "at least 0" if arguments.workers < 0 else f"at most {MOST_WORKERS}"
        raise DataError(f"expected --workers of {least}, got {arguments.workers}")
    part = _part(arguments.part)
    preparation = _preparation(arguments.spec) if arguments.spec is not None else None
    with closing(make_reporter()) as reporter:
        phases = _Phases(reporter)
        if preparation is None:
            phases.advance(f"packing {arguments.dataset}", 0)
        try:
            report = pack_shards(
                dataset_class(options),
                source,
                arguments.out,
                shard_samples=arguments.shard_samples,
                preparation=preparation,
                part=part,
                num_workers=arguments.workers,
                on_sample=lambda done: phases.advance(f"packing {arguments.dataset}", done),
                on_fit=lambda name, done: phases.advance(f"fitting {name}", done),
            )
        except KeyboardInterrupt:
            reporter.warn(f"stopped; whole shards stay in {arguments.out}, and the same command goes on from them")
            raise
        phases.finish()
        if dataset_class.synthetic:
            reporter.warn(f"SYNTHETIC DATA: {arguments.dataset} makes its samples")
    say(describe_pack(report))
    say(f"{len(report.shards)} shards in {arguments.out}")
    if not report.complete:
        say(f"part {arguments.part}: the set has its index once all parts are there")
    for note in report.notes:
        remark(f"note: {note}")
    if report.left_out:
        listing = arguments.out / part_file(LEFT_OUT_FILE, part)
        remark(f"note: {listing} lists everything left out ({len(report.left_out)})")
    return 0


class _Phases:
    """Tells a reporter of one task after the other, each of which starts when it is first heard of."""

    def __init__(self, reporter: Reporter) -> None:
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
    """Number of the part, from 0, and of all parts, of text such as "3/8"."""
    number, _, parts = text.partition("/")
    if len(text) > 20 or not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise DataError(f"expected --part as I/N with I from 1 to N, such as 3/8, got {shortened(text)}")
    return int(number) - 1, int(parts)


def _preparation(path: Path) -> Preparation:
    with permit_pipes():  # shards that the spec names are not opened
        loaded = read_spec(path, use_stand_in=False)
    return Preparation({name: loaded.modality_classes[name](loaded.options[name]) for name in loaded.spec.modality})


def _source(text: str, needed: bool, dataset: str) -> Path | None:
    if text == "-":
        if needed:
            raise DataError(
                f"expected a folder of raw files for {dataset!r}, got '-', which is for data sets that need none"
            )
        return None
    path = Path(text)
    if needed and not path.is_dir():
        raise DataError(f"expected a folder of raw files for {dataset!r}, got {text!r}, which is no folder")
    return path if needed else None
