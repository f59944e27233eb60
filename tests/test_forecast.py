"""What a step costs, counted without computing it, and the forecast that --dry-run prints."""

import pytest
import torch
from torch import nn

from shala_framework.cli.main import main_run
from shala_framework.model import ShaLa
from shala_framework.run.forecast import forecast
from shala_framework.spec import read_spec
from shala_framework.training.counting import META, count_step

pytestmark = pytest.mark.long


@pytest.mark.parametrize("device", [META, torch.device("cpu")], ids=str)
def test_counts_of_a_linear_layer(device):
    """2 B I O operations forward and as many for the gradient of the weight; the peak is known to the byte."""
    layer, x = nn.Linear(100, 50, bias=False, device=device), torch.ones(8, 100, device=device)

    def take():
        (layer(x) + 0).sum().backward()
        layer.weight.grad = None

    found = count_step(take, layer.parameters())
    assert found.operations == 2 * (2 * 8 * 100 * 50)
    weight, output, number = 4 * 100 * 50, 4 * 8 * 50, 4
    # While the weight's gradient is made, its own gradient of one number is left, expanded without memory.
    assert 2 * weight <= found.peak_bytes <= 2 * weight + 2 * output + 4 * number
    assert 4 <= found.launches <= 6  # product, sum, ones, product; and the addition


def test_a_dry_run_forecasts_each_stage_and_writes_nothing(two_spec, tmp_path, capsys):
    """Operations are those of the counter at the batch size of the spec, hours follow from the steps."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as leaving:
        main_run(["two.toml", "--dry-run", "--set", "train.autoencoder.steps=7200"])
    assert leaving.value.code == 0
    printed = capsys.readouterr().out
    assert "cost of training" in printed
    assert "an estimate" in printed
    (line,) = (line.split() for line in printed.splitlines() if line.startswith("  autoencoder  "))
    assert line[6] == "7,200"
    assert float(line[7]) == pytest.approx(2 * float(line[5]), abs=0.006)
    assert set(tmp_path.rglob("*")) == before


def test_fewer_rows_are_timed_where_a_step_is_large(two_spec, monkeypatch):
    """Times are scaled by the operations of both batch sizes, and the model keeps its weights."""
    from shala_framework.run import forecast as module

    model = ShaLa.from_spec(read_spec(two_spec, ("train.autoencoder.batch_size=4096",))).build()
    before = {name: value.clone() for name, value in model.autoencoder.state_dict().items()}
    monkeypatch.setattr(module, "STEP_OPERATIONS", 1e6)
    stage = forecast(model).stages["autoencoder"]
    assert stage.timed_rows < 4096 == stage.settings.batch_size
    assert stage.count.operations > 1e6 * stage.timed_rows / 4096
    assert stage.step_seconds > 0
    assert all(torch.equal(value, before[name]) for name, value in model.autoencoder.state_dict().items())
