"""Pretrained encoders of pictures: the networks of other libraries, with random weights saved to disk."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from shala_image import Image

from shala_framework.plugin import DataError, PretrainedEncoder

SMALL = {"height": 32, "width": 32, "network_width": 8, "refiner_width": 0, "encoder_side": 64}


def pictures(count: int = 8) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def as_seen(x: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """The pictures as a network of side 64 takes them."""
    resized = torch.nn.functional.interpolate(x / 255, (64, 64), mode="bilinear", antialias=True)
    return (resized - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def save_timm(folder: Path) -> tuple[str, torch.nn.Module]:
    timm = pytest.importorskip("timm")
    torch.manual_seed(1)
    network = timm.create_model("test_resnet", pretrained=False)
    with torch.no_grad():
        for value in network.buffers():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))  # statistics of batch norm
    save_file(network.state_dict(), folder / "weights.safetensors")
    return "timm:test_resnet", network.eval()


def save_torchvision(folder: Path) -> tuple[str, torch.nn.Module]:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(1)
    network = torchvision.models.get_model("mobilenet_v3_small", weights=None)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return "torchvision:mobilenet_v3_small", network.eval()


@pytest.fixture(params=[save_timm, save_torchvision], ids=["timm", "torchvision"])
def saved(request, tmp_path):
    """The option encoder, the file of its weights, and the network with its classifier."""
    encoder, network = request.param(tmp_path)
    return encoder, str(tmp_path / "weights.safetensors"), network


def test_features_are_those_of_the_saved_network(saved):
    """The encoder's network returns what the library's own returns before its classifier, for resized pictures."""
    encoder, weights, network = saved
    made = Image(**SMALL, encoder=encoder, encoder_weights=weights).encoder(16).eval()
    assert isinstance(made, PretrainedEncoder)
    x = as_seen(pictures(), tuple(made.mean.flatten()), tuple(made.std.flatten()))
    with torch.no_grad():
        if encoder.startswith("timm"):
            expected = network.forward_head(network.forward_features(x), pre_logits=True)
        else:
            expected = network.avgpool(network.features(x)).flatten(1)
        torch.testing.assert_close(made.network_features(pictures()).flatten(1), expected, rtol=1e-4, atol=1e-4)
        assert made(pictures()).shape == (8, 16)
        torch.testing.assert_close(made.train()(pictures(3)), made.eval()(pictures())[:3], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(made(pictures().float()), made(pictures()))  # the relaxed form of a likelihood


def test_weights_that_are_not_there_are_an_error_in_training(saved, tmp_path):
    """A missing file and another model's are named; without them the encoder can only be given a checkpoint."""
    encoder, weights, _ = saved
    Path(weights).rename(tmp_path / "moved.safetensors")
    save_file({"some.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    for given, message in (
        (weights, "option encoder_weights: expected the weights of .* found no such file"),
        (str(tmp_path / "other.safetensors"), "option encoder_weights: expected the weights of .* it lacks .*"),
    ):
        made = Image(**SMALL, encoder=encoder, encoder_weights=given).encoder(8)
        made.eval()(pictures(1))
        with pytest.raises(DataError, match=message):
            made.train()(pictures(1))
    whole = Image(**SMALL, encoder=encoder, encoder_weights=str(tmp_path / "moved.safetensors")).encoder(8)
    made.load_state_dict(whole.state_dict())
    torch.testing.assert_close(made.train()(pictures(3)), whole(pictures(3)))


@pytest.mark.parametrize("trained", [False, True])
def test_only_trained_weights_have_gradients(saved, trained):
    """The head always learns; statistics of batch norm stay in training."""
    encoder, weights, _ = saved
    made = Image(**SMALL, encoder=encoder, encoder_weights=weights, encoder_trained=trained).encoder(8).train()
    buffers = {name: value.clone() for name, value in made.named_buffers()}
    made(pictures()).square().sum().backward()
    assert all((parameter.grad is not None) == trained for parameter in made.network.parameters())
    assert all(parameter.grad is not None for parameter in made.head.parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in made.named_buffers())


def test_weights_are_found_in_the_caches(tmp_path, monkeypatch):
    """Weights that a library has downloaded before are used, and nothing is downloaded."""
    torchvision = pytest.importorskip("torchvision")
    _, network = save_torchvision(tmp_path)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    options = {**SMALL, "encoder": "torchvision:mobilenet_v3_small"}
    missing = Image(**options).encoder(8).missing
    assert "download them once with `python -c" in missing
    name = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT.url.rpartition("/")[2]
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    made = Image(**options).encoder(8)
    assert not made.missing
    assert torch.equal(made.network.features[0][0].weight, network.features[0][0].weight)


def test_weights_of_timm_are_found_in_the_hub_cache(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    from huggingface_hub import constants

    encoder, network = save_timm(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    options = {**SMALL, "encoder": encoder}
    assert "timm.create_model('test_resnet', pretrained=True)" in Image(**options).encoder(8).missing
    repository = f"models--{network.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    place = tmp_path / "hub" / repository / "snapshots" / "0123"
    place.mkdir(parents=True)
    (tmp_path / "hub" / repository / "refs").mkdir()
    (tmp_path / "hub" / repository / "refs" / "main").write_text("0123")
    save_file(network.state_dict(), place / "model.safetensors")
    made = Image(**options).encoder(8)
    assert not made.missing
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in made.network.state_dict().items())


def test_a_folder_of_transformers_is_an_encoder(tmp_path):
    """A vision transformer that was saved to a folder, with its own side and colours."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    network = transformers.ViTModel(config).eval()
    network.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}'
    )
    made = Image(height=32, width=32, encoder=f"transformers:{tmp_path / 'vit'}").encoder(8).eval()
    assert (made.side, made.missing) == (32, "")
    with torch.no_grad():
        expected = network(pixel_values=pictures() / 255 - 0.5).pooler_output
        torch.testing.assert_close(made.network_features(pictures()), expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "vit" / "model.safetensors").unlink()
    assert "expected the weights of" in Image(encoder=f"transformers:{tmp_path / 'vit'}").encoder(8).missing
    with pytest.raises(DataError, match="expected a folder or a cached model of transformers"):
        Image(encoder=f"transformers:{tmp_path / 'nothing'}").encoder(8)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_unknown_model_is_named(library):
    pytest.importorskip(library)
    with pytest.raises(DataError, match=f"expected a model of its library, got '{library}:resnot18'"):
        Image(encoder=f"{library}:resnot18").encoder(8)


def test_a_library_that_is_not_installed_is_named(monkeypatch):
    """The message says which package an option needs, and how to install it."""
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(DataError, match=r"'timm:...' needs the package timm.*pip install 'shala-image\[timm\]'"):
        Image(encoder="timm:resnet18").encoder(8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet18"}, "expected one of 'timm:MODEL', 'torchvision:MODEL', 'transformers:MODEL'"),
        ({"encoder": "timm:"}, "expected one of"),
        ({"encoder": "timm:resnet18", "encoder_weights": "w.pth"}, "expected a .safetensors file"),
        ({"encoder_trained": True}, "expected the option encoder beside encoder_weights"),
    ],
)
def test_wrong_options_say_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        Image(**options)
