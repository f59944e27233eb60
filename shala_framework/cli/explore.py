"""`shala explore`: a local page for trying a run."""

import argparse
from tempfile import TemporaryDirectory

from shala_framework.cli.held_out import held_out_rows
from shala_framework.data.rows import Rows
from shala_framework.errors import DataError
from shala_framework.explore import build_page
from shala_framework.machine import resolve_device
from shala_framework.model import load


def explore(arguments: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    model = load(arguments.run, device=resolve_device(arguments.device))
    rows: Rows | None = None
    try:
        rows = held_out_rows(model, arguments.run)
    except DataError as error:  # a model can be tried without the shards that it was trained on
        print(f"no held-out rows to choose from: {error}")
    with TemporaryDirectory() as folder:
        page = build_page(model, rows, folder)
        print(f"serving on http://{arguments.host}:{arguments.port}; Ctrl-C ends it", flush=True)
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            allowed_paths=[folder],
            share=False,
            quiet=True,
            prevent_thread_lock=False,
        )
    return 0
