"""MLflow as a tracker: figures by the steps of their stage, the settings, pictures and the report."""

import importlib
import importlib.util
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import attrs

from shala_framework.plugin import DataError, TrackedRun, Tracker, hookimpl, not_empty

RUN_ID_FILE = "mlflow_run_id.txt"
LONGEST_VALUE = 500  # characters of a setting, the limit of older servers
MOST_SETTINGS = 100  # settings of one call


@final
class MLflow(Tracker):
    """Writes a run of MLflow into a local folder, or to a server."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of the tracker.

        Attributes:
            store: Folder for the database and the files of all runs, or the URI of a server.
            experiment: Experiment of the run.
            results: Whether pictures of samples, the report and evaluations are logged at the end.
        """

        store: str = attrs.field(default="mlflow_runs", validator=not_empty)
        experiment: str = attrs.field(default="shala", validator=not_empty)
        results: bool = True

    def __init__(self, options: Options, run: TrackedRun) -> None:
        super().__init__(options, run)
        is_folder = "://" not in options.store
        needed = ("mlflow", *(("sqlalchemy", "alembic") if is_folder else ()))
        missing = [name for name in needed if not _is_installed(name)]
        if missing:
            raise DataError(
                f"expected the packages {', '.join(needed)}, got no {', '.join(missing)}: "
                "`pip install './plugins/shala-mlflow[mlflow]'`, or remove the table"
            )
        mlflow: Any = importlib.import_module("mlflow")
        self._entities: Any = importlib.import_module("mlflow.entities")
        uri, files = options.store, None
        if is_folder:
            folder = Path(options.store).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            uri, files = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self._client: Any = mlflow.MlflowClient(uri)
        self._succeeded = False
        found = self._client.get_experiment_by_name(options.experiment)
        experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(options.experiment, artifact_location=files)
        )
        self._run_id = self._known_run(mlflow) or self._new_run(experiment)

    def _known_run(self, mlflow: Any) -> str | None:
        """Return the id of the folder's run if the store has it; the run is then under way again."""
        file = self.run.folder / RUN_ID_FILE
        if not file.exists():
            return None
        run_id = file.read_text().strip()
        try:
            self._client.update_run(run_id, status="RUNNING")
        except mlflow.exceptions.MlflowException:
            return None  # another store, or a removed run
        return run_id

    def _new_run(self, experiment: str) -> str:
        run_id: str = self._client.create_run(
            experiment, run_name=self.run.name, tags={"shala.folder": str(self.run.folder)}
        ).info.run_id
        settings = [
            self._entities.Param(_allowed(key), str(value)[:LONGEST_VALUE]) for key, value in _flat(self.run.spec)
        ]
        for start in range(0, len(settings), MOST_SETTINGS):
            self._client.log_batch(run_id, params=settings[start : start + MOST_SETTINGS])
        (self.run.folder / RUN_ID_FILE).write_text(run_id + "\n")
        return run_id

    def log(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """Log figures as `stage/name` at their step."""
        now = round(time.time() * 1000)
        metrics = [
            self._entities.Metric(_allowed(f"{stage}/{name}"), value, now, step) for name, value in figures.items()
        ]
        self._client.log_batch(self._run_id, metrics=metrics)

    def results(self, files: Sequence[Path]) -> None:
        """Log the files with the folders that they have in the run."""
        self._succeeded = True
        if self.options.results:
            for file in files:
                folder = file.parent.relative_to(self.run.folder).as_posix()
                self._client.log_artifact(self._run_id, str(file), None if folder == "." else folder)

    def close(self) -> None:
        self._client.set_terminated(self._run_id, status="FINISHED" if self._succeeded else "KILLED")


def _is_installed(name: str) -> bool:
    """Return whether a package is installed; a folder of its name in the working directory does not count."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _flat(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield every setting with the path of its key."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def _allowed(name: str) -> str:
    """Replace characters that MLflow does not allow in a name."""
    return re.sub(r"[^\w./ -]", "_", name)


@hookimpl
def shala_register_trackers(register: Any) -> None:
    register("mlflow", MLflow)
