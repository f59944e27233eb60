"""Log-likelihoods against the closed forms of a linear-Gaussian decoder."""

import math

import pytest
import torch
from torch import nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.likelihood import (
    conditional_log_likelihood,
    effective_samples,
    log_mean_weight,
    log_weights,
)
from shala_framework.model import ShaLa
from shala_framework.plugin.likelihoods import Normal
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.spec import read_spec

pytestmark = pytest.mark.long


class LinearGaussian(nn.Module):
    """p(x | z) = N(W z + b, 0.5^2)."""

    def __init__(self, latent_dim):
        super().__init__()
        self.linear = nn.Linear(latent_dim, 2)

    def forward(self, z):
        return Normal(self.linear(z), torch.tensor(0.5).log())

    def marginal(self, mean, variance):
        """Log-density of x for z ~ N(mean, diag variance)."""
        weight = self.linear.weight
        covariance = weight @ torch.diag_embed(variance) @ weight.T + 0.25 * torch.eye(2)
        return torch.distributions.MultivariateNormal(self.linear(mean), covariance)


@pytest.fixture
def model(two_spec):
    """Two linear-Gaussian decoders with an untrained inference model, whose q is not the true posterior."""
    made = ShaLa.from_spec(read_spec(two_spec)).build()
    made.stages.update(("autoencoder", "prior"))
    torch.manual_seed(0)
    for name in made.names:
        made.autoencoder.decoders[name] = LinearGaussian(made.autoencoder.latent_dim)
    for posterior in (made.autoencoder.method.posterior, made.autoencoder.method.subset_posterior):
        nn.init.constant_(posterior.head.log_var.bias, -1.0)  # a latent with enough spread to matter
    made.autoencoder.eval()
    for parameter in made.autoencoder.parameters():
        parameter.requires_grad_(False)
    return made


@pytest.fixture
def rows():
    torch.manual_seed(1)
    x = {"first": torch.randn(5, 2), "second": torch.randn(5, 2)}
    return Rows(x=x, presence=torch.ones(5, 2, dtype=torch.bool), keys=tuple("abcde"), labels=(None,) * 5)


def posterior_of_first(model, rows):
    """q(z | x_first)."""
    return model.autoencoder.fuse_subset(model.autoencoder.encode({"first": rows.x["first"]}), rows.presence)


def test_conditional_log_likelihood_is_the_marginal_of_the_latent(model, rows):
    """For z ~ N(m, v) and a linear decoder, the estimate is log N(x; W m + b, W diag(v) W^T + s^2 I)."""
    q = posterior_of_first(model, rows)
    for shift in (0, 2):
        index = (torch.arange(5) + shift) % 5
        marginal = model.autoencoder.decoders["second"].marginal(q.mean_BD[index], q.log_var_BD.exp()[index])
        estimate = conditional_log_likelihood(
            model, rows, "first", "second", num_samples=4000, prior="posterior", shift=shift, batch_size=777
        )
        torch.testing.assert_close(estimate, marginal.log_prob(rows.x["second"]), atol=0.1, rtol=0.02)


def test_importance_weighting_finds_the_marginal_whatever_the_posterior(model, rows):
    """log p(X) under N(0, I) and log p(x_second | x_first) under q(z | x_first) converge, also for a bad q."""
    dim = model.autoencoder.latent_dim
    first, second = (model.autoencoder.decoders[name].linear for name in ("first", "second"))
    weight, bias = torch.cat([first.weight, second.weight]), torch.cat([first.bias, second.bias])
    evidence = torch.distributions.MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(4))
    weights = log_weights(model, rows, model.names, prior="normal", num_samples=4000)
    joint = log_mean_weight(weights.mixture_NS)
    effective = effective_samples(weights.mixture_NS)
    assert ((effective > 1) & (effective < 4000)).all()
    exact = evidence.log_prob(torch.cat([rows.x["first"], rows.x["second"]], 1))
    torch.testing.assert_close(joint, exact, atol=0.1, rtol=0.02)
    q = posterior_of_first(model, rows)
    marginal = model.autoencoder.decoders["second"].marginal(q.mean_BD, q.log_var_BD.exp())
    given = log_mean_weight(
        log_weights(model, rows, ["second"], ["first"], prior="posterior", num_samples=4000, batch_size=777).mixture_NS
    )
    torch.testing.assert_close(given, marginal.log_prob(rows.x["second"]), atol=0.1, rtol=0.02)
    assert dim == model.prior.latent_dim


def test_the_elbo_is_below_by_the_divergence_of_the_posterior(model, rows):
    """For a linear-Gaussian decoder, samples of q give the closed form of log p(X) - ELBO = KL(q || p(z | X))."""
    both = torch.cat([model.autoencoder.decoders[name].linear.weight for name in model.names])
    bias = torch.cat([model.autoencoder.decoders[name].linear.bias for name in model.names])
    x = torch.cat([rows.x["first"], rows.x["second"]], 1)
    precision = torch.eye(both.shape[1]) + 4 * both.T @ both
    mean = torch.linalg.solve(precision, 4 * both.T @ (x - bias).T).T
    true = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    q = model.autoencoder.fuse(model.autoencoder.encode(rows.x), rows.presence)
    ours = torch.distributions.MultivariateNormal(q.mean_BD, torch.diag_embed(q.log_var_BD.exp()))
    evidence = torch.distributions.MultivariateNormal(bias, both @ both.T + 0.25 * torch.eye(4)).log_prob(x)
    weights = log_weights(model, rows, model.names, prior="normal", num_samples=8000, mixture=False)
    assert weights.mixture_NS is None
    expected = evidence - torch.distributions.kl_divergence(ours, true)
    torch.testing.assert_close(weights.elbo(), expected, atol=0.3, rtol=0.02)
    assert (weights.elbo() < evidence).all()


def test_an_untrained_diffusion_prior_has_a_known_density(model, rows):
    """An untrained network gives D(z; sigma) = z / (sigma^2 + 1), that is N(0, I) in the standardised unit.

    In the latents' unit this is a Gaussian with their mean and variances, whose Jacobian counts.
    """
    dim = model.autoencoder.latent_dim
    covariance = torch.diag(torch.rand(dim) + 1)
    statistics = (torch.full((dim,), 0.3), covariance, model.prior.h_mean.clone(), model.prior.h_std.clone())
    model.prior.set_statistics(*statistics, num_rows=10**9)
    z = torch.randn(5, 3, dim)
    exact = torch.distributions.MultivariateNormal(statistics[0], covariance).log_prob(z)
    for given in (None, {"first": rows.x["first"]}):
        torch.testing.assert_close(model.log_prob(z, given=given, num_steps=200), exact, atol=0.02, rtol=0)
    mixture = model.log_prob(z, prior="mixture")  # the mixture is not fitted either: all components are N(0, I)
    torch.testing.assert_close(mixture, exact, atol=1e-4, rtol=0)


def test_wrong_questions_are_named(model, rows):
    """A target that is also given, no target, an odd number of samples, and a row that lacks a modality are refused."""
    with pytest.raises(ValueError, match="targets that are not given"):
        log_weights(model, rows, ["first"], ["first"])
    with pytest.raises(ValueError, match="targets that are not given"):
        log_weights(model, rows, [])
    with pytest.raises(ValueError, match="even num_samples"):
        log_weights(model, rows, ["first"], num_samples=3)
    rows.presence[2, 1] = False
    with pytest.raises(ValueError, match="rows that have first, second"):
        log_weights(model, rows, ["first"], ["second"])


def test_gaussian_log_prob():
    """The posterior's log-density equals torch's."""
    q = GaussianPosterior(torch.randn(4, 3), torch.randn(4, 3))
    z = torch.randn(4, 3)
    exact = torch.distributions.Normal(q.mean_BD, (0.5 * q.log_var_BD).exp()).log_prob(z).sum(1)
    torch.testing.assert_close(q.log_prob(z), exact)
    assert math.isfinite(float(exact.sum()))
