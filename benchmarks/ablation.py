"""The contribution of each default of the PolyMNIST recipe: one change at a time, three seeds, a short budget.

    python benchmarks/ablation.py POLYMNIST.npz JUDGES.pt --results RESULTS [--seconds 120] [--only NAME ...]

Every variant trains within the budget on all training rows except the last 2,000, and is scored on the last 1,000; test
rows are never used. The recipe's stage 2 needs more steps than fit into a short budget, so here it learns twice
as fast from batches of a quarter of the size; one row of the table has the original for 900 s. Variants of stage 2 use
the recipe's stage 1 of the same seed, variants of sampling its whole model. Judges score as in compare.py. RESULTS
keeps one file for each variant and seed, from which a later call resumes. The table, in Markdown, has means and the
lowest and highest seed. Two calls with one thread and different --only may fill the same folder.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import attrs
import numpy as np
import torch
from matplotlib.figure import Figure
from pictures import given_subsets, load_pictures
from polymnist import Recipe, sample, sample_given, train_both, train_stage
from polymnist_judges import Scorer
from scripts import cell, claim_results, markdown
from torch import Tensor

from shala_framework import ShaLa
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.support.checkpoint import read_checkpoint, write_checkpoint
from shala_framework.support.machine import describe_machine

HELD_OUT, SCORED = 2_000, 1_000
SHORT_STAGE = {"steps": 1_000, "batch_size": 128, "learning_rate": 2e-3, "ema_halflife_steps": 300.0}
COLUMNS = ("joint", "joint mixture", "given 1", "Frechet", "Frechet given 1", "reconstructed")


def changed(table: str, **values: Any) -> Callable[[Recipe], Recipe]:
    """Return the recipe with other values in a table."""

    def change(recipe: Recipe) -> Recipe:
        changes: dict[str, Any] = {table: {**getattr(recipe, table), **values}}
        return attrs.evolve(recipe, **changes)

    return change


def with_(**values: Any) -> Callable[[Recipe], Recipe]:
    """Return the recipe with other values in its own fields."""
    return lambda recipe: attrs.evolve(recipe, **values)


TRAINED: dict[str, Callable[[Recipe], Recipe]] = {
    "no recognition": changed("posterior", recognition_weight=0.0),
    "no recognition, no contrast": changed("posterior", recognition_weight=0.0, contrast_weight=0.0),
    "no texture": changed("posterior", texture_weight=0.0),
    "texture_weight 0.3": changed("posterior", texture_weight=0.3),
    "recognition_weight 0.2": changed("posterior", recognition_weight=0.2),
    "latent_dim 64": with_(latent_dim=64),
    "latent_dim 128": with_(latent_dim=128),
    "kl_weight 1": changed("autoencoder", kl_weight=1.0),
    "stage 1 by AdamW": changed("autoencoder", optimizer="adamw", learning_rate=2e-3),
    "attention fusion": changed("posterior", fusion="attention"),
    "modality_dropout 0.5": changed("posterior", modality_dropout=0.5),
    "first_share 0.5": with_(first_share=0.5),
}
SECOND: dict[str, Callable[[Recipe], Recipe]] = {
    "recipe": lambda recipe: recipe,
    "stage 2 as for 900 s": with_(prior_stage=Recipe().prior_stage),
    "stage 2 by Muon": changed("prior_stage", optimizer="muon", learning_rate=1e-2),
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
        for w in (1.0, 2.0, 3.0)
    },
    "9 sampler steps": with_(sampler_steps=9),
    "36 sampler steps": with_(sampler_steps=36),
    "9 steps of DPM-Solver++": with_(sampler="dpm", sampler_steps=9),
    "18 steps of DPM-Solver++": with_(sampler="dpm"),
}


def figures_of(model: ShaLa, recipe: Recipe, scorer: Scorer, x: Mapping[str, Tensor]) -> dict[str, float]:
    """Return every column of the table."""
    figures: dict[str, float] = {}
    figures["joint"], figures["Frechet"] = scorer.joint(sample(model, recipe, 0))
    figures["joint mixture"], _ = scorer.joint(sample(model, recipe, 0, prior="mixture"))
    figures["reconstructed"], _ = scorer.joint(model.decode(model.posterior(x).sample(), batch_size=250))
    hits, distances = [], []
    for given in given_subsets(len(x), (1,)):
        samples = sample_given(model, recipe, x, given, sum(2**i for i in given))
        for i, of_modality in enumerate(samples.values()):
            if i not in given:
                features = scorer.features(i, of_modality)
                hits.append(float((scorer.classes(i, features) == scorer.labels).float().mean()))
                distances.append(frechet_distance(features, scorer.real[i]))
    figures["given 1"], figures["Frechet given 1"] = mean(hits), mean(distances)
    return figures


@attrs.frozen(kw_only=True)
class Study:
    """Trains and scores variants, and keeps their figures."""

    x: Mapping[str, Tensor]
    scored: Mapping[str, Tensor]
    scorer: Scorer
    results: Path
    seconds: float

    def recipe(self, seed: int) -> Recipe:
        return Recipe(seconds=self.seconds, seed=seed, prior_stage=SHORT_STAGE)

    def file(self, variant: str, seed: int) -> Path:
        name = variant.replace(" ", "_").replace(",", "")
        return self.results / f"{name}-{self.seconds:g}s-seed{seed}.json"

    def missing(self, variants: Mapping[str, Callable[[Recipe], Recipe]], seed: int) -> list[str]:
        return [variant for variant in variants if not self.file(variant, seed).exists()]

    def score(self, variant: str, seed: int, recipe: Recipe, model: ShaLa, training: Mapping[str, float]) -> None:
        figures = {**figures_of(model, recipe, self.scorer, self.scored), "training": training}
        self.file(variant, seed).write_text(json.dumps(figures) + "\n")
        print(seed, variant, figures, flush=True)

    def train_whole(self, variant: str, seed: int) -> None:
        """Train and score a variant of stage 1, with its own stage 2."""
        if self.missing({variant: TRAINED[variant]}, seed):
            recipe = TRAINED[variant](self.recipe(seed))
            self.score(variant, seed, recipe, *train_both(recipe, self.x))

    def train_second(self, variants: Mapping[str, Callable[[Recipe], Recipe]], seed: int) -> None:
        """Train and score the variants of stage 2 and of sampling, all on one stage 1."""
        wanted = self.missing(variants, seed)
        if not wanted:
            return
        recipe = self.recipe(seed)
        base = recipe.model(len(self.x))
        file = self.results / f"recipe-{self.seconds:g}s-seed{seed}.safetensors"
        if file.exists():
            tensors, training = read_checkpoint(file)
            base.autoencoder.load_state_dict(tensors)
        else:
            training = train_stage(base, "autoencoder", recipe, self.x, self.seconds * recipe.first_share, "cpu")
            write_checkpoint(file, base.autoencoder.state_dict(), training)
        whole: ShaLa | None = None
        for variant in wanted:
            sampling = variant in SAMPLED
            model = whole
            if model is None or not sampling:
                changed_recipe = recipe if sampling else SECOND[variant](recipe)
                model = changed_recipe.model(len(self.x))
                model.autoencoder.load_state_dict(base.autoencoder.state_dict())
                model.stages.add("autoencoder")
                seconds = self.seconds * (1 - recipe.first_share)
                training |= train_stage(model, "prior", changed_recipe, self.x, seconds, "cpu")
                if sampling or variant == "recipe":
                    whole = model
            self.score(variant, seed, (SAMPLED if sampling else SECOND)[variant](recipe), model, training)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("judges", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="plot coherence against distance for the sampling variants"
    )
    parser.add_argument("--only", nargs="+", choices=[*TRAINED, "stage 2"], default=["stage 2", *TRAINED])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    claim_results(args.results, data=args.data, judges=args.judges, seconds=args.seconds)
    pictures = load_pictures(args.data, "train")
    with np.load(args.data) as arrays:
        labels = arrays["train_y"][-SCORED:]
    scored = {name: x[-SCORED:] for name, x in pictures.items()}
    study = Study(
        x={name: x[:-HELD_OUT] for name, x in pictures.items()},
        scored=scored,
        scorer=Scorer(args.judges, scored, labels),
        results=args.results,
        seconds=args.seconds,
    )
    for seed in range(args.seeds):  # seeds are the outer loop, so that a table with every variant is complete early
        for name in args.only:
            if name == "stage 2":
                study.train_second({**SECOND, **SAMPLED}, seed)
            else:
                study.train_whole(name, seed)
    every: dict[str, list[dict[str, float]]] = {}
    for name in [*SECOND, *TRAINED, *SAMPLED]:
        paths = [study.file(name, seed) for seed in range(args.seeds)]
        found = [json.loads(path.read_text()) for path in paths if path.exists()]
        if found:
            every[name] = found
    print(f"\n{args.seconds:g} s, {args.threads} threads, {SCORED} held-out training rows; {describe_machine()}\n")
    body = [
        [name, str(len(found)), *(cell([f[column] for f in found]) for column in COLUMNS)]
        for name, found in every.items()
    ]
    print(markdown([["", "seeds", *COLUMNS], *body]))
    if args.plot:
        draw_guidance(every, args.plot)


def draw_guidance(found: Mapping[str, list[dict[str, float]]], path: Path) -> None:
    """Plot coherence against Frechet distance: of joint samples by autoguidance, given one modality by both scales."""
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
        by_scale = {w: f"guidance {w:g}, autoguidance {v:g}" for w in (1.0, 2.0, 3.0)}
        means = {
            w: (mean(r["Frechet given 1"] for r in found[n]), mean(r["given 1"] for r in found[n]))
            for w, n in by_scale.items()
            if n in found
        }
        given.plot(*zip(*means.values(), strict=True), "o-", label=f"autoguidance {v:g}")
        for scale, point in means.items():
            given.annotate(f"{scale:g}", point, textcoords="offset points", xytext=(4, 4))
    joint.set(title="joint samples, by autoguidance scale", xlabel="Frechet distance", ylabel="joint coherence")
    given.set(title="given one modality, by guidance scale", xlabel="Frechet distance", ylabel="coherence given 1")
    for axes in (joint, given):
        axes.legend(frameon=False, fontsize="small")
        axes.grid(alpha=0.25)
    canvas.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
