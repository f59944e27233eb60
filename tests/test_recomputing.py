"""Activation checkpointing of stage 1: the same gradients, with fewer activations in memory at a time."""

import pytest
import torch
from two_floats import TwoFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.rows import Rows
from shala_framework.spec import structure
from shala_framework.spec.schema import AutoencoderStage, Posterior
from shala_framework.training.counting import Memory
from shala_framework.training.precision import FLOAT32, Precision
from shala_framework.training.stages import AutoencoderTraining

CPU = torch.device("cpu")
SIZES = Posterior(latent_dim=4, feature_dim=16, hidden_dim=32, auxiliary_share=0.5)


def signals():
    """Modalities that score x later than they decode z, draw at random, and have maps for the texture term."""
    image, text, video = (pytest.importorskip(f"shala_{name}") for name in ("image", "text", "video"))
    return {
        "picture": image.Image(height=64, width=64),
        "words": text.Text(max_tokens=24, width=64),
        "clip": video.Video(frames=8, height=32, width=32),
    }


def step(modalities, precision=FLOAT32, *, recomputes, rows=6):
    """Return the gradients of a step, the loss, and the most bytes of tensors that it made."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(modalities, SIZES)
    with torch.no_grad():
        x = {name: p.sample() for name, p in autoencoder.eval().decode(torch.randn(rows, 4)).items()}
    presence = torch.ones(rows, len(x), dtype=torch.bool)
    batch = Rows(x=x, presence=presence, keys=("",) * rows, labels=(None,) * rows)
    settings = structure({"activation_checkpointing": recomputes}, AutoencoderStage)
    stage = AutoencoderTraining(autoencoder, settings, CPU, precision=precision)
    autoencoder.train()
    torch.manual_seed(1)
    with Memory() as memory:
        loss, _ = stage.loss(batch, 0)
        loss.backward()
    after = torch.rand(1).item()
    gradients = {name: p.grad for name, p in autoencoder.named_parameters()}
    return gradients, loss.item(), memory.peak, after


@pytest.mark.parametrize("precision", [FLOAT32, Precision(name="bfloat16")], ids=lambda precision: precision.name)
def test_gradients_are_equal_and_memory_is_less(precision):
    """With every term, words dropped and frames drawn at random; the generator ends in the same state."""
    modalities = signals()
    plain, plain_loss, plain_bytes, plain_after = step(modalities, precision, recomputes=False)
    again, loss, most_bytes, after = step(modalities, precision, recomputes=True)
    assert (loss, after) == (plain_loss, plain_after)
    assert all(gradient is not None for gradient in plain.values())
    for name, gradient in again.items():
        assert torch.equal(gradient, plain[name]), name
    assert most_bytes < 0.75 * plain_bytes


def test_nothing_is_computed_again_in_validation():
    """Without gradients, and in evaluation mode, an encoder runs once."""
    modalities = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    autoencoder = Autoencoder(modalities, SIZES)
    autoencoder.recomputes, calls = True, []
    autoencoder.encoders["a"].register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.zeros(3, 2, requires_grad=True)
    autoencoder.eval().encode({"a": x})["a"].sum().backward()
    assert len(calls) == 1
    autoencoder.train().encode({"a": x})["a"].sum().backward()
    assert len(calls) == 3
