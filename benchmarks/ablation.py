"""What each default of the PolyMNIST recipe is worth: one change at a time, three seeds, a short budget.

    python benchmarks/ablation.py BENCH POLYMNIST.npz JUDGES.pt --results RESULTS [--seconds 120] [--only NAME ...]

Every variant trains both stages within the budget on all training rows but the last 2,000, and is scored on those: test
rows are never looked at. Variants of sampling alone use the model of the recipe as it is. BENCH is the folder of the
benchmark, whose judges score as they do in compare.py. Results are kept in RESULTS, one file a variant and seed, and a
call goes on where the last one stopped; the table, in Markdown, has means and the lowest and highest seed.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import torch
from matplotlib.figure import Figure
from pictures import as_rows, given_subsets, load_pictures
from polymnist import NUM_JOINT, Model, Recipe, train
from torch import Tensor

from shala_framework.machine import describe_machine

HELD_OUT = 2_000
COLUMNS = ("joint", "joint mixture", "given 1", "given 4", "Frechet", "Frechet given 1", "reconstructed")


def changed(table: str, **values: Any) -> Callable[[Recipe], Recipe]:
    """The recipe with some keys of a table changed."""
    return lambda recipe: attrs.evolve(recipe, **{table: {**getattr(recipe, table), **values}})


def with_(**values: Any) -> Callable[[Recipe], Recipe]:
    """The recipe with some of its own fields changed."""
    return lambda recipe: attrs.evolve(recipe, **values)


TRAINED: dict[str, Callable[[Recipe], Recipe]] = {
    "recipe": lambda recipe: recipe,
    "no recognition": changed("posterior", recognition_weight=0.0),
    "no recognition, no contrast": changed("posterior", recognition_weight=0.0, contrast_weight=0.0),
    "recognition_weight 0.2": changed("posterior", recognition_weight=0.2),
    "latent_dim 64": with_(latent_dim=64),
    "latent_dim 128": with_(latent_dim=128),
    "kl_weight 3": changed("autoencoder", kl_weight=3.0),
    "batch_size 128": changed("autoencoder", batch_size=128),
    "stage 1 by AdamW": changed("autoencoder", optimizer="adamw", learning_rate=2e-3),
    "stage 2 by Muon": changed("prior_stage", optimizer="muon", learning_rate=1e-2),
    "attention fusion": changed("posterior", fusion="attention"),
    "modality_dropout 0.5": changed("posterior", modality_dropout=0.5),
    "attention fusion, modality_dropout 0.5": changed("posterior", fusion="attention", modality_dropout=0.5),
    "first_share 0.5": with_(first_share=0.5),
    "first_share 0.8": with_(first_share=0.8),
    "unconditional_share 0.3": changed("prior", unconditional_share=0.3),
    "unconditional_share 0.7": changed("prior", unconditional_share=0.7),
    "log_sigma_mean -0.4": changed("prior", log_sigma_mean=-0.4),
    "log_sigma_mean 0.8": changed("prior", log_sigma_mean=0.8),
    "attention among features": changed("prior", condition="attention"),
    "ema_halflife_steps 50": changed("prior_stage", ema_halflife_steps=50.0),
    "guide of width 96, 2 blocks": changed("prior", guide_hidden_dim=96, guide_num_blocks=2),
}
SAMPLED: dict[str, Callable[[Recipe], Recipe]] = {
    **{
        f"guidance {w:g}, autoguidance {v:g}": with_(guidance=w, autoguidance=v, given_autoguidance=v)
        for v in (1.0, 2.0, 3.0, 4.0)
        for w in (1.0, 1.5, 2.0, 3.0)
    },
    "9 sampler steps": with_(sampler_steps=9),
    "36 sampler steps": with_(sampler_steps=36),
    "9 steps of DPM-Solver++": with_(sampler="dpm", sampler_steps=9),
    "18 steps of DPM-Solver++": with_(sampler="dpm"),
}


class Scorer:
    """The benchmark's judges on held-out rows."""

    def __init__(self, script: Path, judges: Path, x: Mapping[str, Tensor], labels: np.ndarray) -> None:
        self.script = load_script(script)
        self.x, self.labels = x, torch.from_numpy(labels)
        self.nets = []
        for state in torch.load(judges, weights_only=True):
            net = self.script.judge().eval()
            net.load_state_dict(state)
            self.nets.append(net)
        self.real = [self._features(i, of_modality) for i, of_modality in enumerate(x.values())]

    @torch.no_grad()
    def _features(self, i: int, x: Tensor) -> Tensor:
        features: Tensor = self.nets[i][0](x.float() / 255)
        return features

    @torch.no_grad()
    def _digits(self, i: int, features: Tensor) -> Tensor:
        digits: Tensor = self.nets[i][1](features).argmax(1)
        return digits

    def _frechet(self, i: int, features: Tensor) -> float:
        return float(self.script.frechet(features.double().numpy(), self.real[i].double().numpy()))

    def joint(self, samples: Mapping[str, Tensor]) -> tuple[float, float]:
        """Coherence and mean Frechet distance of joint samples."""
        features = [self._features(i, x) for i, x in enumerate(samples.values())]
        digits = torch.stack([self._digits(i, f) for i, f in enumerate(features)])
        return float((digits == digits[0]).all(0).float().mean()), mean(
            map(self._frechet, range(len(features)), features)
        )

    def score(self, model: Model) -> dict[str, float]:
        """Every column of the table."""
        figures: dict[str, float] = {}
        figures["joint"], figures["Frechet"] = self.joint(model.joint(NUM_JOINT, 0))
        figures["joint mixture"], _ = self.joint(model.joint_by_mixture(NUM_JOINT, 0))
        with torch.no_grad():
            h = model.autoencoder.encode(dict(self.x))
            z = model.autoencoder.fuse(h, torch.ones(len(self.labels), len(self.x), dtype=torch.bool)).sample()
        figures["reconstructed"], _ = self.joint(model.decode(z))
        for size in (1, 4):
            hits, distances = [], []
            for given in given_subsets(len(self.x), (size,)):
                samples = model.conditional(self.x, given, sum(2**i for i in given))
                for i, x in enumerate(samples.values()):
                    if i not in given:
                        features = self._features(i, x)
                        hits.append(float((self._digits(i, features) == self.labels).float().mean()))
                        distances.append(self._frechet(i, features))
            figures[f"given {size}"], figures[f"Frechet given {size}"] = mean(hits), mean(distances)
        return figures


def load_script(path: Path) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _file(results: Path, name: str, seconds: float, seed: int) -> Path:
    return results / f"{name.replace(' ', '_').replace(',', '')}-{seconds:g}s-seed{seed}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bench", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("judges", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw what guidance trades, from the sampling variants"
    )
    parser.add_argument("--only", nargs="+", choices=[*TRAINED, "sampling"], default=[*TRAINED, "sampling"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.results.mkdir(parents=True, exist_ok=True)
    pictures = load_pictures(args.data, "train")
    held_out = {name: x[-HELD_OUT:] for name, x in pictures.items()}
    rows = as_rows({name: x[:-HELD_OUT] for name, x in pictures.items()})
    with np.load(args.data) as arrays:
        scorer = Scorer(args.bench / "judge.py", args.judges, held_out, arrays["train_y"][-HELD_OUT:])
    for seed in range(args.seeds):  # a table with every variant as early as can be
        for name in args.only:
            variants = {"recipe": TRAINED["recipe"], **SAMPLED} if name == "sampling" else {name: TRAINED[name]}
            missing = [v for v in variants if not _file(args.results, v, args.seconds, seed).exists()]
            if not missing:
                continue
            first = TRAINED["recipe"] if name == "sampling" else TRAINED[name]
            model, training = train(first(Recipe(seconds=args.seconds, seed=seed)), rows)
            for variant in missing:
                model.recipe = variants[variant](Recipe(seconds=args.seconds, seed=seed))
                figures = {**scorer.score(model), "training": training}
                _file(args.results, variant, args.seconds, seed).write_text(json.dumps(figures) + "\n")
                print(seed, variant, figures, flush=True)
    print(f"\n{args.seconds:g} s, {args.seeds} seeds, {HELD_OUT} held-out training rows; {describe_machine()}\n")
    print("| | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    every: dict[str, list[dict[str, float]]] = {}
    for name in [*TRAINED, *SAMPLED]:
        paths = [_file(args.results, name, args.seconds, seed) for seed in range(args.seeds)]
        found = [json.loads(path.read_text()) for path in paths if path.exists()]
        if found:
            every[name] = found
            print(f"| {name} | " + " | ".join(_cell([f[column] for f in found]) for column in COLUMNS) + " |")
    if args.plot:
        draw_guidance(every, args.plot)


def draw_guidance(found: Mapping[str, list[dict[str, float]]], path: Path) -> None:
    """Coherence against Frechet distance: of joint samples by autoguidance, given one modality by both scales."""
    canvas = Figure(figsize=(10, 4.2), layout="constrained")
    joint, given = canvas.subplots(1, 2)
    scales = (1.0, 2.0, 3.0, 4.0)
    for number in range(max(map(len, found.values()))):
        names = [f"guidance 2, autoguidance {v:g}" for v in scales]
        rows = [found[name][number] for name in names if len(found.get(name, ())) > number]
        joint.plot([r["Frechet"] for r in rows], [r["joint"] for r in rows], "o-", label=f"seed {number}")
        for v, row in zip(scales, rows, strict=False):
            joint.annotate(f"{v:g}", (row["Frechet"], row["joint"]), textcoords="offset points", xytext=(4, 4))
    for v in scales:
        names = {w: f"guidance {w:g}, autoguidance {v:g}" for w in (1.0, 1.5, 2.0, 3.0)}
        means = {
            w: (mean(r["Frechet given 1"] for r in found[n]), mean(r["given 1"] for r in found[n]))
            for w, n in names.items()
            if n in found
        }
        given.plot(*zip(*means.values(), strict=True), "o-", label=f"autoguidance {v:g}")
        for w, point in means.items():
            given.annotate(f"{w:g}", point, textcoords="offset points", xytext=(4, 4))
    joint.set(title="joint samples, by autoguidance scale", xlabel="Frechet distance", ylabel="joint coherence")
    given.set(title="given one modality, by guidance scale", xlabel="Frechet distance", ylabel="coherence given 1")
    for axes in (joint, given):
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.25)
    canvas.savefig(path, dpi=110)


def _cell(values: list[float]) -> str:
    digits = 3 if max(values) < 2 else 0
    text = f"{mean(values):.{digits}f}"
    return f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else text


if __name__ == "__main__":
    main()
