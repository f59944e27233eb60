"""Train a model on PolyMNIST within a time budget, and write samples that the benchmark's judge scores.

    python benchmarks/polymnist.py POLYMNIST.npz --seconds 900 --out SAMPLES.npz [--seed 0] [--threads 2]
        [--device cpu]

Encoders and decoders have the layers and widths of the other systems; fusion, losses and prior are this
framework's. The budget is the training time of all stages together, including encoding the training set between them.
With --refiner-share or --refiner-steps a third stage refines the samples, and SAMPLES.modes.npz holds the same samples
without it. SAMPLES.mixture.npz holds joint samples by the Gaussian mixture, the control, with conditional ones. A
line of JSON reports what was done. The defaults were chosen on a validation split of the training rows (--validation
2000 holds out the last of them, and never uses the test rows).
"""

import argparse
import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from pictures import FEATURE_DIM, Picture, load_pictures, modalities, write_samples
from torch import Tensor, nn

from shala_framework import ShaLa, train
from shala_framework.model import PriorName
from shala_framework.spec.schema import Train
from shala_framework.support.checkpoint import load_module, read_checkpoint, write_checkpoint
from shala_framework.support.machine import describe_machine

NUM_JOINT = 2_000
VALIDATIONS = 20  # of a stage that has validation rows


@attrs.frozen(kw_only=True)
class Recipe:
    """How a model is trained and sampled; the tables have the values that differ from a spec's defaults.

    The schedules are for the steps that fit into 900 s on two cores, and scale with the number of steps.
    """

    seconds: float = 900.0
    first_share: float = 0.65
    steps: int = 0  # steps of stage 1, in place of its share of the time
    prior_steps: int = 0  # steps of stage 2, in place of its share of the time
    refiner_share: float = 0.0  # share of the seconds that stage 3 has; 0 leaves it out
    refiner_steps: int = 0  # steps of stage 3, in place of its share of the time
    seed: int = 0
    latent_dim: int = 96
    hidden_dim: int = 256
    posterior: dict[str, Any] = attrs.field(factory=dict)
    autoencoder: dict[str, Any] = attrs.field(factory=lambda: {"steps": 7_500, "batch_size": 64, "kl_weight": 16.0})
    prior: dict[str, Any] = attrs.field(factory=dict)
    prior_stage: dict[str, Any] = attrs.field(
        factory=lambda: {"steps": 2_000, "batch_size": 512, "ema_halflife_steps": 300.0}
    )
    refine: dict[str, Any] = attrs.field(factory=dict)
    refiner_stage: dict[str, Any] = attrs.field(factory=lambda: {"steps": 1_500})
    refiner_size: dict[str, Any] = attrs.field(factory=dict)
    modality: type[Picture] = Picture
    guidance: float = 1.0
    autoguidance: float = 1.0
    given_autoguidance: float = 1.0
    sampler: str = "heun"
    sampler_steps: int = 18

    def model(self, count: int) -> ShaLa:
        """Make a model with a number of modalities."""
        sizes = {"latent_dim": self.latent_dim, "hidden_dim": self.hidden_dim, "feature_dim": FEATURE_DIM}
        return ShaLa(
            modalities(count, self.modality, **self.refiner_size),
            prior=self.prior,
            refine=self.refine,
            seed=self.seed,
            **sizes,
            **self.posterior,
        )

    def with_rows(self, rows: Mapping[str, int]) -> "Recipe":
        """Return the recipe with the steps in which each stage sees a number of rows, by its batch size."""
        tables = {"autoencoder": self.autoencoder, "prior": self.prior_stage, "refiner": self.refiner_stage}
        defaults = {stage: getattr(Train(), stage).batch_size for stage in tables}
        steps = {stage: rows[stage] // table.get("batch_size", defaults[stage]) for stage, table in tables.items()}
        return attrs.evolve(
            self, steps=steps["autoencoder"], prior_steps=steps["prior"], refiner_steps=steps["refiner"]
        )


def train_stage(
    model: ShaLa,
    stage: str,
    recipe: Recipe,
    x: Mapping[str, Tensor],
    seconds: float,
    device: str,
    validation: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Train one stage for a time, or for the recipe's number of steps."""
    settings, steps = {
        "autoencoder": (recipe.autoencoder, recipe.steps),
        "prior": (recipe.prior_stage, recipe.prior_steps),
        "refiner": (recipe.refiner_stage, recipe.refiner_steps),
    }[stage]
    table = {**settings, **({"steps": steps} if steps else {})}
    table["save_every_steps"] = table["steps"] if validation is None else max(1, table["steps"] // VALIDATIONS)
    # layers of this size gain nothing from bfloat16 on a CPU
    precision = "float32" if stage != "prior" and device == "cpu" else "auto"
    minutes = None if steps else seconds / 60
    start = time.perf_counter()
    train(
        model,
        x,
        validation=validation,
        stages=[stage],
        minutes=minutes,
        device=device,
        precision=precision,
        **{stage: table},
    )
    spent, done = time.perf_counter() - start, getattr(model.spec.train, stage)
    return {f"{stage}_steps": done.steps, f"{stage}_rows_per_second": round(done.steps * done.batch_size / spent)}


def kept_stage(
    model: ShaLa,
    stage: str,
    file: Path,
    recipe: Recipe,
    x: Mapping[str, Tensor],
    seconds: float,
    device: str,
    validation: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Read a stage from a file, or train it as `train_stage` does and write the file; return what training reports."""
    module: nn.Module = getattr(model, stage)
    if file.exists():
        load_module(module, read_checkpoint(file)[0], file)
        model.stages.add(stage)
        return {}
    figures = train_stage(model, stage, recipe, x, seconds, device, validation)
    write_checkpoint(file, module.state_dict(), {})
    print(f"{file.stem}: {figures}", flush=True)
    return figures


def train_both(recipe: Recipe, x: Mapping[str, Tensor], device: str = "cpu") -> tuple[ShaLa, dict[str, float]]:
    """Train the stages within the budget."""
    model, start = recipe.model(len(x)), time.perf_counter()
    seconds = recipe.seconds * (1 - recipe.refiner_share)
    figures = train_stage(model, "autoencoder", recipe, x, seconds * recipe.first_share, device)
    left = seconds - (time.perf_counter() - start)
    figures |= train_stage(model, "prior", recipe, x, left, device)
    if recipe.refiner_share or recipe.refiner_steps:
        left = recipe.seconds - (time.perf_counter() - start)
        figures |= train_stage(model, "refiner", recipe, x, left, device)
    return model, {"seconds": round(time.perf_counter() - start, 1), **figures}


def sample(
    model: ShaLa,
    recipe: Recipe,
    seed: int,
    given: Mapping[str, Tensor] | None = None,
    prior: PriorName = "diffusion",
    num_joint: int = NUM_JOINT,
    *,
    refine: bool = True,
) -> dict[str, Tensor]:
    """Generate joint samples, or one sample for each row from given modalities; refined if stage 3 is trained."""
    autoguidance = recipe.given_autoguidance if given else recipe.autoguidance
    z_ND = model.sample_latents(
        1 if given else num_joint,
        given=given,
        guidance_scale=recipe.guidance,
        autoguidance_scale=autoguidance,
        num_steps=recipe.sampler_steps,
        sampler=recipe.sampler,  # type: ignore[arg-type]
        seed=seed,
        prior=prior,
    )
    return model.decode(z_ND, refine=refine, seed=seed, batch_size=250)


def sample_given(
    model: ShaLa, recipe: Recipe, x: Mapping[str, Tensor], given: tuple[int, ...], seed: int, *, refine: bool = True
) -> dict[str, Tensor]:
    """Generate a sample for each row, given the modalities with these numbers."""
    return sample(model, recipe, seed, {f"m{i}": x[f"m{i}"] for i in given}, refine=refine)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--validation", type=int, default=0, metavar="N", help="hold out the last N training rows")
    numbers = [field.name for field in attrs.fields(Recipe) if field.type in (int, float)]
    for name in numbers:
        default = getattr(Recipe(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(**{name: getattr(args, name) for name in numbers})
    train_x, held_out = load_pictures(args.data, "train"), load_pictures(args.data, "test")
    if args.validation:
        held_out = {name: x[-args.validation :] for name, x in train_x.items()}
        train_x = {name: x[: -args.validation] for name, x in train_x.items()}
    model, figures = train_both(recipe, train_x, args.device)

    def conditional(given: tuple[int, ...], *, refine: bool = True) -> Mapping[str, Tensor]:
        return sample_given(model, recipe, held_out, given, recipe.seed + sum(2**i for i in given), refine=refine)

    start = time.perf_counter()
    write_samples(args.out, len(train_x), lambda: sample(model, recipe, recipe.seed), conditional)
    figures["sampling_seconds"] = round(time.perf_counter() - start, 1)
    if model.refined_names:
        modes = args.out.with_suffix(".modes.npz")
        plain = partial(sample, model, recipe, recipe.seed, refine=False)
        write_samples(modes, len(train_x), plain, partial(conditional, refine=False))
    mixture = args.out.with_suffix(".mixture.npz")
    write_samples(mixture, len(train_x), lambda: sample(model, recipe, recipe.seed, prior="mixture"), conditional)
    print(json.dumps({"model": "shala", "seed": recipe.seed, **figures, "machine": describe_machine(model.device)}))


if __name__ == "__main__":
    main()
