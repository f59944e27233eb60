"""Spaces in which a prior over latents is simple, for chains that move through it by gradients.

The sampler of the diffusion prior maps noise u ~ N(0, I) to latents z, and so does each Gaussian. Other densities stay
in the space of latents. Shapes: N rows, K chains of all rows, D latent_dim, C components.
"""

import math
from collections.abc import Callable, Sequence

import attrs
import torch
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.model import PriorName, ShaLa
from shala_framework.plugin.posterior import AnyPosterior, as_mixture
from shala_framework.prior import karras_sigmas, sample_heun
from shala_framework.prior.priors import Given, SubsetPosterior


@attrs.frozen(eq=False)
class PriorSpace:
    """A space in which a prior, or one component of it, is simple.

    Attributes:
        to_latent: Maps states [K, D] to latents, differentiable.
        from_latent: Maps latents to states, the inverse.
        log_prob: Returns the log density [K] of states under the prior.
        log_weight_N: Logarithm of the component's weight in each row; 0 for a whole prior.
    """

    to_latent: Callable[[Tensor], Tensor]
    from_latent: Callable[[Tensor], Tensor]
    log_prob: Callable[[Tensor], Tensor]
    log_weight_N: Tensor


def prior_spaces(
    model: ShaLa, rows: Rows, given: Sequence[str], prior: PriorName, drawn_KD: Tensor
) -> list[PriorSpace]:
    """Return the space of p(z | x_given) of each row, or those of its components if it is a mixture of Gaussians.

    Args:
        model: Trained model.
        rows: Rows that have the given modalities.
        given: Modalities that z is conditioned on.
        prior: Name of the prior.
        drawn_KD: Draws of each row's posterior given all that is known, one for each chain.
    """
    condition = _given(model, rows, given, len(drawn_KD) // len(rows))
    certain_N = drawn_KD.new_zeros(len(rows))
    if prior in ("mixture", "own"):  # there is no map from noise, but the density has a gradient
        source = model.priors[prior]
        return [PriorSpace(_same, _same, lambda z_KD: source.log_prob(z_KD, condition), certain_N)]
    if prior == "normal":
        return [PriorSpace(_same, _same, _normal, certain_N)]
    if prior == "posterior":
        q = SubsetPosterior(model.autoencoder).of_rows(condition.h_MNF, condition.subset_NM)
        return _spaces_of_components(q, condition.row_K)
    return [_space_of_sampler(model, condition, drawn_KD)]


def _same(state_KD: Tensor) -> Tensor:
    return state_KD


def _normal(u_KD: Tensor) -> Tensor:
    return -0.5 * (u_KD.square().sum(1) + u_KD.shape[1] * math.log(2 * math.pi))


def _spaces_of_components(q: AnyPosterior, row_K: Tensor) -> list[PriorSpace]:
    """Return a space for each Gaussian of a posterior that some row has."""
    mixture = as_mixture(q)
    spaces = []
    for mean_ND, log_var_ND, log_weight_N in zip(
        mixture.mean_CBD, mixture.log_var_CBD, mixture.log_weight_CB, strict=True
    ):
        if log_weight_N.isfinite().any():
            spaces.append(_space_of_gaussian(mean_ND[row_K], (0.5 * log_var_ND).exp()[row_K], log_weight_N))
    return spaces


def _space_of_gaussian(mean_KD: Tensor, scale_KD: Tensor, log_weight_N: Tensor) -> PriorSpace:
    return PriorSpace(
        lambda u_KD: mean_KD + scale_KD * u_KD, lambda z_KD: (z_KD - mean_KD) / scale_KD, _normal, log_weight_N
    )


def _space_of_sampler(model: ShaLa, condition: Given, drawn_KD: Tensor) -> PriorSpace:
    """Return the noise that the sampler of the diffusion prior starts from, in each row's likeliest cluster."""
    table, diffusion, row_K = model.spec.prior, model.prior, condition.row_K
    num_rows = len(condition.subset_NM)
    sigmas = karras_sigmas(model.spec.generate.num_steps, table.sigma_min, table.sigma_max)
    # The likelihood is summed over clusters; the posterior's draws tell the only one that counts.
    shares_NCK = diffusion.clusters.log_joint(diffusion.standardise(drawn_KD)).softmax(1).unflatten(0, (num_rows, -1))
    cluster_N = shares_NCK.mean(1).argmax(1)
    log_probs_NC = diffusion.cluster_log_probs(condition.h_MNF, condition.subset_NM)
    log_weight_N = log_probs_NC.gather(1, cluster_N[:, None])[:, 0]
    h_MKF, subset_KM = [h_NF[row_K] for h_NF in condition.h_MNF], condition.subset_NM[row_K]
    cluster_K = cluster_N[row_K]
    denoise = diffusion.clusters.steady(diffusion.denoiser(h_MKF, subset_KM, cluster_K), cluster_K)

    def to_latent(u_KD: Tensor) -> Tensor:
        return diffusion.sample(u_KD, h_MKF, subset_KM, cluster_K, sigmas)

    def from_latent(z_KD: Tensor) -> Tensor:
        rising = sigmas[:-1].flip(0)
        lowest_K = z_KD.new_full((len(z_KD),), float(rising[0]))
        steady_KD = diffusion.clusters.to_steady(diffusion.standardise(z_KD), lowest_K, cluster_K)
        first_KD = sample_heun(denoise, steady_KD / lowest_K[:, None], rising)
        return first_KD / diffusion.temperature(subset_KM)[:, None]

    return PriorSpace(to_latent, from_latent, _normal, log_weight_N)


def _given(model: ShaLa, rows: Rows, given: Sequence[str], num_chains: int) -> Given:
    """Return features of the given modalities, repeated for the chains of each row."""
    shape, device = (len(rows), model.autoencoder.feature_dim), model.device
    h = {name: torch.zeros(shape, device=device) for name in model.names}
    if given:
        h |= model.autoencoder.encode({name: rows.x[name].to(device) for name in given})
    subset_NM = torch.tensor([name in given for name in model.names], device=device).expand(len(rows), -1)
    row_K = torch.arange(len(rows), device=device).repeat_interleave(num_chains)
    return Given(h_MNF=[h[name] for name in model.names], subset_NM=subset_NM, row_K=row_K)
