"""Samples for fitting a modality, with a record of the one that is being read.

Fitting is mostly quick, and workers take seconds to start. Samples of shards are therefore read in this process for
some seconds, and by workers from then on.
"""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from typing import Any, Generic, Protocol, TypeVar

import attrs

from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.shards import RawSample
from shala_framework.data.workers import work
from shala_framework.support.errors import DataError
from shala_framework.support.machine import available_cores

SECONDS_ALONE = 3.0  # of reading before workers start
SAMPLES_WORTH_WORKERS = 256  # fewer are read before workers have started
SAMPLES_OF_A_WORKER = 32  # that a worker reads at a time


class _HasFields(Protocol):
    @property
    def fields(self) -> Mapping[str, bytes]: ...


_Sample = TypeVar("_Sample", bound=_HasFields)


class Watched(Generic[_Sample]):
    """Yields the fields of each sample for `Modality.fit`, so that an error can be attributed to a sample, or to none.

    Args:
        samples: Raw samples.
        on_sample: Called with the number of samples handed out so far.

    Attributes:
        current: The sample that is being read; None before the first, while the next is fetched, and after the last.
        ended: Whether every sample has been yielded and read.
    """

    def __init__(self, samples: Iterable[_Sample], on_sample: Callable[[int], None] = lambda _: None) -> None:
        self.samples, self.on_sample = samples, on_sample
        self.current: _Sample | None = None
        self.ended = False

    def __iter__(self) -> Iterator[Mapping[str, bytes]]:
        for number, sample in enumerate(self.samples, 1):
            self.current = sample
            self.on_sample(number)
            yield sample.fields
            self.current = None
        self.ended = True


Reading = Callable[[Mapping[str, bytes]], Any]


class WatchedShards(Watched[RawSample]):
    """Samples of shards, which worker processes read and decode if that takes long.

    Args:
        samples: All samples, in order.
        index: Finds the same samples by number; None if they can only be read in order.
        fields: Fields to read.
        num_workers: Number of worker processes; 0 reads everything here.
    """

    def __init__(
        self,
        samples: Iterable[RawSample],
        index: Callable[[], IndexedShards | None],
        fields: frozenset[str],
        num_workers: int,
    ) -> None:
        super().__init__(samples)
        self.index, self.fields, self.num_workers = index, fields, num_workers
        self._reading: Generator[Any] | None = None

    def __iter__(self) -> Iterator[Mapping[str, bytes]]:
        return self.read_each(_as_it_is)

    def read_each(self, read: Reading, enough: int | None = None) -> Iterator[Any]:
        """Yield what a function returns for the fields of each sample.

        Samples come in order or, if they have an index and `enough` is less than their number, from all over the set.
        """
        self._reading = self._read(read, enough)
        return self._reading

    def close(self) -> None:
        """End the workers, if the samples have not been read to their end."""
        if self._reading is not None:
            self._reading.close()

    def _read(self, read: Reading, enough: int | None) -> Generator[Any]:
        start, alone = time.monotonic(), self.num_workers == 0
        shards = self.index() if enough is not None else None
        order = Order(len(shards)) if shards is not None and enough is not None and len(shards) > enough else None
        samples = self.samples
        if shards is not None and order is not None:
            samples = chain.from_iterable(_ReadStream(shards, self.fields, 0, read, order).samples(0, 1))
        for number, sample in enumerate(samples, 1):
            self.current = sample
            yield read(sample.fields)
            self.current = None
            if not alone and time.monotonic() - start >= SECONDS_ALONE:
                shards, alone = self.index(), True
                if shards is not None and len(shards) - number >= SAMPLES_WORTH_WORKERS:
                    yield from self._read_by_workers(_ReadStream(shards, self.fields, number, read, order))
                    break
        self.ended = True

    def _read_by_workers(self, stream: "_ReadStream") -> Iterator[Any]:
        batches: Any = work(stream, min(self.num_workers, available_cores()))
        with closing(batches):
            for found in (one for batch in batches for one in batch):
                self.current = found.sample
                if found.error is not None:
                    raise found.error
                yield found.value
                self.current = None


def _as_it_is(fields: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return fields


@attrs.frozen
class _Found:
    """What a worker made of a sample.

    Attributes:
        sample: The sample, without its fields.
        value: Result of the function.
        error: What it raised instead.
    """

    sample: RawSample
    value: Any = None
    error: DataError | None = None


@attrs.frozen
class Order:
    """An order of all numbers below a total, of which every beginning is spread over all of them.

    Each number follows the last one by a golden section of the circle, so that no regular turn of classes is met.

    Example:
        >>> order = Order(8)
        >>> [order.position(number) for number in range(8)]
        [0, 5, 2, 7, 4, 1, 6, 3]
    """

    total: int
    step: int = attrs.field(init=False)

    @step.default
    def _golden_step(self) -> int:
        near = round(self.total * (math.sqrt(5) - 1) / 2)
        return next(step for step in range(max(1, near), self.total + 2) if math.gcd(step, self.total) == 1)

    def position(self, number: int) -> int:
        """Return the number at a place of the order."""
        return number * self.step % self.total


class _ReadStream:
    """Samples of indexed shards from one on, in some order, and what a function makes of their fields."""

    def __init__(
        self, shards: IndexedShards, fields: frozenset[str], start: int, read: Reading, order: Order | None = None
    ) -> None:
        self.shards, self.fields, self.start, self.function, self.order = shards, fields, start, read, order

    def read(self, index: int, count: int) -> Iterator[list[_Found]]:
        """Yield the batches of one of `count` readers."""
        for samples in self.samples(index, count):
            yield list(map(self._found, samples))

    def samples(self, index: int, count: int) -> Iterator[list[RawSample]]:
        """Yield the samples of one of `count` readers."""
        end, size = len(self.shards), SAMPLES_OF_A_WORKER
        begins = range(self.start + index * size, end, count * size)
        places = (list(map(self._place, range(begin, min(begin + size, end)))) for begin in begins)
        return self.shards.read_ahead(places, self.fields)

    def _place(self, number: int) -> tuple[int, int]:
        return self.shards.locate(number if self.order is None else self.order.position(number))

    def _found(self, sample: RawSample) -> _Found:
        bare = attrs.evolve(sample, fields={})
        try:
            return _Found(bare, self.function(sample.fields))
        except DataError as error:
            return _Found(bare, error=error)
