"""Shards: tar files in WebDataset's layout, one sample's fields side by side under one key."""

from collections.abc import Collection, Iterable, Iterator

import attrs
from webdataset.gopen import gopen

from shala_framework.data.tally import Tally
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
from shala_framework.errors import DataError
from shala_framework.urls import is_remote, local_path

LABEL_FIELD = "cls"


@attrs.frozen
class RawSample:
    """One sample as it lies in a shard: original bytes by field name."""

    key: str
    fields: dict[str, bytes]
    shard: str

    @property
    def label(self) -> str | None:
        """The class name, where the sample has one."""
        return self.fields[LABEL_FIELD].decode() if LABEL_FIELD in self.fields else None


def read_shards(
    urls: Iterable[str],
    *,
    wanted: Collection[str] | None = None,
    max_field_bytes: int = MAX_FIELD_BYTES,
    tally: Tally | None = None,
) -> Iterator[RawSample]:
    """Samples of each shard in order, without decoding; shards may be compressed by gzip, bzip2 or xz.

    Args:
        urls: Of the shards.
        wanted: Fields to read; None for all.
        max_field_bytes: A field of more bytes is an error.
        tally: Counts members that are no fields.

    Raises:
        DataError: A shard is absent, cut short, no tar file, holds one key in two places, or a member that would be
            lost, such as a link.
    """
    tally = Tally() if tally is None else tally
    for url in urls:
        num_samples = 0
        try:
            # Opened here and not by webdataset's own pipeline, which leaves the file to the garbage collector.
            with gopen(url, "rb") as stream:
                plain, is_compressed = uncompressed(stream)
                local = not is_remote(url) and not is_compressed and local_path(url).is_file()
                reader = TarReader(plain, _checked_size(url) if local else None, on_skipped=tally.skip)

                def read(field: Field, reader: TarReader = reader) -> bytes | None:
                    return reader.read(field, max_field_bytes) if wanted is None or field.name in wanted else None

                for key, fields in by_sample(reader, read):
                    yield RawSample(key, fields, url)
                    num_samples += 1
        except DataError as error:
            raise DataError(f"{url}: {error}") from error
        except DAMAGE as error:
            raise DataError(
                f"{url}: not a readable shard: {reason_of(error)}; after {num_samples} whole samples; "
                "copy or pack it again"
            ) from error


def _checked_size(url: str) -> int:
    with open(local_path(url), "rb") as file:
        return check_end(file)
