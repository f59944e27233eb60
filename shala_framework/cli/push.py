"""`shala push`: put a run's model on the Hugging Face Hub."""

from pathlib import Path

from shala_framework.cli.commands import argument, flag, option, run_argument, verb
from shala_framework.cli.output import remark, say


@verb(
    "  shala push runs/mine hf://me/mine\n  shala push runs/mine hf://me/mine --public --message 'Train for longer'\n"
)
@run_argument()
@argument("repository", "hf://OWNER/NAME, which is created if there is none.")
@flag("--public", "Let everybody read the repository, if it is created now.")
@option("--message", default="Upload a model of shala_framework", help="Message of the commit.")
def push(run: Path, repository: str, public: bool, message: str) -> None:
    """Push a run's checkpoints, spec.json and model card to the Hugging Face Hub; samples and the report stay here."""
    from shala_framework.report.card import CARD_FILE
    from shala_framework.run.hub import parse_hub_name
    from shala_framework.run.pushing import push as push_run

    name = parse_hub_name(repository)
    if run.is_dir() and not (run / CARD_FILE).exists():
        remark(f"{run} has no model card, {CARD_FILE}; `shala report {run}` writes one")
    say(push_run(run, name, private=not public, message=message))
