"""The notebooks in examples/ run from top to bottom, with few steps of training."""

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))
PACKAGES = {"shala_image", "shala_text", "shala_datasets"}
STEPS = "AUTOENCODER_STEPS, PRIOR_STEPS = 500, 1_000"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch, capsys):
    """All code cells run in order in one namespace; the model loaded at the end samples like the trained one."""
    missing = PACKAGES - {entry.value for entry in entry_points(group="shala.plugins")}
    if missing:
        pytest.skip(f"plugins not installed: {sorted(missing)}")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sum(text.count(STEPS) for text in code) == 1
    names = {}
    for number, text in enumerate(code):
        few = text.replace(STEPS, STEPS.replace("500, 1_000", "4, 8")).replace("range(2_000)", "range(60)")
        exec(compile(few, f"{path.name}, code cell {number}", "exec"), names)
    assert names["drawn"].shape == (2, 4, 3, 32, 32)
    assert capsys.readouterr().out.splitlines()[-1] == "True"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_made(path):
    """Every code cell was executed in order, and none ended in an error."""
    code = [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds
    assert kinds.count("execute_result") >= 3, "pictures of the data, of joint and of conditional samples"
