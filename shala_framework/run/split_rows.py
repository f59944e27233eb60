"""The rows of a run's split, one after the other, as the run's modalities read them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import attrs
from torch import Tensor

from shala_framework.data.prepared import check_preparation
from shala_framework.data.random_access import read_in_order
from shala_framework.data.rows import Decoded, read_filled
from shala_framework.data.shard_cache import cache_of
from shala_framework.data.splits import Split, split_urls
from shala_framework.data.tally import Tally
from shala_framework.model import ShaLa
from shala_framework.run.hub import local_folder
from shala_framework.run.loading import load
from shala_framework.support.errors import DataError

CHUNK_ROWS = 256  # in memory at once


@attrs.frozen(kw_only=True, eq=False)
class SplitRow:
    """One row of a split.

    Attributes:
        key: Key of the row.
        label: Name of its class; where labels name attributes, JSON of their values; or None.
        x: Modality name to tensor, without a batch dimension, of the modalities that the row has.
    """

    key: str
    label: str | None
    x: dict[str, Tensor]


def rows(
    run: str | Path | ShaLa, split: Split = "validation", *, folder: str | Path | None = None
) -> Iterator[SplitRow]:
    """Read the rows of a split in the order of its shards: `for row in shala.rows("runs/mine", "test")`.

    Rows whose fields are all blank are left out.

    Args:
        run: Folder of a run or its name on the Hugging Face Hub, as `load` takes it, or its loaded model.
        split: "train", "validation" or "test".
        folder: Folder of a loaded model's run, which a run on a stand-in needs.

    Yields:
        Each row with the modalities that it has; a missing one has no key in `x`.

    Raises:
        DataError: The run has no shards of the split, or they cannot be read.
        CheckpointError: The folder is not that of a run.
    """
    if isinstance(run, ShaLa):
        model = run
    else:
        folder = local_folder(run)
        model = load(folder)
    for chunk in decoded_chunks(model, None if folder is None else Path(folder), split, Tally()):
        for row in chunk:
            x = {name: value for name, value in row.x.items() if value is not None}
            yield SplitRow(key=row.key, label=row.label, x=x)


def decoded_chunks(model: ShaLa, folder: Path | None, split: Split, tally: Tally) -> Iterator[list[Decoded]]:
    """Decode the rows of a split, some at a time.

    Args:
        model: Model of the run.
        folder: Folder of the run, which has the shards of a stand-in.
        split: Which split.
        tally: Counts what is skipped.

    Raises:
        DataError: The run has no shards of the split, or they cannot be read.
    """
    data = model.spec.data
    if model.synthetic and folder is None:
        raise DataError(
            "expected the folder of the run, because it trained on a stand-in whose shards lie in it, got none"
        )
    urls = split_urls(data, split, folder if model.synthetic else None)
    if not urls:
        raise DataError(
            f"expected shards of the {split} split, got none: the spec has no data.{split}; name them with "
            f"--set data.{split}=..., or choose another --split"
        )
    check_preparation(urls, model.modalities)
    raws = read_in_order(urls, cache_of(data), max_field_bytes=data.max_field_bytes, tally=tally)
    while chunk := list(islice(raws, CHUNK_ROWS)):
        yield read_filled(chunk, model.modalities, tally)
