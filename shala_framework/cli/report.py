"""`shala report`: rewrite the report of a run."""

from contextlib import closing
from pathlib import Path

from shala_framework.cli.commands import allow_pipe_flag, device_option, run_argument, verb


@verb("  shala report runs/ntu_rgb_skeleton\n")
@run_argument()
@device_option
@allow_pipe_flag
def report(run: Path, device: str) -> None:
    """Rewrite a run's report.html: samples, latent map, figures and curves on one page."""
    from shala_framework.cli.held_out import held_out_rows
    from shala_framework.cli.progress_display import make_reporter
    from shala_framework.report.page import Report
    from shala_framework.run.loading import load
    from shala_framework.support.machine import resolve_device

    model = load(run, device=resolve_device(device))
    with closing(make_reporter()) as reporter:
        Report(model, run, held_out_rows(model, run), reporter=reporter).write()
