"""Inspect a set: which modalities are present in its samples, and which fields no modality reads."""

import difflib
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import combinations, islice

import attrs
import torch
from torch import Tensor

from shala_framework.data.cut_off import CutOffs
from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.order import spread_positions
from shala_framework.data.prepared import prepared_field
from shala_framework.data.random_access import Summaries, index_shards, read_in_order
from shala_framework.data.rows import Rows, decode
from shala_framework.data.shard_cache import CopyFolder
from shala_framework.data.shards import LABEL_FIELD, RawSample, read_shards
from shala_framework.data.tally import Tally
from shala_framework.data.tar import MAX_FIELD_BYTES
from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError
from shala_framework.support.hints import listed
from shala_framework.support.urls import is_remote

MOST_SHARDS = 16  # number of shards that an inspection opens
CUT_SAMPLES, CUT_SECONDS = 64, 2.0  # limits for saying what is cut off before a run
LOOK_SAMPLES, LOOK_SECONDS = 256, 2.0  # limits for saying which modalities never occur together
MOST_PAIRS = 3  # pairs of modalities in a message


def absent_from_rows(
    rows: Rows, modalities: Mapping[str, Modality], urls: Sequence[str], *, max_field_bytes: int = MAX_FIELD_BYTES
) -> list[str]:
    """List the modalities that no row of a set has.

    Args:
        rows: Rows of the set.
        modalities: Modalities by name.
        urls: Shards of the rows. If a modality is absent, they are read again for the names of their fields.
        max_field_bytes: Size limit of a field; a larger field is an error.

    Returns:
        A sentence for each of them.
    """
    absent = [name for name, there in zip(rows.x, rows.presence.any(0).tolist(), strict=True) if not there]
    there = (
        {field for raw in read_in_order(urls, max_field_bytes=max_field_bytes) for field in raw.fields}
        if absent
        else set()
    )
    return [f"no sample has {_sought(name, modalities[name], there)}" for name in absent]


def absent_from_first(
    urls: Sequence[str],
    modalities: Mapping[str, Modality],
    cache: CopyFolder | None = None,
    limit: int = 1_000,
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> list[str]:
    """List the modalities that the first samples of a large set lack, judging only by the names of fields.

    Args:
        urls: Shards. Reading stops when every modality has been seen once.
        modalities: Modalities by name.
        cache: Folder for copies of remote shards.
        limit: Largest number of samples to inspect.
        max_field_bytes: Size limit of a field; a larger field is an error.

    Returns:
        A sentence for each modality for which no sample has a raw or prepared field.
    """
    absent = dict(modalities)
    there: set[str] = set()
    number = 0
    for raw in islice(read_in_order(urls, cache, max_field_bytes=max_field_bytes), limit):
        number += 1
        there |= raw.fields.keys()
        absent = {name: m for name, m in absent.items() if there.isdisjoint({*m.fields, prepared_field(name)})}
        if not absent:
            break
    return [f"none of the first {number} samples has {_sought(name, m, there)}" for name, m in absent.items()]


def never_together(presence_NM: Tensor, names: Sequence[str]) -> list[str]:
    """Name the modalities that no row has together, in one sentence; none if there are none.

    Args:
        presence_NM: bool, which modalities each row has.
        names: Names of the modalities.
    """
    together_MM = presence_NM.T.float() @ presence_NM.float()
    pairs = [
        f"{names[i]!r} and {names[j]!r}"
        for i, j in combinations(range(len(names)), 2)
        if together_MM[i, i] and together_MM[j, j] and not together_MM[i, j]
    ]
    if not pairs:
        return []
    more = f" and {len(pairs) - MOST_PAIRS} more pairs" if len(pairs) > MOST_PAIRS else ""
    return [
        f"none of {len(presence_NM)} rows has both {', or '.join(pairs[:MOST_PAIRS])}{more}: what they have in common "
        "cannot be learned; check that the signals of one sample share its key"
    ]


def apart_in_shards(
    urls: Sequence[str], modalities: Mapping[str, Modality], *, max_field_bytes: int = MAX_FIELD_BYTES
) -> list[str]:
    """Do the same for some samples of shards on disk, judging by the names of their fields.

    Raises:
        DataError: A shard cannot be read.
    """
    fields = [{*modality.fields, prepared_field(name)} for name, modality in modalities.items()]
    local = [url for url in urls if not is_remote(url)]
    look = look_around(local, limit=LOOK_SAMPLES, seconds=LOOK_SECONDS, max_field_bytes=max_field_bytes)
    presence = [[not wanted.isdisjoint(sample.fields) for wanted in fields] for sample in look]
    return never_together(torch.tensor(presence), list(modalities)) if presence else []


def _sought(name: str, modality: Modality, there: Iterable[str]) -> str:
    """Describe a modality that samples lack: the fields it wants and the fields they have."""
    unread = [field for field in (*modality.fields, prepared_field(name)) if field in there]
    if unread:
        return f"modality {name!r}: reading the fields {unread} gave nothing; check its options"
    return (
        f"modality {name!r}: expected one of the fields [{listed([*map(repr, modality.fields)])}], "
        f"got {sorted(there)}; correct modality.{name}.options, or remove this modality"
    )


def look_around(
    urls: Sequence[str],
    *,
    limit: int,
    seconds: float,
    max_field_bytes: int = MAX_FIELD_BYTES,
    tally: Tally | None = None,
) -> Iterator[RawSample]:
    """Read the first samples of several shards, then others from all over these shards.

    Args:
        urls: Shards on disk.
        limit: Largest number of samples to read.
        seconds: Time limit. The first sample is always read.
        max_field_bytes: Size limit of a field; a larger field is an error.
        tally: Counts members of the shards that are not fields.

    Raises:
        DataError: A shard or a sample cannot be read.
    """
    end = time.monotonic() + seconds
    count = 0
    summaries: Summaries = {}
    opened: list[tuple[IndexedShards, int]] = []
    ends = sorted({0, len(urls) - 1, *spread_positions(len(urls), MOST_SHARDS - 2)}) if urls else []
    with ExitStack() as stack:
        for url in (urls[number] for number in ends):
            if count >= limit or (count and time.monotonic() > end):
                return
            shards = index_shards([url], None, summaries, max_field_bytes=max_field_bytes, tally=tally)
            if shards is None:  # compressed, so only its start is read
                few = islice(read_shards([url], max_field_bytes=max_field_bytes), max(1, limit // MOST_SHARDS))
                for sample in few:
                    count += 1
                    yield sample
                    if time.monotonic() > end:
                        break
                continue
            stack.enter_context(closing(shards))
            if len(shards):
                count += 1
                yield shards.read(0, 0)
                opened += ((shards, number) for number in spread_positions(len(shards), limit) if number)
        random.Random(0).shuffle(opened)
        for shards, number in opened[: max(0, limit - count)]:
            if time.monotonic() > end:
                return
            yield shards.read(0, number)


@attrs.define
class Look:
    """Findings about some samples of a set.

    Attributes:
        samples: Number of inspected samples.
        shards: Shards of these samples.
        fields: Number of samples that have each field.
        present: Number of samples in which each modality is present.
        rows: Which modalities each readable sample has.
        tally: What a run would skip.
        errors: Errors that would stop a run.
        cut_offs: What modalities leave out of the samples.
    """

    samples: int = 0
    shards: set[str] = attrs.field(factory=set)
    fields: Counter[str] = attrs.field(factory=Counter)
    present: Counter[str] = attrs.field(factory=Counter)
    rows: list[list[bool]] = attrs.field(factory=list)
    tally: Tally = attrs.field(factory=Tally)
    errors: list[str] = attrs.field(factory=list)
    cut_offs: CutOffs = attrs.field(factory=CutOffs)

    def add(self, sample: RawSample, modalities: Mapping[str, Modality]) -> bool:
        """Decode a sample and count its fields and modalities; return False if it cannot be read."""
        self.samples += 1
        self.shards.add(sample.shard)
        self.fields.update(sample.fields.keys())
        try:
            row = decode(sample, modalities)
        except DataError as error:
            self.errors.append(str(error))
            return False
        self.cut_offs.add(sample.fields, row.x, modalities)
        self.rows.append([row.x[name] is not None for name in modalities])
        self.present.update(name for name, value in row.x.items() if value is not None)
        if row.blank:
            self.tally.add_sample(row.key, row.blank, dropped=row.is_empty)
        return True

    def shares(self, modalities: Iterable[str]) -> str:
        """Format the share of samples in which each modality is present."""
        return ", ".join(f"{name} {self.present[name] / max(1, self.samples):.0%}" for name in modalities)

    def apart(self, modalities: Iterable[str]) -> list[str]:
        """Return a sentence that names the modalities that no sample has together, if there are any."""
        return never_together(torch.tensor(self.rows), list(modalities)) if self.rows else []

    def unread(self, modalities: Mapping[str, Modality]) -> list[str]:
        """Return a sentence for each field that no modality reads, with the nearest name of a field that one does."""
        readers = {field: name for name, modality in modalities.items() for field in modality.fields}
        known = {*readers, LABEL_FIELD, *map(prepared_field, modalities)}
        sentences = []
        for field, count in sorted(self.fields.items()):
            if field in known:
                continue
            near = difflib.get_close_matches(field, readers, n=1, cutoff=0.6)
            hint = f"; modality {readers[near[0]]!r} reads {near[0]!r}" if near else ""
            sentences.append(f"no modality reads the field {field!r} (in {count} of {self.samples} samples){hint}")
        return sentences


def what_is_cut_off(
    urls: Sequence[str], modalities: Mapping[str, Modality], *, max_field_bytes: int = MAX_FIELD_BYTES
) -> list[str]:
    """Read some samples of a set, and say what modalities leave out of them.

    Args:
        urls: Shards, of which those on disk are read.
        modalities: Fitted modalities by name.
        max_field_bytes: Size limit of a field; a larger field is an error.

    Returns:
        A sentence for each limit that samples exceed.

    Raises:
        DataError: A shard cannot be read. Samples that cannot be read are left to whoever reads all of them.
    """
    able = {name: m for name, m in modalities.items() if type(m).cut_off is not Modality.cut_off}
    local = [url for url in urls if not is_remote(url)]
    look = Look()
    if able:
        for sample in look_around(local, limit=CUT_SAMPLES, seconds=CUT_SECONDS, max_field_bytes=max_field_bytes):
            if not all(map(sample.fields.keys().isdisjoint, (m.fields for m in able.values()))):
                look.add(sample, able)
    return look.cut_offs.sentences()
