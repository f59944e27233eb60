"""Fitting in worker processes learns the same as in one, and its errors name the same sample."""

import attrs
import pytest
from two_floats import Made, MadeOptions, ReadFloats, TwoFloats

from shala_framework.data import fitting
from shala_framework.data.packing import pack
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
