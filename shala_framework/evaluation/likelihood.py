"""Log-likelihoods under samples of the shared latent: of all modalities, or of some given others.

Shapes: N rows, S samples a row, D latent_dim.
"""

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.model import PriorName, ShaLa
from shala_framework.prior.priors import DENSITY_STEPS
from shala_framework.support.seeds import mix_seed


@attrs.frozen(eq=False)
class LogWeights:
    """Log p(x_targets | z) p(z | x_given) / r(z) for samples z of each row, in nats; r differs between the two.

    Attributes:
        posterior_NK: Values for samples of q(z | everything known), the first half of all samples; r is q itself.
        mixture_NS: Values for all samples; r is half q and half p(z | x_given). q finds the z that explain an
            x, and p(z | x_given) keeps weights bounded if q is too narrow. None if only samples of q were
            requested.
    """

    posterior_NK: Tensor
    mixture_NS: Tensor | None

    def elbo(self) -> Tensor:
        """Return the evidence lower bound of each row, from its samples of q: [N]."""
        return self.posterior_NK.mean(1)


@torch.no_grad()
def log_weights(
    model: ShaLa,
    rows: Rows,
    targets: Sequence[str],
    given: Sequence[str] = (),
    *,
    prior: PriorName = "diffusion",
    num_samples: int = 16,
    mixture: bool = True,
    seed: int = 0,
    batch_size: int = 64,
) -> LogWeights:
    """Return log-weights of samples of z from the posterior of all known modalities, and from p(z | x_given).

    Args:
        model: Trained model.
        rows: Rows that have all these modalities.
        targets: Modalities whose x is scored.
        given: Modalities that z is conditioned on.
        prior: Source of p(z | x_given): "diffusion"; also "mixture" or "normal" without `given`, or "posterior" with
            it.
        num_samples: Number of samples of z for each row, half from each part of r.
        mixture: Whether to draw the half from p(z | x_given) too.
        seed: Seed of the samples.
        batch_size: Number of latents decoded at a time.

    Raises:
        ValueError: No targets, a target is given as well, a row lacks one of either, or num_samples is odd.

    Reference: Burda et al. 2016, "Importance Weighted Autoencoders"; Veach and Guibas 1995 for drawing a fixed share
    from each part of r and weighting by their sum (the balance heuristic).
    """
    check_question(rows, targets, given)
    if num_samples < 2 or num_samples % 2:
        raise ValueError(f"expected an even num_samples of at least 2, got {num_samples}")
    known = {name: rows.x[name] for name in (*given, *targets)}
    condition = {name: rows.x[name] for name in given}
    half = num_samples // 2
    drawn = [model.sample_latents(half, given=known, prior="posterior", seed=seed)]
    if mixture:
        drawn.append(
            model.sample_latents(
                half if given else half * len(rows),
                given=condition,
                prior=prior,
                seed=mix_seed(seed, 5),
                guidance_scale=1,
                autoguidance_scale=1,
                num_steps=DENSITY_STEPS,  # the same flow as for the density, whatever sampler the spec has
                sampler="heun",
            )
        )
    z_NSD = torch.cat([z.cpu().unflatten(0, (len(rows), half)) for z in drawn], 1)
    log_posterior_NS = model.log_prob(z_NSD, given=known, prior="posterior")
    log_prior_NS = model.log_prob(z_NSD, given=condition, prior=prior)
    log_joint_NS = log_prior_NS
    for target in targets:
        log_joint_NS = log_joint_NS + _decoded_log_prob(model, rows, target, z_NSD, batch_size)
    log_both_NS = torch.logaddexp(log_posterior_NS, log_prior_NS) - math.log(2)
    return LogWeights(
        posterior_NK=(log_joint_NS - log_posterior_NS)[:, :half],
        mixture_NS=log_joint_NS - log_both_NS if mixture else None,
    )


def check_question(rows: Rows, targets: Sequence[str], given: Sequence[str]) -> None:
    """Check that rows can answer a question about log p(x_targets | x_given).

    Raises:
        ValueError: No targets, a target is given as well, or a row lacks one of either.
    """
    if not targets or set(targets) & set(given):
        raise ValueError(f"expected targets that are not given, got {list(targets)} given {list(given)}")
    names = list(rows.x)
    if not rows.presence[:, [names.index(name) for name in (*targets, *given)]].all():
        raise ValueError(f"expected rows that have {', '.join((*targets, *given))}")


def log_mean_weight(log_weight_NS: Tensor) -> Tensor:
    """Estimate log p(x_targets | x_given) of each row [N], in nats, from log-weights [N, S].

    Its expectation is a lower bound that rises with S.
    """
    return log_weight_NS.logsumexp(1) - math.log(log_weight_NS.shape[1])


def effective_samples(log_weight_NS: Tensor) -> Tensor:
    """Return the effective number [N] of samples behind weights, from 1 to S (Kong 1992).

    Example:
        >>> effective_samples(torch.tensor([[0.0, 0.0], [0.0, -30.0]])).round().tolist()
        [2.0, 1.0]
    """
    return 1 / log_weight_NS.softmax(1).square().sum(1)


@torch.no_grad()
def conditional_log_likelihood(
    model: ShaLa,
    rows: Rows,
    given: str,
    target: str,
    *,
    num_samples: int = 16,
    prior: PriorName = "diffusion",
    shift: int = 0,
    seed: int = 0,
    batch_size: int = 64,
) -> Tensor:
    """Estimate log p(x_target | x_given) of each row as the log of the mean of p(x_target | z) over z ~ p(z | x_given).

    By Jensen's inequality, its expectation is a lower bound, which rises with the number of samples. z does not depend
    on x_target, so that scores under another row's z are comparable with those under its own.

    Args:
        model: Trained model.
        rows: Rows that have both modalities.
        given: Modality that z is sampled from.
        target: Modality whose x is scored.
        num_samples: Number of samples of z for each row.
        prior: "diffusion" or "posterior".
        shift: Score each x_target under the z of the row this many places further; 0 is its own, others are a control.
        seed: Seed of the samples.
        batch_size: Number of latents decoded at a time.

    Returns:
        float tensor [N], nats.
    """
    z_ND = model.sample_latents(num_samples, given={given: rows.x[given]}, prior=prior, seed=seed)
    index_N = (torch.arange(len(rows)) + shift) % len(rows)
    z_NSD = z_ND.cpu().unflatten(0, (len(rows), num_samples))[index_N]
    return _decoded_log_prob(model, rows, target, z_NSD, batch_size).logsumexp(1) - math.log(num_samples)


def _decoded_log_prob(model: ShaLa, rows: Rows, target: str, z_NSD: Tensor, batch_size: int) -> Tensor:
    """Return log p(x_target | z) of each row under each of its latents: [N, S], on the CPU."""
    num_rows, num_samples, _ = z_NSD.shape
    rows_K = torch.arange(num_rows).repeat_interleave(num_samples)
    z_KD = z_NSD.flatten(0, 1)
    log_prob_K = model.autoencoder.decoded_log_prob(rows.x, target, z_KD, rows_K, batch_size=batch_size)
    return log_prob_K.view(num_rows, num_samples)
