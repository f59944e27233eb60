"""Stage 2's figures on held-out rows, and its choice of weights."""

import signal
from functools import partial
from pathlib import Path

import attrs
import pytest
import torch

from shala_framework.data.latent_store import LatentStore, latent_statistics
from shala_framework.data.rows import shuffled_batches
from shala_framework.model.denoisers import BroughtPrior
from shala_framework.prior import DiffusionPrior
from shala_framework.spec import structure
from shala_framework.spec.schema import Prior, PriorStage
from shala_framework.support.checkpoint import read_checkpoint
from shala_framework.training.loop import train
from shala_framework.training.prior_stage import PriorTraining, fit_to_latents
from shala_framework.training.stopping import Interrupted

pytestmark = pytest.mark.long

SETTINGS = structure(
    {"steps": 60, "batch_size": 16, "save_every_steps": 5, "warmup_steps": 2, "learning_rate": 1e-2}
    | {"ema_halflife_steps": 4.0, "patience": 0},
    PriorStage,
)


def store(rows: int, seed: int) -> LatentStore:
    """Latents around the corners of a cube, each with a feature that identifies only its row."""
    generator = torch.Generator().manual_seed(seed)
    mean, h = torch.randn(rows, 4, generator=generator).sign(), torch.randn(rows, 2, 8, generator=generator)
    mean = mean + 0.1 * torch.randn(rows, 4, generator=generator)
    return LatentStore(mean, torch.full((rows, 4), -5.0), h, torch.ones(rows, 2, dtype=torch.bool))


def stage(settings: PriorStage = SETTINGS, *, held_out: bool = True) -> PriorTraining:
    torch.manual_seed(0)
    train_rows = store(16, 1)
    prior = DiffusionPrior(latent_dim=4, num_modalities=2, feature_dim=8, hidden_dim=64, num_blocks=2)
    prior.set_statistics(*latent_statistics(train_rows))
    table = Prior(unconditional_share=0.2, feature_noise=0.0)  # rows are memorised
    return PriorTraining(prior, table, settings, train_rows, store(64, 2) if held_out else None)


@pytest.mark.parametrize(
    ("kind", "rows", "given", "expected"),
    [
        (DiffusionPrior, 16, None, 1.0),
        (DiffusionPrior, 3_000, None, 0.1),
        (DiffusionPrior, 16, 0.3, 0.3),
        (DiffusionPrior, 16, 0.0, 0.0),
        (BroughtPrior, 16, None, 0.0),
    ],
)
def test_features_of_few_rows_have_noise(kind, rows, given, expected):
    """As much as they vary for a few hundred rows, and none with a method's own denoiser or where a spec says so."""
    prior = kind(latent_dim=4, num_modalities=2, feature_dim=8, hidden_dim=8, num_blocks=1)
    found = PriorTraining(prior, Prior(feature_noise=given), SETTINGS, store(rows, 1))
    assert found.feature_noise == pytest.approx(expected)


@pytest.mark.parametrize("kind", [DiffusionPrior, BroughtPrior])
def test_the_network_of_clusters_is_trained_where_the_denoiser_knows_several(kind):
    """The mixture finds several clusters; a method's own denoiser knows one, and leaves no weight without gradient."""
    prior = kind(latent_dim=4, num_modalities=2, feature_dim=8, hidden_dim=8, num_blocks=1, max_clusters=20)
    fit_to_latents(prior, store(600, 1), seed=0)
    assert prior.mixture.num_components > 1
    assert prior.clusters.num_components == (1 if kind is BroughtPrior else prior.mixture.num_components)
    trained = {parameter.requires_grad for parameter in prior.cluster_network.parameters()}
    assert trained == {kind is DiffusionPrior}


def test_clusters_are_learned_without_some_features():
    """Thirty per cent of standardised features are 0 in training, others grow so that means stay, and none is later."""
    prior = DiffusionPrior(latent_dim=4, num_modalities=2, feature_dim=8, hidden_dim=8, num_blocks=1, max_clusters=20)
    rows = store(2_000, 1)
    fit_to_latents(prior, rows, seed=0)
    seen = []
    prior.cluster_network.register_forward_pre_hook(lambda _, inputs: seen.append(torch.stack(inputs[0], 1)))
    one = PriorTraining(prior, Prior(feature_noise=0.0), SETTINGS, rows, rows)
    torch.manual_seed(0)
    one.loss(torch.arange(len(rows)), 0)
    one.validate()
    given = (rows.h_NMF - prior.h_mean) / prior.h_std
    dropped = seen[0] == 0
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(seen[0][~dropped], given[~dropped] / 0.7)
    assert all((held_out != 0).all() for held_out in seen[1:])


def run(one: PriorTraining, settings: PriorStage = SETTINGS, state: Path | None = None, **more) -> list[float]:
    """Train, and return the held-out losses in order."""
    losses, validate = [], one.validate

    def recorded():
        found = validate()
        losses.append(found["denoising"])
        return found

    one.validate = recorded
    batches = partial(shuffled_batches, 16, settings.batch_size, 0)
    train(
        one, settings, batches, seed=0, matrix_dtype=torch.float32, state_file=state, settled=one.kept.settled, **more
    )
    return losses


def test_the_best_average_on_held_out_rows_is_kept():
    """Memorised rows make the held-out loss rise; the average of the lowest loss is kept, to the last bit."""
    one = stage()
    losses = run(one)
    best = min(range(len(losses)), key=losses.__getitem__)
    assert 0 < best < len(losses) - 3
    assert losses[-1] > 1.05 * losses[best]
    shorter = stage()  # the same training, evaluated after the best step
    seen = {}

    def stop_there(step):
        type(shorter).after_step(shorter, step)
        if step + 1 == 5 * (best + 1):
            seen.update({name: value.clone() for name, value in shorter.average.shadow.items()})

    shorter.after_step = stop_there
    run(shorter)
    said = one.finish()
    assert f"after step {5 * (best + 1)} of 60" in said
    assert f"the weights of step {5 * (best + 1)} are kept" in said
    assert all(torch.equal(value, seen[name]) for name, value in one.module.named_parameters())
    last = stage(attrs.evolve(SETTINGS, keep="last"))
    run(last, attrs.evolve(SETTINGS, keep="last"))
    assert "the last weights are kept" in last.finish()
    assert all(torch.equal(value, last.average.shadow[name]) for name, value in last.module.named_parameters())


def test_patience_ends_the_stage():
    """Training ends after this many validations without a lower loss, and a resumed stage stays ended."""
    settings = attrs.evolve(SETTINGS, patience=2)
    losses = run(stage(settings), settings)
    assert len(losses) < 12
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) == best + 3


@pytest.mark.parametrize("stopped_after", [7, 30, 60])
def test_a_stopped_stage_keeps_what_an_undisturbed_one_keeps(tmp_path, stopped_after):
    """A stage stopped between validations, at one (which it then makes), or at the end resumes with the same result."""
    whole, state = stage(), tmp_path / "state.safetensors"
    losses = run(whole)
    first = stage()

    def stop(step):
        type(first).after_step(first, step)
        if step + 1 == stopped_after:
            signal.raise_signal(signal.SIGTERM)

    first.after_step = stop
    with pytest.raises(Interrupted):
        run(first, state=state)
    second = stage()
    rest = run(second, state=state)
    assert rest == losses[len(losses) - len(rest) :]
    assert len(rest) == (60 - stopped_after) // 5 + 1
    assert second.finish() == whole.finish()
    for name, value in second.module.named_parameters():
        assert torch.equal(value, dict(whole.module.named_parameters())[name])
    tensors, _ = read_checkpoint(state)
    assert torch.equal(tensors["extra.best.network.leave.bias"], second.kept.best["network.leave.bias"])
    assert run(stage(), state=state) == []  # nothing is measured twice


def test_held_out_losses_by_subset_size_add_up(tmp_path):
    """Each size has a figure, given features lower it, and without held-out rows there is no figure."""
    one = stage()
    found = one.validate()
    assert sorted(found) == ["denoising", "denoising/given_0", "denoising/given_1", "denoising/given_2"]
    assert found == one.validate()
    sizes = [found[f"denoising/given_{size}"] for size in range(3)]
    assert min(sizes) <= found["denoising"] <= max(sizes)
    alone = stage(held_out=False)
    assert alone.validate() == {}
    assert alone.finish() == ""
