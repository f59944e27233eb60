"""Temperatures of sampling: fitted to known errors of width, kept in checkpoints, and part of the density."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from shala_framework.data.latent_store import LatentStore
from shala_framework.model.programs import temperatures
from shala_framework.prior import DiffusionPrior
from shala_framework.prior.priors import DiffusedPrior, Given, Sampling
from shala_framework.prior.temperature import HIGHEST, LOWEST, describe_temperatures, temperature_of
from shala_framework.spec.schema import Generate, Prior
from shala_framework.support.checkpoint import load_module
from shala_framework.support.progress import Silent
from shala_framework.training.temperatures import fit_temperatures, fitted_squares

DIM, NUM_MODALITIES = 24, 5
MANY = 10**9  # rows of training, so that its cost limits no samples
TRAINED = {"reporter": Silent(), "trained_rows": MANY}
SIZES = {"latent_dim": DIM, "num_modalities": NUM_MODALITIES, "feature_dim": 3, "hidden_dim": 8}


def untrained():
    """A prior that is N(0, I) whatever is given."""
    torch.manual_seed(0)
    return DiffusionPrior(**SIZES, num_blocks=1)


def held_out(std: float, num_rows: int, presence=None) -> LatentStore:
    """Latents from N(0, std^2 I), half of whose variance is that of their posteriors."""
    generator = torch.Generator().manual_seed(1)
    mean = std * 0.5**0.5 * torch.randn(num_rows, DIM, generator=generator)
    log_var = torch.full((num_rows, DIM), math.log(0.5 * std**2))
    h = torch.randn(num_rows, NUM_MODALITIES, 3, generator=generator)
    there = torch.ones(num_rows, NUM_MODALITIES, dtype=torch.bool) if presence is None else presence
    return LatentStore(mean, log_var, h, there)


def fitted(std: float, num_rows: int = 3_000, presence=None, prior=None):
    """Temperatures given the first 0, 1, ... modalities."""
    prior = prior or untrained()
    fit_temperatures(
        prior, held_out(std, num_rows, presence), Prior(), Generate(), reporter=Silent(), trained_rows=MANY
    )
    return prior.temperature(torch.ones(NUM_MODALITIES, NUM_MODALITIES + 1).triu(1).T.bool())


@pytest.mark.parametrize(("std", "expected"), [(0.9, 0.9), (1.1, 1.1), (3.0, HIGHEST)])
def test_the_width_of_held_out_rows_is_found(std, expected):
    """For every number of given modalities, up to a limit; with none there is nothing to be too sure of."""
    assert fitted(std).tolist() == pytest.approx([1.0] + [expected] * NUM_MODALITIES, abs=0.02)


def test_what_chance_may_explain_is_left_alone():
    """Calibrated samples, and thirty rows of which three per cent of the variance are missing, keep 1, or nearly."""
    assert fitted(1.0).tolist() == pytest.approx([1.0] * (NUM_MODALITIES + 1), abs=0.015)
    assert fitted(0.985, 30).tolist() == pytest.approx([1.0] * (NUM_MODALITIES + 1), abs=0.06)
    assert fitted(0.9, 9).tolist() == [1.0] * (NUM_MODALITIES + 1)  # one row alone would seem to be sure
    same = torch.full((1, 50), 2.0)
    assert fitted_squares(same, same, torch.eye(2).bool().repeat(1, 25, 1)).tolist() == [1, 0, 0]


UNEVEN = torch.tensor(
    [
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [1.0, 0.3, 0.0, -0.1, -0.1, -0.1],
        [1.1, 0.1, 0.1, 0.0, -0.1, -0.1],
        [1.0, 0.2, 0.1, 0.0, -0.15, -0.15],
        [0.9, 0.3, 0.1, 0.0, -0.2, -0.2],
        [0.8, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


class Counting(DiffusionPrior):
    """A prior that counts its samples."""

    num_samples = 0

    def sample(self, noise_BD, *args, **options):
        self.num_samples += len(noise_BD)
        return noise_BD


class Progress(Silent):
    """Keeps what is reported."""

    def begin(self, title, total, unit="step", done=0):
        self.total = total

    def advance(self, done, terms=None):
        self.done = done


@pytest.mark.parametrize(("trained_rows", "expected"), [(0, 1_024), (500_000, 2_142), (MANY, 16_384)])
def test_the_fit_costs_at_most_a_twentieth_of_training(trained_rows, expected):
    """500,000 rows cost 1.5 million evaluations, of which a sample takes 35 here. All samples are reported."""
    prior, progress = Counting(**SIZES, num_blocks=1), Progress()
    store = held_out(1.0, 3_000)
    fit_temperatures(prior, store, Prior(), Generate(), reporter=progress, trained_rows=trained_rows)
    assert prior.num_samples == progress.total == progress.done
    assert expected - 8 < prior.num_samples <= expected  # as many for each of four numbers of given modalities


class Uneven(DiffusionPrior):
    """A prior whose samples are too narrow by UNEVEN, depending on what is given."""

    def sample(self, noise_BD, h_MBF, subset_BM, *args, **options):
        return super().sample(noise_BD, h_MBF, subset_BM, *args, **options) / temperature_of(UNEVEN, subset_BM)[:, None]


@pytest.mark.parametrize("share_present", [1.0, 0.7])
def test_each_subset_has_its_temperature(share_present):
    """Those given 1, 2, 4 and 5 modalities are found, also where rows lack some more often; 3 lie between."""
    torch.manual_seed(0)
    prior = Uneven(**SIZES, num_blocks=1)
    presence = torch.rand(4_000, NUM_MODALITIES) < torch.tensor([1.0, share_present, share_present, 1.0, 1.0])
    fit_temperatures(prior, held_out(1.0, len(presence), presence), Prior(), Generate(), **TRAINED)
    subsets = torch.tensor(list(itertools.product([False, True], repeat=NUM_MODALITIES)))
    torch.testing.assert_close(prior.temperature(subsets), temperature_of(UNEVEN, subsets), atol=0.04, rtol=0)
    assert prior.squared_temperatures[:, 1:].sum(1).abs().max() < 1e-5


def test_terms_make_the_distances_of_each_modality_equal():
    """They solve the equations that define them: samples and truth lie as far apart as two samples, term by term."""
    generator = torch.Generator().manual_seed(0)
    subset = torch.rand(3, 4_000, 4, generator=generator).argsort(2).argsort(2) < 2
    between = 1 + torch.rand(3, 4_000, generator=generator)
    beside = between * (1 + 0.1 * subset[..., 0] - 0.05 * subset[..., 1])
    a, *b = fitted_squares(between, beside, subset)
    square = a + (subset * torch.stack(b)).sum(2)
    for chosen in (torch.ones_like(subset[..., 0]), *subset.unbind(2)):
        two_samples, to_truth = 2 * (square / 2) * between, (square / 2) * between + (beside - between / 2)
        assert two_samples[chosen].sum().item() == pytest.approx(to_truth[chosen].sum().item(), rel=1e-3)


@pytest.mark.parametrize("fitted", [False, True])
def test_an_export_says_how_to_compute_them(fitted):
    """The formula of `export.json`, followed in plain numbers, gives the model's temperatures."""
    prior = untrained()
    if fitted:
        prior.squared_temperatures = UNEVEN + 0.1 * torch.eye(NUM_MODALITIES + 1)
    table = temperatures(SimpleNamespace(prior=prior))
    for subset in itertools.product([False, True], repeat=NUM_MODALITIES):
        terms = table["squares"][sum(subset)]
        square = terms[0] + sum(term for term, there in zip(terms[1:], subset, strict=True) if there)
        expected = min(max(square, table["lowest"] ** 2), table["highest"] ** 2) ** 0.5
        assert prior.temperature(torch.tensor([subset])).item() == pytest.approx(expected)


def test_words_and_limits():
    """A dependence on what is given is told by its ends; none is beyond the limits."""
    squares = torch.tensor([[1.0, 0, 0], [1.21, 0.6, -0.6], [0.2, 0, 0]])
    assert describe_temperatures(squares) == "1.100 given 1 (0.80 to 1.25), 0.800 given 2"
    subsets = torch.tensor([[True, False], [False, True], [True, True], [False, False]])
    assert temperature_of(squares, subsets).tolist() == pytest.approx([HIGHEST, LOWEST, LOWEST, 1.0])


def test_sizes_that_no_row_has_take_the_temperature_of_the_next_smaller():
    """Rows of two present modalities say nothing of four; no row at all is no error."""
    presence = torch.zeros(2_000, NUM_MODALITIES, dtype=torch.bool)
    presence[:, [1, 3]] = True
    found = fitted(0.9, 2_000, presence)
    assert found[3] == found[4] == found[5] == found[2]
    assert found.tolist() == pytest.approx([1.0] + [0.9] * NUM_MODALITIES, abs=0.03)


def test_fitting_is_repeatable_and_leaves_torchs_generator_alone():
    """A second fit forgets the first."""
    prior = untrained()
    before = torch.get_rng_state()
    first, second = (fitted(0.9, 200, prior=prior) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, second)


def given_first(count: int, num_given: int) -> Given:
    subset = torch.zeros(1, NUM_MODALITIES, dtype=torch.bool)
    subset[:, :num_given] = True
    h = [torch.zeros(1, 3) for _ in range(NUM_MODALITIES)]
    return Given(h_MNF=h, subset_NM=subset, row_K=torch.zeros(count, dtype=torch.int64))


@pytest.mark.parametrize("num_given", [0, 2])
def test_samples_and_density_have_the_temperature(num_given):
    """Samples are those of temperature 1 drawn to the mean, and the density is that of N(0, T^2 I)."""
    source = DiffusedPrior(untrained(), 0.01, 80.0)
    given = given_first(400, num_given)
    plain = source.sample(0, given, Sampling())
    squares = torch.ones(NUM_MODALITIES + 1, 1 + NUM_MODALITIES)
    squares[0], squares[2] = (torch.tensor([0.81, 0, 0, 0, 0, 0]), torch.tensor([0.7, 0.1, 0.04, -0.1, -0.04, 0]))
    source.prior.squared_temperatures = squares
    temperature = 0.9 if num_given == 0 else 0.84**0.5
    z = source.sample(0, given, Sampling())
    torch.testing.assert_close(z, temperature * plain, rtol=1e-4, atol=1e-5)
    expected = torch.distributions.Normal(0.0, temperature).log_prob(z).sum(1)
    torch.testing.assert_close(source.log_prob(z, given), expected, rtol=1e-3, atol=1e-3)


def test_checkpoints_with_and_without_temperatures_load(tmp_path):
    """Those of earlier versions have none; a module takes on the form of the checkpoint, whatever it had."""
    old, new = untrained(), untrained()
    new.squared_temperatures = UNEVEN.clone()
    assert "squared_temperatures" not in old.state_dict()
    other = untrained()
    load_module(other, new.state_dict(), tmp_path)
    assert torch.equal(other.squared_temperatures, new.squared_temperatures)
    by_size = torch.linspace(0.9, 1.1, NUM_MODALITIES + 1)  # the form of an earlier version
    load_module(other, {**old.state_dict(), "temperatures": by_size}, tmp_path)
    subsets = torch.tensor(list(itertools.product([False, True], repeat=NUM_MODALITIES)))
    torch.testing.assert_close(other.temperature(subsets), by_size[subsets.sum(1)])
    assert "squared_temperatures" not in other.state_dict()
    fitted(0.9, 200, prior=other)
    assert other.temperatures is None, "a new fit replaces them"
    load_module(other, old.state_dict(), tmp_path)
    assert other.squared_temperatures is other.temperatures is None
    assert torch.equal(other.temperature(torch.ones(2, NUM_MODALITIES, dtype=torch.bool)), torch.ones(2))
