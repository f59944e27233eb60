"""Damaged files of runs, shards and packs; a campaign of faults.py."""

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fault_trials import Setting, Trial
from fault_verbs import Bench, Forked, bench, different, do, judge, reference, result_of, shards_of

COUNT = 600


def trials(setting: Setting) -> Iterator[Trial]:
    """Damage one file of a run's folder or of a folder of shards, and then run a verb."""
    here, rng = bench(setting), setting.rng
    spec, streamed = here.spec("run"), here.spec("streamed", in_memory=False)
    templates = {"finished run": here.folder / "whole-run"}
    expected, _ = reference(here, "run", spec)
    here.must(["evaluate", str(templates["finished run"])])
    here.must(["report", str(templates["finished run"])])
    foreign = here.folder / "foreign"
    here.must(["run", spec, "--out", str(foreign), "--set", "seed=7"])
    _stop_in(here, spec, templates, "autoencoder", "run in stage 1")
    _stop_in(here, spec, templates, "prior", "run in stage 2")
    of_stream, _ = reference(here, "streamed", streamed)
    run_names = list(templates)
    for number in range(setting.count):
        if number % 4 == 3:
            yield _damage_shards(here, rng, streamed, of_stream)
        else:
            name = run_names[number % 3]
            yield _damage_run(here, rng, spec, name, templates[name], foreign, expected)


def _stop_in(here: Bench, spec: str, templates: dict[str, Path], stage: str, name: str) -> None:
    """Make a run that was killed after a stage had saved two states."""
    out = here.folder / name.replace(" ", "-")
    process = Forked(["run", spec, "--out", str(out)], here.log)
    if process.wait(until=lambda: (out / "state" / f"{stage}.previous.safetensors").exists()) is None:
        process.kill()
    if not (out / "state" / f"{stage}.previous.safetensors").exists():
        raise SystemExit(f"no run was stopped in stage {stage}; repeat with another --seed")
    if stage == "autoencoder":
        (out / "autoencoder.safetensors").unlink(missing_ok=True)  # it may have been written before the kill
        shutil.rmtree(out / "state" / "latents", ignore_errors=True)
        for path in (out / "state").glob("prior*"):
            path.unlink()
    (out / "prior.safetensors").unlink(missing_ok=True)
    templates[name] = out


def spoil(path: Path, rng: random.Random, others: list[Path]) -> str:
    """Damage a file, and return how."""
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
    """Return the kind of a run's file."""
    if relative.parts[:2] == ("state", "latents"):
        return "latents"
    if relative.parts[0] == "state":
        return "states" if relative.suffix == ".safetensors" else f"state/{relative.name}"
    if relative.suffix == ".safetensors" and len(relative.parts) == 1:
        return "checkpoints"
    return f"{relative.parts[0]}/*" if len(relative.parts) > 1 else relative.name


def _damage_shards(here: Bench, rng: random.Random, spec: str, expected: dict[str, str]) -> Trial:
    """Damage shards under a streamed run, or the files of a stopped pack, which is then resumed."""
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
    files = sorted(path for path in out.rglob("*") if path.is_file())
    path = rng.choice([path for path in files if path.suffix != ".tar"])
    spoil(path, rng, files)
    ended = do(here.pack_line(out), here.log)
    differs = different(shards_of(out), shards_of(here.folder / "shards")) if ended.code == 0 else ""
    trial = judge(f"stopped pack: *{''.join(path.suffixes)}", ended, differs)
    shutil.rmtree(out)
    return trial
