"""Shards: tar files in WebDataset's layout, in which the fields of a sample are adjacent and share one key.

The layout is WebDataset's but the reader is not: webdataset cannot seek to a sample, keep an exact order over workers
and processes, or tell a damaged tar file from a short one, so only its code for `pipe:` commands is used.
"""

from collections.abc import Collection, Iterable, Iterator

import attrs

from shala_framework.data.labels import read_label
from shala_framework.data.tally import NOTHING_IN_IT, Tally
from shala_framework.data.tar import (
    DAMAGE,
    MAX_FIELD_BYTES,
    Field,
    TarReader,
    by_sample,
    check_end,
    reason_of,
    uncompressed,
)
from shala_framework.support.errors import DataError
from shala_framework.support.urls import is_remote, open_local, open_stream

LABEL_FIELD = "cls"


@attrs.frozen
class RawSample:
    """One sample as stored in a shard: original bytes by field name."""

    key: str
    fields: dict[str, bytes]
    shard: str

    @property
    def label(self) -> str | None:
        """Text of the sample's label, as `read_label` returns it, or None.

        Raises:
            DataError: The label field is not UTF-8, is blank, or is no JSON object of attributes though it begins as
                one.
        """
        if LABEL_FIELD not in self.fields:
            return None
        try:
            return read_label(self.fields[LABEL_FIELD])
        except DataError as error:
            raise DataError(f"{self.shard}: sample {self.key!r}, field {LABEL_FIELD!r}: {error}") from error


def read_shards(
    urls: Iterable[str],
    *,
    wanted: Collection[str] | None = None,
    max_field_bytes: int = MAX_FIELD_BYTES,
    tally: Tally | None = None,
) -> Iterator[RawSample]:
    """Read the samples of each shard in order, without decoding. Shards may be compressed by gzip, bzip2 or xz.

    Args:
        urls: Paths or URLs of the shards.
        wanted: Fields to read; None reads all.
        max_field_bytes: Size limit of a field; a larger field is an error.
        tally: Counts members that are not fields.

    Raises:
        DataError: A shard is missing, truncated or not a tar file, has one key in two places, or has a member that
            would be lost, such as a link.
    """
    tally = Tally() if tally is None else tally
    for url in urls:
        num_samples, opened = 0, False
        try:
            # webdataset would start programs for URLs and leave files to the garbage collector.
            with open_stream(url) as stream:
                opened = True
                plain, is_compressed = uncompressed(stream)
                local = not is_remote(url) and not is_compressed
                reader = TarReader(plain, _checked_size(url) if local else None, on_skipped=tally.skip)

                def read(field: Field, reader: TarReader = reader) -> bytes | None:
                    return reader.read(field, max_field_bytes) if wanted is None or field.name in wanted else None

                for key, fields in by_sample(reader, read):
                    yield RawSample(key, fields, url)
                    num_samples += 1
                if not num_samples:
                    tally.skip(NOTHING_IN_IT, url)
        except DataError as error:
            if not opened:
                raise  # it names the URL
            raise DataError(f"{url}: {error}") from error
        except Exception as error:  # exceptions of clients, such as aiohttp's, are not subclasses of OSError
            if not isinstance(error, DAMAGE) and not is_remote(url):
                raise
            raise DataError(
                f"{url}: not a readable shard: {reason_of(error)}, after {num_samples} complete samples; "
                "copy or pack it again"
            ) from error


def _checked_size(url: str) -> int:
    with open_local(url) as file:
        return check_end(file)
