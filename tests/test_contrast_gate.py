"""The weight of the contrastive terms depends on what is memorised, and not on how rows are split, hidden or sorted."""

import math

import attrs
import pytest
import torch
from two_floats import TwoFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.hiding import hide_modalities
from shala_framework.data.rows import Rows
from shala_framework.spec.schema import AutoencoderStage, Posterior
from shala_framework.training.optimizers import make_optimizers
from shala_framework.training.parallel import shared_loss
from shala_framework.training.stages import AutoencoderTraining
from shala_framework.training.steps import take_step

pytestmark = pytest.mark.long

CPU, CLASSES = torch.device("cpu"), 10
MANY = 20_000  # rows of which none is seen twice


def rows(count: int, seed: int, *, sort: bool = False) -> Rows:
    """Return noisy points of ten places on a circle, each place in both modalities."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, CLASSES, (count,), generator=generator)
    place = place.sort().values if sort else place
    angle = 2 * math.pi * place / CLASSES
    centre = torch.stack([angle.cos(), angle.sin()], 1)
    x = {name: centre + 0.1 * torch.randn(count, 2, generator=generator) for name in "ab"}
    presence = torch.ones(count, 2, dtype=torch.bool)
    return Rows(x=x, presence=presence, keys=tuple(map(str, range(count))), labels=(None,) * count)


def noise(count: int, seed: int) -> Rows:
    """Return modalities that say nothing of each other."""
    made = rows(count, seed)
    return attrs.evolve(made, x={**made.x, "b": rows(count, seed + 100).x["b"]})


def trained(training: Rows, held_out: Rows, *, steps: int = 40, **settings: int) -> AutoencoderTraining:
    """Train stage 1 on batches in the order of the rows, again and again."""
    torch.manual_seed(0)
    table = Posterior(latent_dim=4, feature_dim=32, hidden_dim=32, texture_weight=0.0)
    autoencoder = Autoencoder({name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}, table)
    stage_settings = AutoencoderStage(
        steps=steps, warmup_steps=2, kl_warmup_steps=10, learning_rate=1e-2, **{"batch_size": 64, **settings}
    )
    stage = AutoencoderTraining(autoencoder, stage_settings, CPU, held_out)
    optimizers = make_optimizers(autoencoder, stage_settings, matrix_dtype=torch.float32)
    loss, size = shared_loss(stage, CPU), stage_settings.batch_size
    for step in range(steps):
        index = torch.arange(step * size, (step + 1) * size) % len(training)
        take_step(stage, stage_settings, optimizers, loss, training.take(index), step)
    return stage


@pytest.mark.parametrize(
    ("training", "held_out", "settings"),
    [
        (rows(MANY, 0), rows(512, 1), {}),
        (rows(MANY, 0), rows(512, 1), {"micro_batches": 4}),
        (rows(MANY, 0), rows(512, 1), {"batch_size": 300}),
        (rows(MANY, 0), rows(512, 1, sort=True), {}),
        (rows(MANY, 0), rows(16, 1), {}),
        (hide_modalities(rows(MANY, 0), 0.5, 0), rows(512, 1), {}),
        (rows(MANY, 0), hide_modalities(rows(512, 1), 0.5, 0), {}),
    ],
    ids=["plain", "micro-batches", "large batches", "sorted held-out rows", "few held-out rows", "hidden", "sparse"],
)
def test_what_is_not_memorised_is_not_faded_out(training, held_out, settings):
    """The weight stays whole, and what held-out rows tell is measured."""
    gate = trained(training, held_out, **settings).gate
    assert gate.weight == 1
    assert gate.held_out > 0.5


@pytest.mark.parametrize("held_out", [6, 64, 512])
def test_what_is_memorised_is_faded_out_by_few_held_out_rows_too(held_out):
    """Pairs that have nothing in common can only be known by heart."""
    gate = trained(noise(16, 0), noise(held_out, 1), steps=300, batch_size=16).gate
    assert gate.weight == 0
    assert gate.widest[1] < 0.5 * gate.widest[0]


def test_without_a_choice_nothing_is_measured():
    """One held-out row, batches of one row, or held-out rows that lack a modality: no pair has two candidates."""
    sparse = rows(64, 1)
    sparse.presence[:, 1] = False
    for held_out, settings in ((rows(1, 1), {}), (rows(64, 1), {"batch_size": 1}), (sparse, {})):
        gate = trained(rows(MANY, 0), held_out, steps=8, **settings).gate
        assert (gate.weight, gate.held_out) == (1, 0)
