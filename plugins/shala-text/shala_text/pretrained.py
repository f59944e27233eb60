"""Encoders of texts from transformers.

Shapes: B batch, L tokens of x, S tokens of the model, K its width, F feature_dim.
"""

from typing import Any

import torch
from torch import Tensor

from shala_framework.plugin import DataError, PretrainedEncoder, load_transformers
from shala_text.vocabulary import Vocabulary

MOST_TOKENS = 512  # of a model that does not say its own


def known_library(_: Any, __: Any, value: str | None) -> None:
    """Validator: accept a folder or model of transformers, such as "transformers:folder"."""
    library, _, model = (value or "").partition(":")
    if value is not None and (library != "transformers" or not model):
        raise ValueError(f"expected 'transformers:MODEL', such as 'transformers:models/bert', got {value!r}")


class PretrainedTextEncoder(PretrainedEncoder):
    """Encodes tokens, int64 [B, L], as features [B, F]: as text again, in the tokens of the pretrained model.

    Args:
        vocabulary: Vocabulary of x.
        encoder: The option, such as "transformers:folder".
        feature_dim: F.
        trained: Whether the model's weights are trained further.

    Raises:
        DataError: transformers is not installed, or there is no such model.
    """

    reads_on_cpu = True

    def __init__(self, vocabulary: Vocabulary, encoder: str, feature_dim: int, *, trained: bool) -> None:
        name = encoder.partition(":")[2]
        loaded = load_transformers(name, "shala-text[transformers]")
        model, config = loaded.network, loaded.config
        try:
            tokenizer = loaded.library.AutoTokenizer.from_pretrained(name, local_files_only=True)
        except (OSError, ValueError) as error:
            raise DataError(
                f"option encoder: expected the tokenizer of {encoder!r} in its folder or in the library's cache: "
                f"{error!s:.300}"
            ) from error
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()  # type: ignore[operator]
        model = getattr(model, "text_model", model)  # of a model of pictures and texts
        config = getattr(config, "text_config", config)
        super().__init__(
            model,
            num_features=config.hidden_size,
            feature_dim=feature_dim,
            trained=trained,
            missing=loaded.missing,
            cached=True,
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        longest = min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", MOST_TOKENS))
        self.vocabulary, self.tokenizer, self.longest = vocabulary, tokenizer, longest

    def network_features(self, x: Tensor) -> Tensor:
        """Return the mean of the model's outputs over the tokens of each text: float [B, K]."""
        tokens = self.tokenizer(
            [self.vocabulary.decode(row) for row in x.tolist()],
            padding=True,
            truncation=True,
            max_length=self.longest,
            return_tensors="pt",
        )
        ids_BS, mask_BS = tokens["input_ids"].long(), tokens["attention_mask"].long()
        if not ids_BS.shape[1]:
            ids_BS = ids_BS.new_full((len(x), 1), self.tokenizer.pad_token_id)
            mask_BS = torch.zeros_like(ids_BS)
        mask_BS[mask_BS.sum(1) == 0, 0] = 1  # a row without a text still needs a token
        ids_BS, mask_BS = ids_BS.to(x.device), mask_BS.to(x.device)
        h_BSK: Tensor = self.network(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state
        total_BK = (h_BSK.float() * mask_BS[:, :, None]).sum(1)
        mean_BK: Tensor = total_BK / mask_BS.sum(1, keepdim=True)
        return mean_BK
