"""Prepared shards hold the tensors that reading gives; shards prepared for something else are refused."""

import io
import json
from importlib.metadata import entry_points

import attrs
import fsspec
import numpy as np
import pytest
import torch
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.cli.main import main
from shala_framework.data import prepared
from shala_framework.data.packing import pack
from shala_framework.data.prepared import PREPARED_FILE, Preparation, check_preparation, load_preparation, read_prepared
from shala_framework.data.presence import absent_from_first
from shala_framework.data.rows import load_rows
from shala_framework.plugin.loading import load_offer
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.support.errors import DataError


def modalities(width=32):
    return {name: TwoFloats(TwoFloatsOptions(field=name, width=width)) for name in "ab"}


class Damaged(Made):
    """The same samples, with one undecodable field and one sample without any field."""

    def samples(self, source, account):
        for sample in super().samples(source, account):
            if sample.key == "validation_0003":
                yield attrs.evolve(sample, fields={**sample.fields, "b": b"["})
            elif sample.key == "validation_0004":
                yield attrs.evolve(sample, fields={"c": b"1"})
            else:
                yield sample


def test_prepared_shards_hold_what_reading_gives(tmp_path, monkeypatch):
    """Tensors, presence, keys and labels of prepared shards equal those of raw shards read by fitted modalities."""
    made = MadeOptions(train=40, missing=0.3)
    raw = [str(path) for path in pack(Made(made), None, tmp_path / "raw").shards]
    report = pack(Made(made), None, tmp_path / "prepared", preparation=Preparation(modalities()))
    ready = [str(path) for path in report.shards]
    fresh = modalities()
    assert load_preparation(ready, fresh)
    assert not load_preparation(raw, modalities())
    assert fresh["a"].mean != [0.0, 0.0]
    expected, got = load_rows(raw, fresh), load_rows(ready, fresh)
    assert (got.keys, got.labels) == (expected.keys, expected.labels)
    assert torch.equal(got.presence, expected.presence)
    assert all(torch.equal(got.x[name], expected.x[name]) for name in "ab")
    assert set(report.fields["train"]) == {"a.prepared.npy", "b.prepared.npy", "cls"}
    # The common header is not parsed; arrays of other writers are.
    other = io.BytesIO()
    np.lib.format.write_array(other, np.zeros(2, np.float32), version=(2, 0))
    assert read_prepared("a", fresh["a"], other.getvalue()).tolist() == [0, 0]
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", None)
        assert all(torch.equal(got.x[name], load_rows(ready, fresh).x[name]) for name in "ab")


def test_prepared_shards_behind_a_url_are_known_as_such(tmp_path):
    """Modalities get the state with which the shards were prepared, and are not fitted to prepared fields."""
    report = pack(Made(MadeOptions(train=40)), None, tmp_path / "s", preparation=Preparation(modalities()))
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "s").iterdir():
        memory.pipe(f"/prepared/{path.name}", path.read_bytes())
    urls = [f"memory://prepared/{path.name}" for path in report.shards]
    near, far = modalities(), modalities()
    assert load_preparation([str(path) for path in report.shards], near)
    assert load_preparation(urls, far)
    assert far["a"].mean == near["a"].mean != [0.0, 0.0]
    assert torch.equal(load_rows(urls, far).x["a"], load_rows([str(path) for path in report.shards], near).x["a"])
    assert not absent_from_first(urls, far)


def test_folders_that_were_prepared_apart_do_not_mix(tmp_path):
    """Each pack learned a different state, with which the same tensors mean something else."""
    urls = {}
    for name, train in (("a", 20), ("b", 33)):
        report = pack(Made(MadeOptions(train=train)), None, tmp_path / name, preparation=Preparation(modalities()))
        urls[name] = [str(path) for path in report.shards]
    fitted = modalities()
    assert load_preparation(urls["a"], fitted)
    check_preparation(urls["a"], fitted)
    with pytest.raises(DataError, match=r"b.prepared.json: the shards were prepared with another state of 'a'"):
        check_preparation(urls["b"], fitted)
    with pytest.raises(DataError, match="another state"):
        load_preparation(urls["a"] + urls["b"], modalities())
    raw = [str(path) for path in pack(Made(MadeOptions(train=20)), None, tmp_path / "raw").shards]
    check_preparation(raw, fitted)
    with pytest.raises(DataError, match=r"a, b would be fitted to one part only; pack all shards with --for"):
        load_preparation(urls["a"] + raw, modalities())


def test_what_cannot_be_read_is_noted(tmp_path):
    """A damaged field is missing, a sample without any is left out, and both are named."""
    report = pack(Damaged(MadeOptions(train=20)), None, tmp_path / "s", preparation=Preparation(modalities()))
    assert report.samples == {"train": 20, "validation": 15}
    assert report.fields["validation"]["b.prepared.npy"] == 14
    assert any("'validation_0003', modality 'b'" in note for note in report.notes)
    assert any("'validation_0004'" in note for note in report.notes)


class Spoilt(Made):
    """The same samples; in some training samples field b is not JSON, and in one field a."""

    bad_a, bad_b = frozenset({"train_0007"}), frozenset({"train_0003", "train_0007", "train_0019"})

    def samples(self, source, account):
        for sample in super().samples(source, account):
            spoilt = {field: b"\xe9t\xe9" for field, bad in (("a", self.bad_a), ("b", self.bad_b)) if sample.key in bad}
            yield attrs.evolve(sample, fields=sample.fields | spoilt)


class Without(Made):
    """The same samples without those with given keys."""

    keys = frozenset({"train_0003", "train_0007", "train_0019"})

    def samples(self, source, account):
        return (sample for sample in super().samples(source, account) if sample.key not in self.keys)


def test_fitting_passes_over_what_cannot_be_read(tmp_path):
    """Each unreadable field is noted once and skipped in fitting, which gives the result of the other samples."""
    preparation, seen = Preparation(modalities()), []
    report = pack(
        Spoilt(MadeOptions(train=20)),
        None,
        tmp_path / "s",
        preparation=preparation,
        on_fit=lambda *call: seen.append(call),
    )
    assert report.samples == {"train": 19, "validation": 16}  # train_0007 has no other field
    assert report.fields["train"] == {"a.prepared.npy": 19, "b.prepared.npy": 17, "cls": 19}
    expected = [("b", "train_0003"), ("a", "train_0007"), ("b", "train_0007"), ("b", "train_0019")]
    assert len(report.notes) == len(report.left_out) == len(expected)
    for note, (reason, sample), (name, key) in zip(report.notes, report.left_out, expected, strict=True):
        assert note.startswith(
            f"sample {key!r}, modality {name!r} left out: field {name!r}: expected a JSON array, got"
        )
        assert (sample, f"sample {key!r}, {reason}") == (f"sample {key!r}", note.replace(" left out", ""))
    alone = Preparation(modalities())
    alone.fit(Without(MadeOptions(train=20)), None)
    assert preparation.modalities["b"].state() == alone.modalities["b"].state()
    starts = [name for name, number in seen if number == 0]
    assert starts == ["a"] * 2 + ["b"] * 4
    assert seen[-1] == ("b", 17)


class Strict(TwoFloats):
    """Requires at least one sample."""

    def fit(self, samples):
        samples = list(filter(None, map(self._values, samples)))
        if not samples:
            raise DataError("got no training sample")


@pytest.mark.parametrize("train", [20, 1])
def test_an_error_of_no_sample_blames_none(tmp_path, train):
    """A problem after the last sample, or with the raw data as a whole, is reported at the first attempt."""
    preparation = Preparation({"c": Strict(TwoFloatsOptions(field="c"))})
    with pytest.raises(DataError, match=r"^got no training sample$"):
        pack(Made(MadeOptions(train=train)), None, tmp_path / "s", preparation=preparation)

    class Torn(Made):
        def samples(self, source, account):
            yield from list(super().samples(source, account))[:2]
            raise DataError("the archive is cut short")

    preparation = Preparation(modalities())
    with pytest.raises(DataError, match=r"^the archive is cut short$"):
        preparation.fit(Torn(MadeOptions(train=train)), None)
    assert not preparation.unfit
    assert not list(tmp_path.iterdir())


def test_too_many_unreadable_samples_are_an_error(tmp_path, monkeypatch):
    """Beyond the limit, or if no sample is readable, the message has the number, a sample and the reason."""
    monkeypatch.setattr(prepared, "MOST_UNFIT", 2)
    with pytest.raises(
        DataError, match=r"modality 'b': expected at most 2 .*'train_0003' and 'train_0019': field 'b': .*; replace"
    ):
        Preparation(modalities()).fit(Spoilt(MadeOptions(train=20)), None)
    monkeypatch.setattr(Spoilt, "bad_b", frozenset({"train_0000", "train_0001"}))
    with pytest.raises(
        DataError, match=r"got no training sample; 2 cannot be read, the last one: sample 'train_0001'.*JSON"
    ):
        Preparation({"b": Strict(TwoFloatsOptions(field="b"))}).fit(Spoilt(MadeOptions(train=2)), None)


def test_a_long_pack_says_that_it_is_fitting(two_spec, capsys):
    """Each modality that learns has its own phase with a number of samples, followed by packing."""
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["pack", "two-floats-made", "-", "out", "--set", "train=30", "--for", str(two_spec)])
    lines = [line for line in capsys.readouterr().err.splitlines() if ": starts" in line or ": done" in line]
    assert [line.partition(" in ")[0] for line in lines] == [
        "fitting first: starts",
        "fitting first: done, 30 samples",
        "fitting second: starts",
        "fitting second: done, 30 samples",
        "packing two-floats-made: starts",
        "packing two-floats-made: done, 46 samples",
    ]


def test_options_of_networks_do_not_ask_for_other_shards(tmp_path):
    """Shards prepared with one width serve a modality with another one, which then has the learned state."""
    report = pack(Made(MadeOptions(train=20)), None, tmp_path, preparation=Preparation(modalities(width=32)))
    fresh = modalities(width=8)
    assert load_preparation([str(path) for path in report.shards], fresh)
    assert fresh["a"].mean != [0.0, 0.0]
    assert fresh["a"].options.width == 8


def real_modality(name):
    """Return the class of an installed modality plugin."""
    if name not in {entry.name for entry in entry_points(group="shala.plugins")}:
        pytest.skip(f"plugin not installed: {name}")
    return load_offer(name)


WORDS = ("a red bird with white wings", "a small grey bird", "a bird that has a long beak", "red and white")


class Captions(Made):
    """Sentences; the third training sentence is not UTF-8."""

    def samples(self, source, account):
        for number, sample in enumerate(super().samples(source, account)):
            text = "été".encode("latin-1") if sample.key == "train_0002" else WORDS[number % 4].encode()
            yield attrs.evolve(sample, fields={"txt": text})


def test_a_real_modality_passes_over_a_file_and_takes_other_networks(tmp_path):
    """A latin-1 report costs one sample. Word dropout and width may then change, the longest text may not."""
    text = real_modality("text")
    preparation = Preparation({"note": text(text.Options(vocabulary_size=300, max_tokens=16))})
    report = pack(Captions(MadeOptions(train=12)), None, tmp_path, preparation=preparation)
    assert report.samples["train"] == 11
    (note,) = report.notes
    assert note.startswith("sample 'train_0002', modality 'note' left out: field 'txt': expected UTF-8")
    urls = [str(path) for path in report.shards]
    options = {"vocabulary_size": 300, "max_tokens": 16, "width": 32, "word_dropout": 0.5, "heads": 2, "top_p": 0.9}
    fresh = {"note": text(text.Options(**options))}
    assert load_preparation(urls, fresh)
    assert fresh["note"].state() == preparation.modalities["note"].state()
    for key, value in {
        "max_tokens": 12,
        "vocabulary_size": 400,
        "lower_case": True,
        "sections": ("IMPRESSION",),
    }.items():
        with pytest.raises(DataError, match=rf"other options of 'note' .*: \{{'{key}': \(.*\)\}}; pack them again"):
            load_preparation(urls, {"note": text(text.Options(**(options | {key: value})))})


# For each plugin, the options that reading or fitting depends on; all others concern networks.
def test_fields_that_say_nothing_are_counted_and_listed(tmp_path):
    """Each report without the wanted sections is listed with its reason, and one note counts them."""

    class Reports(Made):
        def samples(self, source, account):
            for number, sample in enumerate(super().samples(source, account)):
                title = "INDICATION" if number % 4 == 0 else "FINDINGS"
                yield attrs.evolve(sample, fields={"a": sample.fields["a"], "txt": f" {title}: Clear.\n".encode()})

    text = real_modality("text")
    preparation = Preparation(
        {"a": TwoFloats(TwoFloatsOptions(field="a")), "report": text(text.Options(sections=("FINDINGS", "IMPRESSION")))}
    )
    report = pack(Reports(MadeOptions(train=8, validation=4)), None, tmp_path, preparation=preparation)
    assert report.fields["train"] == {"a.prepared.npy": 8, "cls": 8, "report.prepared.npy": 6}
    reason = "modality 'report': field 'txt' is there, but it has no section FINDINGS or IMPRESSION"
    dropped = ("train_0000", "train_0004", "validation_0000")
    assert report.left_out == [(reason, f"sample {key!r}") for key in dropped]
    assert report.notes == [f"left out of 3 samples, such as 'train_0000': {reason}"]
    assert (tmp_path / "left_out.txt").read_text().count(reason) == 3


READING = {
    "audio": "sample_rate_hz clip_seconds crop mels hop_milliseconds window_milliseconds min_frequency_hz "
    "max_frequency_hz floor_decibels fields silence",
    "image": "channels height width fit fields bits",
    "skeleton": "frames joints bodies dims root centre facing fields axes max_frames max_megabytes",
    "text": "fields vocabulary_size max_tokens max_bytes lower_case sections",
    "video": "frames height width fields",
}


@pytest.mark.parametrize("name", READING)
def test_every_option_is_one_of_reading_or_one_of_networks(name):
    """Every option must be declared as one of reading or of networks, so none is ignored or misspelt."""
    modality = real_modality(name)
    options = {field.name for field in attrs.fields(modality.Options)}
    assert options - set(READING[name].split()) == modality.network_options
    assert set(READING[name].split()) <= options


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"a": {"options": {"field"',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[1]",
        b'{"a": 1, "b": 2}',
        b'{"a": {"options": {}}, "b": {}}',
        b'{"a": {"options": [], "state": {}}}',
        b'{"a": {"options": {"field": "a"}, "state": {}}}',
    ],
    ids=["empty", "cut", "bytes", "deep", "list", "numbers", "no state", "options", "foreign state"],
)
def test_a_damaged_description_names_its_file(tmp_path, content):
    """For any damage to prepared.json, the message names the file and says what to do."""
    report = pack(Made(MadeOptions(train=3)), None, tmp_path, preparation=Preparation(modalities()))
    (tmp_path / PREPARED_FILE).write_bytes(content)
    with pytest.raises(DataError, match=r"prepared\.json is damaged: expected JSON .*; pack the shards again"):
        load_preparation([str(report.shards[0])], modalities())


def test_a_description_has_each_modality_under_its_name(tmp_path):
    """Each modality is stored under its name, as in earlier versions; reserved names have a separate place."""
    named = {name: TwoFloats(TwoFloatsOptions(field="a")) for name in ("first", "checksum", "version", "modalities")}
    report = pack(Made(MadeOptions(train=3)), None, tmp_path, preparation=Preparation(named))
    described = json.loads((tmp_path / PREPARED_FILE).read_text())
    assert set(described) == {"checksum", "version", "first", "modalities"}
    assert set(described["first"]) == {"options", "state"}
    assert load_preparation([str(report.shards[0])], named)


def test_shards_prepared_for_something_else_are_refused(tmp_path):
    """Other options, an unprepared modality and a damaged tensor are each reported."""
    report = pack(Made(MadeOptions(train=20)), None, tmp_path, preparation=Preparation(modalities()))
    urls = [str(path) for path in report.shards]
    described = json.loads((tmp_path / PREPARED_FILE).read_text())
    del described["checksum"], described["version"]  # version 1 had neither
    described["a"]["options"]["field"] = "z"
    (tmp_path / PREPARED_FILE).write_text(json.dumps(described))
    with pytest.raises(DataError, match=r"other options of 'a' .*'field': \('z', 'a'\)"):
        load_preparation(urls, modalities())
    described["a"]["options"] = {"field": "a", "width": 32, "gone": 1}
    (tmp_path / PREPARED_FILE).write_text(json.dumps(described))
    with pytest.raises(DataError, match=r"\{'gone': \(1, None\)\}"):
        load_preparation(urls, modalities())
    described["a"]["options"].pop("gone")
    (tmp_path / PREPARED_FILE).write_text(json.dumps(described))
    with pytest.raises(DataError, match=r"prepared for 'c' too, got only \['a', 'b'\]"):
        load_preparation(urls, {**modalities(), "c": TwoFloats(TwoFloatsOptions(field="c"))})

    class Longer(TwoFloats):
        shape = (3,)

    with pytest.raises(DataError, match=r"expected float32 \[3\], got float32 \[2\]"):
        load_rows(urls, {"a": Longer(TwoFloatsOptions(field="a"))})


def test_a_run_on_prepared_shards_learns_the_same(two_spec, tmp_path, capsys):
    """`shala pack --for SPEC` changes where reading happens, and nothing that is learned."""
    tensors = []
    for name, extra in (("raw", []), ("ready", ["--for", str(two_spec)])):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(["pack", "two-floats-made", "-", str(tmp_path / name), "--set", "train=60", *extra])
        for in_memory in ("true", "false"):
            overrides = [f'data.train="{tmp_path / name}/train-*.tar"', f"data.in_memory={in_memory}"]
            experiment = Experiment(read_spec(two_spec, overrides), tmp_path / f"run-{name}-{in_memory}", None)
            experiment.run()
            tensors.append(experiment.model.autoencoder.state_dict())
    capsys.readouterr()
    assert json.loads((tmp_path / "ready" / PREPARED_FILE).read_text())["first"]["state"]["mean"]
    for first, second in ((0, 2), (1, 3)):
        assert all(torch.equal(value, tensors[second][key]) for key, value in tensors[first].items())
