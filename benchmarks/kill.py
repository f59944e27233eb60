"""Whether a run that is killed repeatedly ends with the same bytes as an undisturbed one.

    python benchmarks/kill.py SPEC [--kills 20] [--set KEY=VALUE ...] [--out runs/kill]

Runs the spec once undisturbed, then again with `kill -9` at random times: spread over both stages, and every fourth
one while a state file is being written. Every restart must resume, and both checkpoints and every sample
must be equal at the end. It uses one thread, because sums over several are not always in one order. Choose settings
with which the undisturbed run takes a few minutes.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SHALA_RUN = Path(sys.executable).with_name("shala-run")


def start(args: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    """Start the run in a process group of its own, so that its workers are killed with it."""
    sets = [text for override in args.set for text in ("--set", override)]
    return subprocess.Popen(
        [str(SHALA_RUN), str(args.spec), "--out", str(out), *sets],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=(out.parent / f"{out.name}.log").open("ab"),
        start_new_session=True,
    )


def digests(folder: Path) -> dict[str, str]:
    """Return SHA-256 of a run's results, except files that contain times."""
    files = [folder / "autoencoder.safetensors", folder / "prior.safetensors", *sorted((folder / "samples").rglob("*"))]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()
    }


def wait(process: subprocess.Popen[bytes], until: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition is true, the process ends, or the time is over."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline and not until():
        time.sleep(0.0005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/kill"))
    args = parser.parse_args()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    whole, cut = args.out / "whole", args.out / "cut"
    begun = time.monotonic()
    if start(args, whole).wait():
        raise SystemExit(f"the undisturbed run failed; see {args.out / 'whole.log'}")
    length = time.monotonic() - begun
    print(f"undisturbed: {length:.0f} s", flush=True)
    rng = random.Random(args.seed)
    killed = 0
    while killed < args.kills:
        process = start(args, cut)
        if killed % 4 == 3:
            time.sleep(rng.uniform(0.1, 0.5) * length)
            wait(process, lambda: any((cut / "state").glob("*.partial")), length)
            moment = "while a state was written"
        else:
            wait(process, lambda: False, rng.uniform(0.05, 0.6) * length)
            moment = "at a random moment"
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"a restart failed; see {args.out / 'cut.log'}")
            print("the run was over before the kill; it begins anew", flush=True)
            shutil.rmtree(cut)
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        killed += 1
        print(f"killed {moment}: {killed}", flush=True)
    if start(args, cut).wait():
        raise SystemExit(f"the last restart failed; see {args.out / 'cut.log'}")
    expected, found = digests(whole), digests(cut)
    different = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    print(f"{len(expected)} files, {len(different)} of them different {different[:5]}")
    raise SystemExit(bool(different))


if __name__ == "__main__":
    main()
