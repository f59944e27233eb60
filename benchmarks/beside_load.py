"""Seconds of a training step beside other programs: with a fixed number of threads, and with as many as cores are free.

    python benchmarks/beside_load.py [SPEC] [--busy 0 1 2] [--minutes 2.75] [--set KEY=VALUE ...]

Starts so many processes that use a core each, begins the run of the spec (by default that of README) in a new folder,
and reads from its plan what a step of each stage takes. *Fixed* sets OMP_NUM_THREADS to the number of cores, which
keeps it; *following* sets nothing.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts import markdown

from shala_framework.support.machine import available_cores, describe_machine
from shala_framework.training.plan import TrainingPlan

LONGEST = 600.0  # seconds to wait for a plan


def planned(spec: Path, minutes: float, changes: list[str], threads: int | None) -> TrainingPlan:
    """Begin a run, and stop it once it has planned its steps."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    sets = [part for text in [f"train.minutes={minutes}", *changes] for part in ("--set", text)]
    with TemporaryDirectory() as out:
        command = [sys.executable, "-m", "shala_framework", "run", str(spec), "--out", f"{out}/run", *sets]
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
            end, plan = time.monotonic() + LONGEST, None
            while (plan is None or not plan.steps) and run.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
                plan = TrainingPlan.read(Path(out) / "run" / "state")
            run.send_signal(signal.SIGINT)
    if plan is None or not plan.steps:
        raise SystemExit(f"the run of {spec} ended, or took too long, before it planned its steps")
    return plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spec", type=Path, nargs="?", default=Path("specs/ntu_rgb_skeleton.toml"))
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="programs that use a core each")
    parser.add_argument("--minutes", type=float, default=2.75, help="train.minutes of the run")
    parser.add_argument("--set", action="append", default=[], dest="changes", metavar="KEY=VALUE")
    args = parser.parse_args()
    lines = [["busy programs", "threads", "s a step of each stage"]]
    for count in args.busy:
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
        try:
            for name, threads in (("fixed", available_cores()), ("following", None)):
                plan = planned(args.spec, args.minutes, args.changes, threads)
                costs = ", ".join(f"{stage} {cost.step_seconds:.3f}" for stage, cost in plan.costs.items())
                lines.append([str(count), name, costs])
                print(*lines[-1], file=sys.stderr, sep="  ", flush=True)
        finally:
            for process in busy:
                process.kill()
                process.wait()
    print(markdown(lines), f"{describe_machine()}; {available_cores()} cores", sep="\n\n")


if __name__ == "__main__":
    main()
