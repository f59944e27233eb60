"""The long PolyMNIST tables on one GPU: many trainings side by side, each a process of its own with a log.

    python benchmarks/gpu_tables.py --out TABLES --raw RAW --judges JUDGES.pt [--device cuda]
        [--only methods refiner peers] [--minutes 9] [--rows 300000] [--seeds 0 1 2] [--scale 1] [--dry-run]

    methods     equal_rows.py: this framework and six other methods, a process for each method and seed
    refiner     refiner_study.py: stage 3 at three weights of the KL term
    peers       methods_against_peer.py: MVTCAE and MoPoE beside MultiVae's, which has to be importable

A step of small networks leaves most of a GPU idle, and processes that share it take turns unless CUDA's multi-process
service runs: it is started here where the machine has `nvidia-cuda-mps-control`, and ended at the end. RAW holds
MNIST's files in mnist/ and the backgrounds in polymnist_backgrounds/; shards and arrays are made from them first, in
TABLES. A process that is not done after --minutes is ended, and the same command continues: every script keeps what is
trained. --scale divides all lengths and counts, for a trial. Last it says how each process ended, with its last lines.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

HERE = Path(__file__).parent
SPEC = HERE.parent / "specs" / "polymnist.toml"
METHODS = ("shala", "mvae", "mopoe", "mvtcae", "jmvae", "mmvaeplus", "mld")
KL_WEIGHTS = (1, 4, 16)
PARTS = ("methods", "refiner", "peers")
COUNTS = {  # of an evaluation, which a trial divides too
    "num_samples": 1_000, "num_rows": 200, "judge_steps": 400, "calibration_rows": 200, "likelihood_rows": 16,
    "train_rows": 10_000, "held_out_rows": 5_000,
}  # fmt: skip
LAST_LINES = 3


@attrs.define(kw_only=True)
class Job:
    """A process: its name, its command, and its state once it is started."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    log: Path | None = None
    seconds: float = 0.0

    def start(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.log = folder / f"{self.name}.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                self.command, stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True, cwd=HERE
            )

    def end(self, start: float, deadline: float) -> str:
        """Wait until a process ends or its time is over; return how it ended."""
        assert self.process is not None
        try:
            code = self.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # with the processes that it started
            self.process.wait()
            code = None
        self.seconds = time.monotonic() - start
        return "time is over" if code is None else "done" if code == 0 else f"exit {code}"


def data_jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Commands that make the arrays of the benchmark, and the shards of the spec in as many parts as processors."""
    arrays = args.out / "polymnist.npz"
    if not arrays.exists():
        yield Job(
            name="arrays", command=[sys.executable, str(HERE / "polymnist_arrays.py"), str(args.raw), str(arrays)]
        )
    if not (args.out / "shards" / "index.json").exists():
        count = max(1, (os.cpu_count() or 2) - 1)
        for part in range(1, count + 1):
            line = ["-m", "shala_framework", "pack", "polymnist", str(args.raw), str(args.out / "shards")]
            line += ["--for", str(SPEC), "--part", f"{part}/{count}"]
            yield Job(name=f"pack-{part}", command=[sys.executable, *line])


def table_jobs(args: argparse.Namespace) -> Iterator[Job]:
    """Commands of the chosen tables, the longest first."""
    rows, prior_rows = (round(count / args.scale) for count in (args.rows, 1_024_000))
    arrays, seeds = str(args.out / "polymnist.npz"), [str(seed) for seed in args.seeds]
    judged = ["--judges", str(args.judges), "--device", args.device]
    if "refiner" in args.only:
        network = ["--batch-size", "128", "--attention", "--blocks", "1", "4"]
        levels = ["--log-sigma-mean", "0.2", "--log-sigma-std", "1.3", "--guidance", "1", "1.5"]
        lengths = ["--rows", rows, "--prior-rows", prior_rows, "--refiner-rows", round(args.refiner_rows / args.scale)]
        lengths += ["--num", max(100, round(2_000 / args.scale))]
        for weight in KL_WEIGHTS:
            line = [str(HERE / "refiner_study.py"), arrays, *judged, *network, *levels, *map(str, lengths)]
            line += ["--kl-weight", str(weight), "--results", str(args.out / f"refiner-{weight}")]
            yield Job(name=f"refiner-{weight}", command=[sys.executable, *line])
    if "methods" in args.only:
        splits = {split: f"{args.out / 'shards'}/{split}-*.tar" for split in ("train", "validation", "test")}
        changes = {"train.device": args.device, **{f"data.{split}": files for split, files in splits.items()}}
        changes |= {"train.prior.steps": str(round(2_000 / args.scale)), "train.prior.warmup_steps": "20"}
        if args.scale > 1:
            changes |= {f"evaluate.{key}": str(max(8, round(count / args.scale))) for key, count in COUNTS.items()}
        sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
        for method in METHODS:
            for number in range(1, len(seeds) + 1):
                line = [str(HERE / "equal_rows.py"), str(SPEC), "--out", str(args.out / "methods"), *sets]
                line += ["--methods", method, "--rows", str(rows), "--seeds", ",".join(seeds)]
                line += ["--part", f"{number}/{len(seeds)}"]
                yield Job(name=f"{method}-{number}", command=[sys.executable, *line])
    if "peers" in args.only:
        for method in ("mopoe", "mvtcae"):
            line = [str(HERE / "methods_against_peer.py"), arrays, str(args.judges)]
            line += ["--peers-python", sys.executable, "--results", str(args.out / "peers"), "--threads", "1"]
            line += ["--methods", method, "--steps", str(rows // 128), "--seeds", *seeds, "--device", args.device]
            yield Job(name=f"peers-{method}", command=[sys.executable, *line])


def run(jobs: list[Job], folder: Path, environment: Mapping[str, str], deadline: float) -> bool:
    """Run processes side by side, say how each ended, and return whether all are done."""
    start = time.monotonic()
    for job in jobs:
        job.start(folder, environment)
    outcomes = {job.name: job.end(start, deadline) for job in jobs}
    for job in jobs:
        assert job.log is not None
        last = [text[:200] for text in job.log.read_text(errors="replace").splitlines()[-LAST_LINES:]]
        print("\n    ".join([f"{job.name}: {outcomes[job.name]} after {job.seconds:.0f} s", *last]), flush=True)
    return all(outcome == "done" for outcome in outcomes.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--judges", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--refiner-rows", type=int, default=3_000_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--dry-run", action="store_true", help="print the commands, and stop")
    args = parser.parse_args()
    for name in ("out", "raw", "judges"):
        setattr(args, name, getattr(args, name).resolve())
    if args.dry_run:
        for job in (*data_jobs(args), *table_jobs(args)):
            print(f"{job.name}: {shlex.join(job.command)}")
        return
    deadline = time.monotonic() + 60 * args.minutes
    logs = args.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if not run(list(data_jobs(args)), logs, environment, deadline):
        raise SystemExit("the data are not complete; the logs say why")
    service = shutil.which("nvidia-cuda-mps-control") if args.device == "cuda" else None
    if service is not None:
        for key in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"):
            environment[key] = str(logs / key.lower())
            Path(environment[key]).mkdir(exist_ok=True)
        subprocess.run([service, "-d"], env=environment, check=False)
    print(f"multi-process service: {service or 'none; processes take turns'}", flush=True)
    try:
        complete = run(list(table_jobs(args)), logs, environment, deadline)
    finally:
        if service is not None:
            subprocess.run([service], input=b"quit\n", env=environment, check=False)
    if not complete:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
