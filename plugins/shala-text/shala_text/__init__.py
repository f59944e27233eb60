"""Free text as a modality: reports, captions or single words, as tokens of a vocabulary that is fitted to them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, final

import attrs
import torch
from torch import Tensor, nn

from shala_framework.plugin import (
    CutOff,
    DataError,
    Modality,
    Preview,
    above,
    at_least,
    between,
    each,
    hookimpl,
    multiple_of,
    not_empty,
)
from shala_text.decoder import TextDecoder
from shala_text.encoder import TextEncoder
from shala_text.pretrained import PretrainedTextEncoder, known_library
from shala_text.reading import decode_utf8, normalise, printable
from shala_text.sections import keep_sections
from shala_text.vocabulary import MINIMUM_SIZE, PAD, Vocabulary, longest_text

MOST_COUNTED = 100_000  # characters of a text whose tokens are counted for a message


@final
class Text(Modality):
    """Texts x, int64 [L] of tokens: those of the text, then 1 for its end, then 0 for padding.

    An empty field, one with only white space, or a report without any wanted section, counts as a missing modality. A
    text of more than L - 1 tokens is cut there, and the vocabulary is fitted to the part that is kept.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options of a text modality.

        Attributes:
            fields: Sample fields to look for, in this order; UTF-8 text.
            vocabulary_size: Largest number of tokens of the vocabulary that is fitted to the training samples, at least
                258.
            max_tokens: Number of tokens L of x, including its end. Longer texts are cut; a word may take several
                tokens.
            max_bytes: Number of bytes of a text that are read. The rest is dropped before any processing.
            lower_case: Whether to convert text to lower case.
            sections: Sections of a report to keep, such as ["FINDINGS", "IMPRESSION"]; an empty list keeps the whole
                text. Titles are interpreted as by MIMIC-CXR's own parser: a conclusion is an impression, and text under
                "CHEST, TWO VIEWS:" is findings. In a report with neither findings nor impression, everything after the
                first paragraph of its last section counts as findings.
            encoder: Pretrained encoder instead of the plugin's own: "transformers:FOLDER", or the name of a model in
                the cache of transformers, which has to be installed; nothing is downloaded. It reads the text that the
                tokens of x stand for, in tokens of its own.
            encoder_trained: Whether training changes the pretrained weights; otherwise they are frozen, and only two
                layers after them learn.
            width: Width of the networks, a multiple of 8.
            num_layers: Number of layers of the decoder. The encoder has one less, but at least one.
            heads: Number of attention heads of each layer; a divisor of width.
            word_dropout: Share of the tokens that are hidden from the decoder's input during training, which makes it
                use z.
            temperature: Sampling temperature. Values below 1 favour likely tokens. With 1 and top_p = 1, samples follow
                log_prob exactly.
            top_p: Samples use only the most likely tokens that together have this probability (nucleus sampling).
        """

        fields: tuple[str, ...] = attrs.field(default=("txt",), validator=[not_empty, each(not_empty)])
        vocabulary_size: int = attrs.field(default=2000, validator=at_least(MINIMUM_SIZE, at_most=1_000_000))
        max_tokens: int = attrs.field(default=96, validator=at_least(8, at_most=16_384))
        max_bytes: int = attrs.field(default=1 << 20, validator=at_least(1024, at_most=1 << 40))
        lower_case: bool = False
        sections: tuple[str, ...] = attrs.field(default=(), validator=each(not_empty))
        encoder: str | None = attrs.field(default=None, validator=known_library)
        encoder_trained: bool = False
        width: int = attrs.field(default=128, validator=[at_least(8, at_most=16_384), multiple_of(8)])
        num_layers: int = attrs.field(default=3, validator=at_least(1, at_most=1_000))
        heads: int = attrs.field(default=4, validator=at_least(1, at_most=16_384))
        word_dropout: float = attrs.field(default=0.2, validator=between(0, 1))
        temperature: float = attrs.field(default=1.0, validator=[above(0), between(0.001, 100)])
        top_p: float = attrs.field(default=1.0, validator=[above(0), between(0, 1)])

        def __attrs_post_init__(self) -> None:
            if self.encoder is None and self.encoder_trained:
                raise ValueError("expected the option encoder beside encoder_trained, got none")
            if self.width % self.heads:
                raise ValueError(f"expected heads to be a divisor of width = {self.width}, got {self.heads}")

    options: Options
    dtype = torch.int64
    network_options = frozenset(
        {"width", "num_layers", "heads", "word_dropout", "temperature", "top_p", "encoder", "encoder_trained"}
    )

    def __init__(self, options: Options | None = None, /, **values: Any) -> None:
        super().__init__(options, **values)
        self._vocabulary: Vocabulary | None = None

    @property
    def shape(self) -> tuple[int]:
        return (self.options.max_tokens,)

    @property
    def limits(self) -> tuple[int, int]:
        """The first and the last token."""
        return PAD, self._num_tokens - 1

    @property
    def fields(self) -> tuple[str, ...]:
        return self.options.fields

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary that `fit` learned.

        Raises:
            ValueError: Neither `fit` nor `load_state` was called.
        """
        if self._vocabulary is None:
            raise ValueError("expected a fitted text modality, got one without a vocabulary; call fit or load_state")
        return self._vocabulary

    def fit(self, samples: Iterable[Mapping[str, bytes]]) -> None:
        """Learn the vocabulary from the training samples in one pass, without keeping them.

        Raises:
            DataError: A field is not text, or no sample has one.
        """
        num_texts = 0

        def texts() -> Iterator[str]:
            nonlocal num_texts
            for sample in samples:
                text = self._text(sample)
                if text:
                    num_texts += 1
                    yield text[: longest_text(self.options.max_tokens)]

        vocabulary = Vocabulary.fit(texts(), self.options.vocabulary_size)
        if not num_texts:
            sections = f" with one of the sections {list(self.options.sections)}" if self.options.sections else ""
            raise DataError(
                f"expected training samples with text in one of the fields {list(self.fields)}{sections}, got none; "
                f"check the options `fields` and `sections` against what the shards hold"
            )
        self._vocabulary = vocabulary

    def state(self) -> dict[str, Any]:
        """Return the vocabulary as JSON of the `tokenizers` library."""
        return {"vocabulary": self.vocabulary.to_json()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if set(state) != {"vocabulary"} or not isinstance(state["vocabulary"], str):
            raise ValueError(f"expected a state with the text 'vocabulary', got keys {sorted(state)}")
        self._vocabulary = Vocabulary.from_json(state["vocabulary"])

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        """Decode the first of `fields` that the sample has: int64 [L]. An empty text counts as missing: None.

        Raises:
            DataError: The field is not UTF-8 text.
        """
        text = self._text(sample)
        if not text:
            return None
        tokens = self.vocabulary.encode(text, self.options.max_tokens)
        x = torch.full(self.shape, PAD)
        x[: len(tokens)] = torch.tensor(tokens)
        return x

    def count_values(self, x: Tensor) -> Tensor:
        """Count the tokens of each text, with its end unless the text fills x, where its end is certain: int64 [B]."""
        return (x[:, :-1] != PAD).sum(1)

    def blank_reason(self) -> str:
        """Say that the text is blank, or has none of the wanted sections."""
        sections = self.options.sections
        return f"it has no section {' or '.join(sections)}" if sections else "it is blank"

    def cut_off(self, sample: Mapping[str, bytes]) -> CutOff | None:
        """Count the tokens of a text, with its end, of which `max_tokens` are kept."""
        most = self.options.max_tokens
        num_tokens = self.vocabulary.count(self._text(sample)[:MOST_COUNTED])
        if num_tokens <= most:
            return None
        excess = f"have more than max_tokens = {most} tokens"
        return CutOff(excess=excess, amount=num_tokens, consequence="the rest is cut off; raise max_tokens to keep it")

    def typed(self, text: str) -> dict[str, bytes]:
        """Return the first of `fields` with a typed text."""
        return {self.fields[0]: text.encode(errors="surrogatepass")}

    def write(self, x: Tensor) -> dict[str, bytes]:
        """Encode the text as one line of UTF-8 under "txt"."""
        return {"txt": f"{self._shown(x)}\n".encode()}

    def preview(self, x: Tensor) -> Preview:
        """Show the text itself."""
        return Preview(text=self._shown(x))

    def encoder(self, feature_dim: int) -> nn.Module:
        """Encode x, int64 [B, L], as h [B, feature_dim].

        Raises:
            DataError: transformers is not installed, or there is no such pretrained model.
        """
        options = self.options
        if options.encoder is not None:
            return PretrainedTextEncoder(self.vocabulary, options.encoder, feature_dim, trained=options.encoder_trained)
        return TextEncoder(
            self._num_tokens,
            options.max_tokens,
            options.width,
            max(1, options.num_layers - 1),
            options.heads,
            feature_dim,
        )

    def decoder(self, latent_dim: int) -> nn.Module:
        """Decode z [B, latent_dim] as a likelihood of texts, token by token."""
        options = self.options
        return TextDecoder(
            self._num_tokens,
            options.max_tokens,
            options.width,
            options.num_layers,
            options.heads,
            latent_dim,
            word_dropout=options.word_dropout,
            temperature=options.temperature,
            top_p=options.top_p,
        )

    @property
    def _num_tokens(self) -> int:
        """Number of rows of the networks' tables. Before `fit` it is the maximum, so a dry run can count parameters."""
        return self._vocabulary.num_tokens if self._vocabulary is not None else self.options.vocabulary_size

    def _text(self, sample: Mapping[str, bytes]) -> str:
        """Return the clean text of the first of `fields` that the sample has; empty if the modality is missing."""
        field = self.first_field(sample)
        if field is None:
            return ""
        text = decode_utf8(sample[field], field, self.options.max_bytes)
        if self.options.sections:
            text = keep_sections(text, self.options.sections)
        return normalise(text, self.options.lower_case)

    def _shown(self, x: Tensor) -> str:
        return printable(self.vocabulary.decode(x.tolist()))


@hookimpl
def shala_register_modalities(register: Any) -> None:
    register("text", Text)
