"""Shards: tar files in WebDataset's layout, one sample's fields side by side under one key."""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs
from webdataset.gopen import gopen
from webdataset.handlers import reraise_exception
from webdataset.tariterators import group_by_keys, tar_file_iterator

from shala_framework.checkpoint import write_file
from shala_framework.data.prepared import PREPARED_FILE, Preparation
from shala_framework.dataset import Dataset
from shala_framework.errors import DataError
from shala_framework.urls import is_remote

LABEL_FIELD = "cls"


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
    """

    samples: dict[str, int] = attrs.field(factory=dict)
    fields: dict[str, dict[str, int]] = attrs.field(factory=dict)
    shards: list[Path] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)


def pack(
    dataset: Dataset,
    source: Path | None,
    out: Path,
    *,
    shard_samples: int = 500,
    shard_bytes: int = 1 << 30,
    preparation: Preparation | None = None,
    on_sample: Callable[[int], None] = lambda _: None,
) -> PackReport:
    """Write a data set's samples as shards `<split>-<number>.tar`; the same samples give the same bytes.

    Args:
        dataset: Where samples come from.
        source: Its folder of raw files, or None.
        out: Folder for the shards, made if need be.
        shard_samples: Most samples a shard.
        shard_bytes: A shard is closed once it has grown past this.
        preparation: What a spec's modalities make of the samples; None keeps the original bytes.
        on_sample: Called with the number of samples written so far.

    Returns:
        Counts, shards and notes.

    Raises:
        DataError: The raw data cannot be used, two samples share a key, or out already holds shards.
    """
    out.mkdir(parents=True, exist_ok=True)
    old = sorted(out.glob("*.tar"))
    if old:
        raise DataError(f"{out} already holds {len(old)} shards, such as {old[0].name}; choose an empty folder")
    report = PackReport()
    writers: dict[str, _SplitWriter] = {}
    keys: set[str] = set()
    try:
        if preparation is not None:
            preparation.fit(dataset, source)
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
                writers[sample.split] = _SplitWriter(out, sample.split, shard_samples, shard_bytes, report.shards)
            writers[sample.split].write(sample.key, fields)
            report.samples[sample.split] = report.samples.get(sample.split, 0) + 1
            counts = report.fields.setdefault(sample.split, {})
            for name in fields:
                counts[name] = counts.get(name, 0) + 1
            on_sample(len(keys))
    except BaseException:
        for writer in writers.values():
            writer.abandon()
        raise
    for writer in writers.values():
        writer.close()
    report.notes = list(dataset.notes)
    if preparation is not None:
        report.notes += preparation.notes
        write_file(out / PREPARED_FILE, json.dumps(preparation.description(), indent=2).encode())
    return report


class _SplitWriter:
    """Writes one split, opening a new shard when the last is full; a shard has its name only once it is whole."""

    def __init__(self, out: Path, split: str, samples: int, size: int, shards: list[Path]) -> None:
        self.out, self.split, self.most_samples, self.most_bytes, self.shards = out, split, samples, size, shards
        self.tar: tarfile.TarFile | None = None
        self.number = self.samples = self.size = 0

    @property
    def path(self) -> Path:
        return self.out / f"{self.split}-{self.number:06d}.tar"

    def write(self, key: str, fields: dict[str, bytes]) -> None:
        if self.tar is None:
            self.tar = tarfile.open(self.path.with_suffix(".partial"), "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  (closed in close)
            self.samples = self.size = 0
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
            self.tar.close()
            os.replace(self.path.with_suffix(".partial"), self.path)
            self.shards.append(self.path)
            self.tar = None
            self.number += 1

    def abandon(self) -> None:
        """Drop the shard that is not whole."""
        if self.tar is not None:
            self.tar.close()
            self.path.with_suffix(".partial").unlink(missing_ok=True)
            self.tar = None
