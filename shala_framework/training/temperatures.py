"""The temperature of sampling: how wide samples of p(z | h_S) are made, fitted to held-out rows.

A denoiser of finite training is a little too uncertain about what follows from many given modalities, and one that has
learned few rows by heart is too sure. Its error is small in each dimension but adds up over all of them, and it differs
between what is given. The temperature T of `prior.temperature` is therefore chosen for each number of given modalities,
with a term for each of them, such that two samples lie as far apart as a sample and the truth.
Reference: Kingma and Dhariwal 2018, "Glow", for the temperature of a deterministic map; Gneiting and Raftery 2007 for
the two distances; Liang and Zeger 1986 for the errors of repeated rows. Shapes: B or N rows, R repeats of a row, M
modalities, P = 1 + M terms, D latent_dim.
"""

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import numpy as np
import torch
from torch import Tensor

from shala_framework.autoencoder.posterior import random_subsets_of_size
from shala_framework.data.latent_store import HIDDEN_ROWS, LatentStore
from shala_framework.prior import SAMPLERS, DiffusionPrior, karras_sigmas, num_evaluations
from shala_framework.prior.temperature import describe_temperatures, without_temperature
from shala_framework.spec.schema import Generate, Prior
from shala_framework.support.distributed.processes import copied_from_first, undivided_rows
from shala_framework.support.modes import evaluating
from shala_framework.support.progress import Reporter
from shala_framework.support.seeds import forked_rng

LEAST_LATENTS, MOST_LATENTS = 1_024, 16_384  # samples that all temperatures are fitted to
COST_SHARE = 0.05  # of stage 2's operations, which the fit may take if there are more than the least samples
TRAINING_COST = 3  # evaluations of the denoiser that cost as much as training on a row
MOST_REPEATS = 4  # of a held-out row, each with another subset, truth and samples
ROWS_AT_A_TIME = 512
LEAST_ROWS = 10  # for each fitted term


@torch.no_grad()
def fit_temperatures(
    prior: DiffusionPrior,
    held_out: LatentStore,
    table: Prior,
    generate: Generate,
    *,
    reporter: Reporter,
    trained_rows: int,
    hiding: Sequence[int] = (),
    seed: int = 0,
) -> str:
    """Give a prior its temperatures.

    Those given powers of two and all modalities are measured, others lie between their neighbours, and that of joint
    synthesis is 1. They are drawn towards 1 as far as chance may explain them. Samples are of the cluster of the truth,
    and nothing is guided: a temperature corrects the width within clusters, and not the choice of one. Distances are in
    the metric in which all latents together have unit covariance, as in the evaluation of calibration.

    Args:
        prior: The trained prior. Temperatures that it has are replaced.
        held_out: Latents of held-out rows, on the prior's device.
        table: [prior], with the noise levels.
        generate: [generate], with the sampler.
        reporter: Receives progress.
        trained_rows: Rows that stage 2 has seen, each as often as it did. Their number limits that of samples.
        hiding: Columns of the modalities of which latents have copies with hidden parts.
        seed: Seed of all draws.

    Returns:
        What they are, in words.
    """
    prior.squared_temperatures = prior.temperatures = None
    num_modalities = held_out.presence_NM.shape[1]
    sizes = sorted({num_modalities, *(2**i for i in range(num_modalities.bit_length()) if 2**i < num_modalities)})
    able = {size: (held_out.presence_NM.sum(1) >= size).nonzero(as_tuple=True)[0] for size in sizes}
    most_rows = _most_latents(generate, trained_rows) // (2 * len(sizes))
    repeats = {size: max(1, min(MOST_REPEATS, most_rows // len(rows))) for size, rows in able.items() if len(rows)}
    done = 0
    reporter.begin(
        "temperatures", sum(2 * min(len(able[size]), most_rows) * times for size, times in repeats.items()), "sample"
    )
    sigmas = karras_sigmas(generate.num_steps, table.sigma_min, table.sigma_max)
    sample = partial(prior.sample, sigmas=sigmas, sampler=SAMPLERS[generate.sampler])
    distances = _Distances(sample, prior, torch.linalg.cholesky(prior.mixture.covariance()), hiding)
    fitted = {0: without_temperature(num_modalities, torch.empty(0, dtype=torch.float64))[0]}  # in order of size
    with forked_rng(), evaluating(prior), undivided_rows():
        torch.manual_seed(seed)
        for size, times in repeats.items():
            order = torch.randperm(len(able[size]))[:most_rows].to(able[size].device)
            parts = []
            for index in able[size][order].repeat(times).split(ROWS_AT_A_TIME):
                parts.append(distances.measure(held_out.take(index), size))
                done += 2 * len(index)
                reporter.advance(done)
            between_RN, beside_RN, subset_RNM = (
                torch.cat(found).cpu().unflatten(0, (times, -1)) for found in zip(*parts, strict=True)
            )
            fitted[size] = fitted_squares(between_RN, beside_RN, subset_RNM)
    reporter.finish()
    terms = torch.stack(list(fitted.values())).T
    interpolated = [np.interp(range(num_modalities + 1), list(fitted), term.numpy()) for term in terms]
    squares = torch.tensor(np.stack(interpolated, 1), dtype=torch.float32, device=held_out.mean_ND.device)
    prior.squared_temperatures = copied_from_first({"squares": squares})["squares"]
    return describe_temperatures(prior.squared_temperatures)


def _most_latents(generate: Generate, trained_rows: int) -> int:
    """Return how many samples the fit may draw, by what training has cost."""
    evaluations = num_evaluations(generate.sampler, generate.num_steps)
    affordable = int(COST_SHARE * TRAINING_COST * trained_rows / evaluations)
    return min(MOST_LATENTS, max(LEAST_LATENTS, affordable))


def fitted_squares(between_RN: Tensor, beside_RN: Tensor, subset_RNM: Tensor) -> Tensor:
    """Return the terms a, b_1, ..., b_M of T^2 that distances of samples at temperature 1 ask for: float64 [1 + M].

    If samples have variance V about means that miss the truth by E, both summed over dimensions, two samples are 2 V
    apart and a sample and the truth V + E. At temperature T the distances 2 T^2 V and T^2 V + E are equal if
    T^2 = E / V. The terms make them equal for all rows together and for the rows of each given modality. The difference
    of a from 1, and all b together, are shrunk by the share of their squares that is expected of chance. What has fewer
    than `LEAST_ROWS` rows a term does not know that share, and is left at 1 and 0.

    Args:
        between_RN: Squared distances between two samples of held-out rows, each with another subset in each repeat.
        beside_RN: Mean squared distances between a sample and the truth.
        subset_RNM: bool, the given modalities, as many for all rows.

    Example:
        >>> subset = torch.arange(400).remainder(2)[None, :, None] == torch.arange(2)  # one of two modalities
        >>> beside = torch.where(subset[..., 0], 1.9, 1.7)
        >>> [round(square, 3) for square in fitted_squares(torch.full((1, 400), 2.0), beside, subset).tolist()]
        [0.8, 0.1, -0.1]
    """
    between_RN, beside_RN = between_RN.double(), beside_RN.double()
    num_rows, num_modalities = subset_RNM.shape[1:]
    fitted_P = without_temperature(num_modalities, between_RN)[0]
    if num_rows < LEAST_ROWS:
        return fitted_P
    share_M = subset_RNM.double().mean((0, 1))
    design_RNP = torch.cat([torch.ones_like(between_RN)[..., None], subset_RNM.double() - share_M], 2)
    wanted_RN = 2 * (beside_RN - between_RN)
    gram_PP = torch.einsum("rn,rnp,rnq->pq", between_RN, design_RNP, design_RNP)
    inverse_PP = torch.linalg.pinv(gram_PP, rtol=1e-9, hermitian=True)  # the b are known up to a constant
    terms_P = inverse_PP @ torch.einsum("rn,rnp->p", wanted_RN, design_RNP)
    score_NP = torch.einsum("rn,rnp->np", wanted_RN - between_RN * (design_RNP @ terms_P), design_RNP)
    covariance_PP = inverse_PP @ score_NP.T @ score_NP @ inverse_PP
    fitted_P[0] += terms_P[0] * _kept(terms_P[0].square(), covariance_PP[0, 0])
    if num_rows >= LEAST_ROWS * num_modalities:
        power, by_chance = (gram_PP[1:, 1:] * m[1:, 1:] for m in (terms_P.outer(terms_P), covariance_PP))
        fitted_P[1:] = terms_P[1:] * _kept(power.sum(), by_chance.sum())
        fitted_P[0] -= fitted_P[1:] @ share_M
    return fitted_P


def _kept(power: Tensor, by_chance: Tensor) -> Tensor:
    """Return the share of an estimate to keep, from its square and the square that is expected of chance."""
    return (1 - by_chance / power).clamp_min(0) if power > 0 else torch.zeros_like(power)


@attrs.frozen(eq=False)
class _Distances:
    """Measures distances between samples, and of samples from the truth.

    Attributes:
        sample: `DiffusionPrior.sample` with all but the first arguments.
        prior: The prior.
        lower_DD: Root of the covariance of all latents in the prior's units.
        hiding: Columns of the modalities of which latents have copies with hidden parts.
    """

    sample: Callable[..., Tensor]
    prior: DiffusionPrior
    lower_DD: Tensor
    hiding: Sequence[int]

    def measure(self, rows: LatentStore, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return squared distances between two samples given random subsets of a size, and from the truth; subsets."""
        device, shape = rows.mean_ND.device, rows.mean_ND.shape
        noises = [torch.randn(shape).to(device) for _ in range(3)]  # on the CPU: the same draws for any device
        subset_BM = random_subsets_of_size(rows.presence_NM.cpu(), size).to(device)
        if self.hiding:  # where all modalities are given, only hidden parts are left to be drawn
            share = HIDDEN_ROWS if size == rows.presence_NM.shape[1] else 1.0
            rows = rows.partly_hidden(self.hiding, share * torch.rand(len(rows), len(self.hiding)).to(device))
        truth_BD = rows.sample(noises[0])
        cluster_B = self.prior.clusters.component_of(self.prior.standardise(truth_BD))
        first_BD, second_BD = (
            self.sample(noise_BD, rows.h_NMF.unbind(1), subset_BM, cluster_B) for noise_BD in noises[1:]
        )
        beside_B = 0.5 * (self._squares(first_BD - truth_BD) + self._squares(second_BD - truth_BD))
        return self._squares(first_BD - second_BD), beside_B, subset_BM

    def _squares(self, offset_BD: Tensor) -> Tensor:
        unit_BD = (offset_BD @ self.prior.z_whiten).double()
        white_DB: Tensor = torch.linalg.solve_triangular(self.lower_DD, unit_BD.T, upper=False)
        return white_DB.square().sum(0)
