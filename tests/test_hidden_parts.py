"""Parts of x that training hides from encoders: in stage 1, in the store of latents, and in steps of stage 2."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from two_floats import TwoFloats, TwoFloatsOptions

from shala_framework.autoencoder.model import Autoencoder
from shala_framework.data.latent_files import LatentFiles, finish_latents, write_latents
from shala_framework.data.latent_store import HIDDEN_ROWS, LatentStore, latent_statistics, latents_of
from shala_framework.data.rows import Rows
from shala_framework.prior import DiffusionPrior
from shala_framework.spec import structure
from shala_framework.spec.schema import Posterior, Prior, PriorStage
from shala_framework.training.prior_stage import PriorTraining

CPU = torch.device("cpu")
NUM_ROWS, COPIES = 600, 4


class CellFloats(TwoFloats):
    """Two known floats, of which training hides some as zeros."""

    hidden_share = 0.25

    def hide(self, x: Tensor, share_B: Tensor, uniform: Tensor) -> Tensor:
        return x * (uniform >= share_B[:, None])


@pytest.fixture
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    modalities = {"a": TwoFloats(TwoFloatsOptions(field="a")), "b": CellFloats(TwoFloatsOptions(field="b"))}
    return Autoencoder(modalities, Posterior(latent_dim=2, feature_dim=4, hidden_dim=8))


@pytest.fixture
def rows() -> Rows:
    generator = torch.Generator().manual_seed(0)
    x = {name: 1 + torch.rand(NUM_ROWS, 2, generator=generator) for name in "ab"}
    presence = torch.tensor([[True, n % 3 > 0] for n in range(NUM_ROWS)])
    return Rows(x=x, presence=presence, keys=tuple(map(str, range(NUM_ROWS))), labels=(None,) * NUM_ROWS)


def seen_by(autoencoder: Autoencoder, name: str) -> list[Tensor]:
    """The inputs of an encoder from now on."""
    inputs: list[Tensor] = []
    autoencoder.encoders[name].register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    return inputs


def store_of(autoencoder: Autoencoder, rows: Rows, size: int = 64) -> LatentStore:
    return latents_of(autoencoder, rows, CPU, size, num_copies=COPIES)


def test_stage_1_hides_from_encoders_in_training_alone(autoencoder: Autoencoder, rows: Rows) -> None:
    """A training step encodes rows without a share of their parts, of hiding modalities alone; validation all parts."""
    plain, hiding = seen_by(autoencoder, "a"), seen_by(autoencoder, "b")
    torch.manual_seed(1)
    autoencoder.train().bound(rows.x, rows.presence)
    assert torch.equal(plain[0], rows.x["a"])
    assert abs(float((hiding[0] == 0).float().mean()) - 0.25) < 0.05
    assert torch.equal(hiding[0][hiding[0] != 0], rows.x["b"][hiding[0] != 0])
    hiding.clear()
    autoencoder.eval().bound(rows.x, rows.presence)
    assert torch.equal(hiding[0], rows.x["b"])


def test_the_store_has_copies_with_any_share_hidden(autoencoder: Autoencoder, rows: Rows) -> None:
    """Copies are features of rows with hidden parts, by the row's key alone; own features are of all parts."""
    store = store_of(autoencoder, rows)
    assert store.hidden_NKHF.shape == (NUM_ROWS, COPIES, 1, 4)
    assert not store.hidden_NKHF[::3].any()  # rows that lack the modality
    torch.testing.assert_close(store.h_NMF[:, 0], autoencoder.eval().encode(rows.x)["a"])
    torch.testing.assert_close(store_of(autoencoder, rows, size=7).hidden_NKHF, store.hidden_NKHF)
    inputs = seen_by(autoencoder, "b")
    store_of(autoencoder, rows, size=NUM_ROWS)
    shares = [float((x == 0).float().mean()) for x in inputs[1:]]
    assert shares == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=0.06)
    whole = autoencoder.encode({"b": rows.x["b"]})["b"]
    torch.testing.assert_close(store.h_NMF[:, 1], whole * rows.presence[:, 1:])
    # q(z | all present) is of all parts too.
    torch.testing.assert_close(store.mean_ND, autoencoder.fuse(autoencoder.encode(rows.x), rows.presence).mean_BD)


def test_files_keep_copies(tmp_path: Path, autoencoder: Autoencoder, rows: Rows) -> None:
    """What is read from files has the same copies, and files without any do not mention them."""
    for name, latents in (("with", store_of(autoencoder, rows)), ("without", latents_of(autoencoder, rows, CPU))):
        write_latents(tmp_path / name, 0, 1, lambda size, start, latents=latents: iter([latents]))
        finish_latents(tmp_path / name, 1)
        index = torch.tensor([5, 1, 599])
        found = LatentFiles(tmp_path / name).take(index)
        assert torch.equal(found.hidden_NKHF, latents.take(index).hidden_NKHF)
    assert found.hidden_NKHF.numel() == 0


def test_steps_of_stage_2_see_copies_drawn_anew(autoencoder: Autoencoder, rows: Rows) -> None:
    """Half of the rows are given by one of the copies, another one at another step; other modalities as stored."""
    store = store_of(autoencoder, rows)
    prior = DiffusionPrior(latent_dim=2, num_modalities=2, feature_dim=4, hidden_dim=8)
    prior.set_statistics(*latent_statistics(store))
    settings, given = structure({"batch_size": NUM_ROWS}, PriorStage), []
    losses = prior.losses
    prior.losses = lambda z, h, *more, **options: given.append(list(h)) or losses(z, h, *more, **options)
    stage = PriorTraining(prior, Prior(), settings, store, store, hiding=list(autoencoder.hiding))
    present, kinds = rows.presence[:, 1], []
    candidates = torch.cat([store.h_NMF[:, None, 1], store.hidden_NKHF[:, :, 0]], 1)
    for step in range(2):
        stage.loss(torch.arange(NUM_ROWS), step)
        assert torch.equal(given[-1][0], store.h_NMF[:, 0])
        same = (given[-1][1][:, None] == candidates).all(2)[present]
        assert same.any(1).all()
        kinds.append(same.float().argmax(1))
        # Averaged over shares s from 0 to 1, a copy of two parts hides nothing with probability (1 - s) ** 2, a third.
        assert float((kinds[-1] > 0).float().mean()) == pytest.approx(HIDDEN_ROWS * 2 / 3, abs=0.08)
    assert not torch.equal(*kinds)
    first = stage.validate()
    assert first == stage.validate()

    bare = latents_of(autoencoder, rows, CPU)
    PriorTraining(prior, Prior(), settings, bare).loss(torch.arange(NUM_ROWS), 0)
    assert torch.equal(given[-1][1], bare.h_NMF[:, 1])
