"""Indexed shards match their index, damage is an error, and steps are exact."""

import io
import json
import re
import shutil
import tarfile
import threading
import time
from bisect import bisect_right
from collections import Counter
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.cli.main import main
from shala_framework.data.order import SampleOrder, spread_positions
from shala_framework.data.packing import pack
from shala_framework.data.random_access import index_shards, read_in_order, read_spread
from shala_framework.data.shard_index import INDEX_FILE, write_index
from shala_framework.data.shards import read_shards
from shala_framework.data.streams import IndexedStream, stream_batches
from shala_framework.run.data import RunData
from shala_framework.spec import read_spec
from shala_framework.support import retrying
from shala_framework.support import urls as urls_module
from shala_framework.support.checksums import ZEROS
from shala_framework.support.errors import DataError
from shala_framework.support.json_files import dump_json
from shala_framework.support.progress import Silent
from shala_framework.support.urls import is_cache

pytestmark = pytest.mark.long

MODALITIES = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}


@pytest.fixture
def shards(tmp_path: Path) -> list[str]:
    """Seven shards of 103 training samples, a fifth of which lack modality b."""
    report = pack(Made(MadeOptions(train=103, missing=0.2)), None, tmp_path / "s", shard_samples=15)
    return [str(path) for path in report.shards if path.name.startswith("train")]


def stream_of(urls, **settings):
    shards = index_shards(urls)
    order = SampleOrder(shards.counts, seed=3, interleave=4, window=40)
    return IndexedStream(shards, MODALITIES, order, **{"batch_size": 8, **settings})


def test_samples_are_the_same_with_index_without_and_by_webdataset(shards, tmp_path):
    """Fields are equal byte for byte and in order."""
    expected = list(read_shards(shards))
    assert list(read_in_order(shards)) == expected
    bare = [shutil.copy(shard, tmp_path) for shard in shards]
    found = [(s.key, s.fields) for s in read_in_order(bare)]
    assert found == [(s.key, s.fields) for s in expected]
    indexed = index_shards(shards)
    assert indexed.counts == [15] * 6 + [13]
    assert indexed.read(2, 4, {"a"}).fields == {"a": expected[34].fields["a"]}


def test_a_part_of_a_set_lies_all_over_it(shards, tmp_path):
    """One sample is taken from each of equal parts; a smaller set is read once, completely."""
    keys = [s.key for s in read_shards(shards)]
    places = [keys.index(s.key) for s in read_spread(shards, 4)]
    assert [bisect_right((25, 51, 77), place) for place in places] == [0, 1, 2, 3]
    assert len(list(read_spread(shards, 1))) == 1
    assert [s.key for s in read_spread(shards, 500)] == keys
    bare = [shutil.copy(shard, tmp_path) for shard in shards]
    assert [s.key for s in read_spread(bare, 4)] == [keys[place] for place in places]


def test_a_part_of_a_set_has_its_classes_whatever_their_order():
    """Sorted and alternating classes keep their shares, whereas a fixed stride would select few of them."""
    for num_rows, count in ((20_000, 4_000), (20_000, 5_000), (1_000, 100)):
        for classes in (torch.arange(num_rows) % 10, torch.arange(num_rows) * 10 // num_rows):
            shares = classes[spread_positions(num_rows, count)].bincount(minlength=10) / count
            assert (shares - 0.1).abs().max() < 4 * (0.1 * 0.9 / count) ** 0.5


@pytest.mark.parametrize("indexed", [True, False])
def test_every_row_is_read_in_order(shards, two_spec, monkeypatch, indexed):
    """Processes take batches in turn, from any batch on; workers are used if there is an index."""
    if not indexed:
        shards = [shutil.copy(shard, two_spec.parent) for shard in shards]
    expected = [[s.key for s in batch] for batch in batched(read_in_order(shards), 8)]
    for size, workers in ((1, 0), (1, 2), (3, 0), (20, 0)):
        spec = read_spec(two_spec, ["data.in_memory=false", f"data.num_workers={workers}"]).spec
        data = RunData(spec=spec, modalities=MODALITIES, train_urls=shards, validation_urls=[], reporter=Silent())
        monkeypatch.setattr("shala_framework.support.distributed.processes.world_size", lambda size=size: size)
        for rank in range(size):
            monkeypatch.setattr("shala_framework.support.distributed.processes.rank", lambda rank=rank: rank)
            for start in (0, 2):
                found = [list(rows.keys) for rows in data.in_order(8, start)]
                assert found == expected[rank::size][start:]


def batched(samples, size):
    while batch := list(islice(samples, size)):
        yield batch


def test_an_error_of_a_stream_arrives_as_it_is(tmp_path):
    """The message is the worker's error, not the traceback that torch makes of it."""
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("x.a")
        member.size = 7
        tar.addfile(member, io.BytesIO(b"no JSON"))
    stream = stream_of([str(path)], batch_size=1)
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            next(stream_batches(stream, workers))
        assert "Traceback" not in str(caught.value)
        assert "sample 'x', modality 'a': field 'a': expected a JSON array" in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "flipped", "unlisted", "lost index", "other index", "later version"])
def test_a_shard_that_is_not_what_its_index_says_is_an_error(shards, damage):
    """A changed byte, a missing tail or a foreign index is an error, never a sample that lacks a field."""
    path, folder = Path(shards[1]), Path(shards[1]).parent
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:4096] + b"\0" * 1024)
        expected = rf"train-000001\.tar: expected {len(content)} bytes, as its index says, got 5120"
    elif damage == "flipped":
        place = content.index(b"[", 512)
        path.write_bytes(content[:place] + b"(" + content[place + 1 :])
        expected = r"train-000001\.tar: sample 'train_0015': field 'a' does not match the index"
    elif damage == "unlisted":
        shutil.copy(path, folder / "train-000009.tar")
        shards = [*shards, str(folder / "train-000009.tar")]
        expected = r"train-000009\.tar: .*index\.json does not list it; `shala index`"
    elif damage == "lost index":
        path.with_suffix(".index.json").unlink()
        expected = r"train-000001\.tar: .*No such file.*`shala index`"
    elif damage == "other index":
        shutil.copy(folder / "train-000006.index.json", folder / "train-000001.index.json")
        expected = r"train-000001\.index\.json is not the index that index\.json lists: its checksum differs"
    else:
        listed = json.loads((folder / INDEX_FILE).read_text())
        (folder / INDEX_FILE).write_bytes(dump_json({**listed, "checksum": ZEROS, "version": 3, "shards": []}))
        expected = r"index\.json: expected version 2 of the index, got 3"
    with pytest.raises(DataError, match=expected):
        list(read_in_order(shards))


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("urls", [slice(None), slice(0, 1)])
def test_every_number_of_processes_has_the_same_steps(shards, urls, world_size):
    """For any number of shards and processes, a step's rows are the same, an epoch is the set, and no process waits."""
    shards = shards[urls]
    num_samples = sum(1 for _ in read_shards(shards))
    alone = [set(rows.keys) for rows in islice(stream_of(shards), 40)]
    ranks = [list(islice(stream_of(shards, rank=rank, world_size=world_size), 40)) for rank in range(world_size)]
    assert [{key for rows in step for key in rows.keys} for step in zip(*ranks, strict=True)] == alone
    assert all(len(rows) == 8 // world_size for rank in ranks for rows in rank)
    order = stream_of(shards).order
    epoch = Counter(order[p] for p in range(num_samples))
    assert len(epoch) == num_samples


# PyTorch's loader may complain when its worker processes are dropped in the middle of an endless stream.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_workers_and_a_late_start_change_nothing(shards):
    """Two worker processes starting at step 5 give the same bits as one process."""
    whole = list(islice(stream_of(shards), 12))
    late = list(islice(stream_batches(stream_of(shards, start_step=5), 2), 7))
    for a, b in zip(whole[5:], late, strict=True):
        assert a.keys == b.keys
        assert all(torch.equal(a.x[name], b.x[name]) for name in a.x)


class Server(SimpleHTTPRequestHandler):
    """Serves files of a folder, completely or in the requested pieces."""

    asked: ClassVar[list[str]] = []
    in_pieces = True

    def log_message(self, *arguments):
        self.asked.append(self.path)

    def do_GET(self):
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if not self.in_pieces or span is None or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        first, last = int(span[1]), min(int(span[2]), len(content) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(content[first : last + 1])


@pytest.fixture
def served(shards):
    """Serve the shards on a local server and return their URLs."""
    Server.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(Path(shards[0]).parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_port}/{Path(shard).name}" for shard in shards]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("cached", [False, True])
def test_shards_behind_http_are_read_by_number(shards, served, tmp_path, cached):
    """The index is found next to them; copies are kept in a given folder and reused."""
    cache = tmp_path / "cache" if cached else None
    expected = [(s.key, s.fields) for s in read_shards(shards)]
    for _ in range(2):
        assert [(s.key, s.fields) for s in read_in_order(served, cache)] == expected
    if cached:
        assert len(list(cache.glob("*.tar"))) == len(shards)
        assert is_cache(cache)
        copied = sum(path.endswith(".tar") for path in Server.asked)
        assert list(read_in_order(served, cache))
        assert sum(path.endswith(".tar") for path in Server.asked) == copied


def test_a_server_that_fails_for_a_moment_is_asked_again(shards, served, monkeypatch):
    """A server that denies access to missing files, as object stores do, has no index."""
    monkeypatch.setattr(retrying, "SHORTEST_WAIT", 0.01)
    failures = dict.fromkeys((f"/{Path(shard).name}" for shard in shards), 1)
    honest = Server.do_GET

    def failing(self):
        if failures.get(self.path, 0):
            failures[self.path] -= 1
            self.send_error(503)
        else:
            honest(self)

    monkeypatch.setattr(Server, "do_GET", failing)
    assert [s.key for s in read_in_order(served)] == [s.key for s in read_shards(shards)]
    assert not any(failures.values())
    monkeypatch.setattr(Server, "do_GET", lambda self: self.send_error(403))
    assert index_shards(served) is None


@pytest.mark.parametrize("how", ["pieces", "copies", "no index"])
def test_a_server_that_is_away_for_two_minutes_ends_no_reading(shards, served, clock, tmp_path, monkeypatch, how):
    """Shards are away once the index is read; threads of a batch, a copy and a reader in order wait for them."""
    honest, asked = Server.do_GET, []
    gone = threading.Event()

    def away(self):
        asked.append(self.path)
        if gone.is_set() and clock.now < 120:
            self.close_connection = True  # hang up without an answer
        else:
            honest(self)

    monkeypatch.setattr(Server, "do_GET", away)
    if how == "no index":
        monkeypatch.setattr(Server, "do_HEAD", away)
        for path in Path(shards[0]).parent.glob("*.json"):
            path.unlink()
        found = read_in_order(served)
        first = [next(found).key for _ in range(3)]
        gone.set()
        assert first + [sample.key for sample in found] == [sample.key for sample in read_shards(shards)]
    else:
        index = index_shards(served, tmp_path / "cache" if how == "copies" else None)
        order = stream_of(shards).order
        steps = iter(IndexedStream(index, MODALITIES, order, batch_size=8))
        first = [next(steps)] if how == "pieces" else []  # all copies may be fetched ahead of the second batch
        gone.set()
        for mine, theirs in zip(first + list(islice(steps, 11)), stream_of(shards), strict=False):
            assert mine.keys == theirs.keys
            assert all(torch.equal(mine.x[name], theirs.x[name]) for name in mine.x)
        index.close()
    assert clock.now >= 120
    assert len(asked) < 400


def test_a_batch_is_read_by_several_threads(shards, served, monkeypatch):
    """Several shards are requested at the same time, and rows keep their order."""
    honest, lock, counts = Server.do_GET, threading.Lock(), [0, 0]

    def slow(self):
        if self.path.endswith(".tar"):
            with lock:
                counts[0] += 1
                counts[1] = max(counts)
            time.sleep(0.1)
            with lock:
                counts[0] -= 1
        honest(self)

    index = index_shards(served)
    places = [(shard, number) for number in (5, 2, 9) for shard in range(len(index.urls) - 1)]
    expected = [(s.key, s.fields) for s in index_shards(shards).read_many(places)]
    monkeypatch.setattr(Server, "do_GET", slow)
    assert [(s.key, s.fields) for s in index.read_many(places)] == expected
    assert counts[1] >= 4
    index.close()


@pytest.mark.parametrize("in_pieces", [True, False])
def test_a_file_that_is_read_in_order_is_resumed_at_its_position(tmp_path, clock, monkeypatch, in_pieces):
    """A broken connection is resumed; if the server gives no pieces, the start is read again."""
    content = bytes(range(256)) * (1 << 16)
    (tmp_path / "a.bin").write_bytes(content)
    monkeypatch.setattr(Server, "in_pieces", in_pieces)
    honest, end, broken = Server.do_GET, Server.end_headers, []

    def end_headers(self):
        self.send_header("Accept-Ranges", "bytes" if in_pieces else "none")
        end(self)

    monkeypatch.setattr(Server, "end_headers", end_headers)

    def breaking(self):
        if len(broken) < 2 and (not in_pieces or int(re.findall(r"\d+", self.headers["Range"])[0]) > 1 << 22):
            broken.append(self.path)
            self.send_response(200 if not in_pieces else 206)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: 1 << 21])
            self.close_connection = True
        else:
            honest(self)

    monkeypatch.setattr(Server, "do_GET", breaking)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with urls_module.open_stream(f"http://127.0.0.1:{server.server_port}/a.bin") as stream:
        pieces = list(iter(lambda: stream.read(1 << 20), b""))
    assert b"".join(pieces) == content
    assert len(broken) == 2
    server.shutdown()
    server.server_close()


def test_a_server_that_cannot_give_pieces_is_an_error_that_says_what_to_do(served, monkeypatch):
    """This concerns servers like Python's own http.server."""
    monkeypatch.setattr(Server, "in_pieces", False)
    monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(retrying, "LEAST_TRIES", 1)
    with pytest.raises(DataError, match=r"train-000000\.tar: sample 'train_0000': .*set data\.cache to a folder"):
        list(read_in_order(served))


@pytest.fixture
def impatient(monkeypatch):
    """Make the client give up soon."""
    monkeypatch.setattr(urls_module, "SERVER_SECONDS", 0.2)
    for name in ("SHORTEST_WAIT", "FIRST_SECONDS", "PATIENT_SECONDS"):
        monkeypatch.setattr(retrying, name, 0.01)


@pytest.mark.parametrize("suffix", [".json", ".tar"])
@pytest.mark.parametrize("sent", [None, b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"])
def test_a_silent_server_is_an_error_soon(served, impatient, monkeypatch, suffix, sent):
    """It took 40 minutes before, and an index that the server did not deliver counted as missing."""
    honest, done = Server.do_GET, threading.Event()

    def silent(self):
        if not self.path.endswith(suffix):
            honest(self)
            return
        if sent is not None:
            self.wfile.write(sent)
        done.wait(20)

    monkeypatch.setattr(Server, "do_GET", silent)
    monkeypatch.setattr(Server, "do_HEAD", silent)
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"http://127\.0\.0\.1:\d+/(index\.json|train-000000\.tar): .*([Tt]imeout|no pieces)"
    ):
        list(read_in_order(served))
    assert time.monotonic() - start < 10
    done.set()


@pytest.mark.parametrize("stated", ["", "bytes 7-8/9", "bytes 512-9000000/9999999", "bytes 0-1/*"])
def test_another_piece_than_was_asked_for_is_an_error(served, impatient, monkeypatch, stated):
    """Only the server's statement identifies a piece; without an index nothing else does."""
    honest = Server.send_header

    def lying(self, name, value):
        honest(self, name, stated if name == "Content-Range" else value)

    monkeypatch.setattr(Server, "send_header", lying)
    with pytest.raises(DataError, match=r"expected bytes .* of the file, got an answer with the range"):
        list(read_in_order(served))


def test_copies_need_no_pieces_and_end_where_the_index_says(tmp_path, impatient, monkeypatch):
    """A shard and an index of many megabytes, which clients request in pieces, and a server that never ends."""
    folder = tmp_path / "large"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.bin")
            info.size = 3_000_000
            tar.addfile(info, io.BytesIO(bytes([number]) * info.size))
    write_index(folder)
    size = (folder / "index.json").stat().st_size
    monkeypatch.setattr(Server, "in_pieces", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/a.tar"
    assert [len(s.fields["bin"]) for s in read_in_order([url], tmp_path / "cache")] == [3_000_000] * 3

    def endless(self):
        if self.path.endswith("json"):
            SimpleHTTPRequestHandler.do_GET(self)
            return
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while True:
                self.wfile.write(bytes(1 << 20))

    monkeypatch.setattr(Server, "do_GET", endless)
    with pytest.raises(DataError, match=r"a\.tar: expected \d+ bytes, got \d+"):
        list(read_in_order([url], tmp_path / "other"))
    monkeypatch.setattr(urls_module, "MOST_BYTES", size - 1)
    with pytest.raises(DataError, match=r"index\.json': expected at most .* bytes, got more"):
        list(read_in_order([url]))
    server.shutdown()
    server.server_close()


def test_index_is_made_for_shards_of_another_origin(shards, tmp_path, capsys):
    """`shala index` writes what packing would have written; a truncated shard leaves no index behind."""
    packed, bare = Path(shards[0]).parent, tmp_path / "bare"
    bare.mkdir()
    for path in packed.glob("*.tar"):
        shutil.copy(path, bare)
    with pytest.raises(SystemExit, match="0"):
        main(["index", str(bare)])
    assert re.search(r"bare: 9 shards, 119 samples, \d\.\d MiB", capsys.readouterr().out)
    for path in packed.glob("*.json"):
        assert (bare / path.name).read_bytes() == path.read_bytes()
    (bare / "train-000003.tar").write_bytes(b"")
    with pytest.raises(SystemExit, match="2"):
        main(["index", str(bare)])
    assert "train-000003.tar: not a readable shard: cut short" in capsys.readouterr().err
    assert not (bare / INDEX_FILE).exists()
    for folder, message in ((tmp_path, "expected shards (*.tar), found none"), (tmp_path / "no", "expected a folder")):
        with pytest.raises(SystemExit, match="2"):
            main(["index", str(folder)])
        assert message in capsys.readouterr().err
