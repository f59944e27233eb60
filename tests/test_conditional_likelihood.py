"""log p(x_i | x_j) against the closed form of a linear-Gaussian decoder."""

import torch
from torch import nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.likelihood import conditional_log_likelihood
from shala_framework.likelihoods import Normal
from shala_framework.model import ShaLa
from shala_framework.spec import read_spec


class LinearGaussian(nn.Module):
    """p(x | z) = N(W z + b, 0.5^2)."""

    def __init__(self, latent_dim):
        super().__init__()
        self.linear = nn.Linear(latent_dim, 2)

    def forward(self, z):
        return Normal(self.linear(z), torch.tensor(0.5).log())


def test_conditional_log_likelihood_is_the_marginal_of_the_latent(two_spec):
    """With z ~ N(m, v) and a linear decoder it is log N(x; W m + b, W diag(v) W^T + s^2 I)."""
    model = ShaLa(read_spec(two_spec)).build()
    model.stages.add("autoencoder")
    torch.manual_seed(0)
    decoder = model.autoencoder.decoders["second"] = LinearGaussian(model.autoencoder.latent_dim)
    nn.init.constant_(model.autoencoder.posterior.log_var.bias, -1.0)  # so that the latent's spread is felt
    x = {"first": torch.randn(5, 2), "second": torch.randn(5, 2)}
    rows = Rows(x=x, presence=torch.ones(5, 2, dtype=torch.bool), keys=tuple("abcde"), labels=(None,) * 5)
    model.autoencoder.eval()
    with torch.no_grad():
        q = model.autoencoder.fuse(model.autoencoder.encode({"first": x["first"]}), torch.ones(5, 2, dtype=torch.bool))
        weight = decoder.linear.weight
        covariance = weight @ torch.diag_embed(q.log_var_BD.exp()) @ weight.T + 0.25 * torch.eye(2)
        marginal = torch.distributions.MultivariateNormal(decoder.linear(q.mean_BD), covariance)
    for shift in (0, 2):
        index = (torch.arange(5) + shift) % 5
        exact = torch.distributions.MultivariateNormal(marginal.mean[index], covariance[index]).log_prob(x["second"])
        estimate = conditional_log_likelihood(
            model, rows, "first", "second", num_samples=4000, prior="posterior", shift=shift, batch_size=777
        )
        torch.testing.assert_close(estimate, exact, atol=0.1, rtol=0.02)
