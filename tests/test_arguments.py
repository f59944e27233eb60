"""Mistakes in what a caller passes to a model are named, not found by torch."""

import pytest
import torch
from own_floats import Items, Pair
from two_floats import TwoFloatsOptions

import shala_framework as shala
from shala_framework.support.errors import DataError


class Bounded(Pair):
    """Two floats from -5 to 5."""

    limits = (-5, 5)


@pytest.fixture(scope="module")
def x():
    return {name: torch.randn(30, 2, generator=torch.Generator().manual_seed(1)).clamp(-4, 4) for name in "ab"}


@pytest.fixture(scope="module")
def model(x):
    made = shala.ShaLa({n: Bounded(TwoFloatsOptions(field=n)) for n in "ab"}, latent_dim=4, feature_dim=8)
    return shala.train(made, x, steps=2, device="cpu", precision="float32", batch_size=8)


NAN = torch.full((2, 4), torch.nan)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x: shala.ShaLa({"a": Pair}), TypeError, r"object for 'a', got the class Pair; call it: Pair\("),
        (lambda m, x: shala.ShaLa([Pair()]), TypeError, "expected modalities by name, such as .*, got a list"),
        (lambda m, x: shala.ShaLa({"a": 3}), TypeError, "expected a modality object for 'a', .*, got int"),
        (lambda m, x: m.generate(2.5), TypeError, "expected a whole number as num_samples, got 2.5"),
        (lambda m, x: m.generate(0), ValueError, "expected num_samples >= 1, got 0"),
        (lambda m, x: m.generate(guidance_scale="a"), TypeError, "expected a number as guidance_scale, got 'a'"),
        (lambda m, x: m.log_prob(NAN[:, :3]), ValueError, r"latents \[N, S, D\] with D = 4, got \[2, 3\]"),
        (lambda m, x: m.log_prob(torch.zeros(2, 4)), ValueError, r"got \[2, 4\]; z\[:, None\] has one latent a row"),
        (lambda m, x: m.log_prob(torch.zeros(2, 1, 3)), ValueError, r"with D = 4, got \[2, 1, 3\]"),
        (lambda m, x: m.decode(torch.zeros(2, 3)), ValueError, r"latents \[N, D\] with D = 4, got \[2, 3\]"),
        (lambda m, x: m.decode(torch.zeros(4)), ValueError, r"latents \[N, D\] with D = 4, got \[4\]"),
        (lambda m, x: m.decode(NAN), ValueError, "finite latents, got infinity or NaN in 8 of 8"),
        (lambda m, x: m.decode(NAN.numpy()), TypeError, "a float tensor, got ndarray; torch.from_numpy"),
        (lambda m, x: m.embed({"a": 9 * torch.ones(2, 2)}), ValueError, "'a' with values from -5 to 5, got 9.0 to 9.0"),
        (lambda m, x: shala.train(m, {**x, "b": x["b"] - 9}), ValueError, "'b' with values from -5 to 5"),
        (lambda m, x: shala.train(m, Items({**x, "b": x["b"] - 9})), DataError, r"item \d+: expected 'b' with values"),
        (lambda m, x: next(shala.rows(m, "tset")), ValueError, "'validation', 'test'\\], got 'tset'"),
    ],
)
def test_what_was_expected_is_said(model, x, call, error, message):
    with pytest.raises(error, match=message):
        call(model, x)
