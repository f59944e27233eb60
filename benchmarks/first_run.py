"""The README's first command in a fresh environment, phase by phase, on this machine and with AVX2 only.

    python benchmarks/first_run.py [--only "as it is" ...] [--installed] [--keep FOLDER]

The second setting hides AVX-512 and bfloat16 units from torch and oneDNN (ATEN_CPU_CAPABILITY=avx2,
ONEDNN_MAX_CPU_ISA=AVX2), so that a newer processor computes like an older one. It does not slow down the processor
otherwise. There is one run of each; other work on the machine shows in the seconds.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scripts import markdown

ROOT = Path(__file__).parent.parent
SETTINGS = {
    "as it is": {},
    "AVX2 alone": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
PHASES = ("stand_in", "reading", "autoencoder", "prior", "samples", "report", "evaluation")
COMMAND = ("specs/ntu_rgb_skeleton.toml",)


def install(folder: Path) -> tuple[Path, float]:
    """Make a fresh environment with the core and all plugins; return its bin folder and the seconds that it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    plugins = sorted(str(path) for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())
    subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", str(ROOT), *plugins], check=True)
    return folder / "bin", time.perf_counter() - start


def first_command(binaries: Path, environment: dict[str, str], out: Path) -> dict[str, Any]:
    """Run the command; return seconds by phase, peak memory of the process, and the figures of its evaluation."""
    start = time.perf_counter()
    line = [str(binaries / "shala-run"), *COMMAND, "--out", str(out)]
    subprocess.run(line, cwd=ROOT, env={**os.environ, **environment}, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    lines = [json.loads(text) for text in (out / "metrics.jsonl").read_text().splitlines()]
    summary = next(entry for entry in reversed(lines) if entry["stage"] == "summary")
    plan = json.loads((out / "state" / "plan.json").read_text())["plan"]
    evaluation = json.loads((out / "evaluation" / "validation.json").read_text())
    joint = {figures["method"]: figures for figures in evaluation["joint"]}
    conditional = {figures["method"]: figures for figures in evaluation["conditional"]}
    return {
        **{f"{phase}, s": f"{summary['seconds'].get(phase, 0):.0f}" for phase in PHASES},
        "whole command, s": f"{seconds:.0f}",
        "peak memory, GiB": f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20:.2f}",
        "computing in": plan["precision"],
        **{f"steps of {e['stage']}": str(e["step"]) for e in lines if e["stage"] in ("autoencoder", "prior")},
        "judges' accuracy on real rows": _listed({n: f["real"] for n, f in evaluation["judges"].items()}),
        **{f"joint coherence, {name}": _shown(found["coherence"]) for name, found in joint.items()},
        **{f"joint recall, {name}": _listed(found["recall"]) for name, found in joint.items()},
        **{f"joint Frechet distance, {name}": _listed(found["frechet"]) for name, found in joint.items()},
        **{
            f"{generated} given {given}, {method}": _shown(figure)
            for method, found in conditional.items()
            for given, pairs in found["pairs"].items()
            for generated, figure in pairs.items()
        },
        **{
            f"spread within a row / of real rows of its class, {method}": _shown(found["diversity"])
            for method, found in conditional.items()
        },
    }


def _shown(figure: dict[str, Any]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def _listed(figures: dict[str, dict[str, Any]]) -> str:
    return ", ".join(f"{name} {figure['value']:.3f}" for name, figure in figures.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--installed", action="store_true", help="use this environment in place of a fresh one")
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        if args.installed:
            binaries = Path(sys.executable).parent
        else:
            binaries, seconds = install(Path(temporary) / "environment")
            print(f"installed in {seconds:.0f} s\n", flush=True)
        found = {
            name: first_command(binaries, SETTINGS[name], (folder / name.replace(" ", "_")).absolute())
            for name in args.only
        }
    rows = list(dict.fromkeys(row for results in found.values() for row in results))
    print(markdown([["", *found], *([row, *(results.get(row, "") for results in found.values())] for row in rows)]))


if __name__ == "__main__":
    main()
