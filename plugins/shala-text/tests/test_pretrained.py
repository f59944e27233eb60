"""Pretrained encoders of texts: a model of transformers with random weights and a small tokenizer, saved to disk."""

import sys

import pytest
import torch
from shala_text import Text

from shala_framework.plugin import DataError

WORDS = ["a", "red", "blue", "circle", "square", "two", "of", "them"]
CAPTIONS = ["a red circle", "a blue square", "two of them", "a red square of blue"]


@pytest.fixture
def bert(tmp_path):
    """A folder with a BERT of one layer and its tokenizer of whole words, and the model."""
    transformers = pytest.importorskip("transformers")
    import tokenizers

    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()
    model.save_pretrained(tmp_path / "bert")
    known = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "bert")
    return tmp_path / "bert", model, known


def fitted(**options):
    text = Text(vocabulary_size=300, max_tokens=24, width=16, heads=2, **options)
    text.fit({"txt": caption.encode()} for caption in CAPTIONS)
    return text, torch.stack([text.read({"txt": caption.encode()}) for caption in CAPTIONS])


def test_features_are_those_of_the_model_for_the_same_text(bert):
    """Texts of any length, and none, get the mean of the model's outputs over their own tokens."""
    folder, model, known = bert
    text, x = fitted(encoder=f"transformers:{folder}")
    made = text.encoder(8).eval()
    with torch.no_grad():
        found = made.network_features(x)
        for caption, row in zip(CAPTIONS, found, strict=True):
            tokens = torch.tensor([[known[word] for word in caption.split()]])
            expected = model(input_ids=tokens).last_hidden_state.mean(1)[0]
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)
        assert made(torch.zeros_like(x)).isfinite().all()
        beside = torch.cat([x[:2], torch.zeros_like(x[:1])])
        torch.testing.assert_close(made(beside)[:2], made(x)[:2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made(beside)[2], made(torch.zeros_like(x))[0], rtol=1e-4, atol=1e-5)
        long = x[:1].expand(1, -1).clone()
        long[0, :23] = x[0, :2].repeat(12)[:23]
        assert made(long).isfinite().all()  # cut to the model's positions
        torch.testing.assert_close(made(x[1:2]), made(x)[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trained", [False, True])
def test_weights_are_frozen_unless_they_are_trained(bert, trained):
    folder, _, _ = bert
    text, x = fitted(encoder=f"transformers:{folder}", encoder_trained=trained)
    made = text.encoder(8).train()
    made(x).square().sum().backward()
    learning = [name for name, parameter in made.network.named_parameters() if parameter.grad is not None]
    assert bool(learning) == trained
    assert all(parameter.grad is not None for parameter in made.head.parameters())
    (folder / "model.safetensors").unlink()
    fresh = text.encoder(8)
    with pytest.raises(DataError, match=r"expected the weights of .*; download them once with `python -c"):
        fresh.train()(x)
    fresh.load_state_dict(made.state_dict())
    torch.testing.assert_close(fresh.train()(x), made(x))


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    """No such folder, no such library, and another library."""
    with pytest.raises(ValueError, match="expected 'transformers:MODEL'"):
        Text(encoder="timm:resnet18")
    with pytest.raises(ValueError, match="expected the option encoder beside encoder_trained"):
        Text(encoder_trained=True)
    text, _ = fitted(encoder=f"transformers:{tmp_path / 'nothing'}")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"needs the package transformers.*pip install 'shala-text\[transformers\]'"):
        text.encoder(8)
    monkeypatch.undo()
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match="expected a folder or a cached model of transformers"):
        text.encoder(8)
