"""The GPU check on a CPU: its parts finish and write their results."""

import json
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parent.parent


def test_parts_run_on_a_cpu(tmp_path):
    """An exchange in a group of one changes no gradient, and the check writes a table of both parts."""
    if "image" not in {entry.name for entry in entry_points(group="shala.plugins")}:
        pytest.skip("plugin not installed: image")
    line = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--out", str(tmp_path), "--device", "cpu"]
    done = subprocess.run([*line, "--only", "nccl", "prior"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in ("nccl", "prior")}
    assert found["nccl"]["figures"]["difference of gradients exchanged by gloo"] == "0"
    assert float(found["prior"]["figures"]["steps/s of stage 2, 16 rows, in the loop"]) > 0
    assert (tmp_path / "table.md").read_text().count("**") == 4


def test_a_part_that_outlasts_its_deadline_is_stopped_and_reported(tmp_path):
    """The results of the other parts are kept, and the exit status reports the failure."""
    line = [sys.executable, str(ROOT / "benchmarks" / "gpu_check.py"), "--out", str(tmp_path), "--device", "cpu"]
    code = f"""
import sys
sys.argv = {[*line[1:], "--only", "equality"]!r}
sys.path.insert(0, {str(ROOT / "benchmarks")!r})
import gpu_check
gpu_check.DEADLINES["equality"] = 1
gpu_check.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "cut at 1 s" in (tmp_path / "table.md").read_text()
