"""Weights & Biases as a tracker: figures by the steps of their stage, the settings, pictures and the report."""

import importlib
import importlib.util
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import attrs

from shala_framework.plugin import DataError, TrackedRun, Tracker, hookimpl, not_empty

RUN_ID_FILE = "wandb_run_id.txt"
PICTURES = (".png",)


@final
class Wandb(Tracker):
    """Writes a run of Weights & Biases, offline unless an option says otherwise."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of the tracker.

        Attributes:
            project: Project of the run.
            entity: User or team that owns the project. The default is that of your login.
            mode: "offline" writes into the folder `wandb` of the run, which `wandb sync` sends later; "online" sends
                everything to a server during the run.
            tags: Tags of the run.
            results: Whether pictures of samples, the report and evaluations are logged at the end.
        """

        project: str = attrs.field(default="shala", validator=not_empty)
        entity: str | None = None
        mode: Literal["offline", "online"] = "offline"
        tags: tuple[str, ...] = ()
        results: bool = True

    def __init__(self, options: Options, run: TrackedRun) -> None:
        super().__init__(options, run)
        spec = importlib.util.find_spec("wandb")
        if spec is None or spec.origin is None:  # a folder of this name in the working directory has no origin
            raise DataError(
                "expected the package wandb, got none: `pip install './plugins/shala-wandb[wandb]'`, or remove the "
                "table"
            )
        self._wandb: Any = importlib.import_module("wandb")
        self._run: Any = self._wandb.init(
            project=options.project,
            entity=options.entity,
            name=run.name,
            tags=list(options.tags),
            dir=str(run.folder),
            mode=options.mode,
            config=run.spec,
            id=_run_id(run.folder),
            resume="allow",
            settings=self._wandb.Settings(console="off", silent=True),
        )
        self._stages: set[str] = set()
        self._succeeded = False

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Log figures as `stage/name`, over the steps of their stage."""
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/step")
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step} | {f"{stage}/{name}": value for name, value in figures.items()})

    def results(self, files: Sequence[Path]) -> None:
        """Log pictures to look at, and all files as one artifact."""
        self._succeeded = True
        if not self.options.results or not files:
            return
        artifact = self._wandb.Artifact(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.run.name)}-results", type="results")
        for file in files:
            artifact.add_file(str(file), name=file.relative_to(self.run.folder).as_posix())
        self._run.log_artifact(artifact)
        pictures = {
            file.relative_to(self.run.folder).with_suffix("").as_posix(): self._wandb.Image(str(file))
            for file in files
            if file.suffix in PICTURES
        }
        if pictures:
            self._run.log(pictures)

    def close(self) -> None:
        self._run.finish(exit_code=0 if self._succeeded else 1)


def _run_id(folder: Path) -> str:
    """Return the id of the folder's run, which a resumed run has again."""
    file = folder / RUN_ID_FILE
    if file.exists():
        return file.read_text().strip()
    run_id = uuid.uuid4().hex[:16]
    file.write_text(run_id + "\n")
    return run_id


@hookimpl
def shala_register_trackers(register: Any) -> None:
    register("wandb", Wandb)
