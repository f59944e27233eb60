"""Weights & Biases as a tracker: what a run logged is what its offline file holds."""

import importlib.util
import json
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from shala_wandb import RUN_ID_FILE, Wandb

from shala_framework.plugin import DataError, TrackedRun, encode_png

BLOCK, FULL, LAST = 32_768, 1, 4

installed = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb: the extra wandb")


def tracked(folder: Path) -> TrackedRun:
    folder.mkdir(exist_ok=True)
    return TrackedRun(name="zwei ä", folder=folder, spec={"seed": 3, "prior": {"hidden_dim": 64}})


def records(file: Path):
    """Yield the records of an offline run: a log in the format of LevelDB, of Protocol Buffers."""
    from wandb.proto import wandb_internal_pb2

    content, place, data = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        left = BLOCK - place % BLOCK
        if left < 7:  # the rest of a block that is too short for a header
            place += left
            continue
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        data += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (FULL, LAST):
            yield wandb_internal_pb2.Record.FromString(data)
            data = b""


def logged(record) -> dict[str, object]:
    """Return the values of a record of the history."""
    return {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}


def offline_files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


@installed
@pytest.mark.filterwarnings("default")  # of the library itself
def test_figures_settings_and_files_can_be_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run has the same id; figures are by the steps of their stage, and files are in an artifact."""
    import numpy as np
    import wandb

    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    run = tracked(tmp_path / "run")
    first = Wandb(Wandb.Options(), run)
    first.resume("prior", 0)
    first.log("prior", 10, {"loss": 0.5})
    first.log("prior", 20, {"loss": 0.25})
    first.close()
    wandb.teardown()  # otherwise at the end of the process: it ends the service that writes the file
    (file,) = offline_files(run.folder)
    found = list(records(file))
    history = [logged(record) for record in found if record.WhichOneof("record_type") == "history"]
    assert [(row["prior/step"], row["prior/loss"]) for row in history] == [(10, 0.5), (20, 0.25)]
    config = {item.key: json.loads(item.value_json) for record in found for item in record.run.config.update}
    assert config["prior"] == {"hidden_dim": 64}
    defined = [record.metric for record in found if record.WhichOneof("record_type") == "metric"]
    assert any(metric.glob_name == "prior/*" and metric.step_metric == "prior/step" for metric in defined)
    run_id = (run.folder / RUN_ID_FILE).read_text().strip()
    assert {record.run.run_id for record in found if record.WhichOneof("record_type") == "run"} == {run_id}

    again = Wandb(Wandb.Options(project="mine"), run)
    (run.folder / "samples").mkdir()
    files = [run.folder / "report.html", run.folder / "samples" / "joint.png"]
    files[0].write_text("<p>report</p>")
    files[1].write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    again.results(files)
    again.close()
    wandb.teardown()
    found = [record for file in offline_files(run.folder) for record in records(file)]
    assert {r.run.run_id for r in found if r.WhichOneof("record_type") == "run"} == {run_id}
    artifacts = [
        record.request.log_artifact.artifact if record.request.HasField("log_artifact") else record.artifact
        for record in found
        if record.WhichOneof("record_type") == "artifact" or record.request.HasField("log_artifact")
    ]
    (results,) = [artifact for artifact in artifacts if artifact.type == "results"]
    assert results.name == "zwei__-results"
    assert {entry.path for entry in results.manifest.contents} == {"report.html", "samples/joint.png"}
    assert "samples/joint._type" in {name for record in found for name in logged(record)}


def test_without_the_library_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of the library's name in the working directory is not the library."""
    folder = ModuleSpec("folder", None, is_package=True)
    for found in (None, folder):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, found=found: found)
        with pytest.raises(
            DataError, match=r"expected the package wandb, got none: `pip install .*shala-wandb\[wandb\]"
        ):
            Wandb(Wandb.Options(), tracked(tmp_path / "run"))
