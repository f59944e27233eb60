"""The temperature of sampling: how wide samples of p(z | h_S) are made, fitted to held-out rows.

A denoiser of finite training is a little too uncertain about what follows from many given modalities, and one that has
learned few rows by heart is too sure. Its error is small in each dimension but adds up over all of them. If samples
begin with noise of deviation T instead of 1, each cluster's Gaussian becomes T times as wide about the same mean, at no
cost. T is chosen for each number of given modalities such that two samples lie as far apart as a sample and the truth.
Reference: Kingma and Dhariwal 2018, "Glow", for the temperature of a deterministic map; Gneiting and Raftery 2007 for
the two distances. Shapes: B rows, M modalities, D latent_dim.
"""

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import numpy as np
import torch
from torch import Tensor

from shala_framework.autoencoder.posterior import random_subsets_of_size
from shala_framework.data.latent_store import HIDDEN_ROWS, LatentStore
from shala_framework.prior import SAMPLERS, DiffusionPrior, karras_sigmas
from shala_framework.spec.schema import Generate, Prior
from shala_framework.support.distributed.processes import copied_from_first, undivided_rows
from shala_framework.support.modes import evaluating
from shala_framework.support.seeds import forked_rng

MOST_LATENTS = 16_384  # samples that all temperatures are fitted to
MOST_REPEATS = 4  # of a held-out row, each with another subset, truth and samples
ROWS_AT_A_TIME = 1_024
LEAST_ROWS = 10
LOWEST, HIGHEST = 0.8, 1.25


@torch.no_grad()
def fit_temperatures(
    prior: DiffusionPrior,
    held_out: LatentStore,
    table: Prior,
    generate: Generate,
    *,
    hiding: Sequence[int] = (),
    seed: int = 0,
) -> None:
    """Give a prior its temperature for each number of given modalities.

    Those of powers of two and of all modalities are measured, others lie between their neighbours, and that of joint
    synthesis is 1. They are drawn towards 1 as far as chance may explain them. Samples are of the cluster of the truth,
    and nothing is guided: a temperature corrects the width within clusters, and not the choice of one. Distances are in
    the metric in which all latents together have unit covariance, as in the evaluation of calibration.

    Args:
        prior: The trained prior. Temperatures that it has are replaced.
        held_out: Latents of held-out rows, on the prior's device.
        table: [prior], with the noise levels.
        generate: [generate], with the sampler.
        hiding: Columns of the modalities of which latents have copies with hidden parts.
        seed: Seed of all draws.
    """
    prior.temperatures = None
    num_modalities = held_out.presence_NM.shape[1]
    sizes = sorted({num_modalities, *(2**i for i in range(num_modalities.bit_length()) if 2**i < num_modalities)})
    most_rows = MOST_LATENTS // (2 * len(sizes))
    sigmas = karras_sigmas(generate.num_steps, table.sigma_min, table.sigma_max)
    sample = partial(prior.sample, sigmas=sigmas, sampler=SAMPLERS[generate.sampler])
    distances = _Distances(sample, prior, torch.linalg.cholesky(prior.mixture.covariance()), hiding)
    fitted = {0: 1.0}  # in order of size
    with forked_rng(), evaluating(prior), undivided_rows():
        torch.manual_seed(seed)
        for size in sizes:
            (able,) = (held_out.presence_NM.sum(1) >= size).nonzero(as_tuple=True)
            if not len(able):
                continue
            repeats = max(1, min(MOST_REPEATS, most_rows // len(able)))
            rows = able[torch.randperm(len(able))[:most_rows].to(able.device)].repeat(repeats)
            parts = [distances.measure(held_out.take(index), size) for index in rows.split(ROWS_AT_A_TIME)]
            between_N, beside_N = (torch.cat(found).view(repeats, -1).sum(0) for found in zip(*parts, strict=True))
            fitted[size] = fitted_temperature(between_N, beside_N)
    interpolated = np.interp(range(num_modalities + 1), list(fitted), list(fitted.values()))
    by_size = torch.tensor(interpolated, dtype=torch.float32, device=held_out.mean_ND.device)
    prior.temperatures = copied_from_first({"temperatures": by_size})["temperatures"]


def fitted_temperature(between_N: Tensor, beside_N: Tensor) -> float:
    """Return the temperature that distances of samples at temperature 1 ask for.

    If samples have variance V about means that miss the truth by E, both summed over dimensions, two samples are 2 V
    apart and a sample and the truth V + E. At temperature T the distances 2 T^2 V and T^2 V + E are equal if
    T^2 = E / V. Its difference from 1 is shrunk by the share of its square that is the square of its standard error.
    Fewer than `LEAST_ROWS` rows do not know that error, and leave it at 1.

    Args:
        between_N: Mean squared distances between two samples of each held-out row.
        beside_N: Those between a sample and the truth.

    Example:
        >>> round(fitted_temperature(torch.full((100,), 2.0), torch.full((100,), 1.9)) ** 2, 3)
        0.9
    """
    if len(between_N) < LEAST_ROWS:
        return 1.0
    between_N, beside_N = between_N.double(), beside_N.double()
    total = between_N.sum()
    ratio = beside_N.sum() / total
    wanted = 2 * (ratio - 1)
    error = 2 * (beside_N - ratio * between_N).square().sum().sqrt() / total
    kept = (1 - (error / wanted).square()).clamp_min(0) if wanted else wanted
    temperature: float = (1 + kept * wanted).clamp(LOWEST**2, HIGHEST**2).sqrt().item()
    return temperature


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

    def measure(self, rows: LatentStore, size: int) -> tuple[Tensor, Tensor]:
        """Return mean squared distances between two samples given random subsets of a size, and from the truth: [B]."""
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
        return self._squares(first_BD - second_BD), beside_B

    def _squares(self, offset_BD: Tensor) -> Tensor:
        unit_BD = (offset_BD @ self.prior.z_whiten).double()
        white_DB: Tensor = torch.linalg.solve_triangular(self.lower_DD, unit_BD.T, upper=False)
        return white_DB.square().sum(0)
