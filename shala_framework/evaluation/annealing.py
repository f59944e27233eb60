"""Annealed importance sampling of log p(x_targets | x_given), by Hamiltonian Monte Carlo in a prior's noise.

An importance weight of a 64-dimensional latent rests on one lucky sample, however many there are. Annealing walks
instead from a proposal to the posterior over many distributions between them, and is unbiased for any number of steps.

It works in the unit u in which a prior is simple: the diffusion prior maps noise u ~ N(0, I) to z by its sampler, so
that p(x | u) p(u) needs neither the sampler's inverse nor its divergence, and what is estimated is the likelihood of
the very sampler. The proposal is a Gaussian of full covariance, fitted for each row to draws of the posterior of stage
1, taken back to that unit.

Shapes: N rows, C chains of a row, K = N * C chains, S fitted draws of a row, D latent_dim, F feature_dim.
Reference: Neal 2001, "Annealed Importance Sampling"; Wu et al. 2017, "On the Quantitative Analysis of Decoder-Based
Generative Models", for decoders; Neal 2011 for Hamiltonian Monte Carlo.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.evaluation.likelihood import check_question
from shala_framework.model import PriorName, ShaLa
from shala_framework.prior import karras_sigmas, sample_heun
from shala_framework.prior.priors import Given, SubsetPosterior
from shala_framework.support.modes import evaluating
from shala_framework.support.seeds import mix_seed

NUM_TUNING = 2  # chains of each row that set its step size, and are not weighed
NUM_LEAPFROG = 4
ACCEPTANCE = 0.65  # that step sizes aim at
INFLATION = 1.1  # of the proposal's deviations, as posteriors of stage 1 are rather too narrow
LEAST_VARIANCE = 1e-6
SCHEDULE_WIDTH = 4.0
CHAINS_AT_ONCE = 64


def annealed_log_weights(
    log_target: Callable[[Tensor], Tensor],
    start_NCD: Tensor,
    *,
    num_steps: int,
    num_tuning: int = NUM_TUNING,
    num_leapfrog: int = NUM_LEAPFROG,
    generator: torch.Generator,
) -> Tensor:
    """Log-weights of chains from N(0, I) to an unnormalised target; their mean weight is its integral, without bias.

    Each row has its step size, which follows the acceptance of its tuning chains. As those are not weighed, the
    transitions of the others do not depend on their own past, and each leaves its distribution invariant.

    Args:
        log_target: Differentiable log density of states [K, D]: [K], of row k // C each, in nats.
        start_NCD: Draws of N(0, I).
        num_steps: Distributions after the first; transitions go before all but the last weight.
        num_tuning: The first chains of each row, which are left out of the result; at least 1.
        num_leapfrog: Leapfrog steps of a transition, each an evaluation of the gradient.
        generator: Of momenta and acceptance.

    Returns:
        float64 tensor [N, C - num_tuning].

    Raises:
        ValueError: There is no tuning chain, or no other.
    """
    num_rows, num_chains, dim = start_NCD.shape
    if not 1 <= num_tuning < num_chains:
        raise ValueError(f"expected 1 to {num_chains - 1} tuning chains of {num_chains}, got {num_tuning}")

    def evaluate(state_KD: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            state_KD = state_KD.detach().requires_grad_()
            value_K = log_target(state_KD)
            (slope_KD,) = torch.autograd.grad(value_K.sum(), state_KD)
        return value_K.detach().double(), slope_KD

    state_KD = start_NCD.flatten(0, 1)
    value_K, slope_KD = evaluate(state_KD)
    step_N1 = torch.full((num_rows, 1), 0.5 * dim**-0.25)
    log_weight_K = torch.zeros(len(state_KD), dtype=torch.float64)
    levels = _levels(num_steps)
    for number, (before, beta) in enumerate(pairwise(levels), 1):
        log_weight_K += (beta - before) * (value_K - _standard_log_prob(state_KD))
        if number == num_steps:
            break
        step_K1 = step_N1.repeat_interleave(num_chains, 0)
        momentum_KD = torch.randn(state_KD.shape, generator=generator)
        kinetic_K = 0.5 * momentum_KD.double().square().sum(1)
        moved_KD, moved_value_K, moved_slope_KD = state_KD, value_K, slope_KD
        momentum_KD = momentum_KD + 0.5 * step_K1 * _slope(moved_KD, moved_slope_KD, beta)
        for leap in range(num_leapfrog):
            moved_KD = moved_KD + step_K1 * momentum_KD
            moved_value_K, moved_slope_KD = evaluate(moved_KD)
            extent = 0.5 if leap == num_leapfrog - 1 else 1.0
            momentum_KD = momentum_KD + extent * step_K1 * _slope(moved_KD, moved_slope_KD, beta)
        gain_K = (
            beta * (moved_value_K - value_K)
            + (1 - beta) * (_standard_log_prob(moved_KD) - _standard_log_prob(state_KD))
            + kinetic_K
            - 0.5 * momentum_KD.double().square().sum(1)
        ).nan_to_num(nan=-math.inf)
        accepted_K = torch.rand(len(gain_K), generator=generator, dtype=torch.float64) < gain_K.exp()
        state_KD = torch.where(accepted_K[:, None], moved_KD, state_KD)
        slope_KD = torch.where(accepted_K[:, None], moved_slope_KD, slope_KD)
        value_K = torch.where(accepted_K, moved_value_K, value_K)
        rate_N1 = gain_K.clamp_max(0).exp().view(num_rows, -1)[:, :num_tuning].mean(1, keepdim=True)
        step_N1 = step_N1 * (0.3 * (rate_N1 - ACCEPTANCE)).exp().float()
    return log_weight_K.view(num_rows, num_chains)[:, num_tuning:]


def _levels(num_steps: int) -> list[float]:
    """Weights of the target from 0 to 1, close to each other at either end: a sigmoid, as in Wu et al. 2017."""
    ramp = torch.linspace(-SCHEDULE_WIDTH, SCHEDULE_WIDTH, num_steps + 1, dtype=torch.float64).sigmoid()
    return [float(level) for level in (ramp - ramp[0]) / (ramp[-1] - ramp[0])]


def _standard_log_prob(state_KD: Tensor) -> Tensor:
    return -0.5 * (state_KD.double().square().sum(1) + state_KD.shape[1] * math.log(2 * math.pi))


def _slope(state_KD: Tensor, target_slope_KD: Tensor, beta: float) -> Tensor:
    return beta * target_slope_KD - (1 - beta) * state_KD


@torch.no_grad()
def annealed_log_likelihood(
    model: ShaLa,
    rows: Rows,
    targets: Sequence[str],
    given: Sequence[str] = (),
    *,
    prior: PriorName = "diffusion",
    num_chains: int = 8,
    num_steps: int = 100,
    seed: int = 0,
) -> Tensor:
    """Log-weights of the chains of each row, whose mean weight is an unbiased estimate of p(x_targets | x_given).

    Args:
        model: Trained.
        rows: Rows that have every modality named.
        targets: Modalities whose x is scored.
        given: Modalities that z is conditioned on.
        prior: As for `log_weights`; of "diffusion" it is the likelihood of the sampler with the spec's number of
            steps, by Heun's method and without guidance.
        num_chains: Chains of a row that are weighed.
        num_steps: Distributions that each goes through.
        seed: Of the chains.

    Returns:
        float64 tensor [N, num_chains], nats.

    Raises:
        ValueError: As `log_weights` does.
    """
    check_question(rows, targets, given)
    at_once = max(1, CHAINS_AT_ONCE // (num_chains + NUM_TUNING))
    found = []
    with ExitStack() as stack:
        for module in (model.autoencoder, model.prior):
            stack.enter_context(evaluating(module))
        for index in torch.arange(len(rows)).split(at_once):
            part = rows.take(index)
            first = mix_seed(seed, int(index[0]))
            found.append(_annealed(model, part, targets, given, prior, num_chains, num_steps, first))
    return torch.cat(found)


def _annealed(
    model: ShaLa,
    rows: Rows,
    targets: Sequence[str],
    given: Sequence[str],
    prior: PriorName,
    num_chains: int,
    num_steps: int,
    seed: int,
) -> Tensor:
    """Log-weights of all chains of some rows at once."""
    known = {name: rows.x[name] for name in (*given, *targets)}
    num_fitted = 4 * model.autoencoder.latent_dim
    drawn_KD = model.sample_latents(num_fitted, given=known, prior="posterior", seed=mix_seed(seed, 10))
    u_KD = _unit(model, rows, given, prior, num_fitted).from_latent(drawn_KD.to(model.device))
    mean_ND, lower_NDD = _fitted(u_KD.unflatten(0, (len(rows), num_fitted)))
    log_volume_N = lower_NDD.diagonal(dim1=1, dim2=2).log().sum(1)
    all_chains = num_chains + NUM_TUNING
    unit = _unit(model, rows, given, prior, all_chains)
    x = {name: rows.x[name].to(model.device).repeat_interleave(all_chains, 0) for name in targets}

    def log_target(state_KD: Tensor) -> Tensor:
        state_NCD = state_KD.to(model.device).unflatten(0, (len(rows), all_chains))
        u_NCD = mean_ND[:, None] + torch.einsum("nde,nce->ncd", lower_NDD, state_NCD)
        u_KD = u_NCD.flatten(0, 1)
        log_prob_K = unit.log_prob(u_KD) + log_volume_N.repeat_interleave(all_chains)
        z_KD = unit.to_latent(u_KD)
        for target, x_K in x.items():
            log_prob_K = log_prob_K + model.autoencoder.decoders[target](z_KD).log_prob(x_K)
        return log_prob_K.cpu()

    generator = torch.Generator().manual_seed(mix_seed(seed, 11))
    start_NCD = torch.randn(len(rows), all_chains, mean_ND.shape[1], generator=generator)
    return annealed_log_weights(log_target, start_NCD, num_steps=num_steps, generator=generator)


def _fitted(u_NSD: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [N, D] and triangular root of the covariance [N, D, D] of each row's draws, widened and kept regular."""
    mean_ND = u_NSD.mean(1)
    centred_NSD = (u_NSD - mean_ND[:, None]).double()
    covariance_NDD = torch.einsum("nsd,nse->nde", centred_NSD, centred_NSD) / (u_NSD.shape[1] - 1)
    variance_ND = covariance_NDD.diagonal(dim1=1, dim2=2)
    covariance_NDD = 0.9 * covariance_NDD + torch.diag_embed(0.1 * variance_ND + LEAST_VARIANCE)
    return mean_ND, INFLATION * torch.linalg.cholesky(covariance_NDD).float()


@attrs.frozen(eq=False)
class _Unit:
    """The unit in which a prior is simple.

    Attributes:
        to_latent: States [K, D] to latents, differentiable.
        from_latent: Latents to states: the inverse.
        log_prob: Log density [K] of states under the prior.
    """

    to_latent: Callable[[Tensor], Tensor]
    from_latent: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor]


def _unit(model: ShaLa, rows: Rows, given: Sequence[str], prior: PriorName, num_chains: int) -> _Unit:
    """Of p(z | x_given) of each row, for so many chains of each."""

    def normal(u_KD: Tensor) -> Tensor:
        return -0.5 * (u_KD.square().sum(1) + u_KD.shape[1] * math.log(2 * math.pi))

    condition = _given(model, rows, given, num_chains)
    if prior == "mixture":  # no map from noise, but a density that has a gradient
        source = model.priors["mixture"]
        return _Unit(lambda u: u, lambda z: z, lambda u: source.log_prob(u, condition))
    if prior == "normal":
        return _Unit(lambda u: u, lambda z: z, normal)
    row_K = condition.row_K
    if prior == "posterior":
        q = SubsetPosterior(model.autoencoder).of_rows(condition.h_MNF, condition.subset_NM)
        mean_KD, scale_KD = q.mean_BD[row_K], (0.5 * q.log_var_BD).exp()[row_K]
        return _Unit(lambda u: mean_KD + scale_KD * u, lambda z: (z - mean_KD) / scale_KD, normal)
    table, diffusion = model.spec.prior, model.prior
    sigmas = karras_sigmas(model.spec.generate.num_steps, table.sigma_min, table.sigma_max)
    denoise = diffusion.denoiser([h_NF[row_K] for h_NF in condition.h_MNF], condition.subset_NM[row_K])

    def from_latent(z_KD: Tensor) -> Tensor:
        rising = sigmas[:-1].flip(0)
        return sample_heun(denoise, diffusion.standardise(z_KD) / rising[0], rising) / rising[-1]

    return _Unit(lambda u: diffusion.restore(sample_heun(denoise, u, sigmas)), from_latent, normal)


def _given(model: ShaLa, rows: Rows, given: Sequence[str], num_chains: int) -> Given:
    """Features of the given modalities, for so many chains of each row."""
    shape, device = (len(rows), model.autoencoder.feature_dim), model.device
    h = {name: torch.zeros(shape, device=device) for name in model.names}
    if given:
        h |= model.autoencoder.encode({name: rows.x[name].to(device) for name in given})
    subset_NM = torch.tensor([name in given for name in model.names], device=device).expand(len(rows), -1)
    row_K = torch.arange(len(rows), device=device).repeat_interleave(num_chains)
    return Given(h_MNF=[h[name] for name in model.names], subset_NM=subset_NM, row_K=row_K)
