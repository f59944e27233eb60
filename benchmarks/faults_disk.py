"""Runs on a disk that becomes full; a campaign of faults.py."""

import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fault_trials import Setting, Trial
from fault_verbs import bench, different, do, judge, reference, result_of

COUNT = 20


def trials(setting: Setting) -> Iterator[Trial]:
    """Run on a disk that becomes full at several levels, and again when there is room."""
    here = bench(setting)
    spec = here.spec("run")
    expected, _ = reference(here, "run", spec)
    whole = here.folder / "whole-run"
    files = [path for path in whole.rglob("*") if path.is_file()]
    mounted = _can_mount(here.folder)
    print("full disk by " + ("a small tmpfs" if mounted else "RLIMIT_FSIZE (no mount allowed)"), file=sys.stderr)
    most = (
        sum(-(-path.stat().st_size // 4096) * 4096 for path in files)
        if mounted
        else max(path.stat().st_size for path in files)
    )
    for number in range(setting.count):
        level = max(4096, int(most * (number + 0.5) / setting.count))
        place = here.folder / "full"
        place.mkdir()
        out = place / "run"
        line = ["run", spec, "--out", str(out)]
        if mounted:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={level}", "tmpfs", str(place)], check=True)
        try:
            ended = do(line, here.log, _nothing if mounted else partial(_limit, level))
            kind = "full disk" if mounted else "file size limit"
            if ended.bad or (ended.code == 2 and "error: cannot read or write" not in ended.text):
                yield Trial(kind, ended.bad or "silent", ended.text[-600:])
                continue
            said = ended.code == 2
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
            ended = do(line, here.log)
            differs = different(result_of(out), expected) if ended.code == 0 else ""
            trial = Trial(kind, "lost", ended.text[-600:]) if ended.code == 2 else judge(kind, ended, differs)
            yield Trial(kind, "message") if said and trial.outcome == "right" else trial
        finally:
            if mounted:
                subprocess.run(["umount", str(place)], check=True)
            shutil.rmtree(place)


def _nothing() -> None: ...


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _can_mount(folder: Path) -> bool:
    place = folder / "tried"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if done.returncode == 0:
        subprocess.run(["umount", str(place)], check=True)
    place.rmdir()
    return done.returncode == 0
