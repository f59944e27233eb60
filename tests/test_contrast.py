"""Tests of the contrastive terms against closed forms for known features."""

import math

import attrs
import pytest
import torch
from two_floats import TwoFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.terms.contrast import ContrastTerm
from shala_framework.spec.schema import Posterior


@pytest.fixture
def contrast():
    """Return a contrast of three modalities with two-dimensional features, compared unchanged at a scale of 20."""
    torch.manual_seed(0)
    made = ContrastTerm(1.0, 3, 2, tolerance=0.1)
    for projection in made.projections:
        torch.nn.init.zeros_(projection.weight)
        torch.nn.init.zeros_(projection.bias)
        with torch.no_grad():
            projection.weight[:2] = torch.eye(2)
    torch.nn.init.constant_(made.log_scale, math.log(20))
    return made


def corners(count):
    """Return unit vectors that are as far apart as possible."""
    angle = 2 * math.pi * torch.arange(count) / count
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_it_is_the_cross_entropy_of_finding_the_row(contrast):
    """Four known corners give the log of the softmax's sum; equal features for all rows give log 4."""
    presence = torch.ones(4, 3, dtype=torch.bool)
    exact = math.log(1 + 2 * math.exp(-20) + math.exp(-40))
    assert float(contrast.between([5 * corners(4)] * 3, presence).detach()) == pytest.approx(exact, abs=1e-6)
    assert float(contrast.between([torch.ones(4, 2)] * 3, presence).detach()) == pytest.approx(math.log(4))


def test_rows_without_a_modality_are_neither_asked_nor_answers(contrast):
    """Only rows that have both modalities count, whatever the others contain. Without such a row, the term is 0."""
    presence = torch.tensor([[True, True, False]] * 4 + [[True, False, False], [False, True, False]])
    features = [torch.cat([corners(4), torch.full((2, 2), value)]) for value in (3.0, -7.0)] + [torch.randn(6, 2)]
    whole = contrast.between([corners(4), corners(4), torch.zeros(4, 2)], torch.tensor([[True, True, False]] * 4))
    torch.testing.assert_close(contrast.between(features, presence), whole)
    alone = torch.tensor([[True, False, False]] * 6)
    assert float(contrast.between(features, alone).detach()) == 0
    contrast.between(features, alone).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in contrast.parameters())


def test_information_is_the_nats_of_a_guess_less_those_of_the_queries(contrast):
    """It is 0 for equal features, and log 2 for two of four rows; among fewer, the others count for a part."""
    presence = torch.tensor([[True, True, True]] * 4 + [[True, True, False]] * 2)
    twice = torch.cat([corners(2).repeat(3, 1)])
    most = torch.full((3, 3), 100.0)
    told = contrast.information([twice, twice, torch.ones(6, 2)], presence, most)
    assert told.candidates_MM.tolist() == told.queries_MM.tolist() == [[6, 6, 4], [6, 6, 4], [4, 4, 4]]
    torch.testing.assert_close(told.nats_MM[0].detach(), torch.tensor([math.log(2), math.log(2), 0.0]))
    torch.testing.assert_close(told.squares_MM[0, 1].detach(), torch.tensor(math.log(2) ** 2))
    fewer = contrast.information([twice, twice, torch.ones(6, 2)], presence, torch.full((3, 3), 2.0))
    # Two others are alike; a fifth of all five others is one of them.
    assert float(fewer.nats_MM[0, 1].detach()) == pytest.approx(math.log(2) - math.log(1 + 2 / 5))
    alone = contrast.information([twice] * 3, torch.tensor([[True, True, False]] + [[True, False, False]] * 5), most)
    assert not alone.known_MM.any()
    assert alone.nats_MM.isfinite().all()


def test_recognition_is_lowest_for_what_shows_its_row(contrast):
    """Decoded features of the right row score better than those of another, also for a modality the row lacks."""
    presence = torch.tensor([[False, True, True]] * 4)
    h = [torch.zeros(4, 2), corners(4), corners(4)]
    right = contrast.recognition({0: corners(4)}, h, presence)
    wrong = contrast.recognition({0: corners(4).roll(1, 0)}, h, presence)
    assert torch.allclose(contrast.recognition({0: corners(4)[:2]}, h, presence), right)  # of the first rows only
    assert float(right.detach()) < 0.01
    assert float(wrong.detach()) > 10


def test_recognition_trains_decoders_and_nothing_that_recognises():
    """Its gradient reaches decoders and the posterior's z; encoders get it only through z, projections never."""
    modalities = {n: TwoFloats(TwoFloatsOptions(field=n)) for n in "ab"}
    table = Posterior(latent_dim=2, feature_dim=4, hidden_dim=8)
    autoencoder = Autoencoder(modalities, table)
    x = {n: torch.randn(6, 2) for n in "ab"}
    presence = torch.ones(6, 2, dtype=torch.bool)
    torch.manual_seed(0)
    autoencoder.bound(x, presence).added["recognition"].backward()
    assert all(p.grad is not None for p in autoencoder.decoders["a"].parameters() if p.ndim)
    assert all(p.grad is None for p in autoencoder.terms["contrast"].parameters())
    assert all(p.grad is not None for p in autoencoder.encoders["a"].parameters())
    autoencoder.zero_grad()
    fuse = autoencoder.method.fuse
    autoencoder.method.fuse = lambda h, seen: fuse(h, seen).detach()
    autoencoder.bound(x, presence).added["recognition"].backward()
    assert all(p.grad is None for p in autoencoder.encoders.parameters())
    for weights, names in (
        ({"recognition_weight": 0.0}, {"subset_kl", "contrast"}),
        ({"contrast_weight": 0.0}, {"subset_kl"}),  # recognition uses the same projections
    ):
        assert set(Autoencoder(modalities, attrs.evolve(table, **weights)).bound(x, presence).added) == names
