"""Samples decoded by their modalities: a batch of rows, and a whole set in memory.

Shapes: B rows of a batch, N rows of a set, M modalities.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import attrs
import torch
from torch import Tensor

from shala_framework.data.fitting import Watched
from shala_framework.data.indexed import read_in_order, read_spread
from shala_framework.data.order import spread_positions
from shala_framework.data.prepared import describe_blank, prepared_field, read_prepared
from shala_framework.data.shards import RawSample
from shala_framework.data.tally import Tally
from shala_framework.data.tar import MAX_FIELD_BYTES
from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError, PluginError
from shala_framework.support.machine import to_device
from shala_framework.support.seeds import mix_seed

MOST_TRIED = 1_000  # samples that are tried in the place of one in which no modality is present


@attrs.frozen(kw_only=True, eq=False)
class Rows:
    """Aligned rows of every modality.

    Attributes:
        x: Modality name to tensor [B, ...]; zeros in rows that lack it.
        presence: bool [B, M], columns in the order of x.
        keys: Key of each row.
        labels: Class name of each row, or None.
        tally: What was passed over when these rows were read; None where nothing was. Rows taken from others have none.
    """

    x: dict[str, Tensor]
    presence: Tensor
    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    tally: Tally | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Tensor) -> "Rows":
        """The rows of an index tensor [K], in its order."""
        index = rows.tolist()
        rows = to_device(rows, self.presence.device)
        return Rows(
            x={name: value[rows] for name, value in self.x.items()},
            presence=self.presence[rows],
            keys=tuple(self.keys[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
        )

    def split(self, num_rows: int) -> Iterator["Rows"]:
        """The rows in order, in parts of so many; the last part may have fewer."""
        return (self.take(index) for index in torch.arange(len(self)).split(num_rows))

    def index_having(self, names: Sequence[str]) -> Tensor:
        """Index of the rows that have every modality named: int64 [K]."""
        columns = [list(self.x).index(name) for name in names]
        return torch.nonzero(self.presence[:, columns].all(1))[:, 0]

    def having(self, names: Sequence[str]) -> "Rows":
        """The rows that have every modality named."""
        return self.take(self.index_having(names))

    def spread(self, most: int) -> "Rows":
        """At most so many rows from all over them, in order."""
        return self.take(torch.tensor(spread_positions(len(self), most), dtype=torch.long))

    @property
    def num_bytes(self) -> int:
        """Of the tensors."""
        return sum(value.numel() * value.element_size() for value in (*self.x.values(), self.presence))

    def to(self, device: torch.device, *, copy: bool = False) -> "Rows":
        """The same rows on a device; with `copy` in memory of their own."""

        def moved(value: Tensor) -> Tensor:
            there = to_device(value, device)
            return there.clone() if copy else there

        return attrs.evolve(
            self, x={name: moved(value) for name, value in self.x.items()}, presence=moved(self.presence)
        )


@attrs.frozen
class Decoded:
    """One sample after `Modality.read`.

    Attributes:
        key: Its key.
        label: Its class name, or None.
        x: Modality name to tensor; None where the modality is missing.
        blank: What is said of each field that is there, although reading it gave nothing.
    """

    key: str
    label: str | None
    x: dict[str, Tensor | None]
    blank: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no modality is present, although a field is there: `decode` refuses samples without any."""
        return bool(self.blank) and all(value is None for value in self.x.values())


def decode(sample: RawSample, modalities: Mapping[str, Modality]) -> Decoded:
    """Read every modality of one raw sample, which may be empty where its fields say nothing.

    Raises:
        DataError: A field cannot be decoded (says which, of which sample and shard), or no modality has a field.
    """
    x: dict[str, Tensor | None] = {}
    blank: list[str] = []
    for name, modality in modalities.items():
        prepared = sample.fields.get(prepared_field(name))
        try:
            if prepared is not None:
                x[name] = read_prepared(name, modality, prepared)
            else:
                x[name] = modality.read({f: sample.fields[f] for f in modality.fields if f in sample.fields})
        except DataError as error:
            raise DataError(f"{sample.shard}: sample {sample.key!r}, modality {name!r}: {error}") from error
        if x[name] is None:
            reason = describe_blank(name, modality, sample.fields)
            if reason is not None:
                blank.append(reason)
    if not blank and all(value is None for value in x.values()):
        wanted = {name: list(modality.fields) for name, modality in modalities.items()}
        raise DataError(
            f"{sample.shard}: sample {sample.key!r} has fields {sorted(sample.fields)} "
            f"and none of the modalities' ({wanted}); set the option fields of a modality, or remove the sample"
        )
    return Decoded(sample.key, sample.label, x, tuple(blank))


def collate(samples: Sequence[Decoded], modalities: Mapping[str, Modality], tally: Tally | None = None) -> Rows:
    """Stack decoded samples; rows that lack a modality are zeros.

    Args:
        samples: One a row; there may be none.
        modalities: By name.
        tally: What was passed over when they were read.

    Raises:
        PluginError: A plugin read another shape or dtype than it declares.
    """
    x = {}
    for name, modality in modalities.items():
        present = [sample.x[name] for sample in samples]
        x[name] = torch.zeros((len(samples), *modality.shape), dtype=modality.dtype)
        for row, value in enumerate(present):
            if value is not None:
                if value.shape != modality.shape or value.dtype != modality.dtype:
                    raise PluginError(
                        f"modality {name!r}: its plugin read sample {samples[row].key!r} as {value.dtype} "
                        f"{tuple(value.shape)}; it declares {modality.dtype} {tuple(modality.shape)}"
                    )
                x[name][row] = value
    presence = torch.tensor(
        [[sample.x[name] is not None for name in modalities] for sample in samples], dtype=torch.bool
    )
    return Rows(
        x=x,
        presence=presence.reshape(len(samples), len(modalities)),
        keys=tuple(sample.key for sample in samples),
        labels=tuple(sample.label for sample in samples),
        tally=tally or None,
    )


def decode_batch(
    batch: Sequence[RawSample],
    modalities: Mapping[str, Modality],
    others: Callable[[int], Iterable[RawSample]],
    tally: Tally | None = None,
) -> Rows:
    """Read a batch, which keeps its number of rows: another sample takes the place of an empty one.

    Args:
        batch: Raw samples.
        modalities: By name.
        others: Given the place of an empty sample, those that may take it, the first choice first.
        tally: What was passed over before; the batch's own is added to it.

    Raises:
        DataError: As `decode`, or all others are empty too.
    """
    tally = Tally() if tally is None else tally
    rows = [decode(sample, modalities) for sample in batch]
    for place, row in enumerate(rows):
        if row.blank:
            tally.add_sample(row.key, row.blank, dropped=row.is_empty)
        if row.blank and row.is_empty:
            tried = (decode(sample, modalities) for sample in islice(others(place), MOST_TRIED))
            found = next((other for other in tried if not other.is_empty), None)
            if found is None:
                raise DataError(_all_empty(batch[place].shard, tally))
            rows[place] = found
    return collate(rows, modalities, tally)


def read_filled(
    raws: Iterable[RawSample],
    modalities: Mapping[str, Modality],
    tally: Tally,
    on_sample: Callable[[int], None] = lambda _: None,
) -> list[Decoded]:
    """Read samples in order and leave out those whose fields say nothing.

    Args:
        raws: Raw samples.
        modalities: By name.
        tally: Counts what is passed over.
        on_sample: Called with the number of samples read so far.

    Raises:
        DataError: As `decode`.
    """
    samples = []
    for number, raw in enumerate(raws, 1):
        row = decode(raw, modalities)
        if row.blank:
            tally.add_sample(row.key, row.blank, dropped=row.is_empty)
        if not (row.blank and row.is_empty):
            samples.append(row)
        on_sample(number)
    return samples


def checked_rows(rows: Rows, urls: Sequence[str]) -> Rows:
    """The rows of whole shards, of which there is at least one.

    Raises:
        DataError: There is none; says whether any had been read.
    """
    if len(rows):
        return rows
    where = f"{len(urls)} shards, such as {urls[0]}"
    if rows.tally is not None and rows.tally.dropped.count:
        raise DataError(_all_empty(where, rows.tally))
    raise DataError(f"expected samples, got none from {where}; pack them again")


def _all_empty(where: str, tally: Tally) -> str:
    said = "; ".join(tally.sentences())
    return f"{where}: expected samples in which a modality is present, got none among many: {said}"


def load_rows(
    urls: Sequence[str],
    modalities: Mapping[str, Modality],
    *,
    limit: int | None = None,
    cache: Path | None = None,
    on_sample: Callable[[int], None] = lambda _: None,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> Rows:
    """Decode shards into memory, without samples whose fields say nothing; the rows' tally counts those.

    Args:
        urls: Shards, in order.
        modalities: By name.
        limit: Most rows to read: of a larger set rows all over it, as samples may be sorted by class, and the first
            ones of shards behind a URL without an index.
        cache: Folder for copies of remote shards.
        on_sample: Called with the number of samples read so far.
        max_field_bytes: A field of more bytes is an error.

    Raises:
        DataError: A shard or sample cannot be read, or there is no sample at all, or none in which a modality is
            present.
    """
    tally = Tally()
    if limit is None:
        raws = read_in_order(urls, cache, max_field_bytes=max_field_bytes, tally=tally)
    else:
        raws = read_spread(urls, limit, cache, max_field_bytes=max_field_bytes, tally=tally)
    return checked_rows(collate(read_filled(raws, modalities, tally, on_sample), modalities, tally), urls)


def shuffled_batches(num_rows: int, batch_size: int, seed: int, start_step: int = 0) -> Iterator[Tensor]:
    """Endless index batches [batch_size], each epoch a permutation that depends on (seed, epoch) alone.

    An epoch's incomplete last batch is dropped; a set smaller than a batch is repeated to fill one.

    Args:
        num_rows: Rows of the set.
        batch_size: Rows a batch.
        seed: Of the permutations.
        start_step: Number of batches to pass over.
    """
    per_epoch = max(1, num_rows // batch_size)
    step = start_step
    while True:
        epoch = step // per_epoch
        generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
        order = torch.randperm(num_rows, generator=generator)
        if num_rows < batch_size:
            order = order.repeat(-(-batch_size // num_rows))[:batch_size]
        for i in range(step % per_epoch, per_epoch):
            yield order[i * batch_size : (i + 1) * batch_size]
            step += 1


def fit_to_shards(
    name: str,
    modality: Modality,
    urls: Sequence[str],
    cache: Path | None = None,
    limit: int | None = None,
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> None:
    """Fit a modality to the samples of raw shards, or to the first of them.

    Args:
        name: Of the modality, for messages.
        modality: That learns from training samples.
        urls: The shards.
        cache: Folder for copies of remote shards.
        limit: Most samples to read.
        max_field_bytes: A field of more bytes is an error.

    Raises:
        DataError: A shard or a sample cannot be read, or there is too little to learn from; says which, of what.
    """
    watched = Watched(islice(read_in_order(urls, cache, max_field_bytes=max_field_bytes), limit))
    fit_watched(name, modality, watched)


def fit_watched(name: str, modality: Modality, watched: Watched[RawSample]) -> None:
    """Fit a modality to raw samples.

    Raises:
        DataError: A sample cannot be read, or there is too little to learn from; says which, of what.
    """
    try:
        modality.fit(iter(watched))
    except DataError as error:
        if watched.current is not None:
            raw = watched.current
            raise DataError(f"{raw.shard}: sample {raw.key!r}, modality {name!r}: {error}") from error
        if watched.ended:
            raise DataError(f"modality {name!r}: {error}") from error
        raise
