"""Copies of remote shards: one download each for all processes, within a size limit, and ahead of the reader."""

import os
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import ClassVar

import attrs
import pytest
from two_floats import Made, MadeOptions, TwoFloats, TwoFloatsOptions

from shala_framework.data import shard_cache
from shala_framework.data.order import SampleOrder
from shala_framework.data.packing import pack
from shala_framework.data.random_access import index_shards, read_in_order
from shala_framework.data.shard_cache import ShardCache
from shala_framework.data.streams import IndexedStream, stream_batches
from shala_framework.support.errors import DataError

MODALITIES = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}


class Server(SimpleHTTPRequestHandler):
    """Serves whole files slowly, and remembers which."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        if self.path.endswith(".tar"):
            time.sleep(0.1)
        super().do_GET()

    def do_HEAD(self):
        raise AssertionError("the length is known")


@attrs.frozen
class Shards:
    """Shards on disk, and the same ones behind a server."""

    paths: list[str]
    urls: list[str]

    @property
    def sizes(self):
        return [Path(path).stat().st_size for path in self.paths]

    def asked(self):
        """How often the server was asked for each shard."""
        return [Server.asked.count(f"/{Path(path).name}") for path in self.paths]


@pytest.fixture
def shards(tmp_path):
    report = pack(Made(MadeOptions(train=160)), None, tmp_path / "s", shard_samples=16)
    paths = [str(path) for path in report.shards if path.name.startswith("train")]
    Server.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path / "s")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Shards(paths, [f"http://127.0.0.1:{server.server_port}/{Path(path).name}" for path in paths])
    server.shutdown()
    server.server_close()


def stream(shards, urls, cache=None, window=64):
    found = index_shards(urls, cache)
    order = SampleOrder(found.counts, seed=3, interleave=4, window=window)
    return IndexedStream(found, MODALITIES, order, batch_size=8)


@pytest.mark.long
def test_processes_share_one_download_of_each_shard(shards, tmp_path):
    """Three worker processes that want the same shards at the same time download each once, whole, in order."""
    cache = tmp_path / "cache"
    batches = stream_batches(stream(shards, shards.urls, cache), 3)
    found = [rows.keys for rows in islice(batches, 20)]
    batches.close()
    assert found == [rows.keys for rows in islice(stream(shards, shards.paths), 20)]
    assert shards.asked() == [1] * len(shards.paths)
    kept = {path.name.split("-", 1)[1]: path.stat().st_size for path in cache.glob("*.tar")}
    assert kept == {Path(path).name: size for path, size in zip(shards.paths, shards.sizes, strict=True)}
    assert not [path.name for path in cache.iterdir() if path.suffix in (".partial", ".lock")]


def test_copies_used_longest_ago_make_room(shards, tmp_path):
    """The folder never exceeds its limit, rows stay right, and what was used last stays."""
    largest = max(shards.sizes)
    cache = ShardCache(tmp_path / "cache", 4 * largest)
    expected = [(s.key, s.fields) for s in read_in_order(shards.paths)]
    for _ in range(2):
        found = []
        for sample in read_in_order(shards.urls, cache):
            found.append((sample.key, sample.fields))
            kept = list(cache.folder.glob("*-*"))
            assert sum(path.stat().st_size for path in kept) <= cache.most_bytes
        assert found == expected
    assert shards.asked() == [2] * len(shards.paths)
    names = {path.name.split("-", 1)[1] for path in cache.folder.glob("*.tar")}
    assert {Path(path).name for path in shards.paths[-2:]} <= names
    assert next(read_in_order(shards.urls[-1:], cache))
    assert shards.asked()[-1] == 2


def test_a_limit_below_one_shard_is_an_error_that_says_so(shards, tmp_path):
    """It names the key and both sizes."""
    with pytest.raises(DataError, match=r"data\.cache_bytes = 1,000 is less than this shard's [\d,]+ bytes; raise it"):
        next(read_in_order(shards.urls, ShardCache(tmp_path / "cache", 1_000)))


def test_copying_ahead_takes_no_room_from_what_is_in_use(shards, tmp_path, monkeypatch):
    """A shard that nobody waits for stays away while all copies are in use, and takes the place of an old one."""
    monkeypatch.setattr(shard_cache, "_clock", lambda: time.time() + late[0])
    late = [0.0]
    sizes, cache = shards.sizes, ShardCache(tmp_path / "cache", 3 * max(shards.sizes))
    for number in range(3):
        cache.open(shards.urls[number], sizes[number]).close()
    cache.fetch(shards.urls[3], sizes[3], ahead=True)
    assert not cache.has(shards.urls[3], sizes[3])
    late[0] = 60.0
    cache.fetch(shards.urls[3], sizes[3], ahead=True)
    assert cache.has(shards.urls[3], sizes[3])
    assert not cache.has(shards.urls[0], sizes[0])
    left = cache.folder / f"{'0' * 16}-x.tar.7-7.partial"
    left.write_bytes(bytes(10))
    os.utime(left, (1, 1))  # of a process that was killed long ago
    cache.fetch(shards.urls[4], sizes[4])
    assert not left.exists()


def test_the_next_shards_are_copied_before_they_are_read(shards, tmp_path):
    """Shards of the next window arrive while the first batches are still trained on; the rows stay the same."""
    source = stream(shards, shards.urls, tmp_path / "cache", window=8)
    batches = iter(source)
    found = [next(batches).keys]
    deadline = time.monotonic() + 20
    while sum(shards.asked()) < 7 and time.monotonic() < deadline:
        time.sleep(0.05)
    read_so_far = {source.order[position][0] for position in range(4 * 8)}  # two more batches are read ahead
    assert sum(shards.asked()) > len(read_so_far)
    found += [rows.keys for rows in islice(batches, 19)]
    assert found == [rows.keys for rows in islice(stream(shards, shards.paths, window=8), 20)]
    assert max(shards.asked()) == 1
    source.shards.close()


def test_neighbours_are_read_in_one_request(shards, monkeypatch):
    """Samples of a shard that lie near each other take one request, and no request asks for a length."""
    honest, spans = Server.do_GET, []

    def in_pieces(self):
        span = self.headers.get("Range")
        if span is None:
            return honest(self)
        first, last = map(int, span.removeprefix("bytes=").split("-"))
        spans.append((self.path, first, last))
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(content[first : last + 1])
        return None

    monkeypatch.setattr(Server, "do_GET", in_pieces)
    found = index_shards(shards.urls)
    places = [(shard, number) for number in (5, 2, 9) for shard in (0, 4)]
    expected = [(s.key, s.fields) for s in index_shards(shards.paths).read_many(places, {"a"})]
    assert [(s.key, s.fields) for s in found.read_many(places, {"a"})] == expected
    assert len(spans) == 2
    found.close()
