"""`shala report`: the page that a run ends with, made anew."""

import argparse
from contextlib import closing

from shala_framework.cli.held_out import held_out_rows
from shala_framework.cli.progress import make_reporter
from shala_framework.machine import resolve_device
from shala_framework.model import load
from shala_framework.report.page import Report


def report(arguments: argparse.Namespace) -> int:
    """Write the page."""
    model = load(arguments.run, device=resolve_device(arguments.device))
    with closing(make_reporter()) as reporter:
        Report(model, arguments.run, held_out_rows(model, arguments.run), reporter=reporter).write()
    return 0
