"""PolyMNIST after a number of rows: each way to sample one model, by accuracy and by diversity, beside references.

    python benchmarks/polymnist_table.py POLYMNIST.npz --judges JUDGES.pt --unseen JUDGE_DATA.npz
        --results RESULTS [--rows 300000] [--prior-rows 1024000] [--refiner-rows 0] [--seeds 0 1 2] [--kl-weight 16]
        [--calibrated 400] [--device cpu] [--test]

The model and its layers are those of polymnist.py. The last 2,000 training rows are validation rows, which no stage is
trained on: choose by them. --test scores the test rows instead. Trained stages and figures are kept in RESULTS, and a
call continues where the last one stopped; another number of rows or KL weight needs another folder. UNSEEN has further
test rows of the benchmark, by which real rows are scored. Columns, as means over modalities:

    joint       coherence of joint samples: all judges name one class
    FD          Frechet distance of joint samples in the judges' features
    recall      share of real rows within the manifold of joint samples (Kynkaanniemi et al. 2019), and precision
    spread      distance between joint samples of one class, divided by that of real rows
    TV          total variation between the judges' classes of joint samples and of real rows
    given 1     generated given one modality that the judges find right, and the same given 2 and 4
    FD 1        Frechet distance given one modality
    spread 1    spread of what is generated given one modality, within a class, divided by that of real rows

A second table has the calibration of the unguided p(z | x_S), on so many scored rows and in the metric that whitens
latents: shares of rows whose own latent, a draw of q(z | x), lies in the central 50, 80 and 95 % region of 39 samples,
and the mean squared distance between two samples over that between a sample and the row's latent, which 1 is right for.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import attrs
import numpy as np
import torch
from pictures import given_subsets, load_pictures
from polymnist import NUM_JOINT, Recipe, kept_stage
from polymnist_judges import Scorer
from scripts import cell, claim_results, markdown
from torch import Tensor

from shala_framework import ShaLa
from shala_framework.data.rows import Rows
from shala_framework.evaluation.calibration import Calibration
from shala_framework.evaluation.class_distribution import total_variation
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.evaluation.manifold import precision_recall
from shala_framework.evaluation.methods import Method
from shala_framework.evaluation.spread import relative_class_spread
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.spec.schema import Evaluate
from shala_framework.support.machine import describe_machine

HELD_OUT, NUM_CLASSES = 2_000, 10
COLUMNS = (
    *("joint", "FD", "recall", "precision", "spread", "TV"),
    *("given 1", "given 2", "given 4", "FD 1", "spread 1"),
)
Samples = Mapping[str, Tensor]


@attrs.frozen(kw_only=True)
class Sampling:
    """How to sample; `prior` "posterior" draws from q(z | x) of as many training rows, or of what is given.

    A perfect prior would have the joint samples of these draws.
    """

    prior: str = "diffusion"
    guidance: float = 1.0
    autoguidance: float = 1.0
    refine: bool = False
    given: bool = True  # whether to score what is generated given modalities, too


WAYS: dict[str, Sampling] = {
    "draws of q(z given x), decoded": Sampling(prior="posterior"),
    "Gaussian mixture": Sampling(prior="mixture", given=False),
    "unguided": Sampling(),
    "autoguidance 1.25": Sampling(autoguidance=1.25),
    "autoguidance 1.5": Sampling(autoguidance=1.5),
    "autoguidance 2": Sampling(autoguidance=2.0),
    "autoguidance 3": Sampling(autoguidance=3.0),
    "guidance 1.5": Sampling(guidance=1.5),
    "guidance 2": Sampling(guidance=2.0),
    "unguided, refined": Sampling(refine=True),
    "autoguidance 1.5, refined": Sampling(autoguidance=1.5, refine=True),
}


class Table:
    """Scores samples against rows."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.classes = [scorer.classes(i, features) for i, features in enumerate(scorer.real)]

    def joint(self, samples: Samples) -> dict[str, float]:
        """Return the columns of joint samples."""
        features = [self.scorer.features(i, x) for i, x in enumerate(samples.values())]
        classes = [self.scorer.classes(i, f) for i, f in enumerate(features)]
        every = list(zip(features, classes, self.scorer.real, self.classes, strict=True))
        covered = [precision_recall(f, real) for f, _, real, _ in every]
        stacked = torch.stack(classes)
        return {
            "joint": float((stacked == stacked[0]).all(0).float().mean()),
            "FD": mean(frechet_distance(f, real) for f, _, real, _ in every),
            "recall": mean(recall for _, recall in covered),
            "precision": mean(precision for precision, _ in covered),
            "spread": mean(relative_class_spread(*row) for row in every),
            "TV": mean(total_variation(c, real, NUM_CLASSES) for _, c, _, real in every),
        }

    def conditional(
        self, generate: Callable[[tuple[int, ...]], Samples], sizes: Sequence[int] = (1, 2, 4)
    ) -> dict[str, float]:
        """Return the columns of what is generated given so many modalities of the scored rows."""
        found: dict[str, list[float]] = defaultdict(list)
        for given in given_subsets(len(self.classes), sizes):
            for i, x in enumerate(generate(given).values()):
                if i in given:
                    continue
                features = self.scorer.features(i, x)
                classes = self.scorer.classes(i, features)
                found[f"given {len(given)}"].append(float((classes == self.scorer.labels).float().mean()))
                if len(given) == 1:
                    real = self.scorer.real[i]
                    found["FD 1"].append(frechet_distance(features, real))
                    found["spread 1"].append(relative_class_spread(features, classes, real, self.classes[i]))
        return {name: mean(values) for name, values in found.items()}


def score(model: ShaLa, table: Table, way: Sampling, x: Samples, trained_on: Samples, seed: int) -> dict[str, float]:
    """Return the figures of one way to sample."""

    def decoded(given: Samples | None, count: int, seed: int) -> Samples:
        prior: Any = way.prior
        if prior == "mixture" and given:
            prior = "diffusion"
        z = model.sample_latents(
            count, given=given, guidance_scale=way.guidance, autoguidance_scale=way.autoguidance, seed=seed, prior=prior
        )
        return model.decode(z, refine=way.refine, seed=seed, batch_size=250)

    rows = {name: of_modality[:NUM_JOINT] for name, of_modality in trained_on.items()}
    joint = decoded(rows, 1, seed) if way.prior == "posterior" else decoded(None, NUM_JOINT, seed)
    figures = table.joint(joint)
    if way.given:
        figures |= table.conditional(
            lambda given: decoded({f"m{i}": x[f"m{i}"] for i in given}, 1, seed + sum(2**i for i in given))
        )
    return figures


def calibration(model: ShaLa, x: Samples, trained_on: Samples, num_rows: int, seed: int) -> dict[str, list[float]]:
    """Return the covered shares, and the ratio of distances, by the number of given modalities."""

    def posterior(samples: Samples) -> GaussianPosterior:
        found = model.posterior(samples, batch_size=250)
        assert isinstance(found, GaussianPosterior)
        return GaussianPosterior(found.mean_BD.cpu(), found.log_var_BD.cpu())

    presence = torch.ones(HELD_OUT, len(x), dtype=torch.bool)
    rows = Rows(x=dict(x), presence=presence, keys=tuple(map(str, range(HELD_OUT))), labels=(None,) * HELD_OUT)
    generator = torch.Generator().manual_seed(seed)
    truth = posterior(x)
    z_ND = truth.draw(torch.randn(truth.mean_BD.shape, generator=generator))
    few = {name: of_modality[:HELD_OUT] for name, of_modality in trained_on.items()}
    measure = Calibration(model, rows, z_ND, posterior(few), Evaluate(), None, seed)
    found = {}
    for size in (0, 1, 2, 4):
        figures = measure.figures(Method(prior="diffusion"), size, num_rows)
        assert figures is not None
        found[f"given {size}"] = [*(region.value for region in figures.regions.values()), figures.ratio.value]
    return found


def trained(args: argparse.Namespace, seed: int, x: Samples, validation: Samples) -> ShaLa:
    """Return a model whose stages are trained, or read where they were trained before."""
    recipe = Recipe(seed=seed)
    if args.kl_weight is not None:
        recipe.autoencoder["kl_weight"] = args.kl_weight
    rows_of = {"autoencoder": args.rows, "prior": args.prior_rows, "refiner": args.refiner_rows}
    recipe = recipe.with_rows(rows_of)
    model = recipe.model(len(x))
    for stage, rows in rows_of.items():
        file = args.results / f"{stage}-seed{seed}.safetensors"
        if rows:
            kept_stage(model, stage, file, recipe, x, 0.0, args.device, validation if stage == "prior" else None)
    return model.to(args.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--judges", type=Path, required=True)
    parser.add_argument("--unseen", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--prior-rows", type=int, default=1_024_000)
    parser.add_argument("--refiner-rows", type=int, default=0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kl-weight", type=float, help="final weight of the KL term (the recipe's)")
    parser.add_argument("--calibrated", type=int, default=400, help="rows of the table of calibration; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--test", action="store_true", help="score the test rows in place of validation rows")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    later = {"refiner_rows": args.refiner_rows, "calibrated": args.calibrated}
    claim_results(
        args.results,
        data=args.data,
        judges=args.judges,
        unseen=args.unseen,
        rows=args.rows,
        prior_rows=args.prior_rows,
        kl_weight=args.kl_weight,
        **{name: value for name, value in later.items() if value},
    )
    pictures = load_pictures(args.data, "train")
    x = {name: of_modality[:-HELD_OUT] for name, of_modality in pictures.items()}
    scored = validation = {name: of_modality[-HELD_OUT:] for name, of_modality in pictures.items()}
    split = "test" if args.test else "train"
    if args.test:
        scored = load_pictures(args.data, "test")
    with np.load(args.data) as arrays:
        labels = arrays[f"{split}_y"][-HELD_OUT:]
    table = Table(Scorer(args.judges, scored, labels))
    unseen = {name: of_modality[:HELD_OUT] for name, of_modality in load_pictures(args.unseen, "test").items()}
    found: dict[str, list[dict[str, float]]] = {"unseen real rows": [table.joint(unseen)]}
    covered: dict[str, list[list[float]]] = defaultdict(list)
    for seed in args.seeds:
        model = trained(args, seed, x, validation)
        for name in args.only:
            way = WAYS[name]
            if way.refine and not args.refiner_rows:
                continue
            file = args.results / f"{name.replace(' ', '_')}-{split}-seed{seed}.json"
            if not file.exists():
                file.write_text(json.dumps(score(model, table, way, scored, x, seed)) + "\n")
            found.setdefault(name, []).append(json.loads(file.read_text()))
            print(seed, name, {k: round(v, 3) for k, v in found[name][-1].items()}, flush=True)
        file = args.results / f"calibration-{split}-seed{seed}.json"
        if args.calibrated and not file.exists():
            file.write_text(json.dumps(calibration(model, scored, x, args.calibrated, seed)) + "\n")
        for name, values in json.loads(file.read_text()).items() if args.calibrated else ():
            covered[name].append(values)
    lines = [["", *COLUMNS]]
    for name, figures in found.items():
        columns = ([of_seed[c] for of_seed in figures if c in of_seed] for c in COLUMNS)
        lines.append([name, *(cell(values) if values else "" for values in columns)])
    rows = ", ".join(f"{n:,}" for n in (args.rows, args.prior_rows, args.refiner_rows) if n)
    print(f"\n{split} rows; rows of the stages: {rows}; {describe_machine()}\n\n{markdown(lines)}")
    lines = [["unguided", "within 50 %", "within 80 %", "within 95 %", "ratio of distances"]]
    lines += [[name, *(cell(values) for values in zip(*of_seed, strict=True))] for name, of_seed in covered.items()]
    print(f"\n{markdown(lines)}" if covered else "")


if __name__ == "__main__":
    main()
