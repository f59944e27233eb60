"""The contract suite itself: what it says of a plugin that needs one of its switches, and options that are tables."""

import json

import attrs
import pytest
import torch
from torch import nn
from two_floats import TwoFloats, TwoFloatsOptions

from shala_framework.plugin.testing import ModalitySuite


class Correlated:
    """A Gaussian of two dependent values."""

    is_bound = False

    def __init__(self, mean):
        covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
        self.distribution = torch.distributions.MultivariateNormal(mean, covariance)

    def log_prob(self, x):
        return self.distribution.log_prob(x)

    def mode(self):
        return self.distribution.mean

    def sample(self, generator=None):
        noise = torch.randn(self.distribution.mean.shape, generator=generator)
        return self.distribution.mean + noise @ self.distribution.scale_tril[0].T


class CorrelatedDecoder(nn.Linear):
    def forward(self, z):
        return Correlated(super().forward(z))


class CorrelatedFloats(TwoFloats):
    def decoder(self, latent_dim):
        return CorrelatedDecoder(latent_dim, 2)


class Suite(ModalitySuite):
    __test__ = False
    modality = CorrelatedFloats

    def sample_fields(self, index):
        return {"a": json.dumps([index + 0.5, -index]).encode()}


def test_dependent_values_lead_to_the_switch_for_them():
    """The message names the attribute, and with it set the test leaves the density to the plugin's own."""
    suite = Suite()
    with pytest.raises(AssertionError, match="set independent_values to False"):
        suite.test_densities_add_up_to_one()
    suite.test_draws_follow_log_prob()
    suite.independent_values = False
    suite.test_densities_add_up_to_one()


@attrs.frozen(kw_only=True)
class Window:
    kind: str = "hann"


@attrs.frozen(kw_only=True)
class TableOptions(TwoFloatsOptions):
    """Options.

    Attributes:
        field: Sample field.
        width: Channels.
        limits: Column to its largest value.
        window: Window of the analysis.
    """

    limits: dict[str, float] = attrs.field(factory=dict)
    window: Window = attrs.field(factory=Window)


class TableOptionsFloats(TwoFloats):
    Options = TableOptions


class TableSuite(ModalitySuite):
    __test__ = False
    modality = TableOptionsFloats
    options = {"limits": {"age": 120.0}, "window": Window(kind="hamming")}

    def sample_fields(self, index):
        return {"a": json.dumps([index + 0.5, -index]).encode()}


def test_options_may_be_tables():
    """They survive a checkpoint, and an error names the key within."""
    suite = TableSuite()
    suite.test_options_survive_a_checkpoint()
    suite.test_options_have_defaults_and_documentation()
    with pytest.raises(ValueError, match=r"limits\.age: expected float, got string 'x'"):
        TableOptionsFloats(limits={"age": "x"})
    assert TableOptionsFloats(limits={"age": 120}, window={"kind": "flat"}).options.window == Window(kind="flat")
