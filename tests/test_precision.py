"""bfloat16 is used only if the device has units for it and a measurement finds it faster."""

import re
from pathlib import Path

import pytest
import torch

from shala_framework.cli.main import dispatch
from shala_framework.spec import read_spec
from shala_framework.support.errors import SpecError
from shala_framework.training import precision
from shala_framework.training.precision import bfloat16_speedup, choose_precision, doubt_precision

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Set what the processor reports and what a measurement finds."""

    def set_machine(units: bool, speedup: float) -> None:
        monkeypatch.setattr(precision, "has_bfloat16_units", lambda _: units)
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda _: speedup)

    return set_machine


@pytest.mark.parametrize(
    ("units", "speedup", "expected"),
    [(False, 5.0, "float32"), (True, 0.02, "float32"), (True, 1.0, "float32"), (True, 2.5, "bfloat16")],
)
def test_auto_takes_units_and_a_measurement(machine, units, speedup, expected):
    """Neither a processor flag nor a measurement is sufficient alone."""
    machine(units, speedup)
    assert choose_precision("auto", CPU).name == expected


def test_every_spec_leaves_the_choice_to_the_hardware(machine, tmp_path, monkeypatch):
    """No shipped spec, stand-in or comment selects bfloat16 on a CPU without units for it."""
    pytest.importorskip("shala_datasets")
    monkeypatch.chdir(tmp_path)
    for path in sorted((ROOT / "specs").glob("*.toml")):
        comment = " ".join(line for line in path.read_text().splitlines() if line.startswith("#     --set "))
        for overrides in ([], re.findall(r"--set (\S+)", comment)):
            train = read_spec(path, overrides).spec.train
            machine(units=False, speedup=0.02)
            assert choose_precision(train.precision, CPU).name == "float32", (path, overrides)
            machine(units=True, speedup=3.0)
            assert choose_precision(train.precision, CPU).name == "bfloat16", (path, overrides)


def test_nothing_that_is_documented_asks_for_bfloat16():
    """Neither a documented command nor a benchmark selects a format itself."""
    asking = re.compile(r"precision\s*[=:]\s*['\"]?bfloat16|torch\.bfloat16")
    files = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.py")]
    files += [*(ROOT / "specs").glob("*.toml"), *(ROOT / "examples").rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if asking.search(path.read_text())] == []


def test_the_measurement_tells_an_emulated_format(monkeypatch):
    """The measurement recognises a product that takes ten times as long in bfloat16, and one that takes as long."""
    spent = {torch.float32: 0.001, torch.bfloat16: 0.01}
    monkeypatch.setattr(precision, "_seconds_of_product", lambda matrix: spent[matrix.dtype])
    bfloat16_speedup.cache_clear()
    assert bfloat16_speedup(CPU) == pytest.approx(0.1)
    bfloat16_speedup.cache_clear()


def test_insisting_on_a_slower_format_warns_with_the_ratio(machine):
    machine(units=False, speedup=0.02)
    assert "takes 50 times as long" in doubt_precision(choose_precision("bfloat16", CPU))
    assert doubt_precision(choose_precision("auto", CPU)) == ""
    machine(units=True, speedup=2.0)
    assert doubt_precision(choose_precision("bfloat16", CPU)) == ""


def test_a_device_that_cannot_is_an_error(monkeypatch):
    """An old CUDA device is refused with its capability and what to set."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    with pytest.raises(SpecError, match=r'capability 8 or more, got 7\.5 \(set "auto" or "float32"\)'):
        choose_precision("bfloat16", torch.device("cuda", 0))
    assert choose_precision("auto", torch.device("cuda", 0)).name == "float32"


def test_check_finds_a_device_that_cannot(two_spec, monkeypatch, capsys):
    """`shala check` reports it before a run is started."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert dispatch(["check", str(two_spec), "--set", "train.precision=bfloat16"]) == 2
    assert "train.precision: expected a CUDA device of compute capability 8 or more, got 7.5" in capsys.readouterr().err
