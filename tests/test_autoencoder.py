"""Tests of the ELBO against the log evidence of a linear-Gaussian model, whose posterior is known."""

import attrs
import pytest
import torch
from torch import nn
from two_floats import TwoFloats, TwoFloatsOptions

import shala_framework as shala
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.rows import Rows
from shala_framework.plugin.likelihoods import Normal
from shala_framework.plugin.posterior import GaussianPosterior
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage, Posterior
from shala_framework.training.metrics import weighted
from shala_framework.training.parallel import shared_loss
from shala_framework.training.stages import AutoencoderTraining

LATENT, NOISE = 2, 0.5
PLAIN = Posterior(latent_dim=LATENT, feature_dim=4, hidden_dim=8, contrast_weight=0.0, texture_weight=0.0)
WEIGHTS = {"a": torch.tensor([[1.0, 0.4], [0.0, 0.0]]), "b": torch.tensor([[0.0, 0.0], [0.3, -1.2]])}


class LinearDecoder(nn.Module):
    """x = W z + noise. The posterior's covariance need not be diagonal for this W; see `posterior_of`."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, z):
        return Normal(z @ self.weight.T, torch.tensor(NOISE).log())


def posterior_of(x, presence):
    """Return the exact Gaussian posterior of z for each row, and log p(x_present), in closed form."""
    means, covariances, evidences = [], [], []
    for row in range(len(presence)):
        names = [n for i, n in enumerate(WEIGHTS) if presence[row, i]]
        weight = torch.cat([WEIGHTS[n] for n in names])
        value = torch.cat([x[n][row] for n in names])
        precision = torch.eye(LATENT) + weight.T @ weight / NOISE**2
        covariance = torch.linalg.inv(precision)
        means.append(covariance @ weight.T @ value / NOISE**2)
        covariances.append(covariance)
        marginal = weight @ weight.T + NOISE**2 * torch.eye(len(value))
        evidences.append(torch.distributions.MultivariateNormal(torch.zeros(len(value)), marginal).log_prob(value))
    return torch.stack(means), torch.stack(covariances), torch.stack(evidences)


@pytest.fixture
def model():
    torch.manual_seed(0)
    modalities = {n: TwoFloats(TwoFloatsOptions(field=n)) for n in WEIGHTS}
    autoencoder = Autoencoder(modalities, PLAIN)
    for name, weight in WEIGHTS.items():
        autoencoder.decoders[name] = LinearDecoder(weight)
    return autoencoder


def diagonalise(weights):
    """Rotate z so that the joint posterior of both modalities is diagonal, like the model's family."""
    weight = torch.cat(list(weights.values()))
    _, rotation = torch.linalg.eigh(weight.T @ weight)
    return {name: value @ rotation for name, value in weights.items()}


def test_elbo_is_the_log_evidence_at_the_true_posterior(model, monkeypatch):
    """If q equals p(z | x), the ELBO's mean over samples is log p(x), up to four standard errors."""
    weights = diagonalise(WEIGHTS)
    monkeypatch.setitem(globals(), "WEIGHTS", weights)
    for name, weight in weights.items():
        model.decoders[name] = LinearDecoder(weight)
    x = {name: torch.randn(1, 2) for name in weights}
    presence = torch.ones(1, 2, dtype=torch.bool)
    mean, covariance, evidence = posterior_of(x, presence)
    assert abs(covariance[0, 0, 1]) < 1e-6
    draws = 40_000
    exact = GaussianPosterior(mean.expand(draws, -1), covariance[0].diag().log().expand(draws, -1))
    monkeypatch.setattr(model.method, "fuse", lambda h, seen: exact)
    many = {name: value.expand(draws, -1) for name, value in x.items()}
    elbo = model.bound(many, presence.expand(draws, -1)).value_B
    assert abs(elbo.mean() - evidence[0]) < 4 * elbo.std() / draws**0.5


def test_elbo_is_below_the_log_evidence_elsewhere(model, monkeypatch):
    """For any other q, the ELBO is below log p(x_present) by KL(q

    p(z | x)), for every presence.
    """
    draws = 40_000
    x = {name: torch.randn(1, 2) for name in WEIGHTS}
    for bits in ((True, True), (True, False), (False, True)):
        presence = torch.tensor([bits])
        mean, covariance, evidence = posterior_of(x, presence)
        q_mean, q_log_var = torch.tensor([[0.2, -0.1]]), torch.tensor([[-0.5, -1.0]])
        q = torch.distributions.MultivariateNormal(q_mean[0], torch.diag(q_log_var[0].exp()))
        gap = torch.distributions.kl_divergence(q, torch.distributions.MultivariateNormal(mean[0], covariance[0]))
        wrong = GaussianPosterior(q_mean.expand(draws, -1), q_log_var.expand(draws, -1))
        monkeypatch.setattr(model.method, "fuse", lambda h, seen, wrong=wrong: wrong)
        many = {name: value.expand(draws, -1) for name, value in x.items()}
        elbo = model.bound(many, presence.expand(draws, -1)).value_B
        assert abs(elbo.mean() - (evidence[0] - gap)) < 4 * elbo.std() / draws**0.5


def test_rows_without_a_modality_do_not_train_on_it(model):
    """The x of an absent modality affects neither the bound nor any gradient, and every parameter has a gradient."""
    modalities = {n: TwoFloats(TwoFloatsOptions(field=n)) for n in WEIGHTS}
    autoencoder = Autoencoder(modalities, Posterior(latent_dim=LATENT, feature_dim=4, hidden_dim=8))
    presence = torch.tensor([[True, False]] * 6)
    x = {n: torch.randn(6, 2) for n in WEIGHTS}
    gradients = []
    for b in (x["b"], 5 * torch.randn(6, 2)):
        torch.manual_seed(1)
        autoencoder.zero_grad()
        bound = autoencoder.bound({"a": x["a"], "b": b}, presence)
        (-bound.value_B.mean() + sum(bound.added.values())).backward()
        assert all(p.grad is not None for p in autoencoder.parameters())
        gradients.append([p.grad.clone() for p in autoencoder.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


def test_modality_dropout_hides_from_the_posterior_while_training(model, monkeypatch):
    """q sees a non-empty subset of the present modalities in the configured share of rows, and all in evaluation."""
    modalities = {n: TwoFloats(TwoFloatsOptions(field=n)) for n in WEIGHTS}
    autoencoder = Autoencoder(modalities, attrs.evolve(PLAIN, modality_dropout=0.5))
    presence = torch.tensor([[True, True]] * 3000 + [[True, False]] * 1000)
    x = {n: torch.randn(4000, 2) for n in WEIGHTS}
    seen = []
    fuse = autoencoder.method.fuse
    monkeypatch.setattr(autoencoder.method, "fuse", lambda h, bits: seen.append(bits) or fuse(h, bits))
    autoencoder.bound(x, presence)
    autoencoder.eval().bound(x, presence)
    assert not (seen[0] & ~presence).any()
    assert seen[0].any(1).all()
    hidden = (seen[0] != presence).any(1)[:3000].float().mean()
    assert abs(float(hidden) - 0.25) < 0.04  # half the rows, and half of their subsets are proper
    assert torch.equal(seen[1], presence)


class PaddedFloats(TwoFloats):
    """TwoFloats behind `length` - 2 values of padding, in which a value of exactly 0 is not scored either."""

    length = 2

    @property
    def shape(self):
        return (self.length,)

    def count_values(self, x):
        return (x != 0).sum(1)


@pytest.mark.parametrize("rescaling", [True, False])
def test_weights_depend_on_the_values_that_rows_have(rescaling):
    """Padding changes neither the likelihoods' weights nor the unit of the loss; a state restores them."""
    presence = torch.tensor([[True, True], [True, True], [True, False]])
    settings = structure({"likelihood_rescaling": rescaling}, AutoencoderStage)
    found = []
    for length in (4, 400):
        padded = PaddedFloats(TwoFloatsOptions(field="a"))
        padded.length = length
        a, b = torch.zeros(3, length), torch.ones(3, 2)
        a[0, :2], a[1, :1], a[2, :3] = 1.0, 1.0, 1.0
        rows = Rows(x={"a": a, "b": b}, presence=presence, keys=tuple("abc"), labels=(None,) * 3)
        autoencoder = Autoencoder({"a": padded, "b": TwoFloats(TwoFloatsOptions(field="b"))}, PLAIN)
        stage = AutoencoderTraining(autoencoder, settings, torch.device("cpu"))
        assert stage.needs_counts
        assert stage.num_values == {"a": length, "b": 2}
        stage.count([rows.take(torch.tensor([0, 1])), rows.take(torch.tensor([2]))])
        found.append((stage.num_values, stage.likelihood_weights, stage.loss_unit))
        other = AutoencoderTraining(autoencoder, settings, torch.device("cpu"))
        other.load_extra_state(stage.extra_state())
        assert (other.num_values, other.likelihood_weights, other.loss_unit) == found[-1]
    assert found[0] == found[1] == ({"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 1.0}, 4.0)
    stage.count([rows.take(torch.tensor([1]))])
    weights = {"a": 2.0, "b": 1.0} if rescaling else {"a": 1.0, "b": 1.0}
    assert (stage.likelihood_weights, stage.loss_unit) == (weights, 4.0 if rescaling else 3.0)
    assert ("a 2 (1 values, so that its KL weight is 0.5)" in stage.describe_weights()) is rescaling
    plain = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    assert not AutoencoderTraining(Autoencoder(plain, PLAIN), settings, torch.device("cpu")).needs_counts


def test_a_run_counts_values_before_its_first_step(caplog):
    """Training weighs a modality by the values that its rows have, and says which KL weight each modality gets."""
    padded = PaddedFloats(TwoFloatsOptions(field="a"))
    model = shala.ShaLa({"a": padded, "b": TwoFloats(TwoFloatsOptions(field="b"))}, latent_dim=2, feature_dim=4)
    x = {"a": torch.tensor([[1.0, 0.0]]).repeat(8, 1), "b": torch.randn(8, 2)}
    with caplog.at_level("INFO", logger="shala_framework"):
        shala.train(model, x, steps=2, batch_size=4, stages=["autoencoder"])
    assert "a 2 (1 values, so that its KL weight is 0.5), b 1 (2 values, so that its KL weight is 1)" in caplog.text


def test_the_teacher_of_subsets_sees_all_that_is_present(model):
    """Also in rows where modality dropout hides modalities, r(z | x_S) learns q(z | all that is present)."""
    modalities = {n: TwoFloats(TwoFloatsOptions(field=n)) for n in WEIGHTS}
    autoencoder = Autoencoder(modalities, attrs.evolve(PLAIN, modality_dropout=1.0))
    presence = torch.tensor([[True, True]] * 64)
    x = {n: torch.randn(64, 2) for n in WEIGHTS}
    subsets = []
    fuse_subset = autoencoder.method.fuse_subset
    autoencoder.method.fuse_subset = lambda h, bits: subsets.append(bits) or fuse_subset(h, bits)
    bound = autoencoder.bound(x, presence)
    h = autoencoder.encode(x)
    expected = autoencoder.fuse(h, presence).kl_to(fuse_subset(list(h.values()), subsets[0])).mean()
    torch.testing.assert_close(bound.added["subset_kl"], expected)
    bound.losses["subset_kl"].backward()
    trained = {name.rpartition(".")[0] for name, p in autoencoder.named_parameters() if p.grad is not None}
    assert all(name.startswith("method.subset_posterior") for name in trained)


def test_figures_are_of_the_rows_that_have_a_modality():
    """Values are averaged over rows that have the modality, for any batch and micro-batch size."""
    torch.manual_seed(0)
    modalities = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    autoencoder = Autoencoder(modalities, PLAIN)
    x = {name: torch.randn(7, 2) for name in "ab"}
    presence = torch.tensor([[True, row == 6] for row in range(7)])
    rows = Rows(x=x, presence=presence, keys=tuple("abcdefg"), labels=(None,) * 7)
    found = []
    for size in (2, 7):
        settings = structure({"batch_size": size}, AutoencoderStage)
        stage = AutoencoderTraining(autoencoder, settings, torch.device("cpu"), rows)
        autoencoder.method.posterior.head.log_var.bias.data.fill_(-60.0)  # almost no noise
        found.append(stage.validate())
    for name in ("elbo", "log_prob/a", "log_prob/b"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-2)
    step_loss = shared_loss(stage, torch.device("cpu"))
    for parts in (1, 7):
        _, terms = step_loss(rows, 0, parts)
        means = weighted({name: float(value) for name, value in terms.items()})
        for name in ("log_prob/a", "log_prob/b"):
            assert means[name] == pytest.approx(found[0][name], rel=1e-2)
    _, terms = step_loss(rows.take(torch.arange(6)), 0, 1)
    assert "log_prob/b" not in weighted({name: float(value) for name, value in terms.items()})
