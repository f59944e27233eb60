"""Train all stages on PolyMNIST within a time budget, and write samples that the benchmark's judge scores.

    python benchmarks/polymnist.py POLYMNIST.npz --seconds 900 --out SAMPLES.npz [--seed 0] [--threads 2]
        [--device cpu]

Encoders and decoders have the layers and widths of the systems compared with it; fusion, losses and prior are this
framework's. The budget is the training time of all stages together; encoding the training set between them counts too.
With --refiner-share or --refiner-steps the third stage refines the samples, and SAMPLES.modes.npz holds the same ones
without it. SAMPLES.mixture.npz holds joint samples by the Gaussian mixture, the control, with the same conditional
ones. One line of JSON says what was done. The defaults were chosen on a validation split of the training rows
(--validation 2000 holds the last of them out, and never looks at the test rows).
"""

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import torch
from pictures import FEATURE_DIM, as_rows, load_pictures, modalities, train_within, write_samples
from torch import Tensor

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.latents import collect_latents, latent_statistics
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.model.decoding import decode_latents
from shala_framework.prior import SAMPLERS, DiffusionPrior, GaussianMixture, karras_sigmas, row_noise
from shala_framework.refiner import Refinement, Refiner
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage, Posterior, Prior, PriorStage, Refine, RefinerStage
from shala_framework.support.machine import describe_machine
from shala_framework.training.precision import FLOAT32, choose_precision
from shala_framework.training.refinement import RefinerTraining
from shala_framework.training.stages import AutoencoderTraining, PriorTraining

NUM_JOINT = 2_000
MEASURED_BATCHES = 32  # whose latents and residuals give stage 3 its units
CPU = torch.device("cpu")


@attrs.frozen(kw_only=True)
class Recipe:
    """How a model is trained and sampled; the tables are those of a spec, where they differ from its defaults."""

    seconds: float = 900.0
    first_share: float = 0.65
    steps: int = 0  # of stage 1, in place of its share of the time
    prior_steps: int = 0  # of stage 2, likewise
    refiner_share: float = 0.0  # of the seconds, that stage 3 has; 0 leaves it out
    refiner_steps: int = 0  # of stage 3, in place of its share of the time
    seed: int = 0
    latent_dim: int = 96
    hidden_dim: int = 256
    posterior: dict[str, Any] = attrs.field(factory=dict)
    autoencoder: dict[str, Any] = attrs.field(factory=lambda: {"batch_size": 64})
    prior: dict[str, Any] = attrs.field(factory=dict)
    prior_stage: dict[str, Any] = attrs.field(factory=lambda: {"batch_size": 512, "ema_halflife_steps": 300.0})
    refine: dict[str, Any] = attrs.field(factory=dict)
    refiner_stage: dict[str, Any] = attrs.field(factory=dict)
    guidance: float = 2.0
    autoguidance: float = 3.0
    given_autoguidance: float = 2.0
    posterior_means: bool = False  # stage 2 learns means in place of draws of the posterior
    sampler: str = "heun"
    sampler_steps: int = 18


class Model:
    """All stages, and how samples come of them.

    Attributes:
        refined: Whether stage 3 refines what is decoded.
    """

    def __init__(self, names: Mapping[str, Any], recipe: Recipe, device: torch.device = CPU) -> None:
        self.recipe, self.names, self.device = recipe, list(names), device
        self.precision = choose_precision("auto", device)
        # Layers this small gain nothing from bfloat16 on a CPU.
        self.stage_1_precision = FLOAT32 if device.type == "cpu" else self.precision
        sizes = {"latent_dim": recipe.latent_dim, "feature_dim": FEATURE_DIM, "hidden_dim": recipe.hidden_dim}
        self.table = structure({**sizes, **recipe.posterior}, Posterior)
        self.prior_table = structure(recipe.prior, Prior)
        self.autoencoder = Autoencoder(modalities(len(names)), self.table)
        self.prior = DiffusionPrior.from_table(
            self.prior_table, latent_dim=recipe.latent_dim, num_modalities=len(names), feature_dim=FEATURE_DIM
        )
        self.mixture = GaussianMixture(self.prior_table.mixture_components, recipe.latent_dim)
        self.refine_table, self.refined = structure(recipe.refine, Refine), False
        self.refiner = Refiner(modalities(len(names)), latent_dim=recipe.latent_dim, share=self.refine_table.share)
        for module in (self.autoencoder, self.prior, self.mixture, self.refiner):
            module.to(device)

    @torch.no_grad()
    def decode(self, z_ND: Tensor) -> dict[str, Tensor]:
        """Most likely pictures of latents, or refined ones."""
        return decode_latents(
            self.autoencoder,
            z_ND,
            refiner=self.refiner,
            refined=self.refiner.names if self.refined else (),
            refinement=Refinement.from_table(self.refine_table),
            draw=False,
            seed=self.recipe.seed,
            batch_size=64,
        )

    @torch.no_grad()
    def joint(self, num_samples: int, seed: int) -> dict[str, Tensor]:
        """Samples of the diffusion prior."""
        nothing = torch.zeros(num_samples, len(self.names), dtype=torch.bool, device=self.device)
        h = [torch.zeros(num_samples, FEATURE_DIM, device=self.device)] * len(self.names)
        return self.decode(self._sample(h, nothing, seed, self.recipe.autoguidance))

    @torch.no_grad()
    def joint_by_mixture(self, num_samples: int, seed: int) -> dict[str, Tensor]:
        """Samples of the control."""
        return self.decode(self.prior.restore(self.mixture.sample(seed, range(num_samples))))

    @torch.no_grad()
    def conditional(self, x: Mapping[str, Tensor], given: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        """A sample for every row, from some of its modalities."""
        count = len(next(iter(x.values())))
        h = [torch.zeros(count, FEATURE_DIM, device=self.device) for _ in self.names]
        subset = torch.zeros(count, len(self.names), dtype=torch.bool, device=self.device)
        for i in given:
            encoder = self.autoencoder.encoders[self.names[i]]
            h[i] = torch.cat([encoder(part.to(self.device)) for part in x[self.names[i]].split(250)])
            subset[:, i] = True
        return self.decode(self._sample(h, subset, seed, self.recipe.given_autoguidance))

    def _sample(self, h_MNF: list[Tensor], subset_NM: Tensor, seed: int, autoguidance: float) -> Tensor:
        noise = row_noise(seed, range(len(subset_NM)), self.prior.latent_dim).to(self.device)
        sigmas = karras_sigmas(self.recipe.sampler_steps, self.prior_table.sigma_min, self.prior_table.sigma_max)
        denoise = self.prior.denoiser(h_MNF, subset_NM, self.recipe.guidance, autoguidance)
        return self.prior.restore(SAMPLERS[self.recipe.sampler](denoise, noise, sigmas))


def train_autoencoder(model: Model, rows: Rows) -> dict[str, float]:
    """Stage 1, within its share of the budget."""
    recipe, start = model.recipe, time.perf_counter()
    settings = structure(recipe.autoencoder, AutoencoderStage)
    stage = AutoencoderTraining(model.autoencoder, settings, model.device, precision=model.stage_1_precision)

    def batches(start_step: int) -> Iterator[Rows]:
        order = shuffled_batches(len(rows), settings.batch_size, recipe.seed, start_step)
        return (rows.take(index) for index in order)

    seconds = recipe.seconds * (1 - recipe.refiner_share) * recipe.first_share
    steps = train_within(stage, settings, batches, seconds, model.precision, steps=recipe.steps, seed=recipe.seed)
    rate = steps * settings.batch_size / (time.perf_counter() - start)
    return {"autoencoder_steps": steps, "autoencoder_rows_per_second": round(rate)}


def train_prior(model: Model, rows: Rows, seconds: float) -> dict[str, float]:
    """Stage 2 on what stage 1 makes of the rows, encoding them within the seconds; and the control."""
    recipe, start = model.recipe, time.perf_counter()
    store = collect_latents(
        model.autoencoder, (rows.take(i) for i in torch.arange(len(rows)).split(250)), model.device
    ).to(model.device)
    if recipe.posterior_means:
        store = attrs.evolve(store, log_var_ND=torch.full_like(store.log_var_ND, -30.0))
    model.prior.set_statistics(*latent_statistics(store))
    settings = structure(recipe.prior_stage, PriorStage)
    stage = PriorTraining(model.prior, model.prior_table, settings, store, precision=model.precision)
    batches = partial(shuffled_batches, len(store), settings.batch_size, recipe.seed)
    left = seconds - (time.perf_counter() - start)
    steps = train_within(stage, settings, batches, left, model.precision, steps=recipe.prior_steps, seed=recipe.seed)
    stage.average.copy_to_module()
    figures = {"prior_steps": steps, "prior_seconds": round(time.perf_counter() - start, 1)}
    with torch.no_grad():  # the control's fit is not charged to the budget
        chosen = torch.randperm(len(store))[:10_000]
        model.mixture.fit(model.prior.standardise(store.take(chosen).sample()), seed=recipe.seed)
    return figures


def train_refiner(model: Model, rows: Rows) -> dict[str, float]:
    """Stage 3, within its share of the budget."""
    recipe, start = model.recipe, time.perf_counter()
    settings = structure(recipe.refiner_stage, RefinerStage)
    stage = RefinerTraining(
        model.refiner, model.autoencoder, model.refine_table, settings, model.device, precision=model.stage_1_precision
    )

    def batches(start_step: int) -> Iterator[Rows]:
        order = shuffled_batches(len(rows), settings.batch_size, recipe.seed, start_step)
        return (rows.take(index) for index in order)

    stage.measure(islice(batches(0), MEASURED_BATCHES))
    left = recipe.seconds * recipe.refiner_share - (time.perf_counter() - start)
    precision = model.stage_1_precision
    steps = train_within(stage, settings, batches, left, precision, steps=recipe.refiner_steps, seed=recipe.seed)
    stage.average.copy_to_module()
    model.refined = True
    return {"refiner_steps": steps, "refiner_seconds": round(time.perf_counter() - start, 1)}


def train(recipe: Recipe, rows: Rows, device: torch.device = CPU) -> tuple[Model, dict[str, float]]:
    """All stages within the budget."""
    torch.manual_seed(recipe.seed)
    model, start = Model(rows.x, recipe, device), time.perf_counter()
    first = train_autoencoder(model, rows)
    spent = time.perf_counter() - start
    second = train_prior(model, rows, recipe.seconds * (1 - recipe.refiner_share) - spent)
    spent += second.pop("prior_seconds")
    third = train_refiner(model, rows) if recipe.refiner_share or recipe.refiner_steps else {}
    return model, {"seconds": round(spent + third.get("refiner_seconds", 0.0), 1), **first, **second, **third}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--validation", type=int, default=0, metavar="N", help="hold out the last N training rows")
    for name in _NUMBERS:
        default = getattr(Recipe(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = Recipe(**{name: getattr(args, name) for name in _NUMBERS})
    train_x = load_pictures(args.data, "train")
    if args.validation:
        held_out = {name: x[-args.validation :] for name, x in train_x.items()}
        train_x = {name: x[: -args.validation] for name, x in train_x.items()}
    else:
        held_out = load_pictures(args.data, "test")
    model, figures = train(recipe, as_rows(train_x).to(torch.device(args.device)), torch.device(args.device))

    def conditional(given: tuple[int, ...]) -> Mapping[str, Tensor]:
        return model.conditional(held_out, given, recipe.seed + sum(2**i for i in given))

    start = time.perf_counter()
    write_samples(args.out, len(train_x), lambda: model.joint(NUM_JOINT, recipe.seed), conditional)
    figures["sampling_seconds"] = round(time.perf_counter() - start, 1)
    if model.refined:
        model.refined = False  # the controls below are decoded as they are too
        modes = args.out.with_suffix(".modes.npz")
        write_samples(modes, len(train_x), lambda: model.joint(NUM_JOINT, recipe.seed), conditional)
    mixture = args.out.with_suffix(".mixture.npz")
    write_samples(mixture, len(train_x), lambda: model.joint_by_mixture(NUM_JOINT, recipe.seed), conditional)
    print(json.dumps({"model": "shala", "seed": recipe.seed, **figures, "machine": describe_machine(model.device)}))


_NUMBERS = [field.name for field in attrs.fields(Recipe) if field.type in (int, float)]

if __name__ == "__main__":
    main()
