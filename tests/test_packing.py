"""Packing gives equal bytes whatever happens: in one call, in several, in parts and with worker processes."""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

import attrs
import pytest
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.data.packing import PACK_LOCK, WorkerError, pack
from shala_framework.data.prepared import Preparation
from shala_framework.data.random_access import read_in_order
from shala_framework.data.shard_index import INDEX_FILE
from shala_framework.data.writing import LEFT_OUT_FILE
from shala_framework.plugin.dataset import Sample
from shala_framework.support.errors import DataError

pytestmark = pytest.mark.long

MODALITIES = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != PACK_LOCK}


def test_packing_twice_gives_the_same_bytes(tmp_path):
    """Shards depend only on the samples, not on time, user or folder."""
    for name in ("one", "two"):
        pack(Made(MadeOptions(train=20)), None, tmp_path / name, shard_samples=8)
    files = [sorted((tmp_path / name).iterdir()) for name in ("one", "two")]
    stems = [f"train-{i:06d}" for i in range(3)] + [f"validation-{i:06d}" for i in range(2)]
    assert [f.name for f in files[0]] == [
        "index.json",
        *(f"{s}{end}" for s in stems for end in (".index.json", ".tar")),
    ]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_packing_refuses_what_would_lose_data(tmp_path):
    """A folder that contains shards and a repeated key are errors, and no partial shard is left."""

    class Twice(Made):
        def samples(self, source, account):
            sample = Sample(key="same", split="train", fields={"a": b"[1, 2]"})
            yield from (sample, sample)

    with pytest.raises(DataError, match="'same' twice"):
        pack(Twice(MadeOptions()), None, tmp_path)
    assert not list(tmp_path.iterdir())
    pack(Made(MadeOptions(train=3)), None, tmp_path)
    with pytest.raises(DataError, match="already holds 2 shards"):
        pack(Made(MadeOptions(train=3)), None, tmp_path)


class Failing(Made):
    """Stops at the 30th sample, by a data error or by Ctrl-C."""

    error: type[BaseException] = DataError

    def samples(self, source, account):
        for number, sample in enumerate(super().samples(source, account)):
            if number == 30:
                raise self.error("stop")
            yield sample


@pytest.mark.parametrize("ready", [False, True])
def test_a_failed_pack_leaves_nothing(tmp_path, ready):
    """If the raw data cannot be used, all shards and new folders are removed; existing folders stay."""
    preparation = Preparation(MODALITIES) if ready else None
    for out in (tmp_path / "new" / "deep" / "s", tmp_path / "old"):
        (tmp_path / "old").mkdir(exist_ok=True)
        with pytest.raises(DataError, match="stop"):
            pack(Failing(MadeOptions(train=60)), None, out, shard_samples=4, preparation=preparation)
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert not list((tmp_path / "old").iterdir())


def test_shards_have_their_names_only_when_all_are_written(tmp_path):
    """While the last sample is written, no file looks like a shard, though most are complete already."""
    names = []
    pack(
        Made(MadeOptions(train=20)),
        None,
        tmp_path,
        shard_samples=8,
        on_sample=lambda _: names.append({path.name for path in tmp_path.iterdir()}),
    )
    stems = [f"train-{i:06d}" for i in range(3)] + [f"validation-{i:06d}" for i in range(2)]
    assert not any(name.endswith(".tar") or name == INDEX_FILE for names_then in names for name in names_then)
    assert {f"{stem}.partial" for stem in stems} <= names[-1]
    expected = {INDEX_FILE, *(f"{stem}{end}" for stem in stems for end in (".tar", ".index.json"))}
    assert {path.name for path in tmp_path.iterdir()} == expected


class _Odd(Made):
    """The samples of one split, or of all splits, are damaged."""

    damaged: tuple[str, ...] = ()

    def samples(self, source, account):
        for sample in super().samples(source, account):
            damaged = sample.split in self.damaged
            yield attrs.evolve(sample, fields=dict.fromkeys(sample.fields, b"oops")) if damaged else sample


class _Nothing(Made):
    def samples(self, source, account):
        return iter(())


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (("validation",), "expected samples of validation, got none to write: "),
        (("train", "validation"), "expected samples, got none to write: "),
    ],
)
def test_a_pack_without_samples_is_an_error(tmp_path, damaged, message):
    """Neither an empty folder of shards nor an empty split looks like a success."""
    dataset = _Odd(MadeOptions(train=6))
    dataset.damaged = damaged
    preparation = Preparation({"a": TwoFloats(TwoFloatsOptions(field="a"))})
    with pytest.raises(DataError, match=rf"{message}\d+ left out: "):
        pack(dataset, None, tmp_path / "s", preparation=preparation)
    assert not (tmp_path / "s").exists()
    with pytest.raises(DataError, match="got none to write: the data set gave none"):
        pack(_Nothing(MadeOptions()), None, tmp_path / "s")


KILLED = """
import os, pathlib, signal, sys
from two_floats import Made, MadeOptions
from shala_framework.data.packing import pack

def kill(done):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

pack(Made(MadeOptions(train=60)), None, pathlib.Path(sys.argv[1]), shard_samples=8, on_sample=kill)
"""


def test_a_killed_pack_resumes(tmp_path, command_environment):
    """After two kills, packing ends with the bytes of an undisturbed pack, and other files stay."""
    pack(Made(MadeOptions(train=60)), None, tmp_path / "clean", shard_samples=8)
    out = tmp_path / "s"
    out.mkdir()
    (out / "notes.partial").write_text("mine")
    for done in ("0", "30", "50"):
        line = [sys.executable, "-c", KILLED, str(out), done]
        assert subprocess.run(line, env=command_environment, check=False).returncode == -signal.SIGKILL
    assert (out / "train-000005.index.json").exists()
    asked = []

    class Watched(Made):
        def samples(self, source, account):
            for sample in super().samples(source, account):
                asked.append(account.wanted(sample.key))
                yield sample

    Watched.__module__, Watched.__qualname__ = Made.__module__, Made.__qualname__
    report = pack(Watched(MadeOptions(train=60)), None, out, shard_samples=8)
    assert asked.index(True) == 48  # what is written need not be read again
    assert report.samples == {"train": 60, "validation": 16}
    assert contents(out) == {**contents(tmp_path / "clean"), "notes.partial": b"mine"}


def test_an_unfinished_pack_is_never_mixed_with_another(tmp_path, command_environment):
    """Another option or shard size is refused with both values, and nothing is changed."""
    line = [sys.executable, "-c", KILLED, str(tmp_path), "50"]
    subprocess.run(line, env=command_environment, check=False)
    before = contents(tmp_path)
    with pytest.raises(
        DataError, match=r"unfinished pack .*'shard_samples': \(8, 9\).*resume with the earlier settings, or remove"
    ):
        pack(Made(MadeOptions(train=60)), None, tmp_path, shard_samples=9)
    with pytest.raises(DataError, match=r"'train': 60.*'train': 61"):
        pack(Made(MadeOptions(train=61)), None, tmp_path, shard_samples=8)
    (tmp_path / "train-000099.tar").touch()
    (tmp_path / "other-train.tar").touch()
    with pytest.raises(DataError, match=r"already holds 1 shards, such as other-train\.tar"):
        pack(Made(MadeOptions(train=60)), None, tmp_path, shard_samples=8)
    assert {name: data for name, data in contents(tmp_path).items() if data} == before


@pytest.mark.parametrize("failing", range(2, 30, 3))
def test_a_pack_resumes_after_an_interrupted_or_full_disk(tmp_path, monkeypatch, failing):
    """If a drive disappears at any rename, including those of shards and index, the same call ends normally."""
    pack(Made(MadeOptions(train=40, missing=0.2)), None, tmp_path / "clean", shard_samples=8)
    rename, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error", str(target))
        rename(source, target)

    with monkeypatch.context() as patched, suppress(OSError):
        patched.setattr(os, "replace", replace)
        pack(Made(MadeOptions(train=40, missing=0.2)), None, tmp_path / "s", shard_samples=8)
    if len(calls) >= failing:
        pack(Made(MadeOptions(train=40, missing=0.2)), None, tmp_path / "s", shard_samples=8)
    assert contents(tmp_path / "s") == contents(tmp_path / "clean")


class Spoilt(Made):
    """Every seventh field b is not JSON."""

    def samples(self, source, account):
        for number, sample in enumerate(super().samples(source, account)):
            bad = {"b": b"?"} if number % 7 == 3 else {}
            yield attrs.evolve(sample, fields={**sample.fields, **bad})


def test_what_was_left_out_is_known_after_an_interruption(tmp_path):
    """Notes, list and counts after an interruption equal those of an undisturbed pack."""

    def stop(done):
        if done == 45:
            raise KeyboardInterrupt

    def packed(out, **settings):
        return pack(
            Spoilt(MadeOptions(train=60)), None, out, shard_samples=8, preparation=Preparation(MODALITIES), **settings
        )

    clean = packed(tmp_path / "clean")
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "s", on_sample=stop)
    report = packed(tmp_path / "s")
    assert contents(tmp_path / "s") == contents(tmp_path / "clean")
    assert len(report.left_out) == 11
    assert (report.notes, report.left_out, report.fields) == (clean.notes, clean.left_out, clean.fields)


def test_workers_write_the_same_bytes(tmp_path):
    """Two processes prepare the same bytes as one, including notes about unreadable samples."""
    for number, out in enumerate((tmp_path / "alone", tmp_path / "two")):
        pack(
            Spoilt(MadeOptions(train=60)),
            None,
            out,
            shard_samples=8,
            preparation=Preparation(MODALITIES),
            num_workers=2 * number,
        )
    assert contents(tmp_path / "alone") == contents(tmp_path / "two")


def test_parts_make_one_set(tmp_path):
    """Three parts packed in any order give each sample once, and an index only when all parts are complete."""
    whole = pack(Made(MadeOptions(train=60)), None, tmp_path / "whole", shard_samples=8)
    out = tmp_path / "parts"
    for number in (2, 0, 1):
        report = pack(Made(MadeOptions(train=60)), None, out, shard_samples=8, part=(number, 3))
        assert report.complete == (number == 1) == (out / INDEX_FILE).exists()
        assert all(path.name.startswith((f"train-p000{number + 1}-", "valid")) for path in report.shards)
    shards = sorted(str(path) for path in out.glob("*.tar"))
    found = {sample.key: sample.fields for sample in read_in_order(shards)}
    assert found == {s.key: s.fields for s in read_in_order([str(path) for path in whole.shards])}
    assert sorted(path.name for path in out.glob("*.json") if "-0" not in path.name) == [INDEX_FILE]
    for part, message in (((0, 3), "already holds"), ((0, 1), "already holds")):
        with pytest.raises(DataError, match=message):
            pack(Made(MadeOptions(train=60)), None, out, shard_samples=8, part=part)


def test_parts_of_other_settings_are_refused(tmp_path):
    """Other settings or another number of parts are refused, during and after another part."""
    made, out = Made(MadeOptions(train=60)), tmp_path / "parts"
    pack(made, None, out, shard_samples=8, part=(0, 3))
    with pytest.raises(
        DataError, match=r"p0001\.json belongs to a part with other settings.*'shard_samples': \(8, 9\)"
    ):
        pack(made, None, out, shard_samples=9, part=(1, 3))
    with pytest.raises(DataError, match="holds parts of 3, not of 2"):
        pack(made, None, out, shard_samples=8, part=(1, 2))
    for number in (0, 1, 2):  # a part that is done may be asked for again
        pack(made, None, out, shard_samples=8, part=(number, 3))
    assert (out / INDEX_FILE).exists()


def test_parts_that_end_at_once_make_one_set(tmp_path):
    """All four processes succeed, whichever of them joins the parts."""
    out, gate = tmp_path / "parts", threading.Barrier(4)

    def pack_part(number):
        pack(Gated(MadeOptions(train=40), gate), None, out, shard_samples=4, part=(number, 4))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(pack_part, number) for number in range(4)]:
            done.result()
    whole = pack(Made(MadeOptions(train=40)), None, tmp_path / "whole")
    found = {sample.key for sample in read_in_order(sorted(str(path) for path in out.glob("*.tar")))}
    assert found == {sample.key for sample in read_in_order([str(path) for path in whole.shards])}
    assert sorted(path.name for path in out.glob("*.json") if "-0" not in path.name) == [INDEX_FILE]


class Gated(Made):
    """A data set whose last sample waits until all readers have arrived."""

    def __init__(self, options, gate):
        super().__init__(options)
        self.gate = gate

    def samples(self, source, account):
        yield from super().samples(source, account)
        self.gate.wait()


def test_a_worker_that_is_killed_costs_no_whole_shard(tmp_path, monkeypatch):
    """The error says what to do, and the next call resumes."""
    preparation, calls = Preparation(MODALITIES), 0
    made, out = Made(MadeOptions(train=60)), tmp_path / "s"

    def dying(pool, work, samples):
        nonlocal calls
        calls += 1
        if calls > 5:
            raise BrokenProcessPool("a child process terminated abruptly")
        future = Future()
        future.set_result([preparation.prepare(sample) for sample in samples])
        return future

    with monkeypatch.context() as patch:
        patch.setattr(ProcessPoolExecutor, "submit", dying)
        with pytest.raises(WorkerError, match="use fewer --workers"):
            pack(made, None, out, shard_samples=8, preparation=preparation, num_workers=1)
    assert list(out.glob("*.partial"))
    report = pack(made, None, out, shard_samples=8, preparation=preparation)
    assert report.samples["train"] == 60


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    """The system's error has no file name; the message names the shard, and nothing is left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, before[1]))
    try:
        with pytest.raises(OSError, match="train-000000") as caught:
            pack(Made(MadeOptions(train=400)), None, tmp_path / "s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.filename == str(tmp_path / "s" / "train-000000.partial")
    assert not list(tmp_path.iterdir())


def test_what_is_left_out_is_listed_whole(tmp_path):
    """The list has a line for every file, with reason and name in two columns, whatever characters they contain."""

    class Picky(Made):
        def samples(self, source, account):
            for number in range(7):
                account.leave_out("odd", str(number))
            account.leave_out("od\td", "a\nb/Größe\udce9")
            return super().samples(source, account)

    out = tmp_path / "raw"
    report = pack(Picky(MadeOptions(train=3)), None, out)
    assert len(report.left_out) == 8
    lines = (out / LEFT_OUT_FILE).read_text("utf-8").splitlines()
    assert lines == [*(f"odd\t{number}" for number in range(7)), r"od\td" + "\t" + r"a\nb/Größe\xe9"]

    class Damaged(Picky):
        def samples(self, source, account):
            for sample in super().samples(source, account):
                yield attrs.evolve(sample, fields={"a": b"["}) if sample.key == "train_0001" else sample

    report = pack(Damaged(MadeOptions(train=3)), None, tmp_path / "ready", preparation=Preparation(MODALITIES))
    lines = (tmp_path / "ready" / LEFT_OUT_FILE).read_text("utf-8").splitlines()
    assert len(lines) == len(report.left_out) == 9
    assert re.fullmatch(r"modality 'a': field 'a': expected a JSON array, got .*\tsample 'train_0001'", lines[-1])
    pack(Made(MadeOptions(train=3)), None, tmp_path / "all")
    assert not (tmp_path / "all" / LEFT_OUT_FILE).exists()
