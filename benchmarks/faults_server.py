"""Shards on a loopback server that stalls, lies and hangs up; a campaign of faults.py.

A trial reads three shards in order, with or without an index, as copies or in pieces. From one of its requests
on, or at that one alone, the server misbehaves. Reading must give the content of the shards, or one message,
within a time that the client sets. Faults that cannot be detected are left out: without an index, consistent bytes of
another file.
"""

import functools
import os
import random
import re
import select
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import attrs
from fault_batches import Begin, in_child
from fault_files import SAMPLES, tar
from fault_trials import Setting, Trial

COUNT = 2_000
PATIENCE = 20.0  # seconds
SILENCE = 0.25  # seconds until the client gives up; 30 by default
MOST_SAID = 3_000
NUM_SHARDS = 3


@attrs.frozen
class Plan:
    """The fault of a trial. It is part of the URL, so that the server needs no other information.

    Attributes:
        trial: Number of the trial.
        fault: Index of one of FAULTS.
        at: Number of the first request with the fault.
        times: Number of faulty requests; 99 for all.
        bare: Whether there is no index.
        ending: Ending of the affected files; empty for all.
    """

    trial: int
    fault: int
    at: int
    times: int
    bare: bool
    ending: str

    def __str__(self) -> str:
        return f"{self.trial}.{self.fault}.{self.at}.{self.times}.{int(self.bare)}.{self.ending}"

    @classmethod
    def of(cls, text: str) -> "Plan":
        trial, fault, at, times, bare, ending = text.split(".")
        return cls(int(trial), int(fault), int(at), int(times), bare == "1", ending)


class Server(BaseHTTPRequestHandler):
    """Serves a folder, completely or in pieces, with the fault of the plan."""

    protocol_version = "HTTP/1.1"
    folder: ClassVar[Path]
    asked: ClassVar[dict[str, int]] = {}
    lock: ClassVar[threading.Lock] = threading.Lock()

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        _, name, *rest = self.path.split("/")
        plan, file = Plan.of(name), self.folder / rest[-1]
        hits = 0
        if rest[-1].endswith(plan.ending):
            with self.lock:
                hits = self.asked[name] = self.asked.get(name, 0) + 1
        self.close_connection = True
        content = file.read_bytes() if file.is_file() and not (plan.bare and file.suffix == ".json") else None
        try:
            if plan.at <= hits < plan.at + plan.times:
                FAULTS[NAMES[plan.fault]](self, content)
            else:
                self.give(content)
        except OSError:  # the client has hung up
            pass

    def give(
        self,
        content: bytes | None,
        *,
        sent: Callable[[bytes], bytes] = lambda body: body,
        length: Callable[[int], int] = lambda size: size,
        shift: int = 0,
        stated_shift: int = 0,
        in_pieces: bool = True,
        encoding: str = "",
    ) -> None:
        """Answer a request, correctly by default.

        Args:
            content: Content of the file; None if there is none.
            sent: Part of the body to send.
            length: Length in the header.
            shift: Error in the position of a piece.
            stated_shift: Error in the position in the header.
            in_pieces: Whether to serve pieces.
            encoding: A Content-Encoding.
        """
        if content is None:
            self.send_error(404)
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None or not in_pieces:
            self.send_response(200)
            body = content
        else:
            first, last = int(span[1]), min(int(span[2]), len(content) - 1)
            self.send_response(206)
            said = first + stated_shift
            self.send_header("Content-Range", f"bytes {said}-{last + stated_shift}/{len(content)}")
            start = max(0, first + shift)
            body = content[start : start + last + 1 - first]
        if encoding:
            self.send_header("Content-Encoding", encoding)
        self.send_header("Content-Length", str(length(len(body))))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent(body))

    def wait(self) -> None:
        """Send nothing until the client hangs up."""
        self.wfile.flush()
        select.select([self.connection], [], [], 60)

    def other(self) -> bytes:
        """Return the next file of the folder of the same kind."""
        path = self.folder / self.path.split("/")[-1]
        alike = sorted(self.folder.glob(f"*{path.suffix}"))
        return alike[(alike.index(path) + 1) % len(alike)].read_bytes() if path in alike else b""

    def page(self, status: int = 200) -> None:
        """Send what portals and error handlers send in place of a file."""
        body = b"<!DOCTYPE html><html><body>Please log in.</body></html>"
        self.send_response(status)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def endless(self, content: bytes | None) -> None:
        """Send a body that never ends."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        piece = (content or bytes(512)) * 16
        while self.command != "HEAD":
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def half(self, content: bytes | None, *, wait: bool) -> None:
        self.give(content, sent=lambda body: body[: len(body) // 2])
        if wait:
            self.wait()


FAULTS: dict[str, Callable[[Server, bytes | None], None]] = {
    "says nothing": lambda s, _: s.wait(),
    "sends half and stops": lambda s, c: s.half(c, wait=True),
    "hangs up": lambda s, _: s.connection.close(),
    "hangs up half way": lambda s, c: s.half(c, wait=False),
    "states more bytes": lambda s, c: s.give(c, length=lambda size: size + 1_000),
    "states fewer bytes": lambda s, c: s.give(c, length=lambda size: max(0, size - 700)),
    "states no bytes": lambda s, _: s.give(b""),
    "gives another piece and says so": lambda s, c: s.give(c, shift=512, stated_shift=512),
    "gives another piece": lambda s, c: s.give(c, shift=512),
    "gives a short piece": lambda s, c: s.give(c and c[:-600]),
    "gives the whole for a piece": lambda s, c: s.give(c, in_pieces=False),
    "gives another file": lambda s, _: s.give(s.other()),
    "gives another length of file": lambda s, c: s.give(c and c + bytes(512) + c),
    "gives a page with status 200": lambda s, _: s.page(),
    "gives a page with status 206": lambda s, _: s.page(206),
    "gives a page with status 401": lambda s, _: s.page(401),
    "fails with 404": lambda s, _: s.send_error(404),
    "fails with 500": lambda s, _: s.send_error(500),
    "fails with 503": lambda s, _: s.send_error(503),
    "redirects for ever": lambda s, _: s.redirect(s.path),
    "redirects to another server": lambda s, _: s.redirect("http://127.0.0.1:9/x"),
    "redirects to no URL": lambda s, _: s.redirect("http://["),
    "speaks no HTTP": lambda s, _: s.wfile.write(b"\x00\xffSSH-2.0\r\n\r\n"),
    "says gzip and is not": lambda s, c: s.give(c, encoding="gzip"),
    "never ends": lambda s, c: s.endless(c),
}
UNNOTICED_WITHOUT_INDEX = ("gives another file",)
NAMES = list(FAULTS)


def trials(setting: Setting) -> Iterator[Trial]:
    """Read three shards from a server with a fault."""
    from shala_framework.data.shard_index import write_index

    folder = setting.folder / "shards"
    folder.mkdir()
    for number in range(NUM_SHARDS):
        named = [(f"{number}{key}", {f: c * 40 + key.encode() for f, c in fields.items()}) for key, fields in SAMPLES]
        (folder / f"train-{number}.tar").write_bytes(tar(named))
    write_index(folder)
    pid, port = _serve(folder)
    try:
        work = functools.partial(_trial, setting.rng.random(), folder, setting.folder / "cache", port)
        yield from in_child(setting.count, work, patience=PATIENCE)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _serve(folder: Path) -> tuple[int, int]:
    """Start a server process and return its port; threads of this process would be missing in its forks."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    Server.folder = folder
    pid = os.fork()
    if not pid:
        os.closerange(0, 3)
        os.open(os.devnull, os.O_RDWR)
        os.dup(0)
        os.dup(0)
        server.serve_forever()
    server.socket.close()
    return pid, server.server_port


def _trial(base: float, folder: Path, cache: Path, port: int, number: int, begin: Begin) -> Trial:
    from shala_framework.data import random_access
    from shala_framework.data.shards import read_shards
    from shala_framework.support import retrying, urls
    from shala_framework.support.errors import DataError

    rng = random.Random(f"{base} {number}")
    which = number % len(NAMES)
    kind = NAMES[which]
    begin(kind)
    urls.SERVER_SECONDS = SILENCE
    retrying.SHORTEST_WAIT, retrying.FIRST_SECONDS, retrying.PATIENT_SECONDS = 0.01, 0.05, 0.05
    bare = rng.random() < 0.4 and kind not in UNNOTICED_WITHOUT_INDEX
    ending = rng.choice(["tar", "tar", "json", ""])
    times = rng.choice([1, 1, 2, 99])
    plan = Plan(number, which, rng.randint(1, 6), times, bare, ending)
    names = [f"train-{index}.tar" for index in range(NUM_SHARDS)]
    shutil.rmtree(cache, ignore_errors=True)
    kept = cache if rng.random() < 0.4 else None
    try:
        place = f"http://127.0.0.1:{port}/{plan}"
        read = random_access.read_in_order([f"{place}/{name}" for name in names], kept)
        found = [(sample.key, sample.fields) for sample in read]
    except DataError as error:
        said = str(error)
        if str(plan) not in said or len(said) > MOST_SAID:
            return Trial(kind, "silent", f"{plan}: {said[:500]}")
        return Trial(kind, "message")
    expected = [(s.key, s.fields) for s in read_shards([str(folder / name) for name in names])]
    if found != expected:
        return Trial(kind, "silent", f"{plan}, {'copies' if kept else 'pieces'}: {[key for key, _ in found]}")
    return Trial(kind, "right")
