"""Training data that come from Python: tensors, or a torch Dataset of dictionaries.

Shapes: N rows of a set, B rows of a batch, M modalities.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from shala_framework.autoencoder.contracts import check_given, check_limits
from shala_framework.data.order import spread_positions
from shala_framework.data.presence import never_together
from shala_framework.data.rows import Decoded, Rows, collate, shuffled_batches
from shala_framework.data.streams import stream_batches
from shala_framework.plugin.modality import Modality
from shala_framework.run.data import rows_in_order, shuffled_rows
from shala_framework.support.checkpoint import digest
from shala_framework.support.distributed import processes
from shala_framework.support.errors import DataError
from shala_framework.support.hints import kind_of
from shala_framework.support.progress import Reporter, Silent
from shala_framework.support.seeds import forked_rng

LOOKED_AT = 64  # items at least that are looked at for modalities that never occur together
PROBED_ITEMS = 30  # items of a data set, besides the first and the last, that its name depends on
Item = Mapping[str, Tensor | None]


def rows_of_tensors(x: Mapping[str, Tensor], modalities: Mapping[str, Modality]) -> Rows:
    """Rows that have every modality, on the CPU.

    Args:
        x: Every modality's tensor [N, ...], in the type and shape that the modality reads.
        modalities: Modalities of the model by name.

    Raises:
        ValueError: A modality is missing or unknown, shapes or types differ, or a value is not finite.
    """
    num_rows = check_given(modalities, x)
    missing = [name for name in modalities if name not in x]
    if missing:
        raise ValueError(
            f"expected tensors of {list(modalities)}, got none of {missing}; rows that lack a modality "
            "are what a torch Dataset of dictionaries is for"
        )
    if not num_rows:
        raise ValueError("expected at least one row, got none")
    for name, value in x.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"expected finite values of {name!r}, got infinity or NaN in "
                f"{int((~value.isfinite().flatten(1).all(1)).sum())} of {num_rows} rows"
            )
    return Rows(
        x={name: x[name].detach().cpu() for name in modalities},
        presence=torch.ones(num_rows, len(modalities), dtype=torch.bool),
        keys=tuple(map(str, range(num_rows))),
        labels=(None,) * num_rows,
    )


def describe_rows(rows: Rows) -> str:
    """A name for the content of rows: other values have another name."""
    return f"{digest({**rows.x, 'presence': rows.presence})}, {len(rows)} rows"


@attrs.frozen(kw_only=True, eq=False)
class HeldInMemory:
    """Training data that are rows in memory.

    Attributes:
        rows: The training set.
        validation: Held-out rows, if there are any.
        batch_size: Rows of a step, over all processes.
        seed: Seed of the order.
    """

    rows: Rows
    validation: Rows | None
    batch_size: int
    seed: int

    def fit(self, modalities: Mapping[str, Modality]) -> None:
        """Nothing: the tensors are what fitted modalities read."""

    def check_presence(self, *, resumed: bool) -> None:
        absent = [
            name for name, there in zip(self.rows.x, self.rows.presence.any(0).tolist(), strict=True) if not there
        ]
        if absent:
            raise DataError(f"expected every modality in some row, got none of {absent}; leave them out of the model")

    def batches(self, start_step: int, batch_size: int | None = None) -> Iterator[Rows]:
        return shuffled_rows(self.rows, batch_size or self.batch_size, self.seed, start_step)

    def in_order(self, num_rows: int, start: int = 0) -> Iterator[Rows]:
        return rows_in_order(self.rows, num_rows, start)

    def num_train_rows(self) -> int:
        return len(self.rows)

    def row_weights(self) -> Tensor | None:
        return None

    def held_out(self) -> Rows | None:
        return self.validation


def _row(number: int, item: Any, modalities: Mapping[str, Modality]) -> Decoded:
    if not isinstance(item, Mapping):
        raise DataError(f"item {number}: expected a dictionary of tensors, got {type(item).__name__}")
    unknown = sorted(set(map(str, item)) - set(modalities))
    if unknown:
        raise DataError(f"item {number}: expected names among {list(modalities)}, got {unknown}")
    x: dict[str, Tensor | None] = {name: item.get(name) for name in modalities}
    for name, value in x.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise DataError(f"item {number}, {name!r}: expected a tensor or None, got {kind_of(value)}")
        modality = modalities[name]
        if tuple(value.shape) != tuple(modality.shape) or value.dtype != modality.dtype:
            raise DataError(
                f"item {number}, {name!r}: expected {modality.dtype} {tuple(modality.shape)}, got {value.dtype} "
                f"{tuple(value.shape)}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise DataError(f"item {number}, {name!r}: expected finite values, got infinity or NaN")
        try:
            check_limits(name, modality, value)
        except ValueError as error:
            raise DataError(f"item {number}: {error}") from None
    if all(value is None for value in x.values()):
        raise DataError(f"item {number}: expected at least one of {list(modalities)}, got none")
    return Decoded(str(number), None, x)


def _batch(items: "Dataset[Item]", numbers: Sequence[int], modalities: Mapping[str, Modality]) -> Rows:
    return collate([_row(number, items[number], modalities) for number in numbers], modalities)


def rows_of_dataset(items: "Dataset[Item]", modalities: Mapping[str, Modality]) -> Rows:
    """All items of a data set in memory.

    Raises:
        DataError: An item is no dictionary of tensors that fit the modalities.
    """
    check_dataset(items)
    return _batch(items, range(len(items)), modalities)  # type: ignore[arg-type]


class _ListOfRows(Dataset[Item]):
    """A list of dictionaries as a data set."""

    def __init__(self, rows: Sequence[Item]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Item:
        return self.rows[number]


def as_dataset(data: Any) -> Any:
    """Return a data set for a list of rows, and anything else as it is; a table with a path names shards."""
    if not isinstance(data, list | tuple) or not data or not all(isinstance(item, Mapping) for item in data):
        return data
    return data if all(isinstance(item.get("path"), str | Path) for item in data) else _ListOfRows(data)


def describe_items(items: "Dataset[Item]", modalities: Mapping[str, Modality], warn: Callable[[str], None]) -> str:
    """Return a name for a data set, which depends on its class, its length and the values of some of its items.

    Args:
        items: The data set. The first item, the last one and some in between are read, each of them twice.
        modalities: Modalities of the model by name.
        warn: Receives a warning if items differ each time they are read, so that values cannot be part of the name.

    Raises:
        ValueError: It has no numbered items.
        DataError: An item is no dictionary of tensors that fit the modalities.
    """
    check_dataset(items)
    total = len(items)  # type: ignore[arg-type]
    numbers = sorted({0, *spread_positions(total, PROBED_ITEMS), total - 1})
    with forked_rng():
        first, again = (_digest(items, numbers, modalities) for _ in range(2))
    name = f"{type(items).__name__} of {total} items"
    if first == again:
        return f"{name}, {first}"
    warn(
        f"{type(items).__name__}: its items differ each time they are read, so a run's folder tells it from other data "
        "by its class and length alone; choose another out for other data"
    )
    return name


def _digest(items: "Dataset[Item]", numbers: Sequence[int], modalities: Mapping[str, Modality]) -> str:
    rows = _batch(items, numbers, modalities)
    return digest({**rows.x, "presence": rows.presence})


def check_dataset(items: "Dataset[Item]") -> None:
    """Refuse a data set whose items have no numbers, or that has none.

    Raises:
        ValueError: It is one.
    """
    if isinstance(items, IterableDataset) or not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise ValueError("expected a torch Dataset with __len__ and __getitem__; pack an endless one into shards")
    if not len(items):
        raise ValueError("expected a data set with at least one item, got none")


@attrs.frozen(kw_only=True, eq=False)
class _Shuffled:
    """A stream of shuffled batches, of which each process gets its share."""

    source: "ReadFromDataset"
    start_step: int
    rank: int
    world_size: int

    def read(self, index: int, count: int) -> Iterator[Rows]:
        source = self.source
        order = shuffled_batches(source.num_rows, source.batch_size, source.seed, self.start_step + index)
        for batch in islice(order, 0, None, count):
            yield _batch(source.items, batch[self.rank :: self.world_size].tolist(), source.modalities)


@attrs.frozen(kw_only=True, eq=False)
class _Ordered:
    """A stream of the batches of some items, in order."""

    source: "ReadFromDataset"
    parts: Sequence[Tensor]

    def read(self, index: int, count: int) -> Iterator[Rows]:
        for numbers in self.parts[index::count]:
            yield _batch(self.source.items, numbers.tolist(), self.source.modalities)


@attrs.frozen(kw_only=True, eq=False)
class ReadFromDataset:
    """Training data that a torch Dataset of dictionaries returns one by one.

    Attributes:
        items: The data set; an item that lacks a modality has None for it, or no such key.
        num_rows: Number of its items.
        modalities: Modalities of the model by name.
        validation: Held-out rows, if there are any.
        batch_size: Rows of a step, over all processes.
        seed: Seed of the order.
        num_workers: Processes that get items; 0 gets them in the training process.
        reporter: Receives warnings; worker processes have none.
    """

    items: "Dataset[Item]"
    num_rows: int
    modalities: Mapping[str, Modality]
    validation: Rows | None
    batch_size: int
    seed: int
    num_workers: int
    reporter: Reporter = attrs.field(factory=Silent)

    def fit(self, modalities: Mapping[str, Modality]) -> None:
        """Nothing: the tensors are what fitted modalities read."""

    def check_presence(self, *, resumed: bool) -> None:
        if resumed:
            return
        names, presence = list(self.modalities), list[list[bool]]()
        some = spread_positions(self.num_rows, LOOKED_AT)
        for number in (*some, *range(self.num_rows)):
            x = _row(number, self.items[number], self.modalities).x
            presence.append([value is not None for value in x.values()])
            if len(presence) >= len(some) and all(map(any, zip(*presence, strict=True))):
                break
        absent = [name for name, there in zip(names, zip(*presence, strict=True), strict=True) if not any(there)]
        if absent:
            raise DataError(f"expected every modality in some item, got none of {absent}; leave them out of the model")
        for sentence in never_together(torch.tensor(presence), names):
            self.reporter.warn(sentence)

    def batches(self, start_step: int, batch_size: int | None = None) -> Iterator[Rows]:
        rank, size = processes.rank(), processes.world_size()
        source = attrs.evolve(
            self, validation=None, batch_size=batch_size or self.batch_size, reporter=Silent()
        )  # what workers get
        stream = _Shuffled(source=source, start_step=start_step, rank=rank, world_size=size)
        return stream_batches(stream, self.num_workers)

    def in_order(self, num_rows: int, start: int = 0) -> Iterator[Rows]:
        own = torch.arange(self.num_rows).split(num_rows)[processes.rank() :: processes.world_size()]
        return stream_batches(
            _Ordered(source=attrs.evolve(self, validation=None, reporter=Silent()), parts=own[start:]), self.num_workers
        )

    def num_train_rows(self) -> int:
        return self.num_rows

    def row_weights(self) -> Tensor | None:
        return None

    def held_out(self) -> Rows | None:
        return self.validation
