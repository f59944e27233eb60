"""A baseline in the style of MLD: deterministic autoencoders and a masked diffusion over their concatenated latents.

    python benchmarks/mld.py POLYMNIST.npz --seconds 900 --out SAMPLES.npz [--seed 0] [--threads 2]

Each modality has an autoencoder of its own, with the benchmark's layers and a squared error; only the diffusion is
shared. One denoiser gets all latents, those of a random subset clean and the others noisy, together with a mask that
marks the clean ones. It learns to denoise the others, and so generates any from any. Optimisers, schedule,
preconditioning and sampler are those of this framework, so that the shared latent is the only difference.

Reference: Bounoua et al. 2024, "Multi-modal Latent Diffusion".
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from pictures import FEATURE_DIM, Decoder, Encoder, load_pictures, write_samples
from torch import Tensor, nn

from shala_framework.autoencoder.posterior import random_subsets
from shala_framework.data.rows import shuffled_batches
from shala_framework.plugin import pixels_to_unit, unit_to_pixels
from shala_framework.prior import karras_sigmas, row_noise, sample_heun
from shala_framework.prior.network import NoiseEmbedding, ResidualBlock
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage, Prior, PriorStage, Stage
from shala_framework.support.machine import describe_machine
from shala_framework.training.averages import MovingAverage
from shala_framework.training.budget import TIMED_SHARE, measure_stage
from shala_framework.training.loop import train as run_loop
from shala_framework.training.optimizers import BETA_1
from shala_framework.training.precision import choose_precision
from shala_framework.training.trainable import Trainable

NUM_JOINT, SAMPLER_STEPS, UNCONDITIONAL_SHARE = 2_000, 18, 0.5


class Autoencoders(nn.Module):
    """Deterministic autoencoders, one for each modality, with latents [N, M, D]."""

    def __init__(self, count: int, latent_dim: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(
            nn.Sequential(Encoder(), nn.Linear(FEATURE_DIM, latent_dim)) for _ in range(count)
        )
        self.decoders = nn.ModuleList(Decoder(latent_dim) for _ in range(count))

    def encode(self, x: list[Tensor]) -> Tensor:
        return torch.stack([encoder(of_modality) for encoder, of_modality in zip(self.encoders, x, strict=True)], 1)

    def decode(self, z_NMD: Tensor) -> list[Tensor]:
        return [decoder.mean(z) for decoder, z in zip(self.decoders, z_NMD.unbind(1), strict=True)]


class InMemory:
    """What both stages provide to the loop beside their losses. Batches stay where they are."""

    beta_1, can_be_captured = BETA_1, True

    def placed(self, batch: Any, *, copy: bool = False) -> Any:
        return batch

    def refill(self, placed: Any, batch: Any) -> bool:
        return False

    def split(self, batch: Any, parts: int) -> list[Any]:
        return [batch] if parts == 1 else list(batch.chunk(parts))

    def validate(self) -> dict[str, float]:
        return {}


class ReconstructionTraining(InMemory):
    """Stage 1: squared error."""

    name = "autoencoders"

    def __init__(self, autoencoders: Autoencoders) -> None:
        self.module: nn.Module = autoencoders
        self.autoencoders = autoencoders

    def loss(self, batch: list[Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        decoded = self.autoencoders.decode(self.autoencoders.encode(batch))
        errors = [(out - pixels_to_unit(x)).square().mean() for out, x in zip(decoded, batch, strict=True)]
        total = torch.stack(errors).mean()
        return total, {"error": total.detach()}

    def after_step(self, step: int) -> None: ...

    def extra_state(self) -> dict[str, Tensor]:
        return {}

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None: ...


class MaskedDenoiser(nn.Module):
    """D(z; sigma, mask of given latents) over standardised latents [N, M * D], with EDM preconditioning."""

    z_mean: Tensor
    z_std: Tensor

    def __init__(self, count: int, latent_dim: int, hidden_dim: int = 256, num_blocks: int = 3) -> None:
        super().__init__()
        self.count, self.latent_dim = count, latent_dim
        self.noise = NoiseEmbedding(hidden_dim)
        self.mask = nn.Linear(count, hidden_dim)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(hidden_dim, hidden_dim), nn.SiLU())
        self.enter = nn.Linear(count * latent_dim, hidden_dim)
        self.blocks = nn.ModuleList(ResidualBlock(hidden_dim, 0.0) for _ in range(num_blocks))
        self.norm, self.leave = nn.LayerNorm(hidden_dim), nn.Linear(hidden_dim, count * latent_dim)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.register_buffer("z_mean", torch.zeros(count * latent_dim))
        self.register_buffer("z_std", torch.ones(count * latent_dim))

    def forward(self, z_NE: Tensor, sigma_N: Tensor, given_NM: Tensor, clean_NE: Tensor) -> Tensor:
        given_NE = given_NM.repeat_interleave(self.latent_dim, 1)
        sigma_N1 = sigma_N[:, None]
        total = (sigma_N1.square() + 1).sqrt()
        x = self.enter(torch.where(given_NE, clean_NE, z_NE / total))
        c = self.mix(self.noise(sigma_N.log() / 4) + self.mask(given_NM.to(z_NE.dtype)))
        for block in self.blocks:
            x = block(x, c)
        denoised = z_NE / total.square() + sigma_N1 / total * self.leave(self.norm(x))
        return torch.where(given_NE, clean_NE, denoised)


class MaskedDiffusionTraining(InMemory):
    """Stage 2: the denoising error of the latents that are not given."""

    name = "masked diffusion"

    def __init__(self, denoiser: MaskedDenoiser, z_NE: Tensor, settings: PriorStage) -> None:
        self.module: nn.Module = denoiser
        self.denoiser, self.z_NE, self.table = denoiser, z_NE, Prior()
        self.average = MovingAverage(denoiser, settings.ema_halflife_steps)

    def loss(self, batch: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        clean = self.z_NE[batch]
        present = torch.ones(len(batch), self.denoiser.count, dtype=torch.bool)
        given = random_subsets(present) & (torch.rand(len(batch), 1) >= UNCONDITIONAL_SHARE)
        sigma = (self.table.log_sigma_mean + self.table.log_sigma_std * torch.randn(len(batch))).exp()
        noisy = clean + sigma[:, None] * torch.randn_like(clean)
        error = (self.denoiser(noisy, sigma, given, clean) - clean).square()
        weight = (sigma.square() + 1) / sigma.square()
        free = (~given).repeat_interleave(self.denoiser.latent_dim, 1)
        total = (weight[:, None] * error).sum() / free.sum().clamp_min(1)
        return total, {"denoising": total.detach()}

    def after_step(self, step: int) -> None:
        self.average.update(step)

    def extra_state(self) -> dict[str, Tensor]:
        return self.average.shadow

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        for name, value in self.average.shadow.items():
            value.copy_(tensors[name])


class Model:
    """Both stages, and sampling from them."""

    def __init__(self, count: int, latent_dim: int) -> None:
        self.autoencoders = Autoencoders(count, latent_dim)
        self.denoiser = MaskedDenoiser(count, latent_dim)

    @torch.no_grad()
    def encode(self, x: Mapping[str, Tensor]) -> Tensor:
        """Return latents [N, M * D]."""
        index = torch.arange(len(next(iter(x.values())))).split(250)
        return torch.cat([self.autoencoders.encode([v[rows] for v in x.values()]) for rows in index]).flatten(1)

    @torch.no_grad()
    def sample(self, clean_NE: Tensor, given: tuple[int, ...], seed: int) -> dict[str, Tensor]:
        """Generate every modality of each row, given some of its standardised latents."""
        denoiser, count = self.denoiser, len(clean_NE)
        mask = torch.zeros(count, denoiser.count, dtype=torch.bool)
        mask[:, list(given)] = True
        table = Prior()
        z = sample_heun(
            lambda z, sigma: denoiser(z, sigma, mask, clean_NE),
            row_noise(seed, range(count), clean_NE.shape[1]),
            karras_sigmas(SAMPLER_STEPS, table.sigma_min, table.sigma_max),
        )
        z_NMD = (z * denoiser.z_std + denoiser.z_mean).unflatten(1, (denoiser.count, -1))
        parts = [self.autoencoders.decode(part) for part in z_NMD.split(250)]
        return {f"m{i}": unit_to_pixels(torch.cat([part[i] for part in parts])) for i in range(denoiser.count)}


def train_within(
    stage: Trainable[Any], settings: Stage, batches: Callable[[int], Iterator[Any]], seconds: float, seed: int
) -> int:
    """Train for a time. A few untimed steps determine the number of steps, which is returned."""
    start, dtype = time.perf_counter(), choose_precision("auto", torch.device("cpu")).dtype
    cost = measure_stage(stage, settings, batches, matrix_dtype=dtype, seconds=TIMED_SHARE * seconds)
    steps = int((seconds - (time.perf_counter() - start)) / cost.step_seconds)
    if steps < 1:
        raise ValueError(f"expected time for a step of stage {stage.name}, got {seconds:.1f} s")
    settings = attrs.evolve(settings, steps=steps, save_every_steps=steps)
    run_loop(stage, settings, batches, seed=seed, matrix_dtype=dtype)
    stage.module.eval()
    return steps


def train(args: argparse.Namespace, x: Mapping[str, Tensor]) -> tuple[Model, dict[str, float]]:
    """Train both stages within the budget."""
    model = Model(len(x), args.latent_dim)
    start = time.perf_counter()
    num_rows = len(next(iter(x.values())))
    settings = structure({"batch_size": args.batch_size}, AutoencoderStage)

    def batches(start_step: int) -> Iterator[list[Tensor]]:
        order = shuffled_batches(num_rows, settings.batch_size, args.seed, start_step)
        return ([v[i] for v in x.values()] for i in order)

    stage = ReconstructionTraining(model.autoencoders)
    steps = train_within(stage, settings, batches, args.seconds * args.first_share, args.seed)
    z_NE = model.encode(x)
    model.denoiser.z_mean.copy_(z_NE.mean(0))
    model.denoiser.z_std.copy_(z_NE.std(0).clamp_min(1e-6))
    z_NE = (z_NE - model.denoiser.z_mean) / model.denoiser.z_std
    prior_settings = structure({"batch_size": 512, "ema_halflife_steps": 300.0}, PriorStage)
    prior_stage = MaskedDiffusionTraining(model.denoiser, z_NE, prior_settings)
    index = partial(shuffled_batches, num_rows, prior_settings.batch_size, args.seed)
    left = args.seconds - (time.perf_counter() - start)
    prior_steps = train_within(prior_stage, prior_settings, index, left, args.seed)
    prior_stage.average.copy_to_module()
    return model, {
        "seconds": round(time.perf_counter() - start, 1),
        "autoencoder_steps": steps,
        "prior_steps": prior_steps,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--first-share", type=float, default=0.5, help="share of the budget for the autoencoders")
    parser.add_argument("--latent-dim", type=int, default=32, help="dimensions of each modality's latent")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train_x, test_x = (load_pictures(args.data, split) for split in ("train", "test"))
    model, figures = train(args, train_x)
    denoiser = model.denoiser
    test_NE = (model.encode(test_x) - denoiser.z_mean) / denoiser.z_std

    def joint() -> Mapping[str, Tensor]:
        return model.sample(torch.zeros(NUM_JOINT, test_NE.shape[1]), (), args.seed)

    def conditional(given: tuple[int, ...]) -> Mapping[str, Tensor]:
        return model.sample(test_NE, given, args.seed + sum(2**i for i in given))

    write_samples(args.out, len(train_x), joint, conditional)
    print(json.dumps({"model": "mld", "seed": args.seed, **figures, "machine": describe_machine()}))


if __name__ == "__main__":
    main()
