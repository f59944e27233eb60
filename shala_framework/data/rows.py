"""Decode samples with their modalities: a batch of rows, or a whole set in memory.

Shapes: B rows of a batch, N rows of a set, M modalities.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import islice

import attrs
import torch
from torch import Tensor

from shala_framework.data.fitting import Watched, WatchedShards
from shala_framework.data.order import spread_positions, weighted_rows
from shala_framework.data.prepared import describe_blank, prepared_field, read_prepared
from shala_framework.data.random_access import index_shards, read_in_order, read_spread
from shala_framework.data.shard_cache import CopyFolder
from shala_framework.data.shards import RawSample
from shala_framework.data.tally import Tally
from shala_framework.data.tar import MAX_FIELD_BYTES
from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError, PluginError
from shala_framework.support.hints import listed
from shala_framework.support.machine import to_device
from shala_framework.support.seeds import mix_seed

MOST_TRIED = 1_000  # samples to try as a replacement for one in which no modality is present


@attrs.frozen(kw_only=True, eq=False)
class Rows:
    """Aligned rows of every modality.

    Attributes:
        x: Modality name to tensor [B, ...]; zeros in rows that lack the modality.
        presence: bool [B, M], columns in the order of x.
        keys: Key of each row.
        labels: Text of each row's label, as `labels.read_label` returns it, or None.
        tally: Counts of what was skipped while reading these rows, or None if nothing was. Rows derived from others
            have none.
        corrupted: Modality name to what its encoder sees instead of x [B, ...], in training steps whose modalities
            damage rows; empty otherwise.
    """

    x: dict[str, Tensor]
    presence: Tensor
    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    tally: Tally | None = None
    corrupted: dict[str, Tensor] = attrs.field(factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Tensor) -> "Rows":
        """Select the rows of an index tensor [K], in its order."""
        index = rows.tolist()
        rows = to_device(rows, self.presence.device)
        return Rows(
            x={name: value[rows] for name, value in self.x.items()},
            presence=self.presence[rows],
            keys=tuple(self.keys[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
            corrupted={name: value[rows] for name, value in self.corrupted.items()},
        )

    def split(self, num_rows: int) -> Iterator["Rows"]:
        """Divide the rows, in order, into parts of num_rows; the last part may have fewer."""
        return (self.take(index) for index in torch.arange(len(self)).split(num_rows))

    def index_having(self, names: Sequence[str]) -> Tensor:
        """Return the index of the rows that have all named modalities: int64 [K]."""
        columns = [list(self.x).index(name) for name in names]
        return torch.nonzero(self.presence[:, columns].all(1))[:, 0]

    def having(self, names: Sequence[str]) -> "Rows":
        """Return the rows that have all named modalities."""
        return self.take(self.index_having(names))

    def spread(self, most: int) -> "Rows":
        """Return at most this many rows, spread over all of them, in order."""
        return self.take(torch.tensor(spread_positions(len(self), most), dtype=torch.long))

    @property
    def num_bytes(self) -> int:
        """Number of bytes of the tensors."""
        return sum(value.numel() * value.element_size() for value in (*self.x.values(), self.presence))

    def to(self, device: torch.device, *, copy: bool = False) -> "Rows":
        """Return the same rows on a device, with `copy` always in new memory."""

        def moved(value: Tensor) -> Tensor:
            there = to_device(value, device)
            return there.clone() if copy else there

        return attrs.evolve(
            self,
            x={name: moved(value) for name, value in self.x.items()},
            presence=moved(self.presence),
            corrupted={name: moved(value) for name, value in self.corrupted.items()},
        )


@attrs.frozen
class Decoded:
    """One sample after `Modality.read`.

    Attributes:
        key: Key of the sample.
        label: Text of its label, or None.
        x: Modality name to tensor, or None if the modality is missing.
        blank: A sentence for each field that is present but gave nothing.
    """

    key: str
    label: str | None
    x: dict[str, Tensor | None]
    blank: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no modality is present, although a field is. `decode` refuses samples without any field."""
        return bool(self.blank) and all(value is None for value in self.x.values())


def decode(sample: RawSample, modalities: Mapping[str, Modality]) -> Decoded:
    """Read every modality of one raw sample. The result may be empty if the fields are blank.

    Raises:
        DataError: A field cannot be decoded, or no modality has a field. The message names field, sample and shard.
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
        wanted = "; ".join(f"{name}: {listed(modality.fields)}" for name, modality in modalities.items())
        raise DataError(
            f"{sample.shard}: sample {sample.key!r}: expected a field of a modality ({wanted}), got "
            f"{listed(sorted(sample.fields)) or 'none'}; pack again with --for and the spec, which leaves such samples "
            "out, or set the option fields of a modality"
        )
    return Decoded(sample.key, sample.label, x, tuple(blank))


def collate(samples: Sequence[Decoded], modalities: Mapping[str, Modality], tally: Tally | None = None) -> Rows:
    """Stack decoded samples. Rows that lack a modality are zeros.

    Args:
        samples: One sample per row, possibly none.
        modalities: Modalities by name.
        tally: Counts of what was skipped while reading them.

    Raises:
        PluginError: A plugin read a shape or dtype that differs from its declaration.
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
    """Decode a batch with a fixed number of rows. Another sample replaces each empty one.

    Args:
        batch: Raw samples.
        modalities: Modalities by name.
        others: Returns the possible replacements of the empty sample at a position, best first.
        tally: Counts of what was skipped before, to which this batch's are added.

    Raises:
        DataError: As in `decode`, or all replacements are empty too.
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
    """Decode samples in order and leave out those with only blank fields.

    Args:
        raws: Raw samples.
        modalities: Modalities by name.
        tally: Counts what is skipped.
        on_sample: Called with the number of samples read so far.

    Raises:
        DataError: As in `decode`.
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
    """Return the rows of complete shards after checking that there is at least one.

    Raises:
        DataError: There is no row. The message says whether any sample was read.
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
    cache: CopyFolder | None = None,
    on_sample: Callable[[int], None] = lambda _: None,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> Rows:
    """Decode shards into memory, without samples whose fields are all blank. The rows' tally counts those.

    Args:
        urls: Shards, in order.
        modalities: Modalities by name.
        limit: Largest number of rows to read. From a larger set, rows are spread over the whole set, which may be
            sorted by class. From shards behind a URL without an index, the first rows are read.
        cache: Folder for copies of remote shards.
        on_sample: Called with the number of samples read so far.
        max_field_bytes: Size limit of a field; a larger field is an error.

    Raises:
        DataError: A shard or sample cannot be read, or there is no sample, or no modality is present in any.
    """
    tally = Tally()
    if limit is None:
        raws = read_in_order(urls, cache, max_field_bytes=max_field_bytes, tally=tally)
    else:
        raws = read_spread(urls, limit, cache, max_field_bytes=max_field_bytes, tally=tally)
    return checked_rows(collate(read_filled(raws, modalities, tally, on_sample), modalities, tally), urls)


def shuffled_batches(
    num_rows: int, batch_size: int, seed: int, start_step: int = 0, weights_N: Tensor | None = None
) -> Iterator[Tensor]:
    """Yield endless index batches [batch_size]. Each epoch is a permutation that depends only on (seed, epoch).

    The incomplete last batch of an epoch is dropped. A set smaller than a batch is repeated to fill one.

    Args:
        num_rows: Number of rows of the set.
        batch_size: Number of rows of a batch.
        seed: Seed of the permutations.
        start_step: Number of batches to skip.
        weights_N: Weight of each row, float64 with a mean of 1: an epoch has each row about as often as it says. None
            takes each row once.
    """
    per_epoch = max(1, num_rows // batch_size)
    step = start_step
    while True:
        epoch = step // per_epoch
        generator = torch.Generator().manual_seed(mix_seed(seed, epoch))
        order = torch.randperm(num_rows, generator=generator)
        if weights_N is not None:
            order = weighted_rows(weights_N, mix_seed(seed, epoch, 1))[order]
        if num_rows < batch_size:
            order = order.repeat(-(-batch_size // num_rows))[:batch_size]
        for i in range(step % per_epoch, per_epoch):
            yield order[i * batch_size : (i + 1) * batch_size]
            step += 1


def fit_to_shards(
    name: str,
    modality: Modality,
    urls: Sequence[str],
    cache: CopyFolder | None = None,
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
    num_workers: int = 0,
) -> None:
    """Fit a modality to the samples of raw shards. Only its fields are read.

    Args:
        name: Name of the modality, for messages.
        modality: Modality that learns from training samples.
        urls: The shards.
        cache: Folder for copies of remote shards.
        max_field_bytes: Size limit of a field; a larger field is an error.
        num_workers: Number of processes that read and decode, if that takes long.

    Raises:
        DataError: A shard or a sample cannot be read, or there is too little to learn from. The message names the
            place.
    """
    fields = frozenset(modality.fields)
    samples = read_in_order(urls, cache, wanted=fields, max_field_bytes=max_field_bytes)
    index = partial(index_shards, urls, cache, max_field_bytes=max_field_bytes)
    with closing(WatchedShards(samples, index, fields, num_workers)) as watched:
        fit_watched(name, modality, watched)


def fit_watched(name: str, modality: Modality, watched: Watched[RawSample]) -> None:
    """Fit a modality to raw samples.

    Raises:
        DataError: A sample cannot be read, or there is too little to learn from. The message names the place.
    """
    try:
        modality.fit(watched)
    except DataError as error:
        if watched.current is not None:
            raw = watched.current
            raise DataError(f"{raw.shard}: sample {raw.key!r}, modality {name!r}: {error}") from error
        if watched.ended:
            raise DataError(f"modality {name!r}: {error}") from error
        raise
