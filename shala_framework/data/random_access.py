"""Random access to the samples of indexed shards, on disk or behind a URL."""

import hashlib
import os
import re
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, chain, islice
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, BinaryIO

from shala_framework.data.order import spread_positions
from shala_framework.data.shard_index import (
    INDEX_FILE,
    Listed,
    ShardIndex,
    parse_summary,
    read_sample,
    scan_shard,
    shard_index_name,
)
from shala_framework.data.shards import RawSample, read_shards
from shala_framework.data.tally import NOTHING_IN_IT, Tally
from shala_framework.data.tar import DAMAGE, MAGIC_BYTES, MAX_FIELD_BYTES, compression, reason_of
from shala_framework.support.checksums import checksum_of
from shala_framework.support.errors import DataError
from shala_framework.support.urls import (
    asking_again,
    is_pipe,
    is_remote,
    local_path,
    mark_cache,
    open_local,
    open_url,
    read_url,
    read_url_if_there,
    said_by,
)

OLD_SECONDS = 3600.0  # since a copy last grew
MOST_OPEN = 256  # shards a process keeps open, with what it knows of their samples
MOST_THREADS = 16  # that read from a server at the same time


class IndexedShards:
    """Shards whose samples can be read by number, in any order.

    Attributes:
        urls: Paths or URLs of the shards.
        counts: Number of samples of each shard.
        max_field_bytes: Size limit of a field; a larger field is an error.
    """

    def __init__(
        self,
        urls: Sequence[str],
        lengths: Sequence[Listed],
        cache: Path | None,
        max_field_bytes: int = MAX_FIELD_BYTES,
    ) -> None:
        self.urls = list(urls)
        self.num_bytes = [listed.num_bytes for listed in lengths]
        self.counts = [listed.num_samples for listed in lengths]
        self.index_checksums = [listed.index_checksum for listed in lengths]
        self.ends = list(accumulate(self.counts))
        self.cache, self.max_field_bytes = cache, max_field_bytes
        self.scanned: dict[int, ShardIndex] = {}
        self._open: OrderedDict[int, tuple[BinaryIO, ShardIndex]] = OrderedDict()
        self._threads: ThreadPool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict(), "_threads": None}  # a worker process opens its own

    def __del__(self) -> None:
        self.close()  # a stream is endless, so nothing else knows when its last sample was read

    def close(self) -> None:
        """Close every file and end the threads; reading opens them again."""
        if self._threads is not None:
            self._threads.terminate()
            self._threads = None
        while self._open:
            self._open.popitem()[1][0].close()

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
        return [key for key, _ in self._shard(shard)[1].samples]

    def read(self, shard: int, number: int, wanted: Collection[str] | None = None) -> RawSample:
        """Read one sample, or only its wanted fields.

        Raises:
            DataError: The shard is missing, truncated or does not match its index.
        """
        sample = self._read(shard, number, wanted)
        self._trim()
        return sample

    def read_many(
        self, places: Sequence[tuple[int, int]], wanted: Collection[str] | None = None
    ) -> Iterator[RawSample]:
        """Samples by shard and number; over a network, those of different shards are read at the same time.

        Args:
            places: Shard and number of each.
            wanted: Fields to read; None for all.

        Raises:
            DataError: As `read`.
        """
        by_shard: dict[int, list[int]] = {}
        for row, (shard, _) in enumerate(places):
            by_shard.setdefault(shard, []).append(row)
        if len(by_shard) < 2 or not any(is_remote(self.urls[shard]) for shard in by_shard):
            yield from (self.read(shard, number, wanted) for shard, number in places)
            return
        if self._threads is None:
            self._threads = ThreadPool(MOST_THREADS)  # of daemons, so that nothing waits for them when a run is stopped
        groups = list(by_shard.values())
        read = self._threads.imap(lambda rows: [self._read(*places[row], wanted) for row in rows], groups)
        found = dict(zip(chain(*groups), chain(*read), strict=True))
        self._trim()
        yield from (found[row] for row in range(len(places)))

    def _read(self, shard: int, number: int, wanted: Collection[str] | None) -> RawSample:
        url = self.urls[shard]
        key = ""

        def attempt() -> RawSample:
            nonlocal key
            file, index = self._shard(shard)
            key, members = index.samples[number]
            try:
                return RawSample(key, read_sample(file, members, wanted, self.max_field_bytes), url)
            except DataError as error:
                raise DataError(f"{url}: sample {key!r}: {error}") from error
            except Exception:
                if self._in_pieces(shard) and (opened := self._open.pop(shard, None)):
                    opened[0].close()
                raise

        try:
            return asking_again(url, attempt, has_answered=True) if self._in_pieces(shard) else attempt()
        except (OSError, ValueError) as error:
            hint = "; set data.cache to a folder for whole copies" if self._in_pieces(shard) else ""
            raise DataError(f"{url}: sample {key!r}: {said_by(error)}{hint}") from error

    def _in_pieces(self, shard: int) -> bool:
        """Return whether a shard is read over the network."""
        return self.cache is None and is_remote(self.urls[shard])

    def _shard(self, shard: int) -> tuple[BinaryIO, ShardIndex]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        url = self.urls[shard]
        try:
            index = self.scanned.get(shard) or self._read_index(shard)
            if len(index.samples) != self.counts[shard]:
                expected = f"{self.counts[shard]} samples, as {INDEX_FILE} says"
                raise ValueError(f"expected {expected}, got {len(index.samples)} in {shard_index_name(url)}")
            file = self._file(url, index.num_bytes)
        except (OSError, ValueError) as error:
            away = isinstance(error, OSError) and is_remote(url)
            hint = "try again" if away else "`shala index` rewrites the index"
            raise DataError(f"{url}: {error}; {hint}") from error
        self._open[shard] = (file, index)
        return file, index

    def _trim(self) -> None:
        """Close the files that were read longest ago."""
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1][0].close()

    def _read_index(self, shard: int) -> ShardIndex:
        name, expected = shard_index_name(self.urls[shard]), self.index_checksums[shard]
        content = read_url(name, has_answered=True)
        index = ShardIndex.from_json(content)
        if expected and checksum_of(content) != expected:
            raise ValueError(f"{name} is not the index that {INDEX_FILE} lists: its checksum differs")
        return index

    def _file(self, url: str, num_bytes: int) -> BinaryIO:
        if not is_remote(url):
            return open_local(url)
        if self.cache is None:
            return asking_again(url, lambda: open_url(url, how="here and there"), has_answered=True)
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", url.rsplit("/", 1)[-1])[-100:]
        kept = self.cache / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"
        if not kept.exists() or kept.stat().st_size != num_bytes:
            partial = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
            mark_cache(self.cache)
            _remove_old_partials(kept)
            asking_again(url, lambda: _copy(url, partial, num_bytes), has_answered=True)
            if partial.stat().st_size != num_bytes:
                size = partial.stat().st_size
                partial.unlink()
                raise ValueError(f"expected {num_bytes} bytes, got {size}")
            os.replace(partial, kept)
        return kept.open("rb")


def _remove_old_partials(kept: Path) -> None:
    """Remove partial copies that killed processes left. A copy in progress grows, so it is younger."""
    for left in kept.parent.glob(f"{kept.name}.*.partial"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > OLD_SECONDS:
                left.unlink()


def _copy(url: str, target: Path, num_bytes: int) -> None:
    """Copy a file, but at most one byte more than expected."""
    left = num_bytes + 1
    with open_url(url, how="at once") as source, target.open("wb") as file:
        while left > 0 and (piece := source.read(min(left, 1 << 20))):
            file.write(piece[:left])
            left -= len(piece)


def index_shards(
    urls: Sequence[str],
    cache: Path | None = None,
    summaries: "Summaries | None" = None,
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
    tally: Tally | None = None,
) -> IndexedShards | None:
    """Index shards by their index files. Local shards without one are scanned.

    Args:
        urls: Paths or URLs of the shards.
        cache: Folder for copies of remote shards. Without it, they are read over the network in pieces.
        summaries: Summaries that were read before; new ones are added.
        max_field_bytes: Size limit of a field; reading a larger field is an error.
        tally: Counts members that are not fields, in shards without an index.

    Returns:
        The shards, or None if a shard behind a URL, or a compressed one, has no index.

    Raises:
        DataError: A shard is missing, truncated, or does not match its index.
    """
    summaries = {} if summaries is None else summaries
    lengths, scanned = [], {}
    for number, url in enumerate(urls):
        if is_pipe(url):
            return None
        folder, _, name = url.rpartition("/")
        source = f"{folder}/{INDEX_FILE}" if folder else INDEX_FILE
        if source not in summaries:
            content = read_url_if_there(source)
            summaries[source] = None if content is None else parse_summary(content, source)
        summary = summaries[source]
        if summary is not None and (name in summary or name.endswith(".tar")):
            if name not in summary:
                raise DataError(f"{url}: {source} does not list it; `shala index` rewrites the index")
            lengths.append(summary[name])
            if not is_remote(url):
                _check_size(url, summary[name][0])
            continue
        if is_remote(url) or not url.endswith(".tar"):
            return None
        try:
            with open_local(url) as file:
                if compression(file.read(MAGIC_BYTES)):
                    return None
                scanned[number] = scan_shard(file, tally=tally)
        except DataError as error:
            raise DataError(f"{url}: {error}") from error
        except DAMAGE as error:
            raise DataError(f"{url}: not a readable shard: {reason_of(error)}; copy or pack it again") from error
        if not scanned[number].samples and tally is not None:
            tally.skip(NOTHING_IN_IT, url)
        lengths.append(Listed(scanned[number].num_bytes, len(scanned[number].samples)))
    found = IndexedShards(urls, lengths, cache, max_field_bytes)
    found.scanned = scanned
    return found


Summaries = dict[str, dict[str, Listed] | None]
"""Name of each folder's index to its entries, or None if there is no index."""


def read_in_order(
    urls: Sequence[str],
    cache: Path | None = None,
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
    tally: Tally | None = None,
) -> Iterator[RawSample]:
    """Read every sample of each shard in order, and check it against the index if there is one.

    Args:
        urls: Paths or URLs of the shards.
        cache: Folder for copies of remote shards.
        max_field_bytes: Size limit of a field; a larger field is an error.
        tally: Counts members that are not fields, in shards without an index.

    Raises:
        DataError: A shard is missing, truncated, or does not match its index.
    """
    summaries: Summaries = {}
    for url in urls:
        shard = index_shards([url], cache, summaries, max_field_bytes=max_field_bytes, tally=tally)
        if shard is None:
            yield from read_shards([url], max_field_bytes=max_field_bytes, tally=tally)
            continue
        try:
            for number in range(shard.counts[0]):
                yield shard.read(0, number)
        finally:
            shard.close()


def read_spread(
    urls: Sequence[str],
    limit: int,
    cache: Path | None = None,
    *,
    max_field_bytes: int = MAX_FIELD_BYTES,
    tally: Tally | None = None,
) -> Iterator[RawSample]:
    """Read at most `limit` samples spread over the whole set, in order, or the first ones if its length is unknown.

    Args:
        urls: Paths or URLs of the shards.
        limit: Largest number of samples to read.
        cache: Folder for copies of remote shards.
        max_field_bytes: Size limit of a field; a larger field is an error.
        tally: Counts members that are not fields, in shards without an index.

    Raises:
        DataError: As `read_in_order`.
    """
    shards = index_shards(urls, cache, max_field_bytes=max_field_bytes, tally=tally)
    if shards is None:
        in_order = read_in_order(urls, cache, max_field_bytes=max_field_bytes, tally=tally)
        yield from islice(in_order, limit)
        return
    try:
        for position in spread_positions(len(shards), limit):
            yield shards.read(*shards.locate(position))
    finally:
        shards.close()


def _check_size(url: str, expected: int) -> None:
    try:
        size = local_path(url).stat().st_size
    except OSError as error:
        raise DataError(f"{url}: not a readable shard: {error.strerror}") from error
    if size != expected:
        raise DataError(
            f"{url}: expected {expected} bytes, as its index says, got {size}: it was truncated or changed; "
            "copy it again, or, if the change is intended, rewrite the index with `shala index`"
        )
