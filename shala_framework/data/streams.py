"""Endless batches of decoded rows from shards that need not fit into memory."""

import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat

import attrs
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from shala_framework.data.indexed import IndexedShards
from shala_framework.data.order import SampleOrder
from shala_framework.data.prepared import prepared_field
from shala_framework.data.rows import MOST_TRIED, Rows, decode_batch
from shala_framework.data.shards import LABEL_FIELD, RawSample, read_shards
from shala_framework.data.tally import Tally
from shala_framework.data.tar import MAX_FIELD_BYTES
from shala_framework.errors import DataError
from shala_framework.modality import Modality
from shala_framework.seeds import mix_seed


def wanted_fields(modalities: Mapping[str, Modality]) -> frozenset[str]:
    """Fields of a sample that modalities read, and the label."""
    return frozenset({LABEL_FIELD}.union(*((*m.fields, prepared_field(name)) for name, m in modalities.items())))


def read_places(
    shards: IndexedShards, places: Sequence[tuple[int, int]], modalities: Mapping[str, Modality], fields: frozenset[str]
) -> Rows:
    """Rows of samples by shard and number; the next one in the set takes the place of one whose fields say nothing.

    What a batch holds so depends on its places alone, and not on who reads it.
    """

    def others(row: int) -> Iterator[RawSample]:
        return (shards.read(shard, number, fields) for shard, number in shards.after(*places[row]))

    samples = [shards.read(shard, number, fields) for shard, number in places]
    return decode_batch(samples, modalities, others)


def decode_in_order(
    samples: Iterator[RawSample], num_rows: int, modalities: Mapping[str, Modality], tally: Tally, turns: Iterator[bool]
) -> Iterator[Rows]:
    """Batches of samples that can only be read in order, until there are no more.

    Another sample of the batch takes the place of one whose fields say nothing, or the next one behind the batch, or
    one of the batch before.

    Args:
        samples: Raw samples.
        num_rows: Rows of a batch; the last one may have fewer.
        modalities: By name.
        tally: Counts what the samples' reader passes over; each batch takes along what is there.
        turns: Whether each batch is decoded and given; the others are read alone.
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


class IndexedStream(IterableDataset[Rows]):
    """Batches of shards whose samples can be read by number.

    Step s has the positions s * batch_size and on of a `SampleOrder`, of which rank r of W takes every W-th from the
    r-th on. A batch is so a function of the step alone, whatever the number of processes and workers: every epoch has
    every sample exactly once, every rank takes as many steps, and the stream can be taken up at any step.

    Args:
        shards: Where samples are read.
        modalities: By name.
        order: Of the samples.
        batch_size: Rows of a step over all ranks.
        start_step: Step of the first batch.
        rank: Of this process.
        world_size: Number of processes, a divisor of batch_size.
    """

    def __init__(
        self,
        shards: IndexedShards,
        modalities: Mapping[str, Modality],
        order: SampleOrder,
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
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        step = self.start_step + first
        while True:
            yield self.batch(step)
            step += stride

    def batch(self, step: int) -> Rows:
        """This rank's rows of a step."""
        start = step * self.batch_size
        places = [self.order[p] for p in range(start + self.rank, start + self.batch_size, self.world_size)]
        return read_places(self.shards, places, self.modalities, self.fields)


class OrderedStream(IterableDataset[Rows]):
    """Every sample of indexed shards once, in order: rank r of W has the batches r, r + W, ... of so many rows.

    Args:
        shards: Where samples are read.
        modalities: By name.
        num_rows: Of a batch; the last one may have fewer.
        start: How many of this rank's batches are left out.
        rank: Of this process.
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
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        number = self.start + first
        while (begin := (number * self.world_size + self.rank) * self.num_rows) < len(self.shards):
            places = list(map(self.shards.locate, range(begin, min(begin + self.num_rows, len(self.shards)))))
            yield read_places(self.shards, places, self.modalities, self.fields)
            number += stride


class ShardStream(IterableDataset[Rows]):
    """Batches of shards that are only read from their start, such as those behind a URL without an index.

    Every epoch permutes the shards by (seed, epoch), gives each reader, a worker of a rank, its part of them (or of the
    samples, where shards are fewer than readers), and shuffles samples in a buffer. Each reader begins its next epoch
    when its part is over, and so the epochs of several readers are not the same steps. The stream is a function of its
    arguments and the number of readers, and is taken up at a step by reading everything before it, without decoding.
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
        worker = get_worker_info()
        index, count = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        # The loader takes batches from its workers in turn. Started at step s, its first worker stands for the reader
        # whose turn it is, and of the first s batches reader r gave ceil((s - r) / count).
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


def stream_batches(stream: IterableDataset[Rows], num_workers: int) -> Iterator[Rows]:
    """Batches of a stream, decoded by worker processes (none: in this one).

    Raises:
        DataError: What the stream raises, in the words of the worker that met it.
    """
    loader: DataLoader[Rows | DataError] = DataLoader(
        _Telling(stream),
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers else None,
        worker_init_fn=_ignore_signals if num_workers else None,
    )
    return _raising(iter(loader))  # begun here, and not in a step: it draws from torch's generator


def _raising(batches: Iterator[Rows | DataError]) -> Iterator[Rows]:
    for batch in batches:
        if isinstance(batch, DataError):
            raise batch
        yield batch


class _Telling(IterableDataset[Rows | DataError]):
    """A stream that ends with its error as a value: torch would pass a worker's on with the whole traceback as text."""

    def __init__(self, stream: IterableDataset[Rows]) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[Rows | DataError]:
        try:
            yield from self.stream
        except DataError as error:
            yield error


def _ignore_signals(_: int) -> None:
    """Leave it to the training process to stop: it saves first, and a worker ends when that process does.

    Terminals, schedulers and torchrun signal all processes of a group; a worker that died of it would take the step
    under way along.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
