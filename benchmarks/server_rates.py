"""Rows a second that worker processes stream from an object store, a loopback server with latency and little bandwidth.

    python benchmarks/server_rates.py [--workers 8] [--latency 0.03] [--megabytes 20] [--shards 128] [--samples 100]
        [--window 4096] [--rows 64] [--only copies pieces disk]

The shards are prepared arrays of random bytes. "copies" streams them with `data.cache`, which begins empty, "pieces"
without, and "disk" reads the files themselves. The clock starts when every worker has read some batches, and stops at
the end of the first epoch. The bandwidth is shared by all connections, and the latency is that of each request. The
script needs nothing that is newer than the reading itself, so it also measures earlier versions:

    PYTHONPATH=OTHER_TREE python benchmarks/server_rates.py
"""

import argparse
import multiprocessing
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np
import torch
from pictures import Picture
from scripts import markdown
from torch import Tensor

from shala_framework.data.order import SampleOrder
from shala_framework.data.packing import pack
from shala_framework.data.prepared import Preparation
from shala_framework.data.random_access import index_shards
from shala_framework.data.streams import IndexedStream, stream_batches
from shala_framework.plugin.dataset import Account, Dataset, Sample

PIECE = 1 << 16  # bytes that the server sends at a time


class Random(Picture):
    """A picture of random bytes, made from the field n."""

    fields = ("n",)

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        rng = np.random.default_rng(int(sample["n"]))
        return torch.from_numpy(rng.integers(0, 256, self.shape, dtype=np.uint8))


class Numbers(Dataset):
    """Samples with their number as the only field."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            count: Number of samples.
        """

        count: int

    needs_source: ClassVar[bool] = False
    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        for number in range(self.options.count):
            yield Sample(key=f"{number:07d}", split="train", fields={"n": str(number).encode()})


class Server(BaseHTTPRequestHandler):
    """Serves a folder, completely or in pieces, at a limited rate and after a delay."""

    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    latency: ClassVar[float]
    bytes_per_second: ClassVar[float]
    lock: ClassVar[threading.Lock] = threading.Lock()
    free_at: ClassVar[float] = 0.0
    counts: ClassVar[list[int]] = [0, 0]  # requests and bytes

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.latency)
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        first, last = (int(span[1]), min(int(span[2]), size - 1)) if span else (0, size - 1)
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        body = self.command == "GET"
        with self.lock:
            self.counts[0] += 1
            self.counts[1] += (last + 1 - first) * body
        if not body:
            return
        with path.open("rb") as file:
            file.seek(first)
            left = last + 1 - first
            while left:
                piece = file.read(min(left, PIECE))
                self.wait_for(len(piece))
                self.wfile.write(piece)
                left -= len(piece)

    @classmethod
    def wait_for(cls, num_bytes: int) -> None:
        """Wait until the line is free for some bytes."""
        with cls.lock:
            begin = max(cls.free_at, time.perf_counter())
            cls.free_at = begin + num_bytes / cls.bytes_per_second
        time.sleep(max(0.0, begin - time.perf_counter()))


def serve(folder: Path, latency: float, bytes_per_second: float, connection: Connection) -> None:
    """Serve in a process of its own; answer each message with the counts so far."""
    Server.folder, Server.latency, Server.bytes_per_second = folder, latency, bytes_per_second
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection.send(server.server_port)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        connection.send(list(Server.counts))


def measure(urls: list[str], cache: Path | None, args: argparse.Namespace, server: Connection) -> list[str]:
    """Return rows a second, and requests and bytes for each row, over most of an epoch."""
    shards = index_shards(urls, cache)
    assert shards is not None
    order = SampleOrder(shards.counts, seed=0, interleave=8, window=args.window)
    members = {f"m{i}": Random() for i in range(5)}
    stream = IndexedStream(shards, members, order, batch_size=args.rows)
    first, last = 3 * args.workers, len(shards) // args.rows
    begun, before = 0.0, [0, 0]
    batches = stream_batches(stream, args.workers)
    for number, _ in enumerate(batches, 1):
        if number == first:
            server.send(None)
            begun, before = time.perf_counter(), server.recv()
        if number == last:
            break
    seconds = time.perf_counter() - begun
    batches.close()  # type: ignore[attr-defined]
    server.send(None)
    requests, sent = (now - then for now, then in zip(server.recv(), before, strict=True))
    rows = (last - first) * args.rows
    return [f"{rows / seconds:.0f}", f"{requests / rows:.2f}", f"{sent / rows / 1e3:.1f}"]


def main() -> None:
    """Pack, serve and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds of each request")
    parser.add_argument("--megabytes", type=float, default=20.0, help="bandwidth of the server in MB a second")
    parser.add_argument("--shards", type=int, default=128)
    parser.add_argument("--samples", type=int, default=100, help="samples of a shard")
    parser.add_argument("--window", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch")
    parser.add_argument("--only", nargs="+", choices=["copies", "pieces", "disk"], default=["copies", "pieces"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = Numbers(Numbers.Options(count=args.shards * args.samples))
        preparation = Preparation({f"m{i}": Random() for i in range(5)})
        report = pack(dataset, None, folder / "shards", shard_samples=args.samples, preparation=preparation)
        mine, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(folder / "shards", args.latency, 1e6 * args.megabytes, theirs), daemon=True
        )
        process.start()
        theirs.close()
        port = mine.recv()
        urls = [f"http://127.0.0.1:{port}/{path.name}" for path in report.shards]
        size = sum(path.stat().st_size for path in report.shards) / args.shards / args.samples
        lines = [["", "rows a second", "requests a row", f"KB a row, of {size / 1e3:.1f}"]]
        for what in args.only:
            read = list(map(str, report.shards)) if what == "disk" else urls
            lines.append([what, *measure(read, folder / "cache" if what == "copies" else None, args, mine)])
            print(markdown(lines[-2:]), flush=True)
        print(markdown(lines))


if __name__ == "__main__":
    main()
