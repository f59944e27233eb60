"""The benchmark of instance retrieval: its ranks, its judge, and its table for a tiny run."""

import io
import json
import sys
import tarfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from small_runs import run

pytestmark = pytest.mark.long

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SPEC = """\
schema = 1
name = "views"

[data]
train = "train.tar"
validation = "test.tar"
test = "test.tar"
in_memory = true

[modality."{plain,turned}"]
plugin = "image"
options = { fields = ["{plain,turned}.png"], height = 28, width = 28, network_width = 8, refiner_width = 8 }

[posterior]
latent_dim = 8
feature_dim = 16
hidden_dim = 32

[prior]
hidden_dim = 32
num_blocks = 1

[train.autoencoder]
steps = 60
batch_size = 16
warmup_steps = 5
kl_warmup_steps = 20

[train.prior]
steps = 20
warmup_steps = 5

[train.refiner]
steps = 3
warmup_steps = 1

[generate]
num_joint = 0
num_rows = 0

[evaluate]
at_end = false
"""


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import instance_retrieval

    return instance_retrieval


def shapes(count, seed):
    """Pictures of coloured rectangles on coloured ground, all different: uint8 [N, 3, 28, 28]."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (count, 3, 1, 1), generator=draw).repeat(1, 1, 28, 28)
    for picture in x:
        left, top, *colour = torch.randint(2, 14, (2,), generator=draw).tolist()
        side = int(torch.randint(6, 13, (1,), generator=draw))
        colour = torch.randint(0, 256, (3, 1, 1), generator=draw)
        picture[:, top : top + side, left : left + side] = colour
    return x.to(torch.uint8)


def write_shard(path, x):
    from shala_framework.plugin import encode_png

    with tarfile.open(path, "w") as tar:
        for row, picture in enumerate(x):
            turned = picture.transpose(1, 2).flip(2)
            for field, value in (("plain.png", picture), ("turned.png", turned)):
                content = encode_png(value.permute(1, 2, 0).contiguous().numpy())
                info = tarfile.TarInfo(f"{row:04d}.{field}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_ranks_count_nearer_pictures_and_forgive_equal_ones(benchmark):
    """A sample's rank is the number of true pictures that are nearer than its own; equal pictures are not nearer."""
    true = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [5.0, 0.0]])
    found = torch.tensor([[0.1, 0.0], [0.9, 0.0], [1.1, 0.0], [0.9, 0.0]])
    own = torch.tensor([0, 1, 2, 3])
    assert benchmark.num_nearer(found, true, own).tolist() == [0, 0, 0, 3]


def test_the_judge_finds_pictures_that_it_was_not_trained_on(benchmark):
    """Trained by contrast on other pictures, the judge finds perturbed ones far more often than without training."""
    train, test = shapes(200, 1), shapes(100, 2)
    own, shares = torch.arange(100), []
    for steps in (1, 120):
        judge = benchmark.train_instance_judge(train, steps, seed=0)
        found = judge.features(benchmark.perturbed(test, 5))
        shares.append((benchmark.num_nearer(found, judge.features(test), own) == 0).float().mean().item())
    assert shares[1] > 0.6
    assert shares[1] > shares[0] + 0.1


def test_a_table_of_a_tiny_run(benchmark, tmp_path, monkeypatch, capsys):
    """Each ordered pair has modes and refined samples, with intervals and chance; references stand beside them."""
    if "image" not in {entry.name for entry in entry_points(group="shala.plugins")}:
        pytest.skip("plugin not installed: image")
    monkeypatch.chdir(tmp_path)
    write_shard("train.tar", shapes(150, 1))
    write_shard("test.tar", shapes(40, 2))
    Path("views.toml").write_text(SPEC)
    folder = run(Path("views.toml"), "r")
    line = ["instance_retrieval.py", str(folder), "--samples", "2", "--judge-steps", "60", "--json", "found.json"]
    monkeypatch.setattr(sys, "argv", line)
    benchmark.main()
    out = capsys.readouterr().out
    assert "| instance | plain | turned | mode |" in out
    found = json.loads(Path("found.json").read_text())
    pairs = {(line["given"], line["target"], line["kind"]) for line in found["lines"]}
    assert pairs == {
        *((given, target, kind) for given, target in (("plain", "turned"), ("turned", "plain")) for kind in KINDS),
        *((given, view, kind) for view in ("plain", "turned") for given, kind in REFERENCES),
    }
    for line in found["lines"]:
        assert line["judge"] == "instance"  # there are no classes
        assert line["num_pictures"] == 40
        assert line["right"]["low"] <= line["right"]["value"] <= line["right"]["high"]
        assert line["near"]["value"] >= line["right"]["value"]
    distances = found["distances"]
    assert min(distances, key=distances.__getitem__) == "instance, true"
    summary = found["summary"]
    assert summary["instance, perturbed"]["value"] > 10 / 40
    difference = summary["instance, refined"]["value"] - summary["instance, mode"]["value"]
    assert summary["instance, refined minus mode"]["value"] == pytest.approx(difference, abs=1e-6)


KINDS = ("mode", "refined")
REFERENCES = (("all", "reconstruction"), ("itself", "perturbed"), ("itself", "true"))
