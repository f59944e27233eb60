"""The modality that a suite tests: its options, its samples, and how to compare values.

Shapes: B batch, F feature_dim, D latent_dim.
"""

import abc
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from shala_framework.plugin.modality import Likelihood, Modality

LATENT_DIM = 8
FEATURE_DIM = 12


class Subject(abc.ABC):
    """A modality under test. A plugin's test class sets these attributes.

    Attributes:
        modality: Class under test.
        options: Options, as keyword arguments of `modality.Options`.
        garbage: Bytes that no field of this modality may accept.
        value_range: Lowest and highest value of x, or None if any finite value is valid.
        round_trip_tolerance: Largest mean absolute difference after writing and reading again, as a share of the range
            of x. Integers other than pixels must be equal.
        likelihood_skips_padding: Whether log_prob ignores what follows the end of a sequence.
        num_steps: Number of optimiser steps within which log_prob of four samples must rise.
        density_options: Extra options for comparing samples with log_prob, such as a fixed small scale that keeps
            samples within the range of x, where nothing is clamped.
        independent_values: Whether the values of x are independent given z. Words, for example, are not; such a plugin
            needs its own test that its densities sum to 1.
        empty_is_missing: Whether an empty field is a missing modality, as for a text; otherwise it is an error.
        augmenting: Extra options that turn on everything that `augment` and `corrupt` do; for a modality with either.
    """

    modality: ClassVar[type[Modality]]
    options: ClassVar[dict[str, Any]] = {}
    garbage: ClassVar[bytes] = bytes(range(256)) * 4
    value_range: ClassVar[tuple[float, float] | None] = None
    round_trip_tolerance: ClassVar[float] = 0.05
    likelihood_skips_padding: ClassVar[bool] = False
    num_steps: ClassVar[int] = 40
    density_options: ClassVar[dict[str, Any]] = {}
    independent_values: ClassVar[bool] = True
    empty_is_missing: ClassVar[bool] = False
    augmenting: ClassVar[dict[str, Any]] = {}

    @abc.abstractmethod
    def sample_fields(self, index: int) -> dict[str, bytes]:
        """Return the raw fields of a valid sample. Different indices give different samples, equal ones the same."""

    def make(self, **changes: Any) -> Modality:
        """Return a modality that is fitted to eight samples; changes override `options`."""
        torch.manual_seed(0)
        modality = self.modality(self.modality.Options(**(self.options | changes)))
        modality.fit(self.sample_fields(index) for index in range(8))
        return modality

    def batch(self, n: int) -> Tensor:
        """Return the first n samples as a batch x [n, ...]."""
        return torch.stack([present(self.make().read(self.sample_fields(index))) for index in range(n)])

    def networks(self) -> nn.Sequential:
        """Return a new encoder followed by a new decoder, x to a likelihood of x, in training mode."""
        modality = self.make()
        return nn.Sequential(modality.encoder(FEATURE_DIM), modality.decoder(FEATURE_DIM)).train()

    # Methods that a plugin may override.

    def check_values(self, x: Tensor) -> None:
        """Fail unless x is finite and within `value_range`."""
        assert torch.isfinite(x).all()
        if self.value_range is not None:
            assert self.value_range[0] <= x.min()
            assert x.max() <= self.value_range[1]

    def check_close(self, x: Tensor, expected: Tensor) -> None:
        """Fail unless x equals what was written, as closely as the file format allows."""
        if x.dtype == torch.uint8 or x.is_floating_point():
            difference = (x.float() - expected.float()).abs().mean()
            spread = expected.float().max() - expected.float().min()
            assert difference <= self.round_trip_tolerance * spread + 1e-6
        else:
            assert torch.equal(x, expected)


def present(x: Tensor | None) -> Tensor:
    """Return the x that was read from a valid sample."""
    assert x is not None, "read returned None for a valid sample"
    return x


def reconstruct(networks: nn.Sequential, x: Tensor) -> Tensor:
    """Return log p(x | z) of each row at its own z: [B]."""
    likelihood: Likelihood = networks(x)
    return likelihood.log_prob(x)
