"""Weights of data sets and balanced classes: how often training sees each row, in memory and streamed."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import attrs
import pytest
import torch
from small_runs import SHORT_STAGES, run
from two_floats import Made, MadeOptions, TwoFloats

import shala_framework as shala
from shala_framework.data.latent_store import LatentStore, drawn_latents, latent_statistics
from shala_framework.data.order import WeightedOrder, weighted_rows
from shala_framework.data.packing import pack
from shala_framework.data.rows import shuffled_batches
from shala_framework.data.splits import split_urls, train_weights
from shala_framework.data.weighting import balanced_weights, normalised_weights
from shala_framework.prior import DiffusionPrior
from shala_framework.run import training
from shala_framework.run.data import RunData
from shala_framework.spec import read_spec
from shala_framework.support.distributed import processes
from shala_framework.support.errors import DataError, SpecError
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long


def test_rows_are_chosen_as_often_as_their_weights_say():
    """Each choice has N rows, each floor(w) or ceil(w) times, and the mean over seeds is w."""
    weights_N = torch.tensor([0.25, 2.5, 1.0, 0.25] * 5, dtype=torch.float64)
    counts = torch.stack([torch.bincount(weighted_rows(weights_N, seed), minlength=20) for seed in range(2_000)])
    assert (counts.sum(1) == 20).all()
    assert (counts >= weights_N.floor()).all()
    assert (counts <= weights_N.ceil()).all()
    torch.testing.assert_close(counts.double().mean(0), weights_N, atol=0.05, rtol=0)
    assert torch.equal(weighted_rows(weights_N, 3), weighted_rows(weights_N, 3))


def test_rows_that_alternate_are_not_chosen_together():
    """With half the rows left out, a choice is not one of every second row, which could be one class."""
    weights_N = torch.tensor([0.5] * 200 + [1.5] * 200, dtype=torch.float64)
    for seed in range(20):
        odd = int((weighted_rows(weights_N, seed)[:100] % 2).sum())
        assert 20 < odd < 80


@pytest.mark.parametrize(("interleave", "window"), [(1, 1_000), (4, 8)])
def test_a_weighted_order_is_known_at_any_position(interleave, window):
    """An epoch has the rows that `weighted_rows` chooses, whatever was asked before; shards may be empty."""
    counts = [5, 0, 9, 26]
    weights_N = torch.cat([torch.full((14,), 2.0), torch.full((26,), 12 / 26)]).double()
    starts = [0, 5, 5, 14]
    order = WeightedOrder(counts, weights_N, seed=3, interleave=interleave, window=window)
    met = [starts[shard] + number for shard, number in (order[p] for p in range(400))]
    again = WeightedOrder(counts, weights_N, seed=3, interleave=interleave, window=window)
    assert [starts[s] + n for s, n in (again[p] for p in (399, 7, 120))] == [met[p] for p in (399, 7, 120)]
    for epoch in range(10):
        of_epoch = Counter(met[40 * epoch : 40 * epoch + 40])
        assert all(of_epoch[row] == 2 for row in range(14))
        assert sum(of_epoch.values()) == 40
    assert len(set(met)) == 40
    assert met[:40] != met[40:80]


def test_balance_gives_every_class_the_same_sum_of_weights():
    """0 changes nothing, 1 balances, between lies between; rows without a class keep their weight."""
    labels = ["a"] * 8 + ["b"] * 2 + [None] * 3
    weights_N = torch.tensor([1.0] * 4 + [3.0] * 4 + [1.0] * 5, dtype=torch.float64)
    assert torch.equal(balanced_weights(weights_N, labels, 0.0), weights_N)
    full = balanced_weights(weights_N, labels, 1.0)
    assert full[:8].sum() == pytest.approx(9)
    assert full[8:10].sum() == pytest.approx(9)
    assert full[4] == pytest.approx(3 * full[0])
    assert torch.equal(full[10:], weights_N[10:])
    half = balanced_weights(weights_N, labels, 0.5)
    assert half[:8].sum() / half[8:10].sum() == pytest.approx(8**0.5)
    assert normalised_weights(full).mean() == pytest.approx(1)
    assert normalised_weights(torch.full((4,), 7.0)) is None
    with pytest.raises(DataError, match=r"data.balance: expected training rows with a class \(field cls\), got none"):
        balanced_weights(weights_N, [None] * 13, 1.0)


class Lopsided(Made):
    """Nine rows of ten are of the class "left"; every twentieth has none."""

    def samples(self, source, account):
        for number, sample in enumerate(super().samples(source, account)):
            label = None if number % 20 == 19 else "right" if number % 10 == 0 else "left"
            yield attrs.evolve(sample, label=label)


@pytest.fixture
def mixed(two_spec):
    """The spec on two data sets of 40 and 120 rows, the first of which has ten times the weight; and its text."""
    for name, count in (("one", 40), ("two", 120)):
        pack(Lopsided(MadeOptions(train=count)), None, Path(name), shard_samples=25)
    text = two_spec.read_text()
    head, tail = text.split("[data.stand_in]")
    given = 'train = [{ path = "one/train-*.tar", weight = 10.0 }, "two/train-*.tar"]\nvalidation = "one/valid*.tar"'
    text = head.replace('train = "nowhere/train-{000..001}.tar"', given) + tail[tail.index("[modality.first]") :]
    two_spec.write_text(text)
    return two_spec


def run_data(path, *overrides):
    spec = read_spec(path, overrides).spec
    modalities = {name: TwoFloats(field=field) for name, field in (("first", "a"), ("second", "b"))}
    return RunData(
        spec=spec,
        modalities=modalities,
        train_urls=split_urls(spec.data, "train"),
        validation_urls=[],
        reporter=Silent(),
        train_weights=train_weights(spec.data),
    )


MODES = pytest.mark.parametrize("in_memory", [True, False])


@MODES
def test_data_sets_are_mixed_by_their_weights(mixed, in_memory):
    """Rows of the first set come ten times as often as those of the second, and every row comes."""
    data = run_data(mixed, f"data.in_memory={str(in_memory).lower()}", "data.shuffle_buffer=16")
    one = split_urls(data.spec.data, "train")[0]
    assert one.startswith("one")
    batches = list(islice(data.batches(0, 16), 10 * 20))
    values = Counter(tuple(x) for rows in batches for x in rows.x["first"].tolist())
    # Both sets begin with the same 40 points, so these are in both.
    often = [count for point, count in values.items() if count > 40]
    assert len(values) == 120
    assert len(often) == 40
    expected = 10 * 20 * 16 * (40 * 11) / (40 * 10 + 120)
    assert sum(often) == pytest.approx(expected, rel=0.02)
    late = next(iter(data.batches(137, 16)))
    assert torch.equal(late.x["first"], batches[137].x["first"])


@MODES
def test_classes_are_balanced(mixed, in_memory):
    """With balance 1, both classes come equally often, although one has nine rows of ten."""
    data = run_data(
        mixed, f"data.in_memory={str(in_memory).lower()}", 'data.train="two/train-*.tar"', "data.balance=1.0"
    )
    labels = Counter(label for rows in islice(data.batches(0, 16), 200) for label in rows.labels)
    # In memory, an epoch of 120 rows leaves out the last 8 of its order.
    assert labels["right"] == pytest.approx(labels["left"], rel=0.06)
    assert labels[None] == pytest.approx(3_200 / 20, rel=0.1)


@MODES
def test_processes_share_the_rows_of_one(mixed, in_memory, monkeypatch):
    """Two processes have the rows of every step of one, each every second."""
    overrides = (f"data.in_memory={str(in_memory).lower()}", "data.balance=0.5", "data.shuffle_buffer=16")
    alone = [rows.keys for rows in islice(run_data(mixed, *overrides).batches(0, 16), 30)]
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        own = [rows.keys for rows in islice(run_data(mixed, *overrides).batches(0, 16), 30)]
        assert own == [keys[rank::2] for keys in alone]


def test_equal_weights_change_nothing(mixed):
    """A set with the weight 1, or several with one weight, is read in the order that it has without weights."""
    plain = run_data(mixed, 'data.train=["one/train-*.tar", "two/train-*.tar"]')
    same = run_data(
        mixed, 'data.train=[{ path = "one/train-*.tar", weight = 3.0 }, { path = "two/train-*.tar", weight = 3.0 }]'
    )
    assert same.row_weights() is None
    for mine, theirs in zip(islice(same.batches(0, 16), 20), islice(plain.batches(0, 16), 20), strict=True):
        assert mine.keys == theirs.keys


def test_every_stage_sees_weighted_rows_and_a_stopped_run_resumes(mixed, monkeypatch):
    """Stage 2 is fitted to, and trained on, latents in proportion to their rows' weights, and finds them again."""
    fitted, batches = [], []
    fit, shuffled = training.fit_to_latents, training.shuffled_batches

    def recorded_fit(prior, latents, *, seed):
        fitted.append(latents.take(torch.arange(len(latents))).mean_ND)
        fit(prior, latents, seed=seed)

    def recorded_batches(*args):
        for batch in shuffled(*args):
            if args[4] is not None:  # the cost of a step is measured on rows without weights
                batches.append(batch)
            yield batch

    monkeypatch.setattr(training, "fit_to_latents", recorded_fit)
    monkeypatch.setattr(training, "shuffled_batches", recorded_batches)
    folder = run(mixed, "r", *SHORT_STAGES)
    (mean_ND,) = fitted
    assert len(mean_ND) == 160
    counts = mean_ND.unique(dim=0, return_counts=True)[1]
    assert counts.max() >= 3
    of_first = torch.cat(batches).lt(40).float().mean()
    assert of_first == pytest.approx(400 / 520, abs=0.05)
    described = json.loads((folder / "spec.json").read_text())["spec"]["data"]["train"]
    assert described == [{"path": "one/train-*.tar", "weight": 10.0}, "two/train-*.tar"]
    assert shala.load(folder).spec.data.train_weights == (10.0, 1.0)
    assert "one/train-*.tar (weight 10)" in (folder / "report.html").read_text()
    before = (folder / "autoencoder.safetensors").read_bytes()
    run(mixed, "r", *SHORT_STAGES)
    assert (folder / "autoencoder.safetensors").read_bytes() == before


def test_latents_of_files_are_drawn_without_copying_them():
    """The drawn latents are looked up row by row, and without weights they are the latents themselves."""
    store = LatentStore(torch.arange(6.0)[:, None], torch.zeros(6, 1), torch.zeros(6, 1, 1), torch.ones(6, 1).bool())
    weights_N = torch.tensor([3.0, 0.6, 0.6, 0.6, 0.6, 0.6], dtype=torch.float64)
    drawn = drawn_latents(store, weights_N, 4)
    assert torch.equal(drawn.take(torch.arange(6)).mean_ND[:, 0].long(), weighted_rows(weights_N, 4))
    assert drawn_latents(store, None, 4) is store


@pytest.mark.parametrize(("share", "weight"), [(0.1, 10.0), (0.02, 50.0)])
def test_copies_of_a_row_are_not_taken_for_rows_by_the_clusters(share, weight):
    """Rows of one cluster have one, whatever their weights, and unseen rows are as likely as a single Gaussian says."""
    torch.manual_seed(1)
    count, dim = 1_000, 8
    rows = LatentStore(
        torch.randn(count, dim), torch.full((count, dim), -5.0), torch.zeros(count, 1, 1), torch.ones(count, 1).bool()
    )
    weights_N = torch.ones(count, dtype=torch.float64)
    weights_N[: round(share * count)] = weight
    drawn = drawn_latents(rows, normalised_weights(weights_N), 0)
    prior = DiffusionPrior(latent_dim=dim, num_modalities=1, feature_dim=1, hidden_dim=8, max_clusters=50)
    training.fit_to_latents(prior, drawn, seed=0)
    assert prior.mixture.num_components == 1
    unseen = prior.mixture.log_prob(prior.standardise(torch.randn(4_000, dim))) - prior.log_volume()
    assert float(unseen.mean()) > -dim * 1.419 - 0.6


def test_copies_of_a_row_do_not_count_for_the_shrinkage_of_the_whitening():
    """The moments are those of all draws; the number of rows is that of different ones."""
    torch.manual_seed(0)
    rows = LatentStore(torch.randn(40, 2), torch.zeros(40, 2), torch.zeros(40, 1, 1), torch.ones(40, 1).bool())
    weights_N = torch.tensor([10.0] * 3 + [10 / 37] * 37, dtype=torch.float64)
    chosen_N = weighted_rows(weights_N, 0)
    found = latent_statistics(drawn_latents(rows, weights_N, 0))
    assert found.num_rows == len(chosen_N.unique()) < 15
    torch.testing.assert_close(found.z_mean_D, rows.mean_ND[chosen_N].mean(0))
    assert latent_statistics(rows).num_rows == 40


def test_shuffled_batches_with_weights_are_a_function_of_the_step():
    weights_N = torch.tensor([1.9] * 5 + [0.1] * 5, dtype=torch.float64)
    batches = [batch.tolist() for batch in islice(shuffled_batches(10, 3, 7, 0, weights_N), 60)]
    assert [batch.tolist() for batch in islice(shuffled_batches(10, 3, 7, 31, weights_N), 3)] == batches[31:34]
    assert sum(row < 5 for batch in batches for row in batch) / 180 == pytest.approx(0.95, abs=0.04)


def test_mistakes_name_their_place_and_their_cure(mixed, monkeypatch):
    """Weights without an index, classes that no row has, and values that make no sense."""
    for name in ("one", "two"):
        for path in Path(name).glob("*.json"):
            path.unlink()
    stream = run_data(mixed, "data.in_memory=false")
    assert stream.row_weights() is not None  # shards on disk are indexed on the fly
    monkeypatch.setattr("shala_framework.run.data.index_shards", lambda *_, **__: None)
    stream = run_data(mixed, "data.in_memory=false")
    with pytest.raises(DataError, match=r"expected an index beside each shard for weights in data.train.*shala index"):
        next(iter(stream.batches(0, 16)))
    monkeypatch.undo()
    text = mixed.read_text()
    for written, message in (
        ('{ path = "one/train-*.tar", weight = 0 }', r"two.toml:5: data.train\[0\].weight: expected a number above 0"),
        ('{ path = "one/train-*.tar", wight = 2 }', r"data.train\[0\].wight: unknown key.*did you mean 'weight'"),
        ("{ weight = 2 }", r"data.train\[0\].path: missing"),
        ("3", r"data.train\[0\]: expected string or a table, got int 3"),
        ('{ path = "pipe:cat x", weight = 2.0 }', r"data.train: .*pipe"),
    ):
        mixed.write_text(text.replace('{ path = "one/train-*.tar", weight = 10.0 }', written))
        with pytest.raises(SpecError, match=message):
            read_spec(mixed)
    mixed.write_text(text.replace("one/train-*.tar", "none/train-*.tar"))
    with pytest.raises(DataError, match=r"data.train: no such shards: none/train-\*.tar"):
        split_urls(read_spec(mixed).spec.data, "train")


def test_python_takes_weights_of_shards(mixed):
    """`train` takes the same items as a spec; balance of rows from Python is refused."""
    model = shala.ShaLa({n: TwoFloats(field=n) for n in "ab"}, latent_dim=2, feature_dim=8, hidden_dim=8)
    settings = {"steps": 3, "batch_size": 8, "device": "cpu", "in_memory": True}
    shala.train(model, [{"path": Path("one/train-*.tar"), "weight": 2}, "two/train-*.tar"], balance=0.5, **settings)
    assert model.spec.data.train_weights == (2.0, 1.0)
    with pytest.raises(ValueError, match="expected shards with classes for balance"):
        shala.train(model, {n: torch.zeros(8, 2) for n in "ab"}, balance=0.5, **settings)
