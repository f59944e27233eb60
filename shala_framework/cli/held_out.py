"""Read the held-out rows of a finished run, for verbs that show them."""

from pathlib import Path

from shala_framework.cli.output import remark
from shala_framework.data.rows import Rows
from shala_framework.data.splits import came_from_python, split_urls
from shala_framework.data.streams import load_rows_in_workers
from shala_framework.model import ShaLa


def held_out_rows(model: ShaLa, folder: Path) -> Rows | None:
    """Read a run's validation rows, as many as the run kept in memory; None if its spec names no validation shards.

    Rows that came from Python are in no file: the verb does without them and says so.

    Raises:
        DataError: The shards are missing or cannot be read.
    """
    if came_from_python(model.spec.data, "validation"):
        remark("the validation rows of this run came from Python and are in no file: they are left out")
        return None
    urls = split_urls(model.spec.data, "validation", folder if model.synthetic else None)
    data = model.spec.data
    if not urls:
        return None
    return load_rows_in_workers(
        urls,
        model.modalities,
        limit=data.validation_samples,
        num_workers=data.num_workers,
        max_field_bytes=data.max_field_bytes,
    )
