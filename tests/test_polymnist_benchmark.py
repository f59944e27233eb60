"""PolyMNIST of the benchmarks: what its arrays show, and judges whose figures are known in advance."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("shala_datasets")

COLOURS = ((10, 20, 30), (200, 100, 0))


@pytest.fixture
def modules(monkeypatch):
    """The scripts as modules."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import polymnist_arrays
    import polymnist_judges

    return polymnist_arrays, polymnist_judges


@pytest.fixture
def raw(tmp_path):
    """A folder of MNIST's files with noise as digits, and two backgrounds of one colour each."""
    rng, folder = np.random.default_rng(0), tmp_path / "raw"
    for name in ("mnist", "polymnist_backgrounds"):
        (folder / name).mkdir(parents=True)
    for part, count in (("train", 300), ("t10k", 60)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            path = folder / f"mnist/{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))
            if kind == "images-idx3":
                np.save(tmp_path / f"{part}.npy", images)
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (28, 40 + number), colour).save(folder / f"polymnist_backgrounds/{number}.png")
    return folder


def call(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_a_picture_inverts_its_background_under_a_digit_of_its_class(modules, raw, tmp_path, monkeypatch):
    """Each modality has its own background, and digits of the row's class from the split's own file."""
    call(monkeypatch, modules[0], raw, tmp_path / "p.npz", "--train", 50, "--test", 20)
    with np.load(tmp_path / "p.npz") as arrays:
        assert arrays["train_x"].shape == (2, 50, 28, 28, 3)
        for split, part in (("train", "train"), ("test", "t10k")):
            digits = np.load(tmp_path / f"{part}.npy")
            for x, colour in zip(arrays[f"{split}_x"], COLOURS, strict=True):
                inverted = (x == 255 - np.array(colour)).all(-1)
                assert ((x == np.array(colour)).all(-1) ^ inverted).all()
                for ink, label in zip(inverted, arrays[f"{split}_y"], strict=True):
                    assert (digits[label::10] > 127).all(axis=0).shape == ink.shape
                    assert ((digits[label::10] > 127) == ink).all(axis=(1, 2)).any()


def test_test_rows_score_as_real_rows_do(modules, raw, tmp_path, monkeypatch, capsys):
    """Samples that are the test rows have their coherence and no distance; those of other rows have not."""
    call(monkeypatch, modules[0], raw, tmp_path / "p.npz", "--train", 200, "--test", 60)
    call(monkeypatch, modules[1], "train", tmp_path / "p.npz", tmp_path / "j.pt")
    with np.load(tmp_path / "p.npz") as arrays:
        real, labels = arrays["test_x"], arrays["test_y"]
    samples = {f"joint/{i}": x for i, x in enumerate(real)} | {"given/0/1": real[1], "given/1/0": real[0]}
    np.savez(tmp_path / "s.npz", **samples)
    capsys.readouterr()
    call(monkeypatch, modules[1], "score", tmp_path / "p.npz", tmp_path / "j.pt", tmp_path / "s.npz")
    found = json.loads(capsys.readouterr().out)
    assert found["joint_coherence"] == found["real_joint_coherence"]
    assert found["coherence_given_1"] == found["real_accuracy"]
    assert found["joint_frechet"] == found["frechet_given_1"] == pytest.approx(0, abs=1e-4)
    black = {key: np.zeros_like(x) for key, x in samples.items()}
    np.savez(tmp_path / "s.npz", **black)
    found = modules[1].score(tmp_path / "p.npz", tmp_path / "j.pt", tmp_path / "s.npz")
    shares = np.bincount(labels, minlength=10) / len(labels)
    assert 2 * found["coherence_given_1"] == pytest.approx(sum(shares[shares.nonzero()][:2]), abs=0.2)
    assert found["joint_frechet"] > 0.1
