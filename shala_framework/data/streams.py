"""Endless batches of decoded rows from shards that need not fit into memory."""

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice, repeat, tee

import attrs
import torch

from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.order import SampleOrder, WeightedOrder, spread_positions
from shala_framework.data.prepared import prepared_field
from shala_framework.data.random_access import index_shards
from shala_framework.data.rows import MOST_TRIED, Rows, checked_rows, collate, decode_batch, load_rows, read_filled
from shala_framework.data.shard_cache import CopyFolder
from shala_framework.data.shards import LABEL_FIELD, RawSample, read_shards
from shala_framework.data.tally import Tally
from shala_framework.data.tar import MAX_FIELD_BYTES
from shala_framework.data.workers import Stream, work
from shala_framework.plugin.modality import Modality
from shala_framework.support.errors import DataError
from shala_framework.support.machine import available_cores
from shala_framework.support.seeds import mix_seed

ROWS_WORTH_A_WORKER = 256  # fewer rows are read before a worker process has started
ROWS_OF_A_WORKER = 32  # rows that a worker decodes at a time


def wanted_fields(modalities: Mapping[str, Modality]) -> frozenset[str]:
    """Return the fields of a sample that modalities read, plus the label."""
    return frozenset({LABEL_FIELD}.union(*((*m.fields, prepared_field(name)) for name, m in modalities.items())))


def read_places(
    shards: IndexedShards,
    batches: Iterable[Sequence[tuple[int, int]]],
    modalities: Mapping[str, Modality],
    fields: frozenset[str],
) -> Iterator[Rows]:
    """Read batches of samples by shard and number.

    The next sample in the set replaces one whose fields are all blank. The content of a batch therefore depends only on
    its places, not on the reader.
    """
    mine, theirs = tee(batches)
    for places, samples in zip(mine, shards.read_ahead(theirs, fields), strict=False):

        def others(row: int, places: Sequence[tuple[int, int]] = places) -> Iterator[RawSample]:
            return (shards.read(shard, number, fields) for shard, number in shards.after(*places[row]))

        yield decode_batch(samples, modalities, others)


def decode_in_order(
    samples: Iterator[RawSample], num_rows: int, modalities: Mapping[str, Modality], tally: Tally, turns: Iterator[bool]
) -> Iterator[Rows]:
    """Yield batches of samples that can only be read in order, until there are no more.

    A sample whose fields are all blank is replaced by another sample of its batch, by one after the batch, or by one of
    the batch before.

    Args:
        samples: Raw samples.
        num_rows: Number of rows of a batch; the last batch may have fewer.
        modalities: Modalities by name.
        tally: Counts what the reader of the samples skips; each batch takes the current counts.
        turns: Whether to decode and yield each batch; other batches are only read.
    """
    ahead: deque[RawSample] = deque()
    before: list[RawSample] = []

    def behind() -> Iterator[RawSample]:
        yield from list(ahead)
        for sample in samples:
            ahead.append(sample)
            yield sample

    for turn in turns:
        batch = [ahead.popleft() for _ in range(min(num_rows, len(ahead)))]
        batch += islice(samples, num_rows - len(batch))
        if not batch:
            return

        def others(
            row: int, batch: Sequence[RawSample] = batch, before: Sequence[RawSample] = before
        ) -> Iterable[RawSample]:
            return chain(batch[row + 1 :], reversed(batch[:row]), islice(behind(), MOST_TRIED // 2), reversed(before))

        if turn:
            rows = decode_batch(batch, modalities, others, attrs.evolve(tally))
            tally.clear()
            yield rows
        before = batch


class IndexedStream:
    """Batches of shards whose samples can be read by number.

    Step s uses the positions s * batch_size and following of an order; rank r of W takes every W-th of them,
    starting with the r-th. Each step's batch depends only on the step number, so it is the same for any number of
    workers and processes: every epoch has every sample exactly once (or as often as its weight says), all ranks make
    equally many steps, and the stream can resume at any step.

    Args:
        shards: Shards to read from.
        modalities: Modalities by name.
        order: Order of the samples.
        batch_size: Number of rows of a step over all ranks.
        start_step: Step of the first batch.
        rank: Rank of this process.
        world_size: Number of processes, a divisor of batch_size.
    """

    def __init__(
        self,
        shards: IndexedShards,
        modalities: Mapping[str, Modality],
        order: SampleOrder | WeightedOrder,
        *,
        batch_size: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards, self.modalities, self.order = shards, dict(modalities), order
        self.fields = wanted_fields(modalities)
        self.batch_size, self.start_step, self.rank, self.world_size = batch_size, start_step, rank, world_size

    def __iter__(self) -> Iterator[Rows]:
        return self.read(0, 1)

    def read(self, first: int, stride: int) -> Iterator[Rows]:
        """Yield the batches of one reader: the first one given, and every stride-th after it."""
        return read_places(self.shards, self._places(first, stride), self.modalities, self.fields)

    def _places(self, first: int, stride: int) -> Iterator[list[tuple[int, int]]]:
        later = copy.deepcopy(self.order)  # which knows one epoch at a time, and the next shards may be in another one
        for step in count(self.start_step + first, stride):
            if self.shards.fetches:
                places = self._step(later, step + -(-self.order.positions_ahead // self.batch_size))
                self.shards.fetch_ahead({shard for shard, _ in places})
            yield self._step(self.order, step)

    def _step(self, order: SampleOrder | WeightedOrder, step: int) -> list[tuple[int, int]]:
        """Return shard and number of this rank's rows of a step."""
        start = step * self.batch_size
        return [order[p] for p in range(start + self.rank, start + self.batch_size, self.world_size)]


class OrderedStream:
    """Every sample of indexed shards once, in order. Rank r of W has the batches r, r + W, ... of num_rows rows.

    Args:
        shards: Shards to read from.
        modalities: Modalities by name.
        num_rows: Number of rows of a batch; the last batch may have fewer.
        start: Number of this rank's batches to skip.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    def __init__(
        self,
        shards: IndexedShards,
        modalities: Mapping[str, Modality],
        *,
        num_rows: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards, self.modalities, self.fields = shards, dict(modalities), wanted_fields(modalities)
        self.num_rows, self.start, self.rank, self.world_size = num_rows, start, rank, world_size

    def __iter__(self) -> Iterator[Rows]:
        return self.read(0, 1)

    def read(self, first: int, stride: int) -> Iterator[Rows]:
        """Yield the batches of one reader: the first one given, and every stride-th after it."""
        return read_places(self.shards, self._places(first, stride), self.modalities, self.fields)

    def _places(self, first: int, stride: int) -> Iterator[list[tuple[int, int]]]:
        number = self.start + first
        while (begin := (number * self.world_size + self.rank) * self.num_rows) < len(self.shards):
            yield list(map(self.shards.locate, range(begin, min(begin + self.num_rows, len(self.shards)))))
            number += stride


class PlacesStream:
    """Samples of indexed shards by their positions in the set, in batches.

    As in `load_rows`, samples whose fields are all blank are left out and counted, so a batch may be smaller or empty.
    Every field is read, even if no modality uses it, so a wrong size, checksum or limit is always an error.

    Args:
        shards: Shards to read from.
        modalities: Modalities by name.
        positions: Positions of the samples.
        num_rows: Number of samples of a batch; the last batch may have fewer.
    """

    def __init__(
        self, shards: IndexedShards, modalities: Mapping[str, Modality], positions: Sequence[int], *, num_rows: int
    ) -> None:
        self.shards, self.modalities = shards, dict(modalities)
        self.positions, self.num_rows = list(positions), num_rows

    def __iter__(self) -> Iterator[Rows]:
        return self.read(0, 1)

    def read(self, first: int, stride: int) -> Iterator[Rows]:
        """Yield the batches of one reader: the first one given, and every stride-th after it."""
        begins = range(first * self.num_rows, len(self.positions), stride * self.num_rows)
        batches = (list(map(self.shards.locate, self.positions[begin : begin + self.num_rows])) for begin in begins)
        for samples in self.shards.read_ahead(batches):
            tally = Tally()
            yield collate(read_filled(samples, self.modalities, tally), self.modalities, tally)


class ShardStream:
    """Batches of shards that can only be read from their start, such as those behind a URL without an index.

    Every epoch permutes the shards by (seed, epoch) and gives each reader, which is a worker of a rank, its share of
    them, or of the samples if there are fewer shards than readers. Each reader shuffles its samples in a buffer. It
    begins its next epoch when its share is used up, so the epochs of several readers do not coincide. The stream
    depends only on its arguments and the number of readers. To resume at a step, it reads everything before it without
    decoding.
    """

    def __init__(
        self,
        urls: Sequence[str],
        modalities: Mapping[str, Modality],
        *,
        batch_size: int,
        buffer_size: int,
        seed: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        max_field_bytes: int = MAX_FIELD_BYTES,
    ) -> None:
        self.max_field_bytes = max_field_bytes
        self.urls, self.modalities, self.fields = list(urls), dict(modalities), wanted_fields(modalities)
        self.num_rows, self.buffer_size, self.seed = batch_size // world_size, buffer_size, seed
        self.start_step, self.rank, self.world_size = start_step, rank, world_size

    def __iter__(self) -> Iterator[Rows]:
        return self.read(0, 1)

    def read(self, index: int, count: int) -> Iterator[Rows]:
        """Yield the batches of one of `count` readers, which take turns."""
        # The loader takes batches from its workers in turn. If it starts at step s, its first worker acts as the reader
        # whose turn it is. Reader r has given ceil((s - r) / count) of the first s batches.
        index = (index + self.start_step) % count
        skip = max(0, -(-(self.start_step - index) // count))
        tally = Tally()
        samples = self._raw_samples(self.rank * count + index, self.world_size * count, tally)
        yield from decode_in_order(
            samples, self.num_rows, self.modalities, tally, chain(repeat(False, skip), repeat(True))
        )

    def _raw_samples(self, index: int, count: int, tally: Tally) -> Iterator[RawSample]:
        epoch = 0
        generator = torch.Generator()
        buffer: list[RawSample] = []
        while True:
            generator.manual_seed(mix_seed(self.seed, epoch))
            urls = [self.urls[i] for i in torch.randperm(len(self.urls), generator=generator).tolist()]
            by_shard = len(urls) >= count
            num_samples = 0
            mine = urls[index::count] if by_shard else urls
            shards = read_shards(mine, wanted=self.fields, max_field_bytes=self.max_field_bytes, tally=tally)
            for position, sample in enumerate(shards):
                if not by_shard and position % count != index:
                    continue
                num_samples += 1
                buffer.append(sample)
                if len(buffer) >= self.buffer_size:
                    yield self._draw(buffer, generator)
            while buffer:
                yield self._draw(buffer, generator)
            if not num_samples:
                raise DataError(
                    f"reader {index} of {count} (processes times workers) got no sample of {len(self.urls)} shards, "
                    f"such as {self.urls[0]}; lower data.num_workers, or write an index with `shala index`"
                )
            epoch += 1

    @staticmethod
    def _draw(buffer: list[RawSample], generator: torch.Generator) -> RawSample:
        i = int(torch.randint(len(buffer), (), generator=generator))
        buffer[i], buffer[-1] = buffer[-1], buffer[i]
        return buffer.pop()


def load_rows_in_workers(
    urls: Sequence[str],
    modalities: Mapping[str, Modality],
    *,
    limit: int | None = None,
    cache: CopyFolder | None = None,
    num_workers: int = 0,
    on_sample: Callable[[int], None] = lambda _: None,
    max_field_bytes: int = MAX_FIELD_BYTES,
) -> Rows:
    """Load the same rows as `load_rows`, with worker processes if there are enough rows to justify them.

    Args:
        urls: Shards, in order.
        modalities: Modalities by name.
        limit: Largest number of rows to read, spread over a larger set.
        cache: Folder for copies of remote shards.
        num_workers: Number of processes that decode. With 0, or for shards without an index, this process decodes.
        on_sample: Called with the number of samples read so far.
        max_field_bytes: Size limit of a field; a larger field is an error.

    Raises:
        DataError: As in `load_rows`.
    """
    tally = Tally()
    shards = index_shards(urls, cache, max_field_bytes=max_field_bytes, tally=tally) if num_workers else None
    if shards is None or min(len(shards), limit or len(shards)) < ROWS_WORTH_A_WORKER:
        return load_rows(
            urls, modalities, limit=limit, cache=cache, on_sample=on_sample, max_field_bytes=max_field_bytes
        )
    positions = spread_positions(len(shards), len(shards) if limit is None else limit)
    stream = PlacesStream(shards, modalities, positions, num_rows=ROWS_OF_A_WORKER)
    parts, count = [], 0
    for rows in stream_batches(stream, min(num_workers, available_cores(), -(-len(positions) // ROWS_OF_A_WORKER))):
        parts.append(rows)
        count = min(count + ROWS_OF_A_WORKER, len(positions))
        on_sample(count)
        if rows.tally is not None:
            tally.add(rows.tally)
    return checked_rows(attrs.evolve(join_rows(parts), tally=tally or None), urls)


def join_rows(parts: Sequence[Rows]) -> Rows:
    """Concatenate the rows of several, at least one. The caller handles their tallies."""
    return Rows(
        x={name: torch.cat([rows.x[name] for rows in parts]) for name in parts[0].x},
        presence=torch.cat([rows.presence for rows in parts]),
        keys=tuple(key for rows in parts for key in rows.keys),
        labels=tuple(label for rows in parts for label in rows.labels),
    )


def stream_batches(stream: Stream[Rows], num_workers: int) -> Iterator[Rows]:
    """Yield the batches of a stream, decoded by worker processes, or by this process if there are none.

    Raises:
        DataError: The stream raised it in a worker.
        WorkerError: A worker was killed.
    """
    return work(stream, num_workers) if num_workers else stream.read(0, 1)
