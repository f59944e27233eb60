"""Stage 3 on PolyMNIST by length of training, size and sampling: a table beside the modes that it refines.

    python benchmarks/refiner_study.py POLYMNIST.npz --judges JUDGES.pt --results RESULTS
        [--rows 300000] [--prior-rows 1024000] [--kl-weight 16] [--seed 0] [--device cpu]
        [--seconds 600 | --refiner-rows 3000000] [--batch-size 16] [--width 32] [--blocks 1 3] [--attention]
        [--log-sigma-mean -0.4] [--log-sigma-std 1.4] [--sigma-max 1.5 4 12 40] [--guidance 1] [--num 2000] [--test]
        [--flow | --adversarial] [--separate]

One seed. Stages 1 and 2 are trained for numbers of rows as in polymnist_table.py, and stage 3 for a time or a number of
rows; RESULTS keeps trained stages, and the same command continues. The last 2,000 training rows are scored and not
trained on; --test scores the test rows instead. Columns: those of polymnist_table.py of as many unguided joint samples
as scored rows, the Frechet distance of each modality, and the share of samples given one modality that the judges find
right, with their distance. *Own z* is the share of rows of which a draw of q(z | x) is decoded to their own class; what
stage 3 loses of it, it draws anew. --flow has decoders that are conditional flows, trained with stage 1 (see
flow_decoder.py), in place of stage 3. --adversarial trains stage 3 against a critic, by AdamW, so that it needs
--learning-rate 1e-3. With --separate, each picture has a network of its own in stage 3; otherwise one refines all.
RESULTS/sheet.png has a block of samples for each way to sample, below real rows.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import attrs
import numpy as np
import torch
from flow_decoder import FlowPicture
from numpy.typing import NDArray
from pictures import Picture, load_pictures
from PIL import Image
from polymnist import Recipe, kept_stage
from polymnist_judges import Scorer
from polymnist_table import HELD_OUT, Samples, Table
from scripts import claim_results, markdown
from torch import Tensor

from shala_framework import ShaLa
from shala_framework.evaluation.frechet import frechet_distance
from shala_framework.support.machine import describe_machine

SIZES = {1.5: 5, 4.0: 8, 12.0: 12, 40.0: 18}  # steps of the sampler, by its highest level
COLUMNS = ("joint", "FD", "recall", "precision", "spread", "own z", "given 1", "FD 1")
DRAWN = 16  # samples of each way on the sheet
AGAINST_CRITIC = {"optimizer": "adamw", "schedule": "trapezoid", "decay_share": 0.3, "ema_halflife_steps": 100.0}


@attrs.frozen(kw_only=True)
class Way:
    """How samples are refined.

    Attributes:
        sigma_max: The sampler's highest level; None leaves what the decoder gives as it is.
        guidance: Scale of the guidance by z.
        draw: Whether the decoder gives a draw and not the mode.
        one_step: Whether an adversarial stage 3 refines.
    """

    sigma_max: float | None = None
    guidance: float = 1.0
    draw: bool = False
    one_step: bool = False

    @property
    def name(self) -> str:
        if self.one_step:
            return "one step"
        if self.sigma_max is None:
            return "draws" if self.draw else "modes"
        return f"sigma_max {self.sigma_max:g}" + ("" if self.guidance == 1 else f", guidance {self.guidance:g}")

    def decode(self, model: ShaLa, z_ND: Tensor, seed: int) -> Samples:
        """Decode latents."""
        if self.one_step:
            return model.decode(z_ND, refine=True, seed=seed, batch_size=500)
        if self.sigma_max is None:
            return model.decode(z_ND, draw=self.draw, seed=seed, batch_size=500)
        steps = SIZES.get(self.sigma_max, 12)
        sampler = {"sigma_max": self.sigma_max, "num_steps": steps, "guidance_scale": self.guidance}
        return model.decode(z_ND, refine=sampler, seed=seed, batch_size=500)


@torch.no_grad()
def score(model: ShaLa, table: Table, way: Way, x: Samples, seed: int) -> tuple[dict[str, float], Samples]:
    """Return the figures of one way, and its joint samples."""
    joint = way.decode(model, model.sample_latents(len(table.scorer.labels), seed=seed), seed)
    figures = table.joint(joint)
    scorer = table.scorer
    for i, (name, of_modality) in enumerate(joint.items()):
        figures[f"FD {name}"] = frechet_distance(scorer.features(i, of_modality), scorer.real[i])
    own = way.decode(model, model.sample_latents(1, given=x, seed=seed, prior="posterior"), seed)
    figures["own z"] = mean(
        float((scorer.classes(i, scorer.features(i, of_modality)) == scorer.labels).float().mean())
        for i, of_modality in enumerate(own.values())
    )

    def generate(given: tuple[int, ...]) -> Samples:
        z = model.sample_latents(1, given={f"m{i}": x[f"m{i}"] for i in given}, seed=seed + 1 + given[0])
        return way.decode(model, z, seed)

    found = table.conditional(generate, sizes=(1,))
    return {**figures, **found}, joint


def trained(args: argparse.Namespace, x: Samples) -> tuple[ShaLa, dict[str, Any]]:
    """Return a model whose stages are trained, or read where they were trained before, and what training reported."""
    stage = {"steps": 1_500, "batch_size": args.batch_size, "learning_rate": args.learning_rate}
    of_method = {"log_sigma_mean": args.log_sigma_mean, "log_sigma_std": args.log_sigma_std}
    if args.adversarial:
        of_method = {"method": "adversarial"}
    recipe = Recipe(
        seed=args.seed,
        refine={"share": not args.separate, **of_method},
        refiner_stage={**stage, **(AGAINST_CRITIC if args.adversarial else {})},
        refiner_size={"width": args.width, "num_blocks": tuple(args.blocks), "attention": args.attention},
        modality=FlowPicture if args.flow else Picture,
    )
    recipe.autoencoder["kl_weight"] = args.kl_weight
    recipe = recipe.with_rows({"autoencoder": args.rows, "prior": args.prior_rows, "refiner": args.refiner_rows})
    model, figures = recipe.model(len(x)), {}
    for stage in ("autoencoder", "prior") if args.flow else ("autoencoder", "prior", "refiner"):
        file = args.results / f"{stage}.safetensors"
        figures |= kept_stage(model, stage, file, recipe, x, args.seconds, args.device)
    return model.to(args.device), figures


def sheet(rows: list[Samples]) -> NDArray[np.uint8]:
    """Return the pictures of some samples of several ways, a block of the modalities each."""
    blocks = []
    for samples in rows:
        lines = [
            np.concatenate(list(of_modality[:DRAWN].permute(0, 2, 3, 1).numpy()), axis=1)
            for of_modality in samples.values()
        ]
        blocks += [*lines, np.full((6, lines[0].shape[1], 3), 255, np.uint8)]
    return np.concatenate(blocks[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--judges", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--prior-rows", type=int, default=1_024_000)
    parser.add_argument("--refiner-rows", type=int, default=0, help="in place of --seconds")
    parser.add_argument("--seconds", type=float, default=600, help="of stage 3")
    parser.add_argument("--kl-weight", type=float, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--blocks", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--attention", action="store_true")
    parser.add_argument("--log-sigma-mean", type=float, default=-0.4)
    parser.add_argument("--log-sigma-std", type=float, default=1.4)
    parser.add_argument("--sigma-max", type=float, nargs="+", default=list(SIZES))
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--flow", action="store_true", help="decoders that are flows, in place of stage 3")
    parser.add_argument("--adversarial", action="store_true", help="stage 3 against a critic, in one step")
    parser.add_argument("--separate", action="store_true", help="a network of stage 3 for each picture")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--num", type=int, default=2_000, help="scored rows, and joint samples; at most 2,000")
    parser.add_argument("--test", action="store_true", help="score the test rows in place of validation rows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    trained_with = ("data", "rows", "prior_rows", "refiner_rows", "seconds", "kl_weight", "seed", "batch_size")
    trained_with += ("learning_rate", "width", "blocks", "attention", "log_sigma_mean", "log_sigma_std")
    trained_with += tuple(name for name in ("flow", "adversarial", "separate") if getattr(args, name))
    claim_results(args.results, **{name: getattr(args, name) for name in trained_with})
    pictures = load_pictures(args.data, "train")
    x = {name: of_modality[:-HELD_OUT] for name, of_modality in pictures.items()}
    split = "test" if args.test else "train"
    rows = slice(-HELD_OUT, None if args.num == HELD_OUT else args.num - HELD_OUT)
    scored = {name: of_modality[rows] for name, of_modality in load_pictures(args.data, split).items()}
    with np.load(args.data) as arrays:
        labels = arrays[f"{split}_y"][rows]
    table = Table(Scorer(args.judges, scored, labels))
    model, figures = trained(args, x)
    ways = [Way(draw=True)] if args.flow else [Way()]
    if args.adversarial:
        ways.append(Way(one_step=True))
    elif not args.flow:
        ways += [Way(sigma_max=sigma, guidance=scale) for sigma in args.sigma_max for scale in args.guidance]
    found, drawn = {}, []
    for way in ways:
        found[way.name], samples = score(model, table, way, scored, args.seed)
        drawn.append(samples)
        print(way.name, {key: round(value, 3) for key, value in found[way.name].items()}, flush=True)
        (args.results / f"{split}.json").write_text(json.dumps({"training": figures, "figures": found}, indent=1))
        Image.fromarray(sheet([scored, *drawn])).save(args.results / "sheet.png")
    columns = [*COLUMNS, *(f"FD {name}" for name in x)]
    lines = [["", *columns], *([name, *(f"{row[c]:.3f}" for c in columns)] for name, row in found.items())]
    settings = ", ".join(f"{key} {value}" for key, value in vars(args).items() if not isinstance(value, Path))
    print(f"\n{split} rows; {settings}; {describe_machine()}\n\n{markdown(lines)}")


if __name__ == "__main__":
    main()
