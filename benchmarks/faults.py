"""What becomes of runs and shards that are killed, damaged or written to a full disk; a campaign with a seed.

    python benchmarks/faults.py kills [--trials 60] [--seed 0]
    python benchmarks/faults.py damage [--trials 600]
    python benchmarks/faults.py disk [--trials 20]
    python benchmarks/faults.py specs|media|server ...

A trial ends in one of six ways. Good ones are `right` (the result of an undisturbed run, byte for byte) and `message`
(exit status 2 and one message, or a warning beside the result). Bad ones are `lost` (what was done cannot be resumed),
`silent` (another result, without a word), `traceback` and `hang`. The table counts them by kind, and the exit status is
1 if there is a bad one.

A campaign is a function from a `Setting` to trials. Those of this file are `kills`, `damage` and `disk`; any other name
is looked for as the function `trials` of a file `faults_<name>.py` beside this one. The data are the two floats of
tests/fakes. Verbs run in forks of this process, as importing torch takes most of the time of a small run.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import attrs
from scripts import markdown

ROOT = Path(__file__).resolve().parent.parent
FAKES = ROOT / "tests" / "fakes"
GOOD = ("right", "message")
OUTCOMES = (*GOOD, "lost", "silent", "traceback", "hang")
PATIENCE = 60.0  # seconds after which a verb is taken to hang
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
class Trial:
    """One fault and what came of it.

    Attributes:
        kind: What was done to what.
        outcome: One of OUTCOMES.
        detail: What to look at where the outcome is bad.
    """

    kind: str
    outcome: str
    detail: str = ""


@attrs.frozen
class Setting:
    """What a campaign has.

    Attributes:
        rng: Source of everything random in it.
        count: Number of trials.
        folder: An empty folder of its own.
    """

    rng: random.Random
    count: int
    folder: Path


@attrs.frozen
class Ended:
    """How a verb ended: its exit status (negative: a signal; None: it was killed for hanging) and what it printed."""

    code: int | None
    text: str

    @property
    def bad(self) -> str:
        """The bad outcome that it shows, if it does."""
        if self.code is None:
            return "hang"
        return "traceback" if "Traceback" in self.text or self.code not in (0, 2) else ""


class Forked:
    """A verb of `shala` in a fork of this process.

    Args:
        arguments: Of the command line.
        log: File for what it prints.
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
        """The exit status, once there is one."""
        found, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None

    def wait(self, seconds: float = PATIENCE, until: Callable[[], bool] = lambda: False) -> Ended | None:
        """How it ended; None where something came to be so first."""
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
        """Its worker processes."""
        return [pid for pid in children_of(self.pid) if "spawn_main" in command_of(pid)]


def _end_children() -> None:
    """What multiprocessing does at the end of a process, which `os._exit` leaves out."""
    from multiprocessing import util

    util._exit_function()  # type: ignore[attr-defined]  # no public name does this


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    with suppress(OSError):
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def command_of(pid: int) -> str:
    """Command line of a process; empty where it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def do(arguments: list[str], log: Path, prepare: Callable[[], None] = lambda: None) -> Ended:
    """A verb to its end."""
    ended = Forked(arguments, log, prepare).wait()
    assert ended is not None
    return ended


def result_of(run: Path) -> dict[str, str]:
    """Digest of everything that a run is for, and its figures without times."""
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
    """Every file of a folder of shards."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".lock"}


def different(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """Names of what differs between two results."""
    return ", ".join(sorted(name for name in {**one, **other} if one.get(name) != other.get(name)))


def judge(kind: str, ended: Ended, differs: str) -> Trial:
    """The outcome of a verb whose result differs so from what it should be."""
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
        """Path of a spec, which is written."""
        path = self.folder / f"{name}.toml"
        text = SPEC.format(data=self.folder / data, in_memory=str(in_memory).lower(), workers=workers, steps=steps)
        path.write_text(text)
        return str(path)

    def pack_line(self, out: Path, *more: str) -> list[str]:
        """Arguments that pack the made data."""
        sets = ["--set", "train=60", "--set", "validation=8", "--set", "missing=0.2"]
        return ["pack", "two-floats-made", "-", str(out), *sets, "--shard-samples", "20", *more]

    @property
    def log(self) -> Path:
        """For what verbs print."""
        return self.folder / "log"

    def must(self, arguments: list[str]) -> None:
        """Do what has to work."""
        ended = do(arguments, self.log)
        if ended.code != 0:
            raise SystemExit(f"{arguments} failed: {ended.text}")


def bench(setting: Setting) -> Bench:
    """Packed shards in a campaign's folder."""
    found = Bench(setting.folder)
    found.must(found.pack_line(setting.folder / "shards"))
    return found


# kills -----------------------------------------------------------------------------------------------------------


def kills(setting: Setting) -> Iterator[Trial]:
    """Runs, workers, ranks and packs that are killed, and then given the same command again."""
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


def _reference(here: Bench, name: str, spec: str) -> tuple[dict[str, str], float]:
    """The result of an undisturbed run and the seconds that it took, made once."""
    out = here.folder / f"whole-{name}"
    seconds = out.with_suffix(".seconds")
    if not seconds.exists():
        begun = time.monotonic()
        here.must(["run", spec, "--out", str(out)])
        seconds.write_text(str(time.monotonic() - begun))
    return result_of(out), float(seconds.read_text())


def _finish(here: Bench, kind: str, line: list[str], out: Path, expected: dict[str, str]) -> Trial:
    """The same command again, to its end."""
    ended = do(line, here.log)
    if ended.code == 2:
        return Trial(kind, "lost", ended.text[-600:])
    trial = judge(kind, ended, different(result_of(out), expected) if ended.code == 0 else "")
    shutil.rmtree(out)
    return trial


def _kill_run(here: Bench, rng: random.Random, kind: str) -> Trial:
    spec = here.spec("run")
    expected, length = _reference(here, "run", spec)
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
    """At the moment when a partial file is seen, after a random number of others; the first is that of spec.json."""
    spec = here.spec("run")
    expected, _ = _reference(here, "run", spec)
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
        (out / "spec.json.partial").write_bytes(b'{"checksum": "0')  # what the kill may leave
    return _finish(here, kind, line, out, expected)


def _kill_reader(here: Bench, rng: random.Random, kind: str) -> Trial:
    spec = here.spec("workers", in_memory=False, workers=2, steps=150)
    expected, _ = _reference(here, "workers", spec)
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
    # torchrun's own report has a traceback and status 1; our processes are to end with a message.
    ours = any("shala_framework/" in part for part in ended.text.split("Traceback")[1:])
    if ended.code is None or ours:
        return Trial(kind, "hang" if ended.code is None else "traceback", ended.text[-1500:])
    ended = end(start(out), 3 * PATIENCE)
    if ended.code is None:
        return Trial(kind, "hang", ended.text[-600:])
    if ended.code:
        return Trial(kind, "lost", ended.text[-600:])
    # Sums since the last line of metrics are lost with the rank; the trained weights are the same.
    differs = [name for name in different(result_of(out), result_of(whole)).split(", ") if name != "metrics.jsonl"]
    shutil.rmtree(out)
    return judge(kind, Ended(0, ""), "".join(differs))


# damage ----------------------------------------------------------------------------------------------------------


def damage(setting: Setting) -> Iterator[Trial]:
    """One damaged file of a run's folder or of a folder of shards, and then a verb."""
    here, rng = bench(setting), setting.rng
    spec, streamed = here.spec("run"), here.spec("streamed", in_memory=False)
    templates = {"finished run": here.folder / "whole-run"}
    expected, _ = _reference(here, "run", spec)
    here.must(["evaluate", str(templates["finished run"])])
    here.must(["report", str(templates["finished run"])])
    foreign = here.folder / "foreign"
    here.must(["run", spec, "--out", str(foreign), "--set", "seed=7"])
    _stop_in(here, spec, templates, "autoencoder", "run in stage 1")
    _stop_in(here, spec, templates, "prior", "run in stage 2")
    of_stream, _ = _reference(here, "streamed", streamed)
    run_names = list(templates)
    for number in range(setting.count):
        if number % 4 == 3:
            yield _damage_shards(here, rng, streamed, of_stream)
        else:
            name = run_names[number % 3]
            yield _damage_run(here, rng, spec, name, templates[name], foreign, expected)


def _stop_in(here: Bench, spec: str, templates: dict[str, Path], stage: str, name: str) -> None:
    """A run that was killed once a stage had saved two states."""
    out = here.folder / name.replace(" ", "-")
    process = Forked(["run", spec, "--out", str(out)], here.log)
    if process.wait(until=lambda: (out / "state" / f"{stage}.previous.safetensors").exists()) is None:
        process.kill()
    if not (out / "state" / f"{stage}.previous.safetensors").exists():
        raise SystemExit(f"no run was stopped in stage {stage}; repeat with another --seed")
    if stage == "autoencoder":
        (out / "autoencoder.safetensors").unlink(missing_ok=True)  # it may have got so far before the kill
        shutil.rmtree(out / "state" / "latents", ignore_errors=True)
        for path in (out / "state").glob("prior*"):
            path.unlink()
    (out / "prior.safetensors").unlink(missing_ok=True)
    templates[name] = out


def spoil(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Damage a file; returns how."""
    content = bytearray(path.read_bytes())
    how = rng.choice(["a flipped bit"] * 3 + ["cut short", "zeros", "empty", "other bytes", "another file"])
    if not content:
        how = "other bytes"
    if how == "a flipped bit":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "cut short":
        del content[rng.randrange(len(content)) :]
    elif how == "zeros":
        start = rng.randrange(len(content))
        content[start : start + 512] = bytes(len(content[start : start + 512]))
    elif how == "empty":
        content.clear()
    elif how == "other bytes":
        start = rng.randrange(len(content) + 1)
        content[start : start + 16] = rng.randbytes(16)
    else:
        alike = [other for other in others if other.suffix == path.suffix and other != path]
        content = bytearray(rng.choice(alike).read_bytes() if alike else b"")
    path.write_bytes(content)
    return how


def _damage_run(
    here: Bench,
    rng: random.Random,
    spec: str,
    name: str,
    template: Path,
    foreign: Path,
    expected: dict[str, str],
) -> Trial:
    run = here.folder / "spoilt"
    shutil.copytree(template, run)
    files = [path for path in sorted(run.rglob("*")) if path.is_file() and "samples" not in path.parts]
    path = rng.choice(files)
    relative = path.relative_to(run)
    same = foreign / relative
    spoil(path, rng, [same] if same.exists() and rng.random() < 0.7 else files)
    kind = f"{name}: {_sort(relative)}"
    verb = rng.choice(["run", "run", "sample", "report"]) if name == "finished run" else "run"
    if verb == "run":
        ended = do(["run", spec, "--out", str(run)], here.log)
        differs = different(result_of(run), expected) if ended.code == 0 else ""
    elif verb == "sample":
        out, whole = here.folder / "sampled", here.folder / "sampled-whole"
        if not whole.exists():
            here.must(["sample", str(template), "--num", "2", "--out", str(whole)])
        ended = do(["sample", str(run), "--num", "2", "--out", str(out)], here.log)
        names = ("joint/000.first.json", "joint/000.second.json", "joint/001.first.json")
        pairs = [(whole / inner, out / inner) for inner in names]
        differs = "" if ended.code or all(a.read_bytes() == b.read_bytes() for a, b in pairs) else "samples"
        shutil.rmtree(out, ignore_errors=True)
    else:
        ended, differs = do(["report", str(run)], here.log), ""
    trial = judge(kind, ended, differs)
    shutil.rmtree(run)
    return trial


def _sort(relative: Path) -> str:
    """The kind of a run's file."""
    if relative.parts[:2] == ("state", "latents"):
        return "latents"
    if relative.parts[0] == "state":
        return "states" if relative.suffix == ".safetensors" else f"state/{relative.name}"
    if relative.suffix == ".safetensors" and len(relative.parts) == 1:
        return "checkpoints"
    return f"{relative.parts[0]}/*" if len(relative.parts) > 1 else relative.name


def _damage_shards(here: Bench, rng: random.Random, spec: str, expected: dict[str, str]) -> Trial:
    """Shards under a streamed run; sometimes the files of a pack that was stopped, which is then resumed."""
    shards, kept = here.folder / "shards", here.folder / "shards-kept"
    if rng.random() < 0.3:
        return _damage_pack(here, rng)
    shutil.copytree(shards, kept)
    files = sorted(shards.iterdir())
    path = rng.choice(files)
    spoil(path, rng, files)
    run = here.folder / "spoilt"
    ended = do(["run", spec, "--out", str(run)], here.log)
    differs = different(result_of(run), expected) if ended.code == 0 else ""
    trial = judge(f"shards: *{''.join(path.suffixes)}", ended, differs)
    shutil.rmtree(run, ignore_errors=True)
    shutil.rmtree(shards)
    kept.rename(shards)
    return trial


def _damage_pack(here: Bench, rng: random.Random) -> Trial:
    template, out = here.folder / "stopped-pack", here.folder / "packed"
    if not template.exists():
        journal = "import os; from shala_framework.data import writing; writing.write_summary = lambda *a: os._exit(9)"
        code = f"{journal}; from shala_framework.cli.main import main; main({here.pack_line(out)!r})"
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
        shutil.copytree(out, template)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(template, out)
    path = rng.choice(sorted(path for path in out.iterdir() if path.suffix != ".tar"))
    spoil(path, rng, sorted(out.iterdir()))
    ended = do(here.pack_line(out), here.log)
    differs = different(shards_of(out), shards_of(here.folder / "shards")) if ended.code == 0 else ""
    trial = judge(f"stopped pack: *{''.join(path.suffixes)}", ended, differs)
    shutil.rmtree(out)
    return trial


# disk ------------------------------------------------------------------------------------------------------------


def disk(setting: Setting) -> Iterator[Trial]:
    """A run on a disk that fills up at several levels, and again once there is room."""
    here = bench(setting)
    spec = here.spec("run")
    expected, _ = _reference(here, "run", spec)
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


# -----------------------------------------------------------------------------------------------------------------

CAMPAIGNS: dict[str, tuple[Callable[[Setting], Iterator[Trial]], int]] = {
    "kills": (kills, 60),
    "damage": (damage, 600),
    "disk": (disk, 20),
}
OF_OTHER_FILES = ("specs", "media", "server")  # each `faults_<name>.py`, with a function `trials` and a number COUNT


def table(trials: list[Trial]) -> str:
    """How many trials of each kind ended how."""
    kinds = sorted({trial.kind for trial in trials})
    counts = Counter((trial.kind, trial.outcome) for trial in trials)
    lines = [["", "trials", *OUTCOMES]]
    lines += [
        [kind, str(sum(t.kind == kind for t in trials)), *(str(counts[kind, o]) for o in OUTCOMES)] for kind in kinds
    ]
    totals = Counter(trial.outcome for trial in trials)
    lines.append(["all", str(len(trials)), *(str(totals[outcome]) for outcome in OUTCOMES)])
    return markdown(lines)


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", choices=[*CAMPAIGNS, *OF_OTHER_FILES])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="an absent folder, which is kept (default: a temporary one)")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(FAKES), str(ROOT), os.environ.get("PYTHONPATH"))))
    sys.path[:0] = [str(FAKES), str(ROOT)]
    if args.campaign in CAMPAIGNS:
        campaign, count = CAMPAIGNS[args.campaign]
    else:
        module = importlib.import_module(f"faults_{args.campaign}")
        campaign, count = module.trials, module.COUNT
    import torch

    torch.set_num_threads(1)  # a fork has no threads of the process that it is of
    for name in ("experiment", "report.page", "cli.run", "cli.pack", "cli.sample", "cli.report", "cli.evaluate"):
        importlib.import_module(f"shala_framework.{name}")
    found: list[Trial] = []
    with _folder(args.out) as folder:
        for trial in campaign(Setting(random.Random(args.seed), args.trials or count, folder)):
            found.append(trial)
            if trial.outcome not in GOOD:
                print(
                    f"trial {len(found)}, {trial.kind}: {trial.outcome}\n{trial.detail}\n", file=sys.stderr, flush=True
                )
    print(table(found))
    raise SystemExit(any(trial.outcome not in GOOD for trial in found))


if __name__ == "__main__":
    main()
