"""What the benchmarks' scripts share of a run's folder."""

from pathlib import Path

from shala_framework.data.rows import Rows, load_rows
from shala_framework.data.splits import STAND_IN_FOLDER, Split, split_urls
from shala_framework.model import ShaLa


def rows_of(run: Path, model: ShaLa, split: Split) -> Rows:
    """Rows of a split, of the stand-in's where the run was trained on it."""
    urls = split_urls(model.spec.data, split, run / STAND_IN_FOLDER if model.synthetic else None)
    return load_rows(urls, model.modalities)
