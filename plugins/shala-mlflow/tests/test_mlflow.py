"""MLflow as a tracker: what a run logged is what the store returns."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from shala_mlflow import MLflow

from shala_framework.plugin import DataError, TrackedRun

NEEDED = ("mlflow", "sqlalchemy", "alembic")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
installed = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: the extra mlflow")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of several tests; making its database takes seconds."""
    return tmp_path_factory.mktemp("store")


def tracked(folder: Path) -> TrackedRun:
    folder.mkdir(exist_ok=True)
    spec = {"seed": 3, "prior": {"hidden_dim": 64}, "modality": {"a": {"options": {"long": "x" * 9_000}}}}
    return TrackedRun(name="two", folder=folder, spec=spec)


@installed
@pytest.mark.filterwarnings("default")  # of the libraries themselves
def test_figures_settings_and_files_can_be_read_back(tmp_path: Path, store: Path) -> None:
    """A resumed run continues the same run of the store; figures are by step, files keep their folders."""
    from mlflow import MlflowClient

    run, options = tracked(tmp_path / "run"), MLflow.Options(store=str(store))
    first = MLflow(options, run)
    first.resume("prior", 0)
    first.log("prior", 10, {"loss": 0.5, "denoising/given_1": 2.0})
    first.close()
    again = MLflow(options, run)
    again.resume("prior", 10)
    again.log("prior", 20, {"loss": 0.25})
    (run.folder / "samples").mkdir()
    files = [run.folder / "report.html", run.folder / "samples" / "joint.png"]
    for file in files:
        file.write_bytes(b"content")
    again.results(files)
    again.close()

    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("shala").experiment_id])
    assert (found.info.run_name, found.info.status) == ("two", "FINISHED")
    assert [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, "prior/loss")] == [
        (10, 0.5),
        (20, 0.25),
    ]
    assert found.data.metrics["prior/denoising/given_1"] == 2.0
    assert found.data.params["prior.hidden_dim"] == "64"
    assert [f.path for f in client.list_artifacts(found.info.run_id)] == ["report.html", "samples"]
    assert [f.path for f in client.list_artifacts(found.info.run_id, "samples")] == ["samples/joint.png"]
    assert list((store / "artifacts").rglob("joint.png"))


@installed
@pytest.mark.filterwarnings("default")
def test_a_run_without_results_was_stopped(tmp_path: Path, store: Path) -> None:
    """The status tells a run that ended early; a store that does not know the folder's run gets a new one."""
    run = tracked(tmp_path / "run")
    for folder in (store, tmp_path / "other"):
        tracker = MLflow(MLflow.Options(store=str(folder), experiment="mine"), run)
        tracker.log("autoencoder", 1, {"kl": 1.0})
        assert tracker._client.get_run(tracker._run_id).info.status == "RUNNING"
        tracker.close()
        assert tracker._client.get_run(tracker._run_id).info.status == "KILLED"


def test_without_the_library_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the library's name in the working directory is not the library."""
    folder = ModuleSpec("folder", None, is_package=True)
    for found in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        with pytest.raises(
            DataError, match=r"got no mlflow, sqlalchemy, alembic: `pip install .*shala-mlflow\[mlflow\]"
        ):
            MLflow(MLflow.Options(), tracked(tmp_path / "run"))
