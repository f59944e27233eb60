"""A model with pretrained encoders is trained, saved, and loaded where the pretrained weights are gone."""

import pytest
import torch
from safetensors.torch import save_file

import shala_framework as shala
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
