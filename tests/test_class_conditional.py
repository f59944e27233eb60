"""Labels and tables from the command line: a folder is packed, a run trained, and classes sampled."""

import json
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from shala_framework.cli.main import main

SPEC = """\
schema = 1
name = "two"
[data]
train = "shards/train-*.tar"
validation = "shards/validation-*.tar"
in_memory = true
[modality.kind]
plugin = "label"
options = { balance = 0.5, width = 16 }
[modality.record]
plugin = "table"
options = { width = 16 }
[posterior]
latent_dim = 2
feature_dim = 16
hidden_dim = 32
[prior]
hidden_dim = 32
num_blocks = 1
[generate]
num_joint = 2
num_rows = 2
[train]
precision = "float32"
[train.autoencoder]
steps = 200
batch_size = 64
warmup_steps = 10
kl_warmup_steps = 20
learning_rate = 5e-3
[train.prior]
steps = 200
batch_size = 64
warmup_steps = 10
learning_rate = 5e-3
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points of the plugins that are only on the path, as in a checkout."""
    pytest.importorskip("shala_label")
    pytest.importorskip("shala_table")
    there = {entry.name for entry in entry_points(group="shala.plugins")}
    if "folder" not in there:
        pytest.skip("plugins not installed: ['folder']")
    for name in {"label", "table"} - there:
        info = tmp_path / "site" / f"shala_{name}-0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shala-{name}\nVersion: 0\n")
        (info / "entry_points.txt").write_text(f"[shala.plugins]\n{name} = shala_{name}\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)


def called(*arguments: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    assert leaving.value.code == 0, arguments


def records(folder: Path) -> list[dict[str, float | str]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("*.table.json"))]


def test_a_class_is_sampled_from_the_command_line(installed: None, capsys: pytest.CaptureFixture[str]) -> None:
    """`shala pack folder` keeps labels and rows; rows sampled given a class are those of it, in their own units.

    A file of a class that there is not is refused with the names that there are.
    """
    generator = np.random.default_rng(0)
    Path("files").mkdir()
    for number in range(160):
        high = number % 4 == 0
        row = {"dose": float(generator.normal(5_000 if high else 1_000, 300)), "site": "AB"[high]}
        if number % 7 == 0:
            row["dose"] = None
        Path(f"files/{number:03}.table.json").write_text(json.dumps(row))
        Path(f"files/{number:03}.cls").write_text("high\n" if high else "low\n")
    Path("spec.toml").write_text(SPEC)
    called("pack", "folder", "files", "shards")
    called("check", "spec.toml")
    called("run", "spec.toml", "--out", "runs/two")
    for name in ("high", "low"):
        Path(f"{name}.cls").write_text(name)
        called("sample", "runs/two", "--given", f"kind={name}.cls", "--num", "24", "--out", name)
    high, low = records(Path("high")), records(Path("low"))
    assert len(high) == len(low) == 24
    assert 4_000 < np.median([row["dose"] for row in high]) < 6_000
    assert 500 < np.median([row["dose"] for row in low]) < 1_500
    assert sum(row["site"] == "B" for row in high) > 18
    assert sum(row["site"] == "A" for row in low) > 18

    given = next(Path("low").rglob("*.table.json"))
    called("sample", "runs/two", "--given", f"record={given}", "--num", "8", "--out", "kinds")
    kinds = [path.read_text() for path in Path("kinds").rglob("*.label.txt")]
    assert len(kinds) == 8
    assert kinds.count("low\n") > 4
    Path("medium.cls").write_text("medium")
    capsys.readouterr()
    with pytest.raises(SystemExit) as leaving:
        main(["sample", "runs/two", "--given", "kind=medium.cls", "--out", "none"])
    assert leaving.value.code == 2
    assert "expected one of the 2 classes 'high', 'low', got 'medium'" in capsys.readouterr().err
