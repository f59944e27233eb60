"""`shala explore`: a local page for trying a run."""

import argparse
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from shala_framework.cli.held_out import held_out_rows
from shala_framework.cli.output import remark, say
from shala_framework.data.rows import Rows
from shala_framework.errors import DataError
from shala_framework.explore import OwnPageOnly, build_page
from shala_framework.machine import resolve_device
from shala_framework.model import load

_UPLOADS = "GRADIO_TEMP_DIR"  # where Gradio keeps what a person gives the page, from its import on


def explore(arguments: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    if not 1 <= arguments.port <= 65_535:
        raise DataError(f"expected --port of 1 to 65535, got {arguments.port}")
    model = load(arguments.run, device=resolve_device(arguments.device))
    rows: Rows | None = None
    try:
        rows = held_out_rows(model, arguments.run)
    except DataError as error:  # a model can be tried without the shards that it was trained on
        remark(f"no held-out rows to choose from: {error}")
    with _own_folder() as folder:
        page = build_page(model, rows, folder)
        say(f"serving on http://{arguments.host}:{arguments.port}; Ctrl-C ends it")
        page.launch(
            server_name=arguments.host,
            server_port=arguments.port,
            allowed_paths=[folder],
            share=False,
            quiet=True,
            prevent_thread_lock=False,
            app_kwargs={"middleware": [(OwnPageOnly, (), {"host": arguments.host})]},
        )
    return 0


@contextmanager
def _own_folder() -> Iterator[str]:
    """A folder for everything that the page writes, removed at the end, also where a signal brings it."""

    def stop(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    uploads = os.environ.get(_UPLOADS)
    try:
        with TemporaryDirectory(prefix="shala-explore-", dir=uploads or None, ignore_cleanup_errors=True) as folder:
            os.environ[_UPLOADS] = folder
            yield folder
    finally:
        if uploads is None:
            os.environ.pop(_UPLOADS, None)
        else:
            os.environ[_UPLOADS] = uploads
        for number, handler in before.items():
            signal.signal(number, handler)
