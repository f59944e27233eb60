"""Shards: tar files in WebDataset's layout, one sample's fields side by side under one key."""

import os
import tarfile
from collections.abc import Iterable, Iterator

import attrs
from webdataset.handlers import reraise_exception
from webdataset.tariterators import group_by_keys, tar_file_iterator

from shala_framework.errors import DataError
from shala_framework.urls import is_remote, local_path, open_stream

LABEL_FIELD = "cls"


@attrs.frozen
class RawSample:
    """One sample as it lies in a shard: original bytes by field name."""

    key: str
    fields: dict[str, bytes]
    shard: str

    @property
    def label(self) -> str | None:
        """The class name without white space around it, where the sample has one.

        Raises:
            DataError: The field of labels is not UTF-8, or says nothing.
        """
        if LABEL_FIELD not in self.fields:
            return None
        where = f"{self.shard}: sample {self.key!r}, field {LABEL_FIELD!r}"
        written = self.fields[LABEL_FIELD]
        try:
            label = written.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: expected the name of a class in UTF-8, got the byte 0x{written[error.start]:02x} at offset "
                f"{error.start} of {len(written)}; write it in UTF-8, or leave the field out"
            ) from error
        if not label:
            got = f"{len(written)} bytes of white space" if written else "0 bytes"
            raise DataError(
                f"{where}: expected the name of a class, got {got}; leave the field out where a sample has none"
            )
        return label


def read_shards(urls: Iterable[str]) -> Iterator[RawSample]:
    """Samples of each shard in order, without decoding.

    Raises:
        DataError: A shard is absent, cut short, no tar file, or holds one key in two places.
    """
    for url in urls:
        keys: set[str] = set()
        try:
            # Not opened by webdataset, which starts programs for URLs and leaves files to the garbage collector.
            with open_stream(url) as stream:
                _check_end(url)
                members = ({**m, "__url__": url} for m in tar_file_iterator(stream, handler=reraise_exception))
                for sample in group_by_keys(members, handler=reraise_exception):
                    key = sample["__key__"]
                    if key in keys:
                        raise DataError(
                            f"{url}: fields of {key!r} are not side by side; sort the tar file by name and try again"
                        )
                    keys.add(key)
                    fields = {name: data for name, data in sample.items() if not name.startswith("__")}
                    yield RawSample(key, fields, url)
        except DataError:
            raise
        except Exception as error:  # those of clients, such as aiohttp's, are none of OSError's
            if not isinstance(error, OSError | tarfile.TarError | EOFError | ValueError) and not is_remote(url):
                raise
            reason = getattr(error, "strerror", None) or (str(error.args[0]) if error.args else type(error).__name__)
            raise DataError(
                f"{url}: not a readable shard: {reason}; after {len(keys)} whole samples; copy or pack it again"
            ) from error


def _check_end(url: str) -> None:
    """Raise TarError where a local tar file lacks its end mark, as one that was cut between two members does."""
    if is_remote(url) or not url.endswith(".tar"):
        return
    with local_path(url).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1024))
        if size < 1024 or file.read().strip(b"\0"):
            raise tarfile.ReadError("cut short: its end mark is missing")
