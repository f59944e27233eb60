"""Shards: tar files in WebDataset's layout, one sample's fields side by side under one key."""

import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import attrs
from webdataset.gopen import gopen
from webdataset.handlers import reraise_exception
from webdataset.tariterators import group_by_keys, tar_file_iterator

from shala_framework.checkpoint import naming_file, write_file
from shala_framework.data.prepared import PREPARED_FILE, Preparation
from shala_framework.dataset import Dataset
from shala_framework.errors import DataError
from shala_framework.urls import is_remote

LABEL_FIELD = "cls"
LEFT_OUT_FILE = "left_out.txt"

_PARTIAL = re.compile(r".+-[0-9]{6,}\.partial")


@attrs.frozen
class RawSample:
    """One sample as it lies in a shard: original bytes by field name."""

    key: str
    fields: dict[str, bytes]
    shard: str

    @property
    def label(self) -> str | None:
        """The class name, where the sample has one."""
        return self.fields[LABEL_FIELD].decode() if LABEL_FIELD in self.fields else None


def read_shards(urls: Iterable[str]) -> Iterator[RawSample]:
    """Samples of each shard in order, without decoding.

    Raises:
        DataError: A shard is absent, cut short, no tar file, or holds one key in two places.
    """
    for url in urls:
        keys: set[str] = set()
        try:
            # Opened here and not by webdataset's own pipeline, which leaves the file to the garbage collector.
            with gopen(url, "rb") as stream:
                _check_end(url)
                members = ({**m, "__url__": url} for m in tar_file_iterator(stream, handler=reraise_exception))
                for sample in group_by_keys(members, handler=reraise_exception):
                    key = sample["__key__"]
                    if key in keys:
                        raise DataError(
                            f"{url}: fields of {key!r} are not side by side; sort the tar file by name and try again"
                        )
                    keys.add(key)
                    fields = {name: data for name, data in sample.items() if not name.startswith("__")}
                    yield RawSample(key, fields, url)
        except (OSError, tarfile.TarError, EOFError, ValueError) as error:
            reason = str(error.args[0]) if error.args else type(error).__name__
            raise DataError(f"{url}: not a readable shard: {reason}; after {len(keys)} whole samples") from error


def _check_end(url: str) -> None:
    """Raise TarError where a local tar file lacks its end mark, as one that was cut between two members does."""
    if is_remote(url) or not url.endswith(".tar"):
        return
    with open(url.removeprefix("file:"), "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1024))
        if size < 1024 or file.read().strip(b"\0"):
            raise tarfile.ReadError("cut short: its end mark is missing")


@attrs.define
class PackReport:
    """What packing wrote.

    Attributes:
        samples: Samples by split.
        fields: How many of them have each field, by split.
        shards: Files written.
        notes: What the data set said of the files it left out.
        left_out: Reason and name of every file or sample that was left out, by the data set or by preparation.
    """

    samples: dict[str, int] = attrs.field(factory=dict)
    fields: dict[str, dict[str, int]] = attrs.field(factory=dict)
    shards: list[Path] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    left_out: list[tuple[str, str]] = attrs.field(factory=list)


def pack(
    dataset: Dataset,
    source: Path | None,
    out: Path,
    *,
    shard_samples: int = 500,
    shard_bytes: int = 1 << 30,
    preparation: Preparation | None = None,
    on_sample: Callable[[int], None] = lambda _: None,
    on_fit: Callable[[str, int], None] = lambda _, __: None,
) -> PackReport:
    """Write a data set's samples as shards `<split>-<number>.tar`; the same samples give the same bytes.

    Shards get their names when all are written; a failure leaves nothing behind. What was left out is listed in
    `left_out.txt` beside them.

    Args:
        dataset: Where samples come from.
        source: Its folder of raw files, or None.
        out: Folder for the shards, made if need be.
        shard_samples: Most samples a shard.
        shard_bytes: A shard is closed once it has grown past this.
        preparation: What a spec's modalities make of the samples; None keeps the original bytes.
        on_sample: Called with the number of samples read so far, at first with 0.
        on_fit: As `on_sample`, while preparation fits the modality of the name that it is called with too.

    Returns:
        Counts, shards and notes.

    Raises:
        DataError: The raw data cannot be used, two samples share a key, or out already holds shards.
    """
    _refuse_shards(out)
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    report = PackReport()
    writers: dict[str, _SplitWriter] = {}
    keys: set[str] = set()
    try:
        out.mkdir(parents=True, exist_ok=True)
        _remove_remains(out)
        if preparation is not None:
            preparation.fit(dataset, source, on_fit)
        on_sample(0)
        for raw in dataset.samples(source):
            if raw.key in keys:
                raise DataError(f"the data set gave the key {raw.key!r} twice")
            keys.add(raw.key)
            sample = raw if preparation is None else preparation.prepare(raw)
            if sample is None:
                continue
            fields = dict(sample.fields)
            if sample.label is not None:
                fields[LABEL_FIELD] = sample.label.encode()
            if sample.split not in writers:
                writers[sample.split] = _SplitWriter(out, sample.split, shard_samples, shard_bytes)
            writers[sample.split].write(sample.key, fields)
            report.samples[sample.split] = report.samples.get(sample.split, 0) + 1
            counts = report.fields.setdefault(sample.split, {})
            for name in fields:
                counts[name] = counts.get(name, 0) + 1
            on_sample(len(keys))
        for writer in writers.values():
            writer.close()
        report.notes, report.left_out = list(dataset.notes), list(dataset.left_out)
        if preparation is not None:
            report.notes += preparation.notes
            report.left_out += preparation.left_out
            write_file(out / PREPARED_FILE, json.dumps(preparation.description(), indent=2).encode())
        if report.left_out:
            lines = [f"{_one_line(reason)}\t{_one_line(name)}\n" for reason, name in report.left_out]
            write_file(out / LEFT_OUT_FILE, "".join(lines).encode())
        for writer in writers.values():
            report.shards += writer.publish()
    except BaseException:
        with suppress(OSError):  # the error under way says what is wrong
            for writer in writers.values():
                writer.abandon()
            _remove_remains(out)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise
    return report


def _refuse_shards(out: Path) -> None:
    """Raise DataError where a folder holds shards already."""
    old = sorted(out.glob("*.tar"))
    if old:
        unfinished = sum(_PARTIAL.fullmatch(path.name) is not None for path in out.glob("*.partial"))
        stopped = f" and {unfinished} that a pack left unfinished" if unfinished else ""
        raise DataError(
            f"{out} already holds {len(old)} shards, such as {old[0].name}{stopped}; choose an empty folder"
        )


def _remove_remains(out: Path) -> None:
    """Remove what a pack that was stopped has left in a folder without shards."""
    for name in (PREPARED_FILE, LEFT_OUT_FILE):
        for path in (out / name, out / f"{name}.partial"):
            path.unlink(missing_ok=True)
    for path in out.glob("*.partial"):
        if _PARTIAL.fullmatch(path.name):
            path.unlink()


def _one_line(text: str) -> str:
    """Text on one line and in one column, whatever bytes a file's name has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _SplitWriter:
    """Writes one split, opening a new shard when the last is full; shards have their names only once all are whole."""

    def __init__(self, out: Path, split: str, samples: int, size: int) -> None:
        self.out, self.split, self.most_samples, self.most_bytes = out, split, samples, size
        self.tar: tarfile.TarFile | None = None
        self.shards: list[Path] = []
        self.samples = self.size = 0

    def write(self, key: str, fields: dict[str, bytes]) -> None:
        if self.tar is None:
            self.shards.append(self.out / f"{self.split}-{len(self.shards):06d}.tar")
            self.tar = tarfile.open(_partial(self.shards[-1]), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  (closed in close)
            self.samples = self.size = 0
        with naming_file(_partial(self.shards[-1])):
            for name in sorted(fields):
                member = tarfile.TarInfo(f"{key}.{name}")  # no time, user or group: the same bytes every time
                member.size = len(fields[name])
                self.tar.addfile(member, io.BytesIO(fields[name]))
                self.size += member.size
        self.samples += 1
        if self.samples >= self.most_samples or self.size >= self.most_bytes:
            self.close()

    def close(self) -> None:
        if self.tar is not None:
            with naming_file(_partial(self.shards[-1])):
                self.tar.close()
            self.tar = None

    def publish(self) -> list[Path]:
        """Give every shard its name."""
        for shard in self.shards:
            os.replace(_partial(shard), shard)
        return self.shards

    def abandon(self) -> None:
        """Drop every shard."""
        if self.tar is not None:
            with suppress(OSError):  # as on a full disk: the file goes anyway
                self.tar.close()
            self.tar = None
        for shard in self.shards:
            shard.unlink(missing_ok=True)
            _partial(shard).unlink(missing_ok=True)


def _partial(shard: Path) -> Path:
    """Name of a shard while the set is not complete."""
    return shard.with_suffix(".partial")
