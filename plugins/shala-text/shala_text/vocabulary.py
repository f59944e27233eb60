"""Byte-level byte pair encoding, which converts any text to tokens and back.

Tokens are integers: 0 is padding, 1 ends a text, and the 256 bytes and their merges start at 2. Ids of the `tokenizers`
library are shifted by 2 instead of sharing their space with special words, so no text can contain the end token.

Reference: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units".
"""

import json
from collections.abc import Iterable
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD: Final = 0
END: Final = 1
FIRST_WORD: Final = 2  # token of the library's id 0
MINIMUM_SIZE: Final = FIRST_WORD + 256

_LONGEST_TOKEN = 32  # bytes
# Every prefix of a piece is a piece too, so a text cut between two tokens keeps its tokens.
_PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
_PROBE = "A word, 1 Größe\u2026"


def longest_text(max_tokens: int) -> int:
    """Return the number of characters beyond which a text cannot affect its first tokens."""
    return _LONGEST_TOKEN * max_tokens


class Vocabulary:
    """The tokens of a set of texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def fit(cls, texts: Iterable[str], size: int) -> "Vocabulary":
        """Merge the most frequent pairs until there are `size` tokens, or fewer if the texts vary less.

        Args:
            texts: Clean texts, read once. Equal texts give equal vocabularies, in any order.
            size: Largest number of tokens, at least 258: padding, the end and the 256 bytes.
        """
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size - FIRST_WORD,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            max_token_length=_LONGEST_TOKEN,
        )
        tokenizer.train_from_iterator(iter(texts), trainer=trainer)
        return cls(tokenizer)

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Restore the result of `to_json`.

        Raises:
            ValueError: The text is not a byte-level vocabulary of the `tokenizers` library.
        """
        try:
            kind = json.loads(text)["model"]["type"]
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # the library raises no narrower class
            raise ValueError(f"expected a vocabulary in JSON, got {text[:40]!r} ({error})") from error
        ids = sorted(tokenizer.get_vocab().values())
        if kind != "BPE" or ids != list(range(len(ids))) or len(ids) < MINIMUM_SIZE - FIRST_WORD:
            raise ValueError(f"expected a vocabulary of type BPE with at least 256 entries, got {kind} with {len(ids)}")
        if tokenizer.decode(tokenizer.encode(_PROBE).ids) != _PROBE:
            raise ValueError("expected a byte-level vocabulary, got one that does not reproduce a text")
        return cls(tokenizer)

    def to_json(self) -> str:
        """Return the vocabulary as JSON of the `tokenizers` library."""
        return str(self._tokenizer.to_str())

    @property
    def num_tokens(self) -> int:
        """Number of tokens, including padding and the end."""
        return int(self._tokenizer.get_vocab_size()) + FIRST_WORD

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Return the tokens of a clean text and the end, at most `max_tokens` in total.

        A longer text is cut at max_tokens - 1 tokens, or slightly earlier if that would divide a character or leave a
        space at the end. The kept tokens are those of a valid text.

        Args:
            text: Clean text, not empty.
            max_tokens: Largest number of tokens, at least 2.
        """
        # No token is longer, so the rest could not be kept. A huge text then costs no more than a long one.
        tokens = self._words(text[: longest_text(max_tokens)])
        if len(tokens) >= max_tokens:
            tokens = tokens[: max_tokens - 1]
            while tokens and self._words(self.decode(tokens).strip()) != tokens:
                tokens.pop()
        return [*tokens, END]

    def count(self, text: str) -> int:
        """Count the tokens of a clean text, with the end."""
        return len(self._words(text)) + 1

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of the tokens before the first end. Invalid UTF-8 becomes replacement characters."""
        words = []
        for token in tokens:
            if token == END:
                break
            if token != PAD:
                words.append(token - FIRST_WORD)
        return str(self._tokenizer.decode(words, skip_special_tokens=False))

    def _words(self, text: str) -> list[int]:
        return [FIRST_WORD + word for word in self._tokenizer.encode(text, add_special_tokens=False).ids]
