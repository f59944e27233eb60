"""Samples decoded by their modalities: a batch of rows, and a whole set in memory.

Shapes: B rows of a batch, N rows of a set, M modalities.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import attrs
import torch
from torch import Tensor

from shala_framework.data.fitting import Watched
from shala_framework.data.indexed import read_in_order, read_spread
from shala_framework.data.order import spread_positions
from shala_framework.data.prepared import prepared_field, read_prepared
from shala_framework.data.shards import RawSample
from shala_framework.errors import DataError, PluginError
from shala_framework.modality import Modality
from shala_framework.seeds import mix_seed


@attrs.frozen(kw_only=True, eq=False)
class Rows:
    """Aligned rows of every modality.

    Attributes:
        x: Modality name to tensor [B, ...]; zeros in rows that lack it.
        presence: bool [B, M], columns in the order of x.
        keys: Key of each row.
        labels: Class name of each row, or None.
    """

    x: dict[str, Tensor]
    presence: Tensor
    keys: tuple[str, ...]
    labels: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Tensor) -> "Rows":
        """The rows of an index tensor [K], in its order."""
        index = rows.tolist()
        return Rows(
            x={name: value[rows] for name, value in self.x.items()},
            presence=self.presence[rows],
            keys=tuple(self.keys[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
        )

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

    def to(self, device: torch.device) -> "Rows":
        """The same rows on a device."""
        return attrs.evolve(
            self,
            x={name: value.to(device, non_blocking=True) for name, value in self.x.items()},
            presence=self.presence.to(device, non_blocking=True),
        )


@attrs.frozen
class Decoded:
    """One sample after `Modality.read`; None where a modality is missing."""

    key: str
    label: str | None
    x: dict[str, Tensor | None]


def decode(sample: RawSample, modalities: Mapping[str, Modality]) -> Decoded:
    """Read every modality of one raw sample.

    Raises:
        DataError: A field cannot be decoded (says which, of which sample and shard), or no modality is present.
    """
    x: dict[str, Tensor | None] = {}
    for name, modality in modalities.items():
        prepared = sample.fields.get(prepared_field(name))
        try:
            if prepared is not None:
                x[name] = read_prepared(name, modality, prepared)
            else:
                x[name] = modality.read({f: sample.fields[f] for f in modality.fields if f in sample.fields})
        except DataError as error:
            raise DataError(f"{sample.shard}: sample {sample.key!r}, modality {name!r}: {error}") from error
    if all(value is None for value in x.values()):
        wanted = {name: list(modality.fields) for name, modality in modalities.items()}
        raise DataError(
            f"{sample.shard}: sample {sample.key!r} has fields {sorted(sample.fields)} "
            f"and none of the modalities' ({wanted}); set the option fields of a modality, or remove the sample"
        )
    return Decoded(sample.key, sample.label, x)


def collate(samples: Sequence[Decoded], modalities: Mapping[str, Modality]) -> Rows:
    """Stack decoded samples; rows that lack a modality are zeros.

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
    presence = torch.tensor([[sample.x[name] is not None for name in modalities] for sample in samples])
    return Rows(
        x=x,
        presence=presence,
        keys=tuple(sample.key for sample in samples),
        labels=tuple(sample.label for sample in samples),
    )


def load_rows(
    urls: Sequence[str],
    modalities: Mapping[str, Modality],
    *,
    limit: int | None = None,
    cache: Path | None = None,
    on_sample: Callable[[int], None] = lambda _: None,
) -> Rows:
    """Decode shards into memory.

    Args:
        urls: Shards, in order.
        modalities: By name.
        limit: Most rows to read: of a larger set rows all over it, as samples may be sorted by class, and the first
            ones of shards behind a URL without an index.
        cache: Folder for copies of remote shards.
        on_sample: Called with the number of rows read so far.

    Raises:
        DataError: A shard or sample cannot be read, or there is no sample at all.
    """
    samples: list[Decoded] = []
    for raw in read_in_order(urls, cache) if limit is None else read_spread(urls, limit, cache):
        samples.append(decode(raw, modalities))
        on_sample(len(samples))
    if not samples:
        raise DataError(f"expected samples, got none from {len(urls)} shards, such as {urls[0]}; pack them again")
    return collate(samples, modalities)


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
    name: str, modality: Modality, urls: Sequence[str], cache: Path | None = None, limit: int | None = None
) -> None:
    """Fit a modality to the samples of raw shards, or to the first of them.

    Args:
        name: Of the modality, for messages.
        modality: That learns from training samples.
        urls: The shards.
        cache: Folder for copies of remote shards.
        limit: Most samples to read.

    Raises:
        DataError: A shard or a sample cannot be read, or there is too little to learn from; says which, of what.
    """
    watched = Watched(islice(read_in_order(urls, cache), limit))
    try:
        modality.fit(iter(watched))
    except DataError as error:
        if watched.current is not None:
            raw = watched.current
            raise DataError(f"{raw.shard}: sample {raw.key!r}, modality {name!r}: {error}") from error
        if watched.ended:
            raise DataError(f"modality {name!r}: {error}") from error
        raise
