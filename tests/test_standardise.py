"""Mean and scale that a modality learns from its training samples."""

import json

import pytest
import torch

from shala_framework.plugin import DataError, Standardise


@pytest.mark.parametrize("per_entry", [False, True])
@pytest.mark.parametrize(
    ("shape", "trailing", "axes"), [((3,), 0, (0, 1)), ((4,), 1, (0, 2)), ((4, 3), 0, 0), ((), 0, None)]
)
def test_fit_gives_the_moments_of_all_samples(shape, trailing, axes, per_entry):
    """Mean and deviation are over the axes that the mean lacks, also if the mean is far from 0."""
    x_NTC = torch.randn(50, 4, 3) * torch.tensor([1.0, 2.0, 3.0]) + 10_000
    standardise = Standardise(shape, trailing=trailing, per_entry=per_entry)
    standardise.fit([None, *x_NTC], fields=("npy",))
    exact = x_NTC.double()
    keep = axes is not None and trailing > 0
    mean = exact.mean() if axes is None else exact.mean(axes, keepdim=keep)
    mean = mean[0] if keep else mean
    torch.testing.assert_close(standardise.mean, mean.float())
    variance = (exact - mean).square().mean(axes if per_entry and axes is not None else None)
    torch.testing.assert_close(standardise.scale.flatten(), variance.sqrt().float().flatten(), rtol=1e-5, atol=0)
    torch.testing.assert_close(standardise.inverse(standardise(x_NTC)), x_NTC)


def test_fit_reads_no_more_than_it_learns_from_and_starts_afresh():
    """Samples are taken one at a time, and an earlier fit leaves no trace."""
    standardise, taken = Standardise((2,), smallest=0.5), []

    def read():
        for number in range(10):
            taken.append(number)
            yield torch.full((5, 2), float(number))

    for _ in range(2):
        taken.clear()
        standardise.fit(read(), ("npy",), at_most=1)
        assert taken == [0]
        assert standardise.state() == {"mean": [0.0, 0.0], "scale": 0.5}


def test_no_sample_is_an_error_that_names_the_fields_and_changes_nothing():
    standardise = Standardise((2,), mean=3.0)
    with pytest.raises(DataError, match=r"one of the fields \['csv', 'npy'\], got none"):
        standardise.fit([None, None], ("csv", "npy"))
    assert standardise.state() == {"mean": [3.0, 3.0], "scale": 1.0}


def test_a_state_comes_back_as_it_was():
    """States of prepared shards are compared digit for digit; a copy keeps the state and has its own buffers."""
    state = {"mean": [1.0, -2.5], "scale": 15.123456789012345}
    standardise = Standardise((2,), trailing=1)
    standardise.load_state(json.loads(json.dumps(state)))
    copied = standardise.copy()
    assert standardise.state() == copied.state() == state
    assert copied.mean.shape == (2, 1)
    copied.mean.zero_()
    assert standardise.mean.flatten().tolist() == state["mean"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"mean": [1.0, 2.0]}, r"expected the keys 'mean' and 'scale', got \['mean'\]"),
        (
            {"mean": [1.0], "scale": 1.0},
            r"expected a mean of shape \[2\] and a scale of shape \[\], got \[1\] and \[\]",
        ),
        ({"mean": [1.0, 2.0], "scale": [1.0, 2.0]}, r"got \[2\] and \[2\]"),
        ({"mean": "far", "scale": 1.0}, "expected numbers for mean and scale"),
        ({"mean": [[1.0], [2.0, 3.0]], "scale": 1.0}, "expected numbers for mean and scale"),
        ({"mean": [1.0, float("nan")], "scale": 1.0}, "expected a finite mean"),
        ({"mean": [1.0, 2.0], "scale": 0.0}, "a finite scale above 0"),
    ],
)
def test_a_state_of_another_kind_is_refused(state, message):
    standardise = Standardise((2,))
    with pytest.raises(ValueError, match=message):
        standardise.load_state(state)
    assert standardise.state() == {"mean": [0.0, 0.0], "scale": 1.0}
