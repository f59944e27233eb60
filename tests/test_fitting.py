"""Fitting in worker processes learns the same as in one, and its errors name the same sample."""

from collections import Counter
from contextlib import closing
from functools import partial

import attrs
import pytest
from two_floats import Made, MadeOptions, ReadFloats, TwoFloats

from shala_framework.data import fitting
from shala_framework.data.fitting import WatchedShards
from shala_framework.data.packing import pack
from shala_framework.data.random_access import index_shards, read_in_order
from shala_framework.data.rows import fit_to_shards
from shala_framework.data.workers import work
from shala_framework.support.errors import DataError

pytestmark = pytest.mark.long


class BrokenLate(Made):
    """Has a late sample that cannot be read."""

    def samples(self, source, account):
        for sample in super().samples(source, account):
            broken = sample.key == "train_0390"
            yield attrs.evolve(sample, fields={**sample.fields, "a": b"[1,"}) if broken else sample


def shards(folder, kind=Made):
    packed = pack(kind(MadeOptions(train=400, missing=0.1)), None, folder, shard_samples=90)
    return [str(path) for path in packed.shards if path.name.startswith("train")]


def fitted(kind, urls, num_workers, field="b"):
    modality = kind(field=field)
    fit_to_shards("floats", modality, urls, num_workers=num_workers)
    return modality.mean


def test_workers_fit_what_one_process_fits(tmp_path, monkeypatch):
    """After the first sample, workers read the others in order, and decode them if the plugin's `fit` lets them."""
    urls, begun = shards(tmp_path), []
    alone = fitted(ReadFloats, urls, 0)
    assert alone == pytest.approx(fitted(TwoFloats, urls, 0))

    def in_processes(stream, num_workers):
        begun.append((stream.start, num_workers))
        return work(stream, num_workers)

    assert fitted(ReadFloats, urls, 2) == alone
    assert not begun  # it is over before workers would have started
    monkeypatch.setattr(fitting, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(fitting, "work", in_processes)
    assert fitted(ReadFloats, urls, 1) == alone
    assert begun == [(1, 1)]
    monkeypatch.setattr(fitting, "work", lambda stream, _: stream.read(0, 1))
    assert fitted(TwoFloats, urls, 1) == fitted(TwoFloats, urls, 0)


def test_a_part_of_a_sorted_set_is_from_all_over_it(tmp_path, monkeypatch):
    """Whoever reads; in the end every sample has been read once. Without an index, or of few samples, all in order."""
    urls, fields = shards(tmp_path), frozenset({"a"})
    samples, index = partial(read_in_order, urls, None, wanted=fields), partial(index_shards, urls, None)

    def keys(enough, num_workers=0, index=index):
        watched = WatchedShards(samples(), index, fields, num_workers)
        with closing(watched):
            return [watched.current.key for _ in watched.read_each(len, enough)]

    whole = keys(None)
    spread = keys(40)
    assert whole == sorted(whole) == sorted(spread)
    fifths = Counter(whole.index(key) // 80 for key in spread[:40])
    assert len(fifths) == 5
    assert set(fifths.values()) == {8}
    monkeypatch.setattr(fitting, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(fitting, "work", lambda stream, _: stream.read(0, 1))
    assert keys(40, 1) == spread
    assert keys(400) == keys(40, index=lambda: None) == whole


@pytest.mark.parametrize("kind", [ReadFloats, TwoFloats])
def test_an_error_in_a_worker_names_its_sample(tmp_path, monkeypatch, kind):
    """Whether the worker decodes, or reads for `fit`."""
    urls = shards(tmp_path, BrokenLate)
    monkeypatch.setattr(fitting, "SECONDS_ALONE", 0.0)
    monkeypatch.setattr(fitting, "work", lambda stream, _: stream.read(0, 1))
    with pytest.raises(
        DataError, match=r"train-000004\.tar: sample 'train_0390', modality 'floats': field 'a': expected"
    ):
        fitted(kind, urls, 1, field="a")
