"""Run verbs of `shala` in forks of this process, and compare their results with undisturbed ones.

Importing torch takes most of the time of a small run, so a campaign forks. The data are the two floats of
tests/fakes.
"""

import hashlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import attrs
from fault_trials import Setting, Trial

PATIENCE = 60.0  # seconds after which a verb counts as hanging
SPEC = """\
schema = 1
name = "two"
[data]
train = "{data}/train-*.tar"
validation = "{data}/validation-*.tar"
in_memory = {in_memory}
num_workers = {workers}
shuffle_buffer = 50
[modality.first]
plugin = "two-floats"
options = {{ field = "a" }}
[modality.second]
plugin = "two-floats"
options = {{ field = "b" }}
[posterior]
latent_dim = 4
feature_dim = 16
hidden_dim = 32
[prior]
hidden_dim = 32
num_blocks = 1
[train.autoencoder]
steps = {steps}
batch_size = 16
kl_warmup_steps = 5
save_every_steps = 8
log_every_steps = 4
[train.prior]
steps = {steps}
batch_size = 16
save_every_steps = 8
log_every_steps = 4
[generate]
num_joint = 2
num_rows = 1
num_samples = 1
[evaluate]
at_end = false
num_samples = 20
num_seeds = 1
num_rows = 4
judge_steps = 10
likelihood_rows = 2
importance_samples = 2
"""


@attrs.frozen
class Ended:
    """The end of a verb: its exit status (negative: a signal; None: killed for hanging) and its output."""

    code: int | None
    text: str

    @property
    def bad(self) -> str:
        """Return the bad outcome that it shows, if any."""
        if self.code is None:
            return "hang"
        return "traceback" if "Traceback" in self.text or self.code not in (0, 2) else ""


class Forked:
    """A verb of `shala` in a fork of this process.

    Args:
        arguments: Arguments of the command line.
        log: File for the output.
        prepare: Called in the fork before the verb.
    """

    def __init__(self, arguments: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> None:
        self.log = log
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid:
            return
        code = 70
        try:
            os.setsid()
            target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(target, 1)
            os.dup2(target, 2)
            prepare()
            from shala_framework.cli.main import main

            main(arguments)
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
                _end_children()
            os._exit(code)

    def poll(self) -> int | None:
        """Return the exit status; None while it runs."""
        found, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def wait(self, seconds: float = PATIENCE, until: Callable[[], bool] = lambda: False) -> Ended | None:
        """Wait for the end; return None if a condition came true before."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            code = self.poll()
            if code is not None:
                return Ended(code, self.log.read_text(errors="replace"))
            if until():
                return None
            time.sleep(0.002)
        self.kill()
        return Ended(None, self.log.read_text(errors="replace"))

    def kill(self) -> None:
        """Kill it and its workers."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def children(self) -> list[int]:
        """Return its worker processes."""
        return [pid for pid in children_of(self.pid) if "spawn_main" in command_of(pid)]


def _end_children() -> None:
    """Do what multiprocessing does at the end of a process, which `os._exit` skips."""
    from multiprocessing import util

    util._exit_function()  # type: ignore[attr-defined]  # there is no public name for this


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process."""
    with suppress(OSError):
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_of(pid: int) -> str:
    """Return the command line of a process; empty if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def do(arguments: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> Ended:
    """Run a verb to its end."""
    ended = Forked(arguments, log, prepare).wait()
    assert ended is not None
    return ended


def result_of(run: Path) -> dict[str, str]:
    """Return a digest of a run's results, and its figures without times."""
    files = [run / "autoencoder.safetensors", run / "prior.safetensors", *sorted((run / "samples").rglob("*"))]
    found = {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()
    }
    timed = ("steps_per_second", "seconds", "peak_memory_gib", "crc32")
    lines = []
    for line in (run / "metrics.jsonl").read_text(errors="replace").splitlines():
        with suppress(ValueError):
            entry = json.loads(line)
            if entry["stage"] != "summary":
                lines.append({key: value for key, value in entry.items() if key not in timed})
    return found | {"metrics.jsonl": json.dumps(lines, sort_keys=True)}


def shards_of(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder of shards."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".lock"}


def different(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """Return the names of what differs between two results."""
    return ", ".join(sorted(name for name in {**one, **other} if one.get(name) != other.get(name)))


def judge(kind: str, ended: Ended, differs: str) -> Trial:
    """Return the outcome of a verb by the differences between its result and the expected one."""
    if ended.bad:
        return Trial(kind, ended.bad, ended.text[-600:])
    warned = ended.code == 2 or any(word in ended.text for word in ("damaged", "another run", "began with"))
    if ended.code == 2:
        return Trial(kind, "message" if "error:" in ended.text else "silent", ended.text[-300:])
    if not differs:
        return Trial(kind, "message" if warned else "right")
    return Trial(kind, "message" if warned and differs == "metrics.jsonl" else "silent", differs)


@attrs.frozen
class Bench:
    """Shards, specs and undisturbed results in a campaign's folder."""

    folder: Path

    def spec(
        self, name: str, *, in_memory: bool = True, workers: int = 0, steps: int = 16, data: str = "shards"
    ) -> str:
        """Write a spec and return its path."""
        path = self.folder / f"{name}.toml"
        text = SPEC.format(data=self.folder / data, in_memory=str(in_memory).lower(), workers=workers, steps=steps)
        path.write_text(text)
        return str(path)

    def pack_line(self, out: Path, *more: str) -> list[str]:
        """Return the arguments that pack the made data."""
        sets = ["--set", "train=60", "--set", "validation=8", "--set", "missing=0.2"]
        return ["pack", "two-floats-made", "-", str(out), *sets, "--shard-samples", "20", *more]

    @property
    def log(self) -> Path:
        """File for the output of verbs."""
        return self.folder / "log"

    def must(self, arguments: list[str]) -> None:
        """Run a verb that must succeed."""
        ended = do(arguments, self.log)
        if ended.code != 0:
            raise SystemExit(f"{arguments} failed: {ended.text}")


def bench(setting: Setting) -> Bench:
    """Pack shards in a campaign's folder, and import everything that verbs need."""
    import torch

    torch.set_num_threads(1)  # a fork does not inherit the threads of its process
    for name in ("run.experiment", "report.page", "cli.run", "cli.pack", "cli.sample", "cli.report", "cli.evaluate"):
        importlib.import_module(f"shala_framework.{name}")
    for name in ("sklearn.cluster", "torch._dynamo"):  # a run imports them when it first fits clusters and first trains
        importlib.import_module(name)
    found = Bench(setting.folder)
    found.must(found.pack_line(setting.folder / "shards"))
    return found


def reference(here: Bench, name: str, spec: str) -> tuple[dict[str, str], float]:
    """Return the result of an undisturbed run and the seconds that it took; made once."""
    out = here.folder / f"whole-{name}"
    seconds = out.with_suffix(".seconds")
    if not seconds.exists():
        begun = time.monotonic()
        here.must(["run", spec, "--out", str(out)])
        seconds.write_text(str(time.monotonic() - begun))
    return result_of(out), float(seconds.read_text())
