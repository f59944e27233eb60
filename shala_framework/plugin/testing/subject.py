"""The modality that a suite tests: its options, its samples, and how values are compared.

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
    """A modality under test; a plugin's test class sets these attributes.

    Attributes:
        modality: The class under test.
        options: Its options, as keyword arguments of `modality.Options`.
        garbage: Bytes that no field of this modality may accept.
        value_range: Lowest and highest value of x, or None where any finite value will do.
        round_trip_tolerance: Mean absolute difference, as a share of the range of x, that writing and reading
            again may make; integers other than pixels must come back as they were.
        likelihood_skips_padding: True where log_prob leaves out what follows the end of a sequence.
        num_steps: Optimiser steps within which log_prob of four samples must rise.
        density_options: Options to add where draws are held against log_prob, such as a fixed small scale with which
            clamping to the range of x cuts nothing off.
        independent_values: False where the values of x depend on each other given z, as words do; such a plugin tests
            by its own means that its densities add up to 1.
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

    @abc.abstractmethod
    def sample_fields(self, index: int) -> dict[str, bytes]:
        """Raw fields of a valid sample; another index gives another sample, the same index the same one."""

    def make(self, **changes: Any) -> Modality:
        """A modality, fitted on eight samples; changes go over `options`."""
        torch.manual_seed(0)
        modality = self.modality(self.modality.Options(**(self.options | changes)))
        modality.fit(self.sample_fields(index) for index in range(8))
        return modality

    def batch(self, n: int) -> Tensor:
        """The first n samples, as a batch x [n, ...]."""
        return torch.stack([present(self.make().read(self.sample_fields(index))) for index in range(n)])

    def networks(self) -> nn.Sequential:
        """A fresh encoder followed by a fresh decoder: x to a likelihood of x, in training mode."""
        modality = self.make()
        return nn.Sequential(modality.encoder(FEATURE_DIM), modality.decoder(FEATURE_DIM)).train()

    # What a plugin may override.

    def check_values(self, x: Tensor) -> None:
        """Fail unless x is finite and within `value_range`."""
        assert torch.isfinite(x).all()
        if self.value_range is not None:
            assert self.value_range[0] <= x.min()
            assert x.max() <= self.value_range[1]

    def check_close(self, x: Tensor, expected: Tensor) -> None:
        """Fail unless x is what was written, as near as the file format allows."""
        if x.dtype == torch.uint8 or x.is_floating_point():
            difference = (x.float() - expected.float()).abs().mean()
            spread = expected.float().max() - expected.float().min()
            assert difference <= self.round_trip_tolerance * spread + 1e-6
        else:
            assert torch.equal(x, expected)


def present(x: Tensor | None) -> Tensor:
    """The x that was read of a valid sample."""
    assert x is not None, "read returned None for a valid sample"
    return x


def reconstruct(networks: nn.Sequential, x: Tensor) -> Tensor:
    """Log p(x | z) of each row at its own z: [B]."""
    likelihood: Likelihood = networks(x)
    return likelihood.log_prob(x)
