"""This framework and its peers on PolyMNIST, with equal training time and equal layers, scored by one judge.

    python benchmarks/compare.py POLYMNIST.npz JUDGES.pt --peers-python PEERS/bin/python --results RESULTS
        [--seconds 900] [--threads 2] [--seeds 3] [--only shala mvtcae ...] [--keep] [--dry-run]

The peers are MultiVae's own implementations (peer.py). PEERS is a virtual environment with `multivae` installed;
without it they are left out with a note. polymnist_arrays.py builds POLYMNIST.npz, and `polymnist_judges.py train`
writes JUDGES.pt. Systems run one after another. RESULTS keeps their results, so that the same command resumes. Every
system runs with seed 0; this one and the best peer (by joint coherence plus coherence given one modality; the
MLD-style baseline is one) also with the other seeds. The table is Markdown.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import attrs
from polymnist_judges import score
from scripts import cell, claim_results, markdown

PEERS = {"mvtcae": "MVTCAE", "mmvaeplus": "MMVAE+", "mopoe": "MoPoE", "jmvae": "JMVAE"}
SAMPLERS = {"prior": "N(0, I)", "mixture": "Gaussian mixture"}
OWN = {"shala": "ShaLa, diffusion prior", "mld": "MLD-style baseline"}
HERE = Path(__file__).parent
COLUMNS = {
    "joint coherence": "joint_coherence",
    "given 1": "coherence_given_1",
    "given 2": "coherence_given_2",
    "given 4": "coherence_given_4",
    "joint Frechet": "joint_frechet",
    "Frechet given 1": "frechet_given_1",
}


@attrs.frozen(kw_only=True)
class Settings:
    """Arguments of every training."""

    data: Path
    judges: Path
    peers_python: Path | None
    results: Path
    seconds: float
    threads: int
    keep: bool


def result_file(settings: Settings, name: str, seed: int) -> Path:
    return settings.results / f"{name}-{settings.seconds:g}s-seed{seed}.json"


def command(settings: Settings, name: str, seed: int, stem: Path) -> tuple[list[str], dict[str, Path]]:
    """The command that trains a system, and its files of samples by their title."""
    common = ["--seconds", str(settings.seconds), "--seed", str(seed), "--threads", str(settings.threads)]
    if name in PEERS:
        line = [str(settings.peers_python), str(HERE / "peer.py"), name]
        files = {title: stem.with_name(f"{stem.name}.{key}.npz") for key, title in SAMPLERS.items()}
        return [*line, str(settings.data), str(stem), *common], files
    script = {"shala": "polymnist.py", "mld": "mld.py"}[name]
    out = stem.with_name(f"{stem.name}.npz")
    files = {OWN[name]: out}
    if name == "shala":
        files["ShaLa, Gaussian mixture"] = out.with_suffix(".mixture.npz")
    return [sys.executable, str(HERE / script), str(settings.data), "--out", str(out), *common], files


def run(settings: Settings, name: str, seed: int) -> Mapping[str, Any] | None:
    """Return a system's scores, from an earlier call or by training it now; None if it cannot run."""
    path = result_file(settings, name, seed)
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    if name in PEERS and settings.peers_python is None:
        print(f"left out: {name} needs --peers-python", file=sys.stderr)
        return None
    stem = settings.results / f"samples-{name}-{seed}"
    line, files = command(settings, name, seed, stem)
    print(f"{time.strftime('%H:%M')} {' '.join(line)}", flush=True)
    output = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = {"training": json.loads(output.splitlines()[-1]), "scores": {}}
    for title, samples in files.items():
        result["scores"][title] = score(settings.data, settings.judges, samples)
    for samples in () if settings.keep else files.values():
        samples.unlink()
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.rename(path)
    return result


def best_peer(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str | None:
    """Return the other system whose better sampler has the highest coherence."""
    scores = {
        name: max(s["joint_coherence"] + s["coherence_given_1"] for s in by_seed[0]["scores"].values())
        for name, by_seed in found.items()
        if name != "shala" and 0 in by_seed
    }
    return max(scores, key=lambda name: scores[name]) if scores else None


def table(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """Format means over seeds, with the lowest and highest if there are several."""
    lines = [["", "seeds", *COLUMNS, "rows a second"]]
    ceiling: Mapping[str, float] | None = None
    for name, by_seed in found.items():
        for title in by_seed[min(by_seed)]["scores"]:
            rows = [result["scores"][title] for result in by_seed.values()]
            ceiling = rows[0]
            label = f"{PEERS[name]}, {title}" if name in PEERS else title
            training = [result["training"] for result in by_seed.values()]
            rates = [t.get("autoencoder_rows_per_second", t.get("samples_per_second")) for t in training]
            rate = f"{mean(r for r in rates if r is not None):.0f}" if any(r is not None for r in rates) else ""
            lines.append([label, str(len(rows)), *(cell([row[key] for row in rows]) for key in COLUMNS.values()), rate])
    if ceiling is not None:
        real = [f"{ceiling['real_joint_coherence']:.3f}", *[f"{ceiling['real_accuracy']:.3f}"] * 3, "0", "0"]
        lines.append(["real test rows", "", *real, ""])
    return markdown(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("judges", type=Path)
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*OWN, *PEERS], default=[*OWN, *PEERS])
    parser.add_argument("--keep", action="store_true", help="keep the samples, 200 MB each, beside the scores")
    parser.add_argument("--dry-run", action="store_true", help="print the table of the existing results")
    args = parser.parse_args()
    settings = Settings(
        data=args.data,
        judges=args.judges,
        peers_python=args.peers_python,
        results=args.results,
        seconds=args.seconds,
        threads=args.threads,
        keep=args.keep,
    )
    claim_results(settings.results, data=args.data, judges=args.judges, seconds=args.seconds)
    found: dict[str, dict[int, Mapping[str, Any]]] = {}

    def take(name: str, seed: int) -> None:
        if args.dry_run and not result_file(settings, name, seed).exists():
            return
        result = run(settings, name, seed)
        if result is not None:
            found.setdefault(name, {})[seed] = result

    for name in args.only:
        take(name, 0)
    every_peer = all(name in found for name in ("mld", *PEERS))  # the best one is not known before
    for name in filter(None, ("shala" if "shala" in args.only else None, best_peer(found) if every_peer else None)):
        for seed in range(1, args.seeds):
            take(name, seed)
    print(f"\n{args.seconds:g} s of training on {args.threads} threads\n\n{table(found)}")


if __name__ == "__main__":
    main()
