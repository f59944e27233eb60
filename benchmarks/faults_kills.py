"""Killed runs, workers, processes under torchrun and packs; a campaign of faults.py."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from fault_trials import Setting, Trial
from fault_verbs import (
    PATIENCE,
    Bench,
    Ended,
    Forked,
    bench,
    children_of,
    command_of,
    different,
    do,
    judge,
    reference,
    result_of,
    shards_of,
)

COUNT = 60


def trials(setting: Setting) -> Iterator[Trial]:
    """Kill runs, workers, processes under torchrun and packs, and then repeat the same command."""
    here, rng = bench(setting), setting.rng
    kinds = {
        "run, at any moment": _kill_run,
        "run, while a file is written": _kill_writing,
        "reading worker": _kill_reader,
        "pack, at any moment": _kill_pack,
        "packing worker": _kill_packer,
        "rank under torchrun": _kill_rank,
    }
    for number in range(setting.count):
        kind = list(kinds)[number % len(kinds)]
        for name in ("cut", "packed"):
            shutil.rmtree(here.folder / name, ignore_errors=True)
        yield kinds[kind](here, rng, kind)


def _finish(here: Bench, kind: str, line: list[str], out: Path, expected: dict[str, str]) -> Trial:
    """Run the same command to its end."""
    ended = do(line, here.log)
    if ended.code == 2:
        return Trial(kind, "lost", ended.text[-600:])
    trial = judge(kind, ended, different(result_of(out), expected) if ended.code == 0 else "")
    shutil.rmtree(out)
    return trial


def _kill_run(here: Bench, rng: random.Random, kind: str) -> Trial:
    spec = here.spec("run")
    expected, length = reference(here, "run", spec)
    out = here.folder / "cut"
    line = ["run", spec, "--out", str(out)]
    for _ in range(rng.randint(1, 3)):
        process = Forked(line, here.log)
        moment = time.monotonic() + rng.uniform(0.0, 1.0) * length
        ended = process.wait(until=partial(_is_over, moment))
        if ended is None:
            process.kill()
        elif ended.code:
            return Trial(kind, ended.bad or "lost", ended.text[-600:])
    return _finish(here, kind, line, out, expected)


def _is_over(moment: float) -> bool:
    return time.monotonic() > moment


def _kill_writing(here: Bench, rng: random.Random, kind: str) -> Trial:
    """Kill when a partial file appears, after a random number of others; the first is that of spec.json."""
    spec = here.spec("run")
    expected, _ = reference(here, "run", spec)
    out = here.folder / "cut"
    line = ["run", spec, "--out", str(out)]
    seen: set[str] = set()
    left = rng.choice([0, 0, 1, 2, 3, 5, 8])

    def written() -> bool:
        with suppress(OSError):
            seen.update(f"{p} {p.stat().st_ino}" for p in out.rglob("*partial"))
        return len(seen) > left

    process = Forked(line, here.log)
    ended = process.wait(until=written)
    if ended is None:
        process.kill()
    elif ended.code:
        return Trial(kind, ended.bad or "lost", ended.text[-600:])
    if rng.random() < 0.5 and not (out / "spec.json").exists():
        out.mkdir(exist_ok=True)
        (out / "spec.json.partial").write_bytes(b'{"checksum": "0')  # a kill may leave this
    return _finish(here, kind, line, out, expected)


def _kill_reader(here: Bench, rng: random.Random, kind: str) -> Trial:
    spec = here.spec("workers", in_memory=False, workers=2, steps=150)
    expected, _ = reference(here, "workers", spec)
    out = here.folder / "cut"
    line = ["run", spec, "--out", str(out)]
    process = Forked(line, here.log)
    ended = process.wait(until=lambda: len(process.children()) == 2)
    moment = time.monotonic() + rng.uniform(0.0, 8.0)
    if ended is None:
        ended = process.wait(until=lambda: time.monotonic() > moment or not process.children())
    if ended is None and (workers := process.children()):
        with suppress(ProcessLookupError):
            os.kill(rng.choice(workers), signal.SIGKILL)
        ended = process.wait(20.0)
        assert ended is not None
        said = ended.code == 0 or ("exit code -9" in ended.text and ended.code == 2)
        if ended.bad or not said:
            return Trial(kind, ended.bad or "silent", ended.text[-600:])
    elif ended is None:
        process.kill()
    return _finish(here, kind, line, out, expected)


def _kill_pack(here: Bench, rng: random.Random, kind: str) -> Trial:
    out = here.folder / "packed"
    line = here.pack_line(out)
    process = Forked(line, here.log)
    moment = time.monotonic() + rng.uniform(0.0, 0.15)
    if process.wait(until=lambda: time.monotonic() > moment) is None:
        process.kill()
    if (out / "index.json").exists():
        trial = judge(kind, Ended(0, ""), different(shards_of(out), shards_of(here.folder / "shards")))
    else:
        ended = do(line, here.log)
        differs = different(shards_of(out), shards_of(here.folder / "shards")) if ended.code == 0 else ""
        trial = Trial(kind, "lost", ended.text[-600:]) if ended.code == 2 else judge(kind, ended, differs)
    shutil.rmtree(out)
    return trial


def _kill_packer(here: Bench, rng: random.Random, kind: str) -> Trial:
    spec, whole, out = here.spec("run"), here.folder / "prepared", here.folder / "packed"
    if not whole.exists():
        here.must(here.pack_line(whole, "--for", spec))
    line = here.pack_line(out, "--for", spec, "--workers", "2")
    process = Forked(line, here.log)
    ended = process.wait(until=lambda: len(process.children()) == 2)
    moment = time.monotonic() + rng.uniform(0.0, 6.0)
    if ended is None:
        ended = process.wait(until=lambda: time.monotonic() > moment or len(process.children()) < 2)
    if ended is None:
        for pid in process.children()[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended = process.wait(30.0)
        assert ended is not None
        said = ended.code == 0 or ("exit code -9" in ended.text and ended.code == 2)
        if ended.bad or not said:
            return Trial(kind, ended.bad or "silent", ended.text[-600:])
    if ended.code:
        ended = do(line, here.log)
    differs = different(shards_of(out), shards_of(whole)) if ended.code == 0 else ""
    trial = Trial(kind, "lost", ended.text[-600:]) if ended.code == 2 else judge(kind, ended, differs)
    shutil.rmtree(out)
    return trial


def _kill_rank(here: Bench, rng: random.Random, kind: str) -> Trial:
    spec, out = here.spec("ranks", steps=150), here.folder / "cut"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "shala_framework", "run"]

    def start(out: Path) -> "subprocess.Popen[bytes]":
        with here.log.open("wb") as log:
            line = [sys.executable, *launcher, spec, "--out", str(out)]
            return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    def end(process: "subprocess.Popen[bytes]", seconds: float = PATIENCE) -> Ended:
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
        return Ended(code, here.log.read_text(errors="replace"))

    whole = here.folder / "whole-ranks"
    if not whole.exists() and end(start(whole), 3 * PATIENCE).code:
        raise SystemExit(f"the undisturbed run in two processes failed; see {here.log}")
    process = start(out)
    metrics = out / "metrics.jsonl"
    while process.poll() is None and not metrics.exists():
        time.sleep(0.01)
    time.sleep(rng.uniform(0.0, 2.5))
    ranks = [pid for pid in children_of(process.pid) if "shala_framework" in command_of(pid)]
    killed = rng.choice([0, 1])
    if process.poll() is None and len(ranks) == 2:
        with suppress(ProcessLookupError):
            os.kill(ranks[killed], signal.SIGKILL)
    ended = end(process, 60.0)
    # torchrun's own report has a traceback and status 1; our processes must end with a message.
    ours = any("shala_framework/" in part for part in ended.text.split("Traceback")[1:])
    if ended.code is None or ours:
        return Trial(kind, "hang" if ended.code is None else "traceback", ended.text[-1500:])
    ended = end(start(out), 3 * PATIENCE)
    if ended.code is None:
        return Trial(kind, "hang", ended.text[-600:])
    if ended.code:
        return Trial(kind, "lost", ended.text[-600:])
    # Sums since the last line of metrics are lost with the process; the trained weights are the same.
    differs = [name for name in different(result_of(out), result_of(whole)).split(", ") if name != "metrics.jsonl"]
    shutil.rmtree(out)
    return judge(kind, Ended(0, ""), "".join(differs))
