"""Compiled networks give the same loss and gradients, including the texture term's maps."""

import shutil

import pytest
import torch

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.spec.schema import Posterior
from shala_framework.training import compiling
from shala_framework.training.compiling import CompilerError, compiled, uncompiled

from two_floats import ConvolvedFloats, TwoFloatsOptions  # isort: skip

pytestmark = pytest.mark.long


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compiled_networks_compute_the_same():
    torch.manual_seed(0)
    modalities = {name: ConvolvedFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    model = Autoencoder(modalities, Posterior(latent_dim=2, feature_dim=4, hidden_dim=8))
    x, presence = {name: torch.randn(6, 2) for name in "ab"}, torch.ones(6, 2, dtype=torch.bool)

    def outcome():
        torch.manual_seed(1)
        model.zero_grad()
        bound = model.bound(x, presence)
        assert len(bound.added) == 4
        loss = sum(bound.added.values()) - bound.value_B.mean()
        loss.backward()
        return {"loss": loss.detach(), **{name: p.grad for name, p in model.named_parameters() if p.grad is not None}}

    expected, keys = outcome(), list(model.state_dict())
    with compiled(model.networks, torch.device("cpu")):
        for number, found in enumerate((outcome(), outcome())):
            torch.testing.assert_close(found, expected, msg=lambda m, number=number: f"call {number}: {m}")
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # something was compiled
        with uncompiled():
            torch.testing.assert_close(outcome(), expected)
    assert list(model.state_dict()) == keys


def test_a_missing_compiler_is_reported_at_once(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with (
        pytest.raises(CompilerError, match=r"train\.compile needs a C\+\+ compiler"),
        compiled([], torch.device("cpu")),
    ):
        pass
