"""The texture term: its statistics of maps, what they cannot see, and where its gradient goes."""

import pytest
import torch
from torch import nn

from shala_framework.autoencoder.maps import MapRecorder, map_statistics
from shala_framework.autoencoder.model import Autoencoder
from shala_framework.autoencoder.shared_networks import call_frozen
from shala_framework.autoencoder.terms.texture import texture_distance
from shala_framework.spec.schema import Posterior

from two_floats import ConvolvedFloats, TwoFloats, TwoFloatsOptions  # isort: skip


def test_statistics_are_of_channels_over_places():
    """They match the closed form, average over a row's frames, and ignore the order of places."""
    maps = torch.tensor([[[[0.0, 2.0]]], [[[4.0, 4.0]]], [[[2.0, 2.0]]], [[[2.0, 2.0]]]])  # 4 rows of 1 x 1 x 2
    (one,) = map_statistics([maps], 4)
    torch.testing.assert_close(one[:, 0], torch.tensor([1.0, 4.0, 2.0, 2.0]))
    torch.testing.assert_close(one[:, 1], torch.tensor([1.0001, 0.0001, 0.0001, 0.0001]).sqrt())
    (two,) = map_statistics([maps], 2)
    torch.testing.assert_close(two[:, 0], torch.tensor([2.5, 2.0]))
    torch.testing.assert_close(map_statistics([maps.flip(3)], 4)[0], one)


def test_a_blur_is_further_than_stripes_in_other_places():
    """The likelihood of independent pixels says the opposite."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(1, 16, 3), nn.SiLU(), nn.Conv2d(16, 16, 3), nn.Flatten())
    phase = torch.rand(8, 1, 1, 1) * 6
    real = torch.sin(torch.arange(24.0).expand(8, 1, 24, 24) * torch.pi / 2 + phase) * torch.rand(8, 1, 1, 1)
    moved, blurred = real.roll(2, 3), torch.zeros_like(real)
    assert (moved - real).square().mean() > (blurred - real).square().mean()

    recorder = MapRecorder(encoder)

    def statistics(x):
        with recorder.recording() as maps:
            encoder(x)
        assert len(maps) == 2
        return map_statistics(maps, 8)

    here = torch.ones(8)
    far, near = (texture_distance(statistics(x), statistics(real), here) for x in (blurred, moved))
    assert float(near.detach()) < 0.5 * float(far.detach())
    assert float(texture_distance(statistics(real), statistics(real), here).detach()) == 0
    assert float(texture_distance(statistics(blurred), statistics(real), torch.zeros(8)).detach()) == 0


def test_rows_that_lack_the_modality_change_nothing():
    """They affect neither the deviations that measure distances nor the other rows' distances."""
    torch.manual_seed(0)
    mine, theirs = torch.randn(2, 6, 4)
    alone = texture_distance([mine], [theirs], torch.ones(6))
    mine, theirs = (torch.cat([x, torch.zeros(6, 4)]) for x in (mine, theirs))
    beside = texture_distance([mine], [theirs], torch.tensor([True] * 6 + [False] * 6))
    torch.testing.assert_close(2 * beside, alone)


def test_deviations_are_those_of_all_rows():
    """A few rows are compared in the deviations of the whole batch, which do not vary as those of two rows would."""
    torch.manual_seed(0)
    real = torch.randn(4000, 3) * torch.tensor([1.0, 2.0, 3.0])
    decoded = real[:2] + torch.tensor([1.0, 2.0, 3.0])  # one deviation away, for every channel
    assert float(texture_distance([decoded], [real], torch.ones(4000))) == pytest.approx(1.0, abs=0.05)
    few = torch.stack(
        [texture_distance([torch.randn(2, 8)], [torch.randn(16, 8)], torch.ones(16)) for _ in range(2000)]
    )
    assert float(few.mean()) == pytest.approx(2.0, rel=0.15)  # of two draws of one distribution, in its deviations
    assert float(few.max()) < 12
    alone = torch.zeros(16)
    alone[0] = 1
    assert float(texture_distance([torch.randn(16, 8)], [torch.randn(16, 8)], alone)) == 0  # one row has no deviation


def test_texture_trains_decoders_and_no_encoder_by_itself():
    """The gradient passes only through the decoded x. Rows without the modality do not count."""
    torch.manual_seed(0)
    modalities = {name: ConvolvedFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    table = Posterior(latent_dim=2, feature_dim=4, hidden_dim=8)
    model = Autoencoder(modalities, table)
    x = {name: torch.randn(6, 2) for name in "ab"}
    presence = torch.tensor([[True, False]] * 6)
    texture = model.bound(x, presence).added["texture"]
    assert float(texture.detach()) > 0
    texture.backward()
    assert any(p.grad is not None and p.grad.any() for p in model.decoders["a"].parameters())
    assert not any(p.grad is not None and p.grad.any() for p in model.decoders["b"].parameters())
    asked = torch.randn(6, 2, requires_grad=True)
    model.zero_grad()
    with model.recorders["a"].recording() as maps:
        call_frozen(model.encoders["a"], asked)
    maps[0].sum().backward()
    assert asked.grad.any()
    assert not any(p.grad is not None and p.grad.any() for p in model.encoders["a"].parameters())
    plain = {name: TwoFloats(TwoFloatsOptions(field=name)) for name in "ab"}
    assert "texture" not in Autoencoder(plain, table).bound(x, presence).added


def test_terms_train_decoders_of_clips_and_of_mixtures():
    """Recognition and texture reach every weight of decoders whose likelihoods are lazy, or choose among components."""
    Video, Image = pytest.importorskip("shala_video").Video, pytest.importorskip("shala_image").Image
    modalities = {
        "clip": Video(frames=4, height=16, width=16, channels=8, training_frames=1),
        "picture": Image(height=28, width=28, network_width=8, likelihood="logistic_mixture", components=3),
    }
    torch.manual_seed(0)
    model = Autoencoder(modalities, Posterior(latent_dim=2, feature_dim=4, hidden_dim=8, auxiliary_share=0.5)).train()
    x = {name: torch.randint(0, 256, (4, *m.shape), dtype=torch.uint8) for name, m in modalities.items()}
    added = model.bound(x, torch.ones(4, 2, dtype=torch.bool)).added
    for term in ("recognition", "texture"):
        model.zero_grad()
        added[term].backward(retain_graph=True)
        for name, p in model.decoders.named_parameters():
            # The scale of the clip's likelihood has no part in its mode.
            assert name == "clip.log_scale.scaled" or (p.grad is not None and p.grad.any()), f"{term}: {name}"
