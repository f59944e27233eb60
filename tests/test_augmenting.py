"""Training rows of stage 1 are augmented, whatever they are read from, and nothing else is."""

from pathlib import Path

import attrs
import pytest
import torch
from own_floats import Items, Pair
from small_runs import SHORT_STAGES, StopAt, run
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions, VariedFloats

import shala_framework as shala
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.augmenting import augmented_rows
from shala_framework.data.packing import pack
from shala_framework.data.prepared import Preparation, load_preparation
from shala_framework.data.rows import load_rows
from shala_framework.plugin.augmenting import Draws, crop_pixels, flip, shift, take_along
from shala_framework.run.python_data import rows_of_tensors
from shala_framework.support.checkpoint import read_checkpoint
from shala_framework.support.errors import PluginError
from shala_framework.training.row_batches import RowBatches

pytestmark = pytest.mark.long

CPU = torch.device("cpu")


class PairVaried(Pair):
    """A user's own class, which learns nothing."""

    augment, corrupt = VariedFloats.augment, VariedFloats.corrupt


@pytest.fixture
def seen(monkeypatch):
    """What stage 1's objective and its encoders got: whether in training, smallest x and smallest encoded x."""
    found = []
    bound, encode = Autoencoder.bound, Autoencoder.encode

    def recording_bound(self, x, *args, corrupted=None, **kwargs):
        found.append(("bound", self.training, float(min(value.min() for value in x.values()))))
        return bound(self, x, *args, corrupted=corrupted, **kwargs)

    def recording_encode(self, x):
        found.append(("encode", self.training, float(min(value.min() for value in x.values()))))
        return encode(self, x)

    monkeypatch.setattr(Autoencoder, "bound", recording_bound)
    monkeypatch.setattr(Autoencoder, "encode", recording_encode)
    return found


def varied(spec: Path) -> None:
    spec.write_text(spec.read_text().replace('"two-floats"', '"varied-floats"'))


@pytest.mark.parametrize("streamed", [False, True])
def test_only_training_rows_of_stage_1_are_augmented(two_spec, seen, streamed):
    """The objective of a step gets augmented x and its encoders the corrupted one; fitting, validation, the texture
    term's statistics of the data, latents, samples and the report see the data."""
    varied(two_spec)
    folder = run(two_spec, "r", *SHORT_STAGES, f"data.in_memory={str(not streamed).lower()}")
    assert all(lowest >= 998 for what, training, lowest in seen if what == "bound" and training)
    assert all(lowest < 10 for what, training, lowest in seen if not training)
    encoded = [lowest for what, training, lowest in seen if what == "encode" and training]
    assert sum(lowest >= 5_990 for lowest in encoded) == sum(lowest < 5_000 for lowest in encoded) == 16
    assert {(what, training) for what, training, _ in seen} == {(w, t) for w in ("bound", "encode") for t in (0, 1)}
    assert abs(shala.load(folder).modalities["first"].state()["mean"][0] - 3) < 0.5


def test_a_resumed_run_draws_as_an_undisturbed_one(two_spec):
    """Draws depend on the step: a run that stopped between two saved states ends with the same weights."""
    torch.set_num_threads(1)
    varied(two_spec)
    with pytest.raises(KeyboardInterrupt):
        run(two_spec, "r", *SHORT_STAGES, reporter=StopAt("autoencoder", 6))
    run(two_spec, "r", *SHORT_STAGES)
    run(two_spec, "undisturbed", *SHORT_STAGES)
    resumed, undisturbed = (read_checkpoint(Path(out) / "autoencoder.safetensors")[0] for out in ("r", "undisturbed"))
    assert all(torch.equal(value, undisturbed[name]) for name, value in resumed.items())


def test_workers_do_not_change_the_draws(two_spec):
    """Shards that are streamed by this process and by two workers train the same model."""
    torch.set_num_threads(1)
    varied(two_spec)
    for workers in (0, 2):
        run(two_spec, f"r{workers}", *SHORT_STAGES, "data.in_memory=false", f"data.num_workers={workers}")
    first, second = (read_checkpoint(Path(out) / "autoencoder.safetensors")[0] for out in ("r0", "r2"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_raw_and_prepared_rows_and_tensors_are_augmented_alike(tmp_path):
    """The same rows of raw shards, prepared shards and tensors become the same augmented rows."""
    made = MadeOptions(train=20, missing=0.3)
    fitted = {name: VariedFloats(field=name) for name in "ab"}
    ready = [str(path) for path in pack(Made(made), None, tmp_path / "ready", preparation=Preparation(fitted)).shards]
    raw = [str(path) for path in pack(Made(made), None, tmp_path / "raw").shards]
    assert load_preparation(ready, fitted)
    rows = [load_rows(urls, fitted) for urls in (raw, ready)]
    found = [augmented_rows(part, fitted, seed=1, step=2, device=CPU) for part in rows]
    for name in "ab":
        assert torch.equal(found[0].x[name], found[1].x[name])
        assert torch.equal(found[0].corrupted[name], found[1].corrupted[name])
        assert not torch.equal(found[0].x[name], augmented_rows(rows[0], fitted, seed=1, step=3, device=CPU).x[name])
        assert rows[0].x[name].max() < 10
    assert not torch.equal(found[0].x["a"] - rows[0].x["a"], found[0].x["b"] - rows[0].x["b"])


@pytest.mark.parametrize("as_items", [False, True])
def test_rows_from_python_are_augmented(seen, as_items):
    x = {name: torch.randn(60, 2) for name in "ab"}
    model = shala.ShaLa({n: PairVaried(field=n) for n in "ab"}, latent_dim=4, feature_dim=8, hidden_dim=16)
    data = Items(x, gaps=False) if as_items else x
    shala.train(model, data, steps=4, batch_size=16, device="cpu", precision="float32")
    trained = [lowest for what, training, lowest in seen if what == "bound" and training]
    assert len(trained) == 4
    assert min(trained) >= 990


def test_micro_batches_and_graphs_take_corrupted_rows_along():
    """Selected, split and refilled batches have what encoders see of their own rows."""
    rows = load_augmented()
    parts = RowBatches(CPU).split(rows, 2)
    assert torch.equal(torch.cat([part.corrupted["a"] for part in parts]), rows.corrupted["a"])
    batches = RowBatches(CPU)
    placed = batches.placed(rows.take(torch.arange(4)), copy=True)
    assert batches.refill(placed, rows.take(torch.arange(4, 8)))
    assert torch.equal(placed.corrupted["a"], rows.corrupted["a"][4:8])
    assert not batches.refill(placed, attrs.evolve(rows.take(torch.arange(4)), corrupted={}))


def load_augmented():
    x = {"a": torch.randn(8, 2, generator=torch.Generator().manual_seed(0))}
    modalities = {"a": VariedFloats(field="a")}
    return augmented_rows(rows_of_tensors(x, modalities), modalities, seed=0, step=0, device=CPU)


def test_another_shape_is_the_plugins_fault():
    class Wrong(TwoFloats):
        def augment(self, x, draws):
            return x[:, :1]

    modalities = {"a": Wrong(TwoFloatsOptions(field="a"))}
    rows = rows_of_tensors({"a": torch.zeros(3, 2)}, modalities)
    with pytest.raises(PluginError, match=r"modality 'a': expected torch.float32 \(3, 2\) .* augment\(\), got"):
        augmented_rows(rows, modalities, seed=0, step=0, device=CPU)


def test_draws_of_several_processes_are_those_of_one():
    """Each process has the draws of its rows, whatever is drawn and in whatever order."""

    def drawn(**place):
        draws = Draws(seed=5, **place)
        return [draws.uniform(1, 2, 3), draws.normal(2), draws.integers(-2, 2), draws.chance(0.3)]

    alone = drawn(num_rows=12)
    for rank in range(3):
        own = drawn(num_rows=4, rank=rank, world_size=3)
        assert all(torch.equal(mine, every[rank::3]) for mine, every in zip(own, alone, strict=True))
    assert set(Draws(seed=0, num_rows=200).integers(-2, 2).tolist()) == {-2, -1, 0, 1, 2}
    assert 0.2 < Draws(seed=0, num_rows=1000).chance(0.3).float().mean() < 0.4


def test_operations_on_rows_take_each_row_by_its_own():
    """Shifts repeat the edge, flips reverse the chosen rows, and a crop of nothing changes nothing."""
    x = torch.arange(6).repeat(3, 1)
    assert shift(x, torch.tensor([0, 2, -1]), 1).tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 0, 0, 1, 2, 3],
        [1, 2, 3, 4, 5, 5],
    ]
    assert flip(x, torch.tensor([False, True, False]), 1)[1].tolist() == [5, 4, 3, 2, 1, 0]
    assert take_along(x, torch.tensor([[0, 0], [1, 5], [2, 3]]), 1).tolist() == [[0, 0], [1, 5], [2, 3]]
    pixels = torch.randint(0, 256, (3, 3, 8, 12), dtype=torch.uint8)
    assert torch.equal(crop_pixels(pixels, 0.0, Draws(seed=0, num_rows=3)), pixels)
