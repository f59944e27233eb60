"""Random access to the samples of shards whose content is known, on disk or behind a URL."""

import threading
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, chain
from multiprocessing.pool import AsyncResult, ThreadPool
from typing import Any, BinaryIO

from shala_framework.data.pieces import Piece, near_groups, span_of
from shala_framework.data.sample_table import SampleTable
from shala_framework.data.shard_cache import CopyFolder, ShardCache
from shala_framework.data.shard_index import INDEX_FILE, Listed, ShardIndex, read_sample, shard_index_name
from shala_framework.data.shards import RawSample
from shala_framework.data.tar import MAX_FIELD_BYTES
from shala_framework.support.checksums import checksum_of
from shala_framework.support.errors import DataError
from shala_framework.support.urls import asking_again, is_remote, open_local, open_url, read_url, said_by

MOST_OPEN = 256  # shards of which a process keeps files open
MOST_INDEX_BYTES = 96 << 20  # of what a process knows of the samples of indexed shards
MOST_THREADS = 16  # that read from a server at the same time
BATCHES_AHEAD = 2  # batches that are read from a server while another is decoded
SHARDS_AHEAD = 2  # shards that a process copies into the cache before it reads them
_OF_A_PROCESS = ("_lock", "_tables", "_memory", "_files", "_pools", "_fetching")


class IndexedShards:
    """Shards whose samples can be read by number, in any order, also by several threads at the same time.

    Attributes:
        urls: Paths or URLs of the shards.
        counts: Number of samples of each shard.
        max_field_bytes: Size limit of a field; a larger field is an error.
        cache: Copies of remote shards; None reads these over the network in pieces.
    """

    def __init__(
        self,
        urls: Sequence[str],
        lengths: Sequence[Listed],
        cache: CopyFolder | None,
        max_field_bytes: int = MAX_FIELD_BYTES,
    ) -> None:
        self.urls = list(urls)
        self.num_bytes = [listed.num_bytes for listed in lengths]
        self.counts = [listed.num_samples for listed in lengths]
        self.index_checksums = [listed.index_checksum for listed in lengths]
        self.ends = list(accumulate(self.counts))
        self.cache, self.max_field_bytes = ShardCache.of(cache), max_field_bytes
        self.is_remote = any(map(is_remote, self.urls))
        self.scanned: dict[int, SampleTable] = {}
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._tables: OrderedDict[int, SampleTable] = OrderedDict()
        self._memory = 0  # of these tables, in bytes
        self._files: OrderedDict[int, list[BinaryIO]] = OrderedDict()  # idle ones
        self._pools: dict[str, ThreadPool] = {}
        self._fetching: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _OF_A_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()  # a worker process opens its own files

    def __del__(self) -> None:
        self.close()  # a stream is endless, so nothing else knows when its last sample was read

    def close(self) -> None:
        """Close every file and end the threads; reading opens them again."""
        while self._pools:
            self._pools.popitem()[1].terminate()
        while self._files:
            for file in self._files.popitem()[1]:
                file.close()

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def locate(self, position: int) -> tuple[int, int]:
        """Return shard and number within it of a sample, given its position in the whole set."""
        shard = bisect_right(self.ends, position)
        return shard, position - self.ends[shard] + self.counts[shard]

    def after(self, shard: int, number: int) -> Iterator[tuple[int, int]]:
        """Yield shard and number of every other sample, from the next one on. The first sample follows the last."""
        position = self.ends[shard] - self.counts[shard] + number
        for step in range(1, len(self)):
            yield self.locate((position + step) % len(self))

    def keys(self, shard: int) -> list[str]:
        """Return the key of each sample of a shard."""
        table = self._table(shard)
        return [table.key(number) for number in range(len(table))]

    def read(self, shard: int, number: int, wanted: Collection[str] | None = None) -> RawSample:
        """Read one sample, or only its wanted fields.

        Raises:
            DataError: The shard is missing, truncated or does not match its index.
        """
        return self._read(shard, [number], wanted)[0]

    def read_many(
        self, places: Sequence[tuple[int, int]], wanted: Collection[str] | None = None
    ) -> Iterator[RawSample]:
        """Samples by shard and number. Over a network, several threads read them, and neighbours in one request.

        Args:
            places: Shard and number of each.
            wanted: Fields to read; None for all.

        Raises:
            DataError: As `read`.
        """
        if not self.is_remote:
            yield from (self.read(shard, number, wanted) for shard, number in places)
            return
        by_shard: dict[int, list[int]] = {}
        for row, (shard, _) in enumerate(places):
            by_shard.setdefault(shard, []).append(row)
        threads = self._pool("reading", MOST_THREADS)
        numbers = {shard: [places[row][1] for row in rows] for shard, rows in by_shard.items()}
        groups = [
            (shard, [rows[i] for i in group])
            for (shard, rows), found in zip(
                by_shard.items(), threads.imap(lambda item: self._groups(*item, wanted), numbers.items()), strict=True
            )
            for group in found
        ]
        read = threads.imap(lambda group: self._read(group[0], [places[row][1] for row in group[1]], wanted), groups)
        found = dict(zip(chain(*(rows for _, rows in groups)), chain(*read), strict=True))
        yield from (found[row] for row in range(len(places)))

    def read_ahead(
        self, batches: Iterable[Sequence[tuple[int, int]]], wanted: Collection[str] | None = None
    ) -> Iterator[list[RawSample]]:
        """Read batches of samples; over a network, the next ones while the caller works on the last.

        Args:
            batches: Shard and number of each sample of each batch, possibly without end.
            wanted: Fields to read; None for all.

        Raises:
            DataError: As `read`, at its batch.
        """
        if not self.is_remote:
            yield from (list(self.read_many(places, wanted)) for places in batches)
            return
        waiting: deque[AsyncResult[list[RawSample]]] = deque()
        for places in batches:
            threads = self._pool("ahead", BATCHES_AHEAD)
            waiting.append(threads.apply_async(lambda places: list(self.read_many(places, wanted)), (places,)))
            if len(waiting) > BATCHES_AHEAD:
                yield waiting.popleft().get()
        while waiting:
            yield waiting.popleft().get()

    @property
    def fetches(self) -> bool:
        """Whether shards are copied into a cache."""
        return self.is_remote and self.cache is not None

    def fetch_ahead(self, shards: Iterable[int]) -> None:
        """Have threads copy shards into the cache, if there is one, before they are read. Errors show on reading."""
        if self.cache is None:
            return
        for shard in shards:
            url = self.urls[shard]
            if is_remote(url) and shard not in self._fetching and not self.cache.has(url, self.num_bytes[shard]):
                self._fetching.add(shard)
                self._pool("fetching", SHARDS_AHEAD).apply_async(self._fetch, (shard, self.cache))

    def _fetch(self, shard: int, cache: ShardCache) -> None:
        try:
            with suppress(Exception):
                cache.fetch(self.urls[shard], self.num_bytes[shard], ahead=True)
        finally:
            self._fetching.discard(shard)

    def _pool(self, name: str, size: int) -> ThreadPool:
        """Threads of this process; they are daemons, so that nothing waits for them when a run is stopped."""
        with self._lock:
            if name not in self._pools:
                self._pools[name] = ThreadPool(size)
            return self._pools[name]

    def _groups(self, shard: int, numbers: Sequence[int], wanted: Collection[str] | None) -> list[list[int]]:
        """Divide samples of a shard into groups that are near each other, as indices of `numbers`."""
        if not self._in_pieces(shard):
            return [list(range(len(numbers)))]
        table = self._table(shard)
        return near_groups([span_of(table.members(number), wanted) for number in numbers])

    def _read(self, shard: int, numbers: Sequence[int], wanted: Collection[str] | None) -> list[RawSample]:
        """Read some samples of a shard; over a network, in one piece."""
        url = self.urls[shard]
        key = ""

        def attempt() -> list[RawSample]:
            nonlocal key
            table = self._table(shard)
            samples = []
            key = table.key(numbers[0])
            file = self._borrow(shard)
            try:
                part: BinaryIO | Piece = file
                if len(numbers) > 1 and self._in_pieces(shard):
                    part = Piece.read_from(file, [span_of(table.members(number), wanted) for number in numbers])
                for number in numbers:
                    key = table.key(number)
                    fields = read_sample(part, table.members(number), wanted, self.max_field_bytes)
                    samples.append(RawSample(key, fields, url))
            except DataError as error:
                self._give_back(shard, file)
                raise DataError(f"{url}: sample {key!r}: {error}") from error
            except BaseException:
                file.close()
                raise
            self._give_back(shard, file)
            return samples

        try:
            return asking_again(url, attempt, has_answered=True) if self._in_pieces(shard) else attempt()
        except (OSError, ValueError) as error:
            hint = "; set data.cache to a folder for whole copies" if self._in_pieces(shard) else ""
            raise DataError(f"{url}: sample {key!r}: {said_by(error)}{hint}") from error

    def _in_pieces(self, shard: int) -> bool:
        """Return whether a shard is read over the network."""
        return self.cache is None and is_remote(self.urls[shard])

    @contextmanager
    def _naming(self, url: str) -> Iterator[None]:
        """Name a shard that cannot be opened."""
        try:
            yield
        except (OSError, ValueError) as error:
            away = isinstance(error, OSError) and is_remote(url)
            hint = "try again" if away else "`shala index` rewrites the index"
            raise DataError(f"{url}: {error}; {hint}") from error

    def _table(self, shard: int) -> SampleTable:
        """Return what a shard holds."""
        with self._lock:
            table = self.scanned.get(shard) or self._tables.get(shard)
            if table is not None:
                if shard in self._tables:
                    self._tables.move_to_end(shard)
                return table
        url = self.urls[shard]
        with self._naming(url):
            table = SampleTable(self._read_index(shard))
            if len(table) != self.counts[shard]:
                expected = f"{self.counts[shard]} samples, as {INDEX_FILE} says"
                raise ValueError(f"expected {expected}, got {len(table)} in {shard_index_name(url)}")
        with self._lock:
            self._memory += table.memory - (self._tables[shard].memory if shard in self._tables else 0)
            self._tables[shard] = table
            while self._memory > MOST_INDEX_BYTES and len(self._tables) > 1:
                self._memory -= self._tables.popitem(last=False)[1].memory
        return table

    def _read_index(self, shard: int) -> ShardIndex:
        name, expected = shard_index_name(self.urls[shard]), self.index_checksums[shard]
        if self.cache is not None and expected and is_remote(name):
            content = self.cache.content(name, expected)
        else:
            content = read_url(name, has_answered=True)
        index = ShardIndex.from_json(content)
        if expected and checksum_of(content) != expected:
            raise ValueError(f"{name} is not the index that {INDEX_FILE} lists: its checksum differs")
        return index

    def _borrow(self, shard: int) -> BinaryIO:
        """Return a file of a shard for one thread."""
        with self._lock:
            idle = self._files.get(shard)
            if idle:
                self._files.move_to_end(shard)
                return idle.pop()
        url = self.urls[shard]
        with self._naming(url):
            if not is_remote(url):
                return open_local(url)
            num_bytes = self.num_bytes[shard]
            if self.cache is not None:
                return self.cache.open(url, num_bytes)
            return asking_again(url, lambda: open_url(url, how="here and there", size=num_bytes), has_answered=True)

    def _give_back(self, shard: int, file: BinaryIO) -> None:
        """Keep a file for the next reading, and close those that were read longest ago."""
        if self.cache is not None and is_remote(self.urls[shard]):
            file.close()  # so that it takes no room on the disk once it is removed from the cache
            return
        old: list[BinaryIO] = []
        with self._lock:
            self._files.setdefault(shard, []).append(file)
            while len(self._files) > MOST_OPEN:
                old += self._files.popitem(last=False)[1]
        for file in old:
            file.close()
