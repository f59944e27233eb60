"""`shala report`: the page that a run ends with, made anew."""

import argparse
from contextlib import closing

from shala_framework.cli.progress import make_reporter
from shala_framework.data.rows import Rows, load_rows
from shala_framework.data.splits import STAND_IN_FOLDER, split_urls
from shala_framework.model import load
from shala_framework.report.page import write_report


def report(arguments: argparse.Namespace) -> int:
    """Write the page."""
    model = load(arguments.run)
    urls = split_urls(model.spec.data, "validation", arguments.run / STAND_IN_FOLDER if model.synthetic else None)
    with closing(make_reporter()) as reporter:
        held_out: Rows | None = None
        if urls:
            held_out = load_rows(urls, model.modalities, limit=model.spec.data.validation_samples)
        write_report(model, arguments.run, held_out, reporter=reporter)
    return 0
