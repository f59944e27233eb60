"""Find the samples of shards: by their index files, or by reading the headers of shards on disk."""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice

from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.order import spread_positions
from shala_framework.data.sample_table import SampleTable
from shala_framework.data.shard_cache import CopyFolder
from shala_framework.data.shard_index import INDEX_FILE, Listed, parse_summary, scan_shard
from shala_framework.data.shards import RawSample, read_shards
from shala_framework.data.tally import NOTHING_IN_IT, Tally
from shala_framework.data.tar import DAMAGE, MAGIC_BYTES, MAX_FIELD_BYTES, compression, reason_of
from shala_framework.support.errors import DataError
from shala_framework.support.urls import is_pipe, is_remote, local_path, open_local, read_url_if_there

SAMPLES_AT_ONCE = 16  # that are read from a server together, where they are read in order


def index_shards(
    urls: Sequence[str],
    cache: CopyFolder | None = None,
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
                scanned[number] = SampleTable(scan_shard(file, tally=tally))
        except DataError as error:
            raise DataError(f"{url}: {error}") from error
        except DAMAGE as error:
            raise DataError(f"{url}: not a readable shard: {reason_of(error)}; copy or pack it again") from error
        if not len(scanned[number]) and tally is not None:
            tally.skip(NOTHING_IN_IT, url)
        lengths.append(Listed(scanned[number].num_bytes, len(scanned[number])))
    found = IndexedShards(urls, lengths, cache, max_field_bytes)
    found.scanned = scanned
    return found


Summaries = dict[str, dict[str, Listed] | None]
"""Name of each folder's index to its entries, or None if there is no index."""


def read_in_order(
    urls: Sequence[str],
    cache: CopyFolder | None = None,
    *,
    wanted: Collection[str] | None = None,
    max_field_bytes: int = MAX_FIELD_BYTES,
    tally: Tally | None = None,
) -> Iterator[RawSample]:
    """Read every sample of each shard in order, and check it against the index if there is one.

    Args:
        urls: Paths or URLs of the shards.
        cache: Folder for copies of remote shards.
        wanted: Fields to read; None for all.
        max_field_bytes: Size limit of a field; a larger field is an error.
        tally: Counts members that are not fields, in shards without an index.

    Raises:
        DataError: A shard is missing, truncated, or does not match its index.
    """
    summaries: Summaries = {}
    for url in urls:
        shard = index_shards([url], cache, summaries, max_field_bytes=max_field_bytes, tally=tally)
        if shard is None:
            yield from read_shards([url], wanted=wanted, max_field_bytes=max_field_bytes, tally=tally)
            continue
        try:
            count, size = shard.counts[0], SAMPLES_AT_ONCE if shard.is_remote else 1
            parts = (range(begin, min(begin + size, count)) for begin in range(0, count, size))
            yield from chain.from_iterable(shard.read_ahead(([(0, n) for n in part] for part in parts), wanted))
        finally:
            shard.close()


def read_spread(
    urls: Sequence[str],
    limit: int,
    cache: CopyFolder | None = None,
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
