"""Log-likelihoods against the closed forms of a linear-Gaussian decoder."""

import math

import pytest
import torch
from torch import nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.likelihood import (
    conditional_log_likelihood,
    effective_samples,
    importance_log_weights,
    importance_weighted_log_likelihood,
)
from shala_framework.model import ShaLa
from shala_framework.plugin.likelihoods import Normal
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.spec import read_spec


class LinearGaussian(nn.Module):
    """p(x | z) = N(W z + b, 0.5^2)."""

    def __init__(self, latent_dim):
        super().__init__()
        self.linear = nn.Linear(latent_dim, 2)

    def forward(self, z):
        return Normal(self.linear(z), torch.tensor(0.5).log())

    def marginal(self, mean, variance):
        """Of x under z ~ N(mean, diag variance)."""
        weight = self.linear.weight
        covariance = weight @ torch.diag_embed(variance) @ weight.T + 0.25 * torch.eye(2)
        return torch.distributions.MultivariateNormal(self.linear(mean), covariance)


@pytest.fixture
def model(two_spec):
    """Two linear-Gaussian decoders behind an inference model that is not trained, and so no true posterior."""
    made = ShaLa.from_spec(read_spec(two_spec)).build()
    made.stages.update(("autoencoder", "prior"))
    torch.manual_seed(0)
    for name in made.names:
        made.autoencoder.decoders[name] = LinearGaussian(made.autoencoder.latent_dim)
    for posterior in (made.autoencoder.method.posterior, made.autoencoder.method.subset_posterior):
        nn.init.constant_(posterior.head.log_var.bias, -1.0)  # so that the latent's spread is felt
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
    """With z ~ N(m, v) and a linear decoder it is log N(x; W m + b, W diag(v) W^T + s^2 I)."""
    q = posterior_of_first(model, rows)
    for shift in (0, 2):
        index = (torch.arange(5) + shift) % 5
        marginal = model.autoencoder.decoders["second"].marginal(q.mean_BD[index], q.log_var_BD.exp()[index])
        estimate = conditional_log_likelihood(
            model, rows, "first", "second", num_samples=4000, prior="posterior", shift=shift, batch_size=777
        )
        torch.testing.assert_close(estimate, marginal.log_prob(rows.x["second"]), atol=0.1, rtol=0.02)


def test_importance_weighting_finds_the_marginal_whatever_the_posterior(model, rows):
    """log p(X) under N(0, I), log p(x_second | x_first) under q(z | x_first): exact in the limit, for a bad q too."""
    dim = model.autoencoder.latent_dim
    first, second = (model.autoencoder.decoders[name].linear for name in ("first", "second"))
    weight, bias = torch.cat([first.weight, second.weight]), torch.cat([first.bias, second.bias])
    evidence = torch.distributions.MultivariateNormal(bias, weight @ weight.T + 0.25 * torch.eye(4))
    log_weights = importance_log_weights(model, rows, model.names, prior="normal", num_samples=4000)
    joint = importance_weighted_log_likelihood(log_weights)
    assert ((effective_samples(log_weights) > 1) & (effective_samples(log_weights) < 4000)).all()
    exact = evidence.log_prob(torch.cat([rows.x["first"], rows.x["second"]], 1))
    torch.testing.assert_close(joint, exact, atol=0.1, rtol=0.02)
    q = posterior_of_first(model, rows)
    marginal = model.autoencoder.decoders["second"].marginal(q.mean_BD, q.log_var_BD.exp())
    given = importance_weighted_log_likelihood(
        importance_log_weights(model, rows, ["second"], ["first"], prior="posterior", num_samples=4000, batch_size=777)
    )
    torch.testing.assert_close(given, marginal.log_prob(rows.x["second"]), atol=0.1, rtol=0.02)
    assert dim == model.prior.latent_dim


def test_an_untrained_diffusion_prior_has_a_known_density(model, rows):
    """Its network gives 0 at the start, so that D(z; sigma) = z / (sigma^2 + 1): N(0, I) in the standardised unit."""
    model.prior.z_mean.fill_(0.3)
    model.prior.z_std.fill_(2.0)
    z = torch.randn(5, 3, model.autoencoder.latent_dim)
    scale = torch.tensor(2.0)
    exact = torch.distributions.Normal(0.3, scale).log_prob(z).sum(-1)
    for given in (None, {"first": rows.x["first"]}):
        torch.testing.assert_close(model.log_prob(z, given=given, num_steps=200), exact, atol=0.02, rtol=0)
    mixture = model.log_prob(z, prior="mixture")  # not fitted either: its components are all N(0, I)
    torch.testing.assert_close(mixture, exact, atol=1e-4, rtol=0)


def test_wrong_questions_are_named(model, rows):
    """A target that is given too, none at all, an odd number of samples, and a row that lacks a modality."""
    with pytest.raises(ValueError, match="targets that are not given"):
        importance_log_weights(model, rows, ["first"], ["first"])
    with pytest.raises(ValueError, match="targets that are not given"):
        importance_log_weights(model, rows, [])
    with pytest.raises(ValueError, match="even num_samples"):
        importance_log_weights(model, rows, ["first"], num_samples=3)
    rows.presence[2, 1] = False
    with pytest.raises(ValueError, match="rows that have first, second"):
        importance_log_weights(model, rows, ["first"], ["second"])


def test_gaussian_log_prob():
    """Of a posterior: torch's own."""
    q = GaussianPosterior(torch.randn(4, 3), torch.randn(4, 3))
    z = torch.randn(4, 3)
    exact = torch.distributions.Normal(q.mean_BD, (0.5 * q.log_var_BD).exp()).log_prob(z).sum(1)
    torch.testing.assert_close(q.log_prob(z), exact)
    assert math.isfinite(float(exact.sum()))
