"""Choice of guidance by held-out rows: as much as helps to predict their latents, and no more.

Guidance makes samples agree at the price of their variety, so more always looks better to whoever counts agreement
alone. The energy score of samples is lowest, in expectation, for the distribution that the rows come from: it adds to
the distance of samples from the truth what they lack in distance from each other. Shapes: N rows, S samples a row, D
latent_dim. Reference: Gneiting and Raftery 2007, "Strictly Proper Scoring Rules, Prediction, and Estimation", section
4.2.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from shala_framework.autoencoder.posterior import random_subsets
from shala_framework.data.latent_store import LatentStore
from shala_framework.prior import DiffusionPrior
from shala_framework.prior.guidance import Guidance
from shala_framework.prior.priors import DiffusedPrior, Given, Sampling
from shala_framework.spec.schema import Spec
from shala_framework.support.seeds import mix_seed

SCALES = 1.0, 1.25, 1.5, 2.0, 3.0
LEAST_ROWS, MOST_ROWS = 20, 200
NUM_SAMPLES, NUM_JOINT = 8, 400
NUM_STEPS = 12  # of DPM-Solver++


def energy_score(samples_NSD: Tensor, truth_ND: Tensor) -> Tensor:
    """Return the energy score of each row's samples: [N]; lower is better.

    Args:
        samples_NSD: At least two samples for each row, or [1, S, D] of one set for all rows.
        truth_ND: What the rows turned out to be.
    """
    num_samples = samples_NSD.shape[1]
    apart_N = torch.cdist(samples_NSD, samples_NSD).sum((1, 2)) / (num_samples * (num_samples - 1))
    off_N = torch.cdist(samples_NSD.expand(len(truth_ND), -1, -1), truth_ND[:, None]).mean((1, 2))
    return off_N - 0.5 * apart_N


def smallest_as_good(scores: dict[float, Tensor]) -> float:
    """Return the smallest scale whose mean score is within a standard error of the best one's.

    Args:
        scores: Scores of the same rows, [N], by scale; lower is better.
    """
    best_N = min(scores.values(), key=lambda score_N: float(score_N.mean()))

    def as_good(score_N: Tensor) -> bool:
        gap_N = score_N - best_N
        return float(gap_N.mean()) <= float(gap_N.std()) / math.sqrt(len(gap_N))

    return min(scale for scale, score_N in scores.items() if as_good(score_N))


def choose_guidance(
    prior: DiffusionPrior, held_out: LatentStore, *, sigma_min: float, sigma_max: float, seed: int
) -> Guidance:
    """Choose autoguidance by joint samples, and then guidance by samples given random subsets of modalities.

    Args:
        prior: The trained prior.
        held_out: Latents of held-out rows, on the prior's device. Fewer than LEAST_ROWS decide for no guidance.
        sigma_min: Smallest noise level of the sampler.
        sigma_max: Largest noise level of the sampler.
        seed: Seed of the samples.
    """
    if len(held_out) < LEAST_ROWS:
        return Guidance()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        rows = held_out.take(torch.randperm(len(held_out))[:MOST_ROWS])
        truth_ND = prior.standardise(rows.sample(torch.randn(rows.mean_ND.shape).to(rows.mean_ND)))
        some_NM = random_subsets(rows.presence_NM.cpu()).to(rows.presence_NM.device)
        source = DiffusedPrior(prior, sigma_min, sigma_max)

        def scores(subset_NM: Tensor, num_samples: int, guidance: Callable[[float], Guidance]) -> dict[float, Tensor]:
            count = len(subset_NM)
            given = Given(
                h_MNF=[h_NF[:count] for h_NF in rows.h_NMF.unbind(1)],
                subset_NM=subset_NM,
                row_K=torch.arange(count, device=truth_ND.device).repeat_interleave(num_samples),
            )
            found = {}
            for scale in SCALES:
                sampling = Sampling(guidance=guidance(scale), num_steps=NUM_STEPS, sampler="dpm")
                z_KD = prior.standardise(source.sample(mix_seed(seed, 1), given, sampling))
                found[scale] = energy_score(z_KD.unflatten(0, (count, num_samples)), truth_ND).cpu()
            return found

        joint = scores(torch.zeros_like(some_NM[:1]), NUM_JOINT, lambda scale: Guidance(autoguidance_scale=scale))
        auto = smallest_as_good(joint)
        known = scores(some_NM, NUM_SAMPLES, lambda scale: Guidance(guidance_scale=scale, autoguidance_scale=auto))
    return Guidance(guidance_scale=smallest_as_good(known), autoguidance_scale=auto)


def decide_guidance(prior: DiffusionPrior, spec: Spec, held_out: LatentStore) -> str:
    """Store in the prior the scales that held-out rows decide for, unless the spec sets both; return a sentence."""
    generate, table = spec.generate, spec.prior
    if generate.guidance_scale is not None and generate.autoguidance_scale is not None:
        return "the spec sets both scales of guidance"
    chosen = choose_guidance(prior, held_out, sigma_min=table.sigma_min, sigma_max=table.sigma_max, seed=spec.seed)
    scales = {"guidance_scale": chosen.guidance_scale, "autoguidance_scale": chosen.autoguidance_scale}
    prior.chosen_scales.copy_(torch.tensor(list(scales.values())))
    said = ", ".join(f"{key} = {scale:g}" for key, scale in scales.items() if getattr(generate, key) is None)
    return f"held-out rows decided for {said}; keys of [generate] set others"
