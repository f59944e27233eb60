"""`shala explore`: serve a local page for trying a run."""

import importlib.util
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from shala_framework.cli.commands import allow_pipe_flag, device_option, option, run_argument, verb
from shala_framework.cli.output import remark, say
from shala_framework.support.errors import DataError, ShalaError

_UPLOADS = "GRADIO_TEMP_DIR"  # the folder of Gradio's uploads; Gradio reads this variable on import


@verb("  shala explore runs/ntu_rgb_skeleton\n  shala explore runs/mine --port 8000\n")
@run_argument(on_hub=True)
@option("--host", default="127.0.0.1", metavar="ADDRESS", help="Address to serve on; by default only this machine.")
@option("--port", type=int, default=7860, metavar="N", help="Port to serve on.")
@device_option
@allow_pipe_flag
def explore(run: Path | str, host: str, port: int, device: str) -> None:
    """Serve a local page to try a run: give some modalities and get the others."""
    if not 1 <= port <= 65_535:
        raise DataError(f"expected --port of 1 to 65535, got {port}")
    if importlib.util.find_spec("gradio") is None:
        raise ShalaError("shala explore needs Gradio: pip install '.[explore]' in the checkout")
    _check_free(host, port)
    remark(f"loading {run}; the page opens in a few seconds")
    from shala_framework.cli.held_out import held_out_rows
    from shala_framework.report.explore import OwnPageOnly, build_page
    from shala_framework.run.hub import local_folder
    from shala_framework.run.loading import load
    from shala_framework.support.machine import resolve_device

    run_folder = local_folder(run)
    model = load(run_folder, device=resolve_device(device))
    rows = None
    try:
        rows = held_out_rows(model, run_folder)
    except DataError as error:  # a model works without its training shards
        remark(f"no held-out rows to choose from: {error}")
    with _own_folder() as folder:
        page = build_page(model, rows, folder)
        say(f"serving on http://{host}:{port}; press Ctrl-C to stop")
        page.launch(
            server_name=host,
            server_port=port,
            allowed_paths=[folder],
            share=False,
            quiet=True,
            prevent_thread_lock=False,
            app_kwargs={"middleware": [(OwnPageOnly, (), {"host": host})]},
        )


def _check_free(host: str, port: int) -> None:
    """Check the address before the model is loaded, which takes a while.

    Raises:
        DataError: This machine has no such address, or another program serves on it.
    """
    try:
        socket.create_server(
            (host.strip("[]"), port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ).close()
    except OSError as error:
        raise DataError(
            f"cannot serve on {host}, port {port}: {error.strerror or error}; choose another --port or --host"
        ) from error


@contextmanager
def _own_folder() -> Iterator[str]:
    """Create a folder for all files that the page writes. Remove it at the end, even if a signal ends the program."""

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
