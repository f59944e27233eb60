"""Fields that are present but blank count as missing for every modality and are counted and named."""

import io
import tarfile
from itertools import islice
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
import torch
from blank_floats import MayBeBlank
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.data import streams as data_streams
from shala_framework.data.order import SampleOrder
from shala_framework.data.packing import pack
from shala_framework.data.prepared import Preparation
from shala_framework.data.random_access import index_shards
from shala_framework.data.rows import load_rows
from shala_framework.data.streams import IndexedStream, OrderedStream, ShardStream, load_rows_in_workers
from shala_framework.run.data import RunData
from shala_framework.spec import read_spec
from shala_framework.support.errors import DataError
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long

MODALITIES = {name: MayBeBlank(TwoFloatsOptions(field=name)) for name in "ab"}
EMPTY = {3, 4, 5, 11, 19}
BLANK = {7}  # blank in one of the two fields


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Two shards of ten samples. Five samples have nothing readable, and one more has a blank field."""
    urls = []
    for shard in range(2):
        urls.append(str(tmp_path / f"{shard}.tar"))
        with tarfile.open(urls[-1], "w") as tar:
            for number in range(10 * shard, 10 * shard + 10):
                fields = {"a": b"null" if number in EMPTY else b"[%d, 1]" % number}
                if number in EMPTY or number in BLANK:
                    fields["b"] = b"null"
                elif number % 2:
                    fields["b"] = b"[0, 1]"
                for name, content in fields.items():
                    info = tarfile.TarInfo(f"{number:02}.{name}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
    return urls


class Notes(Silent):
    """Records all notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text):
        self.notes.append(text)


SENTENCES = [
    "modality 'a': field 'a' is there, but nothing is in it, in 5 samples, such as '03', '04', '05'; "
    "this counts as missing",
    "modality 'b': field 'b' is there, but nothing is in it, in 6 samples, such as '03', '04', '05'; "
    "this counts as missing",
    "left out 5 samples in which no other modality is present, such as '03', '04', '05'",
]


def test_rows_in_memory_are_those_that_say_something(shards):
    """A blank field counts as missing. A sample with only blank fields is left out. Both differ from absent fields."""
    rows = load_rows(shards, MODALITIES)
    assert rows.keys == tuple(f"{n:02}" for n in range(20) if n not in EMPTY)
    assert rows.presence[:, 0].all()
    assert rows.presence[:, 1].sum() == sum(n % 2 for n in range(20) if n not in EMPTY | BLANK)
    assert rows.tally.sentences() == SENTENCES
    nothing = {"a": MayBeBlank(TwoFloatsOptions(field="b"))}
    with pytest.raises(DataError, match=r"expected a field of a modality \(.*\), got a; pack again with --for"):
        load_rows(shards, nothing)


@pytest.mark.parametrize("limit", [None, 12])
def test_workers_read_the_same_rows_into_memory(shards, monkeypatch, limit):
    """Rows, counts and names are the same for any number of workers, even if a worker's share has only blank fields."""
    with tarfile.open(shards[1], "a") as tar:
        tar.addfile(tarfile.TarInfo("README"))
    expected, seen = load_rows(shards, MODALITIES, limit=limit), []
    assert expected.tally.dropped.count
    assert expected.tally.skipped
    monkeypatch.setattr(data_streams, "ROWS_WORTH_A_WORKER", 1)
    monkeypatch.setattr(data_streams, "ROWS_OF_A_WORKER", 2)  # samples 4 and 5 then form a share of their own
    monkeypatch.setattr(data_streams, "available_cores", lambda: 3)
    monkeypatch.setattr(data_streams, "load_rows", None)
    for num_workers in (1, 3):
        rows = load_rows_in_workers(shards, MODALITIES, limit=limit, num_workers=num_workers, on_sample=seen.append)
        assert (rows.keys, rows.labels, rows.tally) == (expected.keys, expected.labels, expected.tally)
        assert torch.equal(rows.presence, expected.presence)
        assert all(torch.equal(rows.x[name], expected.x[name]) for name in "ab")
        assert seen[-1] == (limit or 20)


def test_workers_refuse_what_reading_without_them_refuses(shards, tmp_path, monkeypatch):
    """A field above the size limit is refused, whether or not a modality reads it, and so is an entirely blank set."""
    blank = tmp_path / "blank.tar"
    with tarfile.open(blank, "w") as tar:
        for number in range(4):
            info = tarfile.TarInfo(f"{number}.a")
            info.size = 4
            tar.addfile(info, io.BytesIO(b"null"))
    one = {"a": MODALITIES["a"]}
    monkeypatch.setattr(data_streams, "ROWS_WORTH_A_WORKER", 1)
    for urls, modalities, settings in (
        (shards, MODALITIES, {"max_field_bytes": 5}),
        ([shards[0]], {"b": MODALITIES["b"]}, {"max_field_bytes": 5}),
        ([str(blank)], one, {}),
    ):
        said = []
        for num_workers in (0, 2):
            with pytest.raises(DataError) as raised:
                load_rows_in_workers(urls, modalities, num_workers=num_workers, **settings)
            said.append(str(raised.value))
        assert said[0] == said[1]


def test_a_set_that_says_nothing_at_all_is_an_error_that_says_so(tmp_path):
    """The error names the field, and does not call it absent."""

    class Blank(TwoFloats):
        def read(self, sample):
            return None

    (url, *_) = pack(Made(MadeOptions(train=5)), None, tmp_path).shards
    modalities = {"a": Blank(TwoFloatsOptions(field="a"))}
    message = "expected samples in which a modality is present, got none .*field 'a' is there, but nothing is in it"
    with pytest.raises(DataError, match=message):
        load_rows([str(url)], modalities)
    order = SampleOrder([5], seed=0, interleave=1, window=10)
    with pytest.raises(DataError, match=message):
        next(iter(IndexedStream(index_shards([str(url)]), modalities, order, batch_size=2)))
    with pytest.raises(DataError, match=message):
        next(iter(ShardStream([str(url)], modalities, batch_size=2, buffer_size=2, seed=0)))


def streams(shards, batch_size, **settings):
    indexed = index_shards(shards)
    order = SampleOrder(indexed.counts, seed=1, interleave=1, window=5)
    return (
        lambda start: IndexedStream(indexed, MODALITIES, order, batch_size=batch_size, start_step=start, **settings),
        lambda start: ShardStream(
            shards, MODALITIES, batch_size=batch_size, buffer_size=3, seed=1, start_step=start, **settings
        ),
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_streamed_batch_stays_full_and_a_function_of_its_step(shards, batch_size):
    """Another sample replaces a blank one, the same from any starting step, and every sample still occurs."""
    for stream in streams(shards, batch_size):
        whole = list(islice(stream(0), 60))
        assert all(rows.presence.any(1).all() and len(rows) == batch_size for rows in whole)
        epoch = [key for rows in whole[: 20 // batch_size] for key in rows.keys]
        assert set(epoch) == {f"{n:02}" for n in range(20) if n not in EMPTY}
        assert sum(rows.tally.dropped.count for rows in whole[: 20 // batch_size] if rows.tally) == len(EMPTY)
        for start in (1, 7):
            for a, b in zip(whole[start:], islice(stream(start), 20), strict=False):
                assert a.keys == b.keys
                assert torch.equal(a.x["a"], b.x["a"])


def test_a_step_is_the_same_for_every_number_of_processes(shards):
    """With an index, the replacement of a blank sample depends only on the set."""
    alone = [sorted(rows.keys) for rows in islice(streams(shards, 4)[0](0), 15)]
    ranks = [islice(streams(shards, 4, rank=rank, world_size=2)[0](0), 15) for rank in range(2)]
    assert [sorted(a.keys + b.keys) for a, b in zip(*ranks, strict=True)] == alone


@pytest.mark.parametrize("in_order", [True, False])
def test_rows_in_order_keep_their_number(shards, two_spec, monkeypatch, in_order):
    """Latents are found by row number, so no row may be lost, with or without an index."""
    spec = read_spec(two_spec, ["data.in_memory=false"]).spec
    data = RunData(spec=spec, modalities=MODALITIES, train_urls=shards, validation_urls=[], reporter=Silent())
    if not in_order:
        monkeypatch.setattr("shala_framework.run.data.index_shards", lambda *_, **__: None)
    for size in (1, 3, 7):
        rows = list(data.in_order(size))
        assert sum(map(len, rows)) == 20
        assert all(batch.presence.any(1).all() for batch in rows)
    assert isinstance(next(iter(OrderedStream(index_shards(shards), MODALITIES, num_rows=2))).keys, tuple)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_says_what_it_passed_over_once(shards, two_spec, workers):
    """The note comes after loading, or with the first logged values while streaming and for the rest after an epoch."""
    notes = Notes()
    spec = read_spec(two_spec, []).spec
    for in_memory in (True, False):
        reading = attrs.evolve(spec.data, in_memory=in_memory, num_workers=workers)
        stage = attrs.evolve(spec.train.autoencoder, batch_size=4, log_every_steps=2)
        changed = attrs.evolve(spec, data=reading, train=attrs.evolve(spec.train, autoencoder=stage))
        data = RunData(spec=changed, modalities=MODALITIES, train_urls=shards, validation_urls=[], reporter=notes)
        batches = data.batches(0)
        for _ in range(20):
            next(batches)
        del batches
        if in_memory:
            assert notes.notes[1:] == [f"data.train: {sentence}" for sentence in SENTENCES]
            notes.notes.clear()
    assert all(
        note.startswith(("data.train (the first 2 steps): ", "data.train (the first 5 steps): "))
        for note in notes.notes
    )
    assert sum("left out 5 samples" in note for note in notes.notes) == 1


class MadeBlank(Made):
    """Samples of which two are blank in a, and one is blank in both fields."""

    blanks: ClassVar = {"train_0002": "a", "train_0005": "a", "train_0007": "ab"}

    def samples(self, source, account):
        for sample in super().samples(source, account):
            blank = dict.fromkeys(self.blanks.get(sample.key, ""), b"null")
            yield attrs.evolve(sample, fields={**sample.fields, **blank, "raw": b"x"})


def test_pack_for_a_spec_lists_fields_that_say_nothing(tmp_path):
    """left_out.txt lists each blank field. The notes count them, and list fields that no modality reads."""
    report = pack(MadeBlank(MadeOptions(train=10)), None, tmp_path, preparation=Preparation(MODALITIES))
    assert report.samples == {"train": 9, "validation": 16}
    lines = (tmp_path / "left_out.txt").read_text().splitlines()
    says = "modality '{}': field '{}' is there, but nothing is in it"
    assert lines == [
        f"{says.format('a', 'a')}\tsample 'train_0002'",
        f"{says.format('a', 'a')}\tsample 'train_0005'",
        f"{says.format('a', 'a')}\tsample 'train_0007'",
        f"{says.format('b', 'b')}\tsample 'train_0007'",
    ]
    assert report.notes == [
        f"left out of 3 samples, such as 'train_0002': {says.format('a', 'a')}",
        f"left out of 1 sample, such as 'train_0007': {says.format('b', 'b')}",
    ]
