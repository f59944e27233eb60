"""Check this framework on a GPU, in one call of at most eight minutes: a table, and JSON of every part.

    python benchmarks/gpu_check.py --out CHECK [--device auto] [--only PART ...] [--minutes 8]
        [--polymnist POLYMNIST.npz --judge-data JUDGE_DATA.npz]

Each part is a process with its own deadline, so that one that fails or hangs does not end the others. Those
that compare no rates run side by side:

    equality    encoders, decoders, log-likelihoods, gradients and latents of all five plugins, compared with the CPU
    waits       places in a training step and in sampling at which the processor waits for the device
    graphs      steps of all stages as one CUDA graph, compared with the same steps launched kernel by kernel
    nccl        a step whose gradients are exchanged by NCCL, in a group of one process
    rates       rows a second of stage 1 of three specs, by batch and number format, and how busy the device is
    shards      rows a second from memory and from prepared shards
    prior       steps a second of stage 2: as it is, compiled, and captured as a CUDA graph
    refiner     steps a second of stage 3, kernel by kernel and in the loop, and the time to refine samples
    run         a whole run that is killed and resumed, then `shala sample` and `shala evaluate`
    polymnist   PolyMNIST in a minute of training, scored by judges; needs the sets of polymnist_arrays.py

It also runs on a CPU, with small sizes, as a test. docs/gpu_check.md says how to take it to a machine without
a network.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from scripts import markdown

# Part: longest time in seconds on a GPU. The most important parts come first.
DEADLINES = {
    "equality": 90,
    "waits": 90,
    "graphs": 120,
    "nccl": 60,
    "prior": 70,
    "refiner": 40,
    "rates": 180,
    "polymnist": 170,
    "run": 150,
    "shards": 60,
}
TOGETHER = ("equality", "waits", "graphs", "nccl", "run")  # parts that compare no rates
HERE = Path(__file__).parent


def run_part(args: argparse.Namespace, num_threads: int, seconds: float, name: str) -> dict[str, Any]:
    """Run a part in a process of its own; return what it wrote until its end or deadline, and how it ended."""
    path = args.out / f"{name}.json"
    path.unlink(missing_ok=True)
    line = [sys.executable, str(HERE / "gpu_parts.py"), name, str(path), "--device", args.device]
    if args.polymnist is not None:
        line += ["--polymnist", str(args.polymnist), "--judge-data", str(args.judge_data)]
    start = time.monotonic()
    log = args.out / f"{name}.log"
    with log.open("w") as stream:
        environment = {**os.environ, "OMP_NUM_THREADS": str(num_threads)}
        process = subprocess.Popen(
            line, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            outcome = "ended" if process.wait(timeout=max(1.0, seconds)) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = f"cut at {seconds:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that it started
            process.wait()
    found: dict[str, Any] = {"figures": {}, **(json.loads(path.read_text()) if path.exists() else {})}
    found |= {"outcome": outcome, "seconds": round(time.monotonic() - start, 1)}
    if outcome != "ended":
        found["log"] = log.read_text()[-1500:]
    path.write_text(json.dumps(found, indent=1))
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Format all figures, one a line, under the outcome of each part."""
    lines = [["part", "figure", "value"]]
    for name, part in found.items():
        lines.append([f"**{name}**", part["outcome"], f"{part['seconds']} s"])
        lines += [["", figure, str(value)] for figure, value in part["figures"].items()]
    return markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the table, JSON and logs")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--polymnist", type=Path, help="POLYMNIST.npz of polymnist_arrays.py")
    parser.add_argument("--judge-data", type=Path, help="JUDGE_DATA.npz of polymnist_arrays.py")
    parser.add_argument("--only", nargs="+", choices=tuple(DEADLINES), default=list(DEADLINES))
    parser.add_argument("--minutes", type=float, default=8.0, help="start no part after this time")
    args = parser.parse_args()
    if (args.polymnist is None) != (args.judge_data is None):
        parser.error("--polymnist and --judge-data belong together")
    args.out.mkdir(parents=True, exist_ok=True)
    start, found = time.monotonic(), {}
    together = [name for name in args.only if name in TOGETHER]
    for names in filter(None, [together, *([name] for name in args.only if name not in TOGETHER)]):
        left = 60 * args.minutes - (time.monotonic() - start)
        if names == ["polymnist"] and args.polymnist is None:
            print("polymnist: left out, as it needs --polymnist and --judge-data", file=sys.stderr, flush=True)
        elif left < 10:
            print(f"{', '.join(names)}: left out, as the time is over", file=sys.stderr, flush=True)
        else:
            deadlines = [min(left, DEADLINES[name]) for name in names]
            part = partial(run_part, args, max(1, (os.cpu_count() or 1) // len(names)))
            with ThreadPoolExecutor(len(names)) as threads:
                found |= zip(names, threads.map(part, deadlines, names), strict=True)
            for name in names:
                print(f"{name}: {found[name]['outcome']} after {found[name]['seconds']} s", file=sys.stderr, flush=True)
            (args.out / "table.md").write_text(table(found) + "\n")
    print(table(found))
    if any(part["outcome"] != "ended" for part in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
