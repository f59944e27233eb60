"""A run that decodes slowly says what it costs, and fitting reads the fields of its modality alone."""

import pytest
import torch
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.data import rows as rows_module
from shala_framework.data.packing import pack
from shala_framework.data.prepared import Preparation
from shala_framework.data.random_access import index_shards, read_in_order
from shala_framework.data.reading_cost import CHEAP_SECONDS, decoding_seconds, describe_cost
from shala_framework.data.rows import fit_to_shards


class Slow(TwoFloats):
    """Draws, and takes 0.6 s of a clock of the test's own."""

    now = 0.0

    def read(self, sample):
        Slow.now += 0.3
        torch.rand(())
        return super().read(sample)


def modalities():
    return {name: Slow(TwoFloatsOptions(field=name)) for name in "ab"}


def test_slow_decoding_is_measured_and_said(tmp_path):
    """Two modalities of 0.3 s: 8 readers give 13.3 rows a second; prepared shards cost nothing, no draw is used up."""
    raw = pack(Made(MadeOptions(train=40)), None, tmp_path / "raw")
    state = torch.get_rng_state()
    members = modalities()
    found = index_shards([str(path) for path in raw.shards if path.name.startswith("train")])
    seconds = decoding_seconds(found, members, clock=lambda: Slow.now)
    assert seconds == pytest.approx(0.6)
    assert torch.equal(state, torch.get_rng_state())
    said = describe_cost(seconds, 96_000, 8)
    assert "takes 0.6 s of a processor" in said
    assert "8 processes read at most 13.3 samples a second, an epoch in 2.0 hours" in said
    assert "`shala pack ... --for SPEC`" in said
    assert describe_cost(CHEAP_SECONDS / 2, 10**6, 1) is None
    ready = pack(Made(MadeOptions(train=40)), None, tmp_path / "ready", preparation=Preparation(members))
    found = index_shards([str(path) for path in ready.shards if path.name.startswith("train")])
    assert decoding_seconds(found, members, clock=lambda: Slow.now) == 0


def test_fitting_reads_the_fields_of_its_modality(tmp_path, monkeypatch):
    """Other fields, such as films beside a text, stay on the disk."""
    urls = [str(path) for path in pack(Made(MadeOptions(train=40)), None, tmp_path / "raw").shards]
    seen = set()

    def watched(*arguments, **settings):
        for sample in read_in_order(*arguments, **settings):
            seen.update(sample.fields)
            yield sample

    monkeypatch.setattr(rows_module, "read_in_order", watched)
    fit_to_shards("b", modalities()["b"], urls)
    assert seen == {"b"}
