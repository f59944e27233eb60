"""Annealed importance sampling of log p(x_targets | x_given), by Hamiltonian Monte Carlo in a prior's noise.

With importance sampling, the weight of a 64-dimensional latent depends on one lucky sample, however many there are.
Annealing moves from a proposal to the posterior through many intermediate distributions, and is unbiased for any
number of steps.

States u are in a space in which the prior is simple: the sampler of the diffusion prior maps noise u ~ N(0, I) to z, so
p(x | u) p(u) needs neither the sampler's inverse nor its divergence, and the estimate is the likelihood of this very
sampler. The proposal is a Gaussian of full covariance, fitted to each row's posterior; the fit starts at stage 1's
posterior in that space. Of a mixture of Gaussians each component has chains of its own, which costs as many times more.

Shapes: N rows, C chains of a row, K = N * C chains, S draws of a row for fitting, D latent_dim, F feature_dim.
Reference: Neal 2001, "Annealed Importance Sampling"; Wu et al. 2017, "On the Quantitative Analysis of Decoder-Based
Generative Models", for decoders; Sohl-Dickstein and Culpepper 2012, "Hamiltonian Annealed Importance Sampling", for
momentum that is kept from one distribution to the next.
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
from shala_framework.evaluation.prior_spaces import PriorSpace, prior_spaces
from shala_framework.model import PriorName, ShaLa
from shala_framework.support.modes import evaluating
from shala_framework.support.seeds import mix_seed

NUM_TUNING = 2  # chains of each row that set its step size and get no weight
ACCEPTANCE = 0.8  # target of the step sizes
FIT_ROUNDS, FIT_DRAWS = 20, 2  # of a proposal: most Newton steps, and draws for each dimension
SETTLED = 1.0  # a proposal is fitted once bounds change by no more than this, in nats
PRECISIONS = (0.1, 1e4)  # range of a Newton step's precision in any direction, relative to the proposal before it
LONGEST_STEP = 5.0  # largest move of a draw, in deviations
LEAST_DEVIATION = 1e-4
INFLATION = 1.05  # factor of the proposal's deviations, which are too narrow if the posterior is not Gaussian
SCHEDULE_WIDTH = 2.0
CHAINS_AT_ONCE = 64


def annealed_log_weights(
    log_target: Callable[[Tensor], Tensor],
    start_NCD: Tensor,
    *,
    num_steps: int,
    num_tuning: int = NUM_TUNING,
    generator: torch.Generator,
) -> Tensor:
    """Return log-weights of chains from N(0, I) to an unnormalised target. Their mean weight estimates its integral.

    The estimate is unbiased. A transition is one leapfrog step, and the momentum decays over about a unit of length,
    so that steps add up to trajectories. Each row has a step size, which follows the acceptance of its tuning chains.
    These get no weight, so the transitions of the other chains do not depend on their own past and leave their
    distribution invariant.

    Args:
        log_target: Differentiable log density of states [K, D]: [K], of row k // C each, in nats.
        start_NCD: Draws of N(0, I).
        num_steps: Number of distributions after the first; each costs an evaluation of the gradient.
        num_tuning: Number of tuning chains of each row, which the result leaves out; at least 1.
        generator: Generator of momenta and acceptance.

    Returns:
        float64 tensor [N, C - num_tuning].

    Raises:
        ValueError: There is no tuning chain, or no other chain.
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
    momentum_KD = torch.randn(state_KD.shape, generator=generator)
    levels = _levels(num_steps)
    for number, (before, beta) in enumerate(pairwise(levels), 1):
        log_weight_K += (beta - before) * (value_K - _standard_log_prob(state_KD))
        if number == num_steps:
            break
        step_K1 = step_N1.repeat_interleave(num_chains, 0)
        kept_K1 = (-step_K1).exp()
        noise_KD = torch.randn(state_KD.shape, generator=generator)
        momentum_KD = kept_K1 * momentum_KD + (1 - kept_K1.square()).sqrt() * noise_KD
        pushed_KD = momentum_KD + 0.5 * step_K1 * _slope(state_KD, slope_KD, beta)
        moved_KD = state_KD + step_K1 * pushed_KD
        moved_value_K, moved_slope_KD = evaluate(moved_KD)
        pushed_KD = pushed_KD + 0.5 * step_K1 * _slope(moved_KD, moved_slope_KD, beta)
        gain_K = (
            beta * (moved_value_K - value_K)
            + (1 - beta) * (_standard_log_prob(moved_KD) - _standard_log_prob(state_KD))
            + 0.5 * momentum_KD.double().square().sum(1)
            - 0.5 * pushed_KD.double().square().sum(1)
        ).nan_to_num(nan=-math.inf)
        accepted_K = torch.rand(len(gain_K), generator=generator, dtype=torch.float64) < gain_K.exp()
        accepted_K1 = accepted_K[:, None]
        state_KD = torch.where(accepted_K1, moved_KD, state_KD)
        slope_KD = torch.where(accepted_K1, moved_slope_KD, slope_KD)
        value_K = torch.where(accepted_K, moved_value_K, value_K)
        momentum_KD = torch.where(accepted_K1, pushed_KD, -momentum_KD)  # a rejected step reverses the momentum
        rate_N1 = gain_K.clamp_max(0).exp().view(num_rows, -1)[:, :num_tuning].mean(1, keepdim=True)
        step_N1 = step_N1 * (0.3 * (rate_N1 - ACCEPTANCE)).exp().float()
    return log_weight_K.view(num_rows, num_chains)[:, num_tuning:]


def _levels(num_steps: int) -> list[float]:
    """Return the target's exponents from 0 to 1. They follow a sigmoid, dense at both ends, as in Wu et al. 2017."""
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
    """Return the log-weights of each row's chains. Their mean weight is an unbiased estimate of p(x_targets | x_given).

    Args:
        model: Trained model.
        rows: Rows that have all these modalities.
        targets: Modalities whose x is scored.
        given: Modalities that z is conditioned on.
        prior: As for `log_weights`. "diffusion" gives the likelihood of the sampler with the spec's number of
            steps, by Heun's method and without guidance, of each row together with its likeliest cluster: a lower
            bound that is tight where the row leaves no doubt about that. "posterior" takes as many times longer
            as q(z | x_given) has components.
        num_chains: Number of weighted chains of a row.
        num_steps: Number of distributions that each chain goes through.
        seed: Seed of the chains.

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
    """Return log-weights of all chains of some rows at once.

    Those of a mixture's components, each times the component's weight, add up to those of the mixture.
    """
    all_chains = num_chains + NUM_TUNING
    known = {name: rows.x[name] for name in (*given, *targets)}
    drawn_KD = model.sample_latents(all_chains, given=known, prior="posterior", seed=mix_seed(seed, 10))
    drawn_KD = drawn_KD.to(model.device)
    generator = torch.Generator().manual_seed(mix_seed(seed, 11))
    found = []
    for space in prior_spaces(model, rows, given, prior, drawn_KD):
        log_weight_NC = _annealed_in(space, model, rows, targets, drawn_KD, num_steps, generator)
        found.append(space.log_weight_N.double().cpu()[:, None] + log_weight_NC)
    return torch.stack(found).logsumexp(0)


def _annealed_in(
    space: PriorSpace,
    model: ShaLa,
    rows: Rows,
    targets: Sequence[str],
    drawn_KD: Tensor,
    num_steps: int,
    generator: torch.Generator,
) -> Tensor:
    """Return log-weights of chains in one space, as many of each row as there are draws of its posterior."""
    all_chains = len(drawn_KD) // len(rows)
    x = {name: rows.x[name].to(model.device).repeat_interleave(all_chains, 0) for name in targets}

    def log_joint(u_NCD: Tensor) -> Tensor:
        """Return log p(x_targets | u) p(u | x_given): [N, C]."""
        u_KD = u_NCD.flatten(0, 1).to(model.device)
        z_KD, log_prob_K = space.to_latent(u_KD), space.log_prob(u_KD)
        for target, x_K in x.items():
            log_prob_K = log_prob_K + model.autoencoder.decoders[target](z_KD).log_prob(x_K)
        return log_prob_K.cpu().view(len(rows), all_chains)

    u_NCD = space.from_latent(drawn_KD).cpu().unflatten(0, (len(rows), all_chains))
    proposal = fit_proposal(log_joint, u_NCD, generator=generator).widened(INFLATION)
    log_volume_N1 = proposal.log_volume()[:, None]

    def log_target(state_KD: Tensor) -> Tensor:
        u_NCD = proposal.states(state_KD.unflatten(0, (len(rows), all_chains)))
        return (log_joint(u_NCD) + log_volume_N1).flatten()

    start_NCD = torch.randn(u_NCD.shape, generator=generator)
    return annealed_log_weights(log_target, start_NCD, num_steps=num_steps, generator=generator)


@attrs.frozen(eq=False)
class Proposal:
    """A Gaussian for each row.

    Attributes:
        mean_ND: Means.
        root_NDD: Roots R of the covariances R R^T.
    """

    mean_ND: Tensor
    root_NDD: Tensor

    def states(self, noise_NCD: Tensor) -> Tensor:
        """Turn standard Gaussian noise into draws [N, C, D]."""
        return self.mean_ND[:, None] + torch.einsum("nde,nce->ncd", self.root_NDD, noise_NCD)

    def log_volume(self) -> Tensor:
        """Log determinant of the roots: [N]."""
        log_volume_N: Tensor = torch.linalg.slogdet(self.root_NDD.double())[1]
        return log_volume_N

    def widened(self, factor: float) -> "Proposal":
        """Return the Gaussians with all deviations multiplied by a factor."""
        return Proposal(self.mean_ND, factor * self.root_NDD)


def fit_proposal(
    log_joint: Callable[[Tensor], Tensor], u_NCD: Tensor, *, num_rounds: int = FIT_ROUNDS, generator: torch.Generator
) -> Proposal:
    """Fit to the posterior of each row the Gaussian of full covariance with the best evidence lower bound.

    Each round draws from the current Gaussian, regresses the gradients on the draws, whose slope is the mean Hessian,
    and takes Newton's step. One round finds a Gaussian posterior. Rounds end when no row's bound has changed by a nat
    in two rounds; each row keeps the round with its best bound.

    Args:
        log_joint: Differentiable log of the unnormalised posterior of states [N, C, D]: [N, C].
        u_NCD: Draws near the posterior, for the first mean and deviations.
        num_rounds: Largest number of Newton steps.
        generator: Generator of the draws.

    Reference: Opper and Archambeau 2009, "The Variational Gaussian Approximation Revisited", for the fixed point.
    """
    num_rows, num_chains, dim = u_NCD.shape
    num_calls = -(-FIT_DRAWS * dim // num_chains)
    proposal = Proposal(u_NCD.mean(1), torch.diag_embed(u_NCD.std(1).clamp_min(LEAST_DEVIATION)))
    last_bound_N = torch.full((num_rows,), -math.inf, dtype=torch.float64)
    best, best_bound_N = proposal, last_bound_N
    num_settled = 0
    for number in range(num_rounds + 1):
        noise, values, slopes = [], [], []
        for _ in range(num_calls):
            with torch.enable_grad():
                noise_NCD = torch.randn(u_NCD.shape, generator=generator).requires_grad_()
                value_NC = log_joint(proposal.states(noise_NCD))
                (slope_NCD,) = torch.autograd.grad(value_NC.sum(), noise_NCD)
            noise.append(noise_NCD.detach().double())
            values.append(value_NC.detach().double())
            slopes.append(slope_NCD.double())
        bound_N = torch.cat(values, 1).mean(1) + proposal.log_volume()
        better_N = bound_N > best_bound_N
        best = Proposal(
            torch.where(better_N[:, None], proposal.mean_ND, best.mean_ND),
            torch.where(better_N[:, None, None], proposal.root_NDD, best.root_NDD),
        )
        best_bound_N = torch.where(better_N, bound_N, best_bound_N)
        num_settled = num_settled + 1 if bool(((bound_N - last_bound_N).abs() < SETTLED).all()) else 0
        if num_settled == 2 or number == num_rounds:
            break
        last_bound_N = bound_N
        proposal = _newton(proposal, torch.cat(noise, 1), torch.cat(slopes, 1))
    return best


def _newton(proposal: Proposal, noise_NSD: Tensor, slope_NSD: Tensor) -> Proposal:
    """Return the Gaussian with the negative mean Hessian as precision and the zero of the mean gradient as mean."""
    dim = noise_NSD.shape[2]
    mean_N1D, mean_slope_N1D = noise_NSD.mean(1, keepdim=True), slope_NSD.mean(1, keepdim=True)
    centred_NSD = noise_NSD - mean_N1D
    gram_NDD = centred_NSD.transpose(1, 2) @ centred_NSD
    hessian_NDD = torch.linalg.solve(gram_NDD, centred_NSD.transpose(1, 2) @ (slope_NSD - mean_slope_N1D))
    values_ND, vectors_NDD = torch.linalg.eigh(-0.5 * (hessian_NDD + hessian_NDD.transpose(1, 2)))
    precision_ND = values_ND.clamp(*PRECISIONS)
    slope_at_0_ND = (mean_slope_N1D - mean_N1D @ hessian_NDD)[:, 0]
    step_ND = (vectors_NDD @ ((vectors_NDD.transpose(1, 2) @ slope_at_0_ND[..., None]) / precision_ND[..., None]))[
        ..., 0
    ]
    longest = LONGEST_STEP * dim**0.5
    step_ND = step_ND * (longest / step_ND.norm(dim=1, keepdim=True).clamp_min(longest))
    root_NDD = proposal.root_NDD.double()
    return Proposal(
        proposal.mean_ND + (root_NDD @ step_ND[..., None])[..., 0].float(),
        (root_NDD @ (vectors_NDD * precision_ND.rsqrt()[:, None])).float(),
    )
