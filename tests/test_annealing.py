"""Annealed importance sampling against closed forms for which plain importance weights depend on one sample."""

import math

import pytest
import torch
from torch import nn

from shala_framework.data.rows import Rows
from shala_framework.evaluation.annealing import annealed_log_likelihood, annealed_log_weights, fit_proposal
from shala_framework.evaluation.likelihood import effective_samples, log_mean_weight, log_weights
from shala_framework.model import ShaLa
from shala_framework.plugin.likelihoods import Normal
from shala_framework.plugin.posterior import GaussianPosterior, MixturePosterior
from shala_framework.spec import read_spec

pytestmark = pytest.mark.long

WIDE = 12  # values of each x; two modalities fix 16 latents in correlated directions


class LinearGaussian(nn.Module):
    """p(x | z) = N(W z + b, 0.5^2)."""

    def __init__(self, latent_dim, values=2):
        super().__init__()
        self.linear = nn.Linear(latent_dim, values)

    def forward(self, z):
        return Normal(self.linear(z), torch.tensor(0.5).log())


def test_the_integral_of_a_known_target_is_found():
    """Weights estimate the integral of a correlated Gaussian, 20 wide and far from the start, times e^3 or e^-5."""
    generator = torch.Generator().manual_seed(0)
    dim = 20
    root = torch.eye(dim) + 0.3 * torch.randn(dim, dim, generator=generator) / dim**0.5
    target = torch.distributions.MultivariateNormal(
        torch.full((dim,), 1.5), scale_tril=torch.linalg.cholesky(root @ root.T) / 2
    )
    constants = torch.tensor([3.0, -5.0])

    def log_target(state):
        return target.log_prob(state) + constants.repeat_interleave(len(state) // 2)

    start = torch.randn(2, 34, dim, generator=generator)
    found = annealed_log_weights(log_target, start, num_steps=400, num_tuning=2, generator=generator)
    assert found.shape == (2, 32)
    assert log_mean_weight(found).tolist() == pytest.approx([3, -5], abs=0.5)
    assert (effective_samples(found) > 8).all()
    plain = annealed_log_weights(log_target, start, num_steps=1, num_tuning=2, generator=generator)
    assert (effective_samples(plain) < 2).all()
    with pytest.raises(ValueError, match="1 to 1 tuning chains of 2, got 2"):
        annealed_log_weights(log_target, start[:, :2], num_steps=3, num_tuning=2, generator=generator)


class MeanField(nn.Module):
    """q(z | x_S) like a trained one: independent dimensions, about right for N(0, I); the features are x."""

    def __init__(self, decoders):
        super().__init__()
        self.decoders = decoders

    def forward(self, h_MBF, presence_BM):
        precision, evidence = torch.eye(16), torch.zeros(len(presence_BM), 16)
        for h, decoder, there in zip(h_MBF, self.decoders, presence_BM[0].tolist(), strict=True):
            if there:
                weight, bias = decoder.linear.weight, decoder.linear.bias
                precision = precision + 4 * weight.T @ weight
                evidence = evidence + 4 * (h - bias) @ weight
        mean = torch.linalg.solve(precision, evidence.T).T
        return GaussianPosterior(mean, (-precision.diagonal().log()).expand_as(mean))


def test_a_proposal_finds_a_correlated_posterior_from_far_off():
    """The fit finds each row's mean and covariance, starting from draws that are far too narrow and far away."""
    generator = torch.Generator().manual_seed(0)
    root = torch.eye(6) + torch.randn(2, 6, 6, generator=generator) / 2
    mean = torch.randn(2, 6, generator=generator)
    target = torch.distributions.MultivariateNormal(mean[:, None], (root @ root.transpose(1, 2))[:, None])
    draws = mean[:, None] + 3 + 0.3 * torch.randn(2, 8, 6, generator=generator)
    found = fit_proposal(target.log_prob, draws, generator=generator)
    fitted = torch.distributions.MultivariateNormal(found.mean_ND, found.root_NDD @ found.root_NDD.transpose(1, 2))
    expected = torch.distributions.MultivariateNormal(mean, root @ root.transpose(1, 2))
    assert (torch.distributions.kl_divergence(fitted, expected) < 0.3).all()


class TwoGaussians(nn.Module):
    """q(z | x_S) with a narrow and a wide component, far apart, of weights 0.2 and 0.8."""

    def forward(self, h_MBF, presence_BM):
        from_h_BD = nn.functional.pad(h_MBF[0], (0, 16 - WIDE)) / 4
        mean_CBD = torch.stack([from_h_BD - 2, from_h_BD + 2])
        log_var_CBD = torch.tensor([0.1, 0.8]).log()[:, None, None].expand_as(mean_CBD)
        return MixturePosterior(
            mean_CBD, log_var_CBD, torch.tensor([0.2, 0.8]).log()[:, None].expand(2, len(from_h_BD))
        )


@pytest.fixture
def model(two_spec, monkeypatch):
    """Linear-Gaussian decoders, a mean-field q, and a diffusion prior N(0.3, 2^2)."""
    spec = read_spec(two_spec, ("posterior.latent_dim=16", f"posterior.feature_dim={WIDE}"))
    made = ShaLa.from_spec(spec).build()
    made.stages.update(("autoencoder", "prior"))
    torch.manual_seed(0)
    for name in made.names:
        made.autoencoder.decoders[name] = LinearGaussian(16, WIDE)
        nn.init.normal_(made.autoencoder.decoders[name].linear.weight)
        made.autoencoder.encoders[name] = nn.Identity()
        monkeypatch.setattr(type(made.modalities[name]), "shape", (WIDE,))
    q = MeanField([made.autoencoder.decoders[name] for name in made.names])
    made.autoencoder.method.posterior = made.autoencoder.method.subset_posterior = q
    made.prior.z_mean.fill_(0.3)
    made.prior.z_restore.copy_(2 * torch.eye(16))
    made.prior.z_whiten.copy_(torch.eye(16) / 2)
    for parameter in made.autoencoder.parameters():
        parameter.requires_grad_(False)
    return made


@pytest.mark.parametrize(
    ("prior", "given"), [("diffusion", ()), ("normal", ()), ("mixture", ()), ("posterior", ("first",))]
)
def test_log_likelihoods_are_the_closed_form(prior, given, model):
    """Estimates are within 0.3 nats under every prior. 256 importance weights miss by nats, and the ELBO by more."""
    torch.manual_seed(1)
    z = 2 * torch.randn(4, 16)
    with torch.no_grad():
        x = {name: model.autoencoder.decoders[name](z).sample() for name in model.names}
    rows = Rows(x=x, presence=torch.ones(4, 2, dtype=torch.bool), keys=tuple("abcd"), labels=(None,) * 4)
    targets = ("second",) if given else model.names
    linears = [model.autoencoder.decoders[name].linear for name in targets]
    weight, bias = torch.cat([linear.weight for linear in linears]), torch.cat([linear.bias for linear in linears])
    mean, deviation = torch.zeros(4, 16), torch.ones(4, 16)
    if prior in ("diffusion", "mixture"):
        mean, deviation = mean + 0.3, 2 * deviation
    if prior == "diffusion":
        model.prior.squared_temperatures = torch.tensor([[0.64, 0, 0], [1, 0, 0], [1, 0, 0]])
        deviation = 0.8 * deviation
    if given:
        h = model.autoencoder.encode({"first": x["first"]})
        q = model.autoencoder.fuse_subset(h, torch.tensor([[True, False]] * 4))
        mean, deviation = q.mean_BD, (0.5 * q.log_var_BD).exp()
    covariance = weight @ torch.diag_embed(deviation.square()) @ weight.T + 0.25 * torch.eye(len(bias))
    exact = torch.distributions.MultivariateNormal(mean @ weight.T + bias, covariance)
    expected = exact.log_prob(torch.cat([x[name] for name in targets], 1)).double()
    chains = annealed_log_likelihood(model, rows, targets, given, prior=prior, num_chains=8, num_steps=100)
    found = log_mean_weight(chains)
    torch.testing.assert_close(found, expected, atol=0.3, rtol=0)
    assert (effective_samples(chains) > 6).all()
    plain = log_weights(model, rows, targets, given, prior=prior, num_samples=256)
    assert (plain.elbo() < expected - 3).all()
    assert (log_mean_weight(plain.mixture_NS) - expected).abs().max() > 1.5
    assert effective_samples(plain.mixture_NS).min() < 1.5
    again = annealed_log_likelihood(model, rows, targets, given, prior=prior, num_chains=8, num_steps=100)
    assert torch.equal(again, chains)
    assert math.isfinite(float(chains.sum()))


def test_a_mixture_is_scored_by_its_components(model):
    """Log-likelihoods given x are those of both Gaussians of q(z | x), not of one with the mixture's moments."""
    model.autoencoder.method.subset_posterior = TwoGaussians()
    torch.manual_seed(1)
    first, second = (model.autoencoder.decoders[name] for name in model.names)
    with torch.no_grad():
        x = {"first": first(torch.randn(4, 16)).sample()}
        q = TwoGaussians()([x["first"]], None)
        drawn = torch.tensor([0, 0, 1, 1])  # of which component the other modality of each row is
        mean, deviation = q.mean_CBD[drawn, range(4)], (0.5 * q.log_var_CBD[drawn, range(4)]).exp()
        x["second"] = second(mean + deviation * torch.randn(4, 16)).sample()
    rows = Rows(x=x, presence=torch.ones(4, 2, dtype=torch.bool), keys=tuple("abcd"), labels=(None,) * 4)
    weight, bias = second.linear.weight, second.linear.bias
    covariance_CBXX = weight @ torch.diag_embed(q.log_var_CBD.exp()) @ weight.T + 0.25 * torch.eye(len(bias))
    exact = torch.distributions.MultivariateNormal(q.mean_CBD @ weight.T + bias, covariance_CBXX)
    expected = (exact.log_prob(x["second"]) + q.log_weight_CB).logsumexp(0).double()
    asked = (model, rows, ("second",), ("first",))
    found = annealed_log_likelihood(*asked, prior="posterior", num_chains=8, num_steps=100)
    torch.testing.assert_close(log_mean_weight(found), expected, atol=0.3, rtol=0)
