"""Whether more modalities hurt: PolyMNIST-like sets of 2, 5, 10 and 20 modalities at equal training samples.

    python benchmarks/many_modalities.py RAW --results RESULTS [--modalities 2 5 10 20] [--steps 2000]
        [--peers-python PEERS/bin/python] [--only shala mvtcae jmvae]

RAW holds mnist/ and polymnist_backgrounds/. Modality k shows its own handwriting of a digit over crops of background k
% 5, with colours rotated and mirrored by k // 5, so that all 20 differ in appearance. Every training takes
the same number of steps of the same number of rows. The layers are those of compare.py. Judges are those of
polymnist_judges.py and are trained here, on other crops and digits of the training split. Samples are scored by the
judges of five neighbouring modalities on a circle (two, if there are two), over all such windows: the joint
coherence of any five. Coherence given one modality is that of the next one, over all. Only peers whose cost is
linear in the number of modalities take part (MoPoE's grows with its subsets, MMVAE+'s with its square). Results
in RESULTS are not computed again.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from polymnist import Recipe, sample, sample_given, train_both
from polymnist_arrays import compose
from polymnist_judges import load_judges, save_judges, train_judge
from scripts import cell, claim_results, markdown
from shala_datasets.mnist import MNISTDigits, read_mnist
from shala_datasets.polymnist import read_background
from torch import Tensor, nn

from shala_framework.support.machine import describe_machine

MOST = 20
TRAIN, HELD_OUT, JUDGE_ROWS, JUDGE_EPOCHS = 20_000, 1_000, 20_000, 4
PEERS = {"mvtcae": "MVTCAE", "jmvae": "JMVAE"}


def backgrounds(folder: Path, count: int) -> list[NDArray[np.uint8]]:
    """Return one modality for each index."""
    originals = [read_background(folder / f"{number}.jpg") for number in range(1, 6)]
    made = []
    for k in range(count):
        turn = k // 5
        picture = np.roll(originals[k % 5], turn, axis=2)
        made.append(picture[:, ::-1] if turn % 2 else picture)
    return made


def pictures(
    digits: MNISTDigits, labels: NDArray[np.int64], background: NDArray[np.uint8], rng: np.random.Generator
) -> Tensor:
    """Return uint8 [N, 3, 28, 28]: for each label a digit of its class, inverted over a crop."""
    return torch.from_numpy(compose(digits, labels, background, rng)).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def verdicts(judges: Sequence[nn.Sequential], x: Sequence[Tensor]) -> Tensor:
    """Return classes [M, N]."""
    return torch.stack(
        [judge(of_modality.float() / 255).argmax(1) for judge, of_modality in zip(judges, x, strict=True)]
    )


def window_agreement(digits_MN: Tensor, size: int = 5) -> float:
    """Return the share of rows in which `size` neighbouring modalities agree, as a mean over all windows."""
    count = len(digits_MN)
    size = min(size, count)
    windows = [digits_MN[[(start + j) % count for j in range(size)]] for start in range(count)]
    return mean(float((w == w[0]).all(0).float().mean()) for w in windows)


@attrs.frozen(eq=False)
class Study:
    """The rows, the judges, and the length of a training."""

    train_x: Sequence[Tensor]
    held_out_x: Sequence[Tensor]
    labels: Tensor
    judges: Sequence[nn.Sequential]
    steps: int
    prior_steps: int
    results: Path

    def file(self, name: str, count: int, seed: int) -> Path:
        return self.results / f"{name}-{count}-{self.steps}-{self.prior_steps}-seed{seed}.json"

    def five(self, x: Sequence[Tensor]) -> float:
        """Return the joint coherence of any five of some pictures."""
        return window_agreement(verdicts(self.judges[: len(x)], x))

    def hit(self, target: int, x: Tensor) -> float:
        """Return the share of the rows whose picture shows their digit."""
        return float((verdicts([self.judges[target]], [x])[0] == self.labels).float().mean())

    def own(self, count: int, seed: int) -> dict[str, Any]:
        """Return this framework's figures."""
        recipe = Recipe(seed=seed, steps=self.steps, prior_steps=self.prior_steps)
        model, training = train_both(recipe, {f"m{i}": x for i, x in enumerate(self.train_x[:count])})
        plain = attrs.evolve(recipe, autoguidance=1.0)
        figures: dict[str, Any] = {
            "joint coherence of five": self.five([*sample(model, recipe, seed).values()]),
            "without autoguidance": self.five([*sample(model, plain, seed).values()]),
            "Gaussian mixture": self.five([*sample(model, recipe, seed, prior="mixture").values()]),
        }
        known = {f"m{i}": x for i, x in enumerate(self.held_out_x[:count])}
        hits = []
        for i in range(count):
            target = (i + 1) % count
            hits.append(self.hit(target, sample_given(model, recipe, known, (i,), seed + i)[f"m{target}"]))
        return {**figures, "given 1": mean(hits), "training": training}

    def peer(self, python: Path, name: str, count: int, seed: int, threads: int) -> dict[str, Any]:
        """Return a peer's figures after the same number of rows."""
        with tempfile.TemporaryDirectory() as folder:
            rows, stem = Path(folder) / "rows.npz", Path(folder) / "samples"
            np.savez(rows, train_x=_pixels_last(self.train_x[:count]), test_x=_pixels_last(self.held_out_x[:count]))
            line = [str(python), str(Path(__file__).parent / "peer.py"), name, str(rows), str(stem), "--next"]
            line += ["--steps", str(self.steps * 64 // 128), "--seed", str(seed), "--threads", str(threads)]
            output = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
            made = {sampler: _samples(stem.with_name(f"samples.{sampler}.npz")) for sampler in ("prior", "mixture")}
        five = {sampler: self.five([of[f"joint/{i}"] for i in range(count)]) for sampler, of in made.items()}
        nexts = [(i, (i + 1) % count) for i in range(count)]
        return {
            "joint coherence of five": five["prior"],
            "Gaussian mixture": five["mixture"],
            "given 1": mean(self.hit(target, made["prior"][f"given/{i}/{target}"]) for i, target in nexts),
            "training": json.loads(output.splitlines()[-1]),
        }


def _samples(path: Path) -> dict[str, Tensor]:
    with np.load(path) as arrays:
        return {key: torch.from_numpy(arrays[key]).permute(0, 3, 1, 2) for key in arrays.files}


def _pixels_last(x: Sequence[Tensor]) -> NDArray[np.uint8]:
    return torch.stack(list(x)).permute(0, 1, 3, 4, 2).contiguous().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--modalities", type=int, nargs="+", default=[2, 5, 10, 20])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--prior-steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers-python", type=Path)
    parser.add_argument("--only", nargs="+", choices=["shala", *PEERS], default=["shala", *PEERS])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    claim_results(args.results, raw=args.raw, steps=args.steps, prior_steps=args.prior_steps)
    digits = read_mnist(args.raw / "mnist", 0.1)
    rng = np.random.default_rng(0)
    made = backgrounds(args.raw / "polymnist_backgrounds", MOST)
    labels = rng.permutation(digits["train"].labels)[:TRAIN].astype(np.int64)
    held_out_labels = rng.permutation(digits["validation"].labels)[:HELD_OUT].astype(np.int64)
    train_x = [pictures(digits["train"], labels, picture, rng) for picture in made]
    held_out_x = [pictures(digits["validation"], held_out_labels, picture, rng) for picture in made]
    judge_labels = rng.permutation(digits["train"].labels)[:JUDGE_ROWS].astype(np.int64)

    file = args.results / "judges.pt"
    if not file.exists():
        torch.manual_seed(0)
        seen = (pictures(digits["train"], judge_labels, picture, rng) for picture in made)
        save_judges([train_judge(x.float() / 255, torch.from_numpy(judge_labels), JUDGE_EPOCHS) for x in seen], file)
    study = Study(
        train_x,
        held_out_x,
        torch.from_numpy(held_out_labels),
        load_judges(file),
        args.steps,
        args.prior_steps,
        args.results,
    )
    for seed, count, name in product(range(args.seeds), args.modalities, args.only):
        file = study.file(name, count, seed)
        if file.exists() or (name in PEERS and args.peers_python is None):
            continue
        figures = (
            study.own(count, seed)
            if name == "shala"
            else study.peer(args.peers_python, name, count, seed, args.threads)
        )
        figures["real rows"] = study.five(held_out_x[:count])
        file.write_text(json.dumps(figures) + "\n")
        print(seed, count, name, figures, flush=True)
    print(f"\n{args.steps} steps of 64 rows or as many rows, {args.prior_steps} of 512 for the diffusion prior")
    print(f"{args.threads} threads; {describe_machine()}\n")
    columns = ["joint coherence of five", "without autoguidance", "Gaussian mixture", "given 1", "real rows"]
    lines = [["modalities", "", "seeds", *columns, "seconds"]]
    for name, count in product(["shala", *PEERS], args.modalities):
        files = [study.file(name, count, seed) for seed in range(args.seeds)]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
        if found:
            entries = [cell([f[column] for f in found]) if column in found[0] else "" for column in columns]
            seconds = cell([f["training"]["seconds"] for f in found])
            lines.append([str(count), {"shala": "ShaLa", **PEERS}[name], str(len(found)), *entries, seconds])
    print(markdown(lines))


if __name__ == "__main__":
    main()
