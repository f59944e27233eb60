"""A model with pretrained encoders is trained, saved, and loaded where the pretrained weights are gone."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import shala_framework as shala
from shala_framework.autoencoder.maps import MapRecorder
from shala_framework.plugin import pretrained
from shala_framework.plugin.pretrained import PretrainedEncoder
from shala_framework.support.errors import DataError

SETTINGS = {"steps": 3, "batch_size": 4, "device": "cpu", "precision": "float32"}


@pytest.mark.parametrize("trained", [False, True])
def test_a_trained_model_needs_no_pretrained_weights(trained, tmp_path):
    """Weights change only if asked for, statistics never; the run embeds and samples alike without the file."""
    image, timm = pytest.importorskip("shala_image"), pytest.importorskip("timm")
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    photo = image.Image(
        height=32, width=32, network_width=8, refiner_width=0, encoder="timm:test_resnet", encoder_side=64,
        encoder_weights=str(weights), encoder_trained=trained,
    )  # fmt: skip
    x = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    model = shala.ShaLa({"photo": photo}, latent_dim=4, feature_dim=8, hidden_dim=8).build()
    network = model.autoencoder.encoders["photo"].network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shala.train(model, {"photo": x}, out=tmp_path / "run", **SETTINGS)
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= set(dict(network.named_parameters()))
    assert bool(changed) == trained
    weights.unlink()
    loaded = shala.load(tmp_path / "run")
    torch.testing.assert_close(loaded.embed({"photo": x}), model.embed({"photo": x}))
    assert loaded.generate(2)["photo"].shape == (2, 3, 32, 32)
    fresh = shala.ShaLa({"photo": photo}, latent_dim=4, feature_dim=8, hidden_dim=8)
    with pytest.raises(DataError, match=r"option encoder_weights: expected the weights of .* found no such file"):
        shala.train(fresh, {"photo": x}, **SETTINGS)


class CountingEncoder(PretrainedEncoder):
    """A frozen convolution over rows of 6 integers, which counts the rows that it is called for."""

    def __init__(self, **options):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3))
        super().__init__(network, num_features=16, feature_dim=16, trained=options.pop("trained", False), **options)
        self.calls = []

    def network_features(self, x):
        self.calls.append(len(x))
        return self.network(x.float())


def rows(count=8):
    return torch.randint(0, 9, (count, 6), generator=torch.Generator().manual_seed(3))


def test_a_frozen_network_sees_each_row_once():
    """By the content of the row, in any batch and order, in training or not; features have the bits of a single row."""
    cached, plain = CountingEncoder(cached=True), CountingEncoder()
    x = rows()
    assert torch.allclose(cached(x), plain(x), atol=1e-6)
    cached.head = nn.Identity()
    assert torch.equal(cached(x.flip(0)), cached.eval()(x).flip(0))
    assert torch.equal(cached.train()(torch.cat([x[3:5], x[3:4]])), torch.stack([cached(x)[n] for n in (3, 4, 3)]))
    assert cached.calls == [1] * 8
    other = CountingEncoder(cached=True)
    other.head = nn.Identity()
    assert torch.equal(other(x[5:]), cached(x)[5:])  # as a resumed run meets rows in other batches


def test_only_a_frozen_network_and_exact_rows_are_cached(monkeypatch):
    """Not one that is trained or does not ask for it, nor rows with a gradient; new weights forget everything."""
    x = rows()
    for made in (CountingEncoder(), CountingEncoder(cached=True, trained=True)):
        made(x), made(x)
        assert made.calls == [8, 8]
    made = CountingEncoder(cached=True)
    likely = x.float().requires_grad_()
    made(likely).sum().backward()
    assert (made.calls, likely.grad is not None) == ([8], True)
    made(x)
    changed = {name: value + 1 for name, value in made.state_dict().items()}
    made.load_state_dict(changed)
    plain = CountingEncoder()
    plain.load_state_dict(changed)
    torch.testing.assert_close(made(x), plain(x))
    monkeypatch.setattr(pretrained, "MOST_CACHED_BYTES", 4 * 16 * 3)  # room for three rows
    small = CountingEncoder(cached=True)
    small(x), small(x)
    assert len(small.calls) == 8 + 5


def test_maps_are_recorded_in_spite_of_the_cache():
    """A recorder gets the maps of rows whose features are known; afterwards the cache is in use again."""
    made, x = CountingEncoder(cached=True), rows()
    recorder = MapRecorder(made)
    made(x)
    with recorder.recording() as maps:
        made(x)
    assert [tuple(found.shape) for found in maps] == [(8, 4, 4)]
    calls = len(made.calls)
    made(x)
    assert len(made.calls) == calls


def test_a_program_of_a_cached_encoder_computes_features():
    """`shala export` traces the network itself, not what is in the cache."""
    made, x = CountingEncoder(cached=True).eval(), rows()
    known = made(x[:4])
    program = torch.export.export(made, (x[:4],), strict=False).module()
    torch.testing.assert_close(program(x[:4]), known)
    torch.testing.assert_close(program(x[4:] + 1), made(x[4:] + 1))


def test_stage_1_calls_a_frozen_network_once_a_row(tmp_path):
    """Over all epochs, validation, and the latents of stage 2; the texture term, which records maps, is off."""
    image, timm = pytest.importorskip("shala_image"), pytest.importorskip("timm")
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    x = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    for augment, most in (({}, 8 + 4), ({"flip": True}, 1_000)):
        photo = image.Image(
            height=32, width=32, network_width=8, refiner_width=0, encoder="timm:test_resnet", encoder_side=64,
            encoder_weights=str(weights), augment=augment,
        )  # fmt: skip
        off = {"texture_weight": 0.0, "recognition_weight": 0.0}
        model = shala.ShaLa({"photo": photo}, latent_dim=4, feature_dim=8, hidden_dim=8, **off).build()
        seen = []
        model.autoencoder.encoders["photo"].network.register_forward_hook(
            lambda _, x, __, seen=seen: seen.append(len(x[0]))
        )
        shala.train(model, {"photo": x}, validation={"photo": x[:4].flip(3)}, **SETTINGS)
        assert 8 <= sum(seen) <= most
        assert (sum(seen) > 12) == bool(augment)
