"""Autoregressive decoder of texts given z, and its likelihood.

A decoder could get far from the preceding words alone. Three measures keep z in use: z scales and shifts every norm, it
raises and lowers the logit of each word of the vocabulary directly, and some input words are hidden during training
(Bowman et al. 2016, "Generating Sentences from a Continuous Space").

Shapes: B batch, L tokens of x, T tokens of the longest row, N real tokens of all rows, W width, C condition_dim, V
    possible next words (every token but padding; word v is token v + 1), D latent_dim.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn

from shala_framework.plugin import initialise, random_mask
from shala_text.transformer import Block, Norm, Packing, Past, without_common_padding
from shala_text.vocabulary import END, PAD

IMPOSSIBLE: Final = -1e9  # a logit that gives probability exactly 0 but is finite


class TextDecoder(nn.Module):
    """Decodes latents [B, D] as a likelihood of texts, int64 [B, L], with a causal transformer over words so far."""

    def __init__(
        self,
        num_tokens: int,
        max_tokens: int,
        width: int,
        num_layers: int,
        heads: int,
        latent_dim: int,
        *,
        word_dropout: float,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> None:
        super().__init__()
        self.max_tokens, self.word_dropout = max_tokens, word_dropout
        self.temperature, self.top_p = temperature, top_p
        # As inputs, padding stands for a hidden word, and the end, which nothing follows, for the beginning.
        self.embedding = nn.Embedding(num_tokens, width)
        self.position = nn.Parameter(0.1 * torch.randn(max_tokens - 1, width))
        self.condition = nn.Sequential(nn.Linear(latent_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(width, heads, causal=True, condition_dim=width) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.words_from_latent = nn.Linear(latent_dim, num_tokens - 1)
        initialise(self)
        with torch.no_grad():
            # The embedding is also the output layer: logits have variance 1, and inputs are scaled back to variance 1.
            self.embedding.weight.mul_(width**-0.5)
            self.words_from_latent.weight.mul_(0.5)
            # At full size, the contribution of z would hide the preceding words at first and double the training time.
            for module in self.modules():
                if isinstance(module, Norm) and module.modulation is not None:
                    module.modulation.weight.mul_(0.3)

    def forward(self, z_BD: Tensor) -> "TextLikelihood":
        condition_BC, words_BV = self.condition(z_BD), self.words_from_latent(z_BD).float()
        return TextLikelihood(self, condition_BC, words_BV, self.word_dropout if self.training else 0.0)

    def logits(
        self,
        inputs_BT: Tensor,
        packing: Packing,
        condition_BC: Tensor,
        words_BV: Tensor,
        *,
        start: int = 0,
        pasts: list[Past] | None = None,
    ) -> Tensor:
        """Return the unnormalised log-probabilities of the token after each real input: float32 [N, V].

        Args:
            inputs_BT: Tokens before the positions from `start` on; END before position 0.
            packing: Marks the real tokens.
            condition_BC: Condition of every norm, computed from z.
            words_BV: Contribution of z to each word's logit at every position.
            start: Position after the first input.
            pasts: One for each block, with the tokens before inputs_BT; T is then 1.
        """
        position_TW = self.position[start : start + inputs_BT.shape[1]]
        h_NW = packing.pack(self.embedding(inputs_BT) * self.embedding.embedding_dim**0.5 + position_TW)
        for index, block in enumerate(self.blocks):
            h_NW = block(h_NW, packing, condition_BC, pasts[index] if pasts is not None else None)
        logits_NV = nn.functional.linear(self.norm(h_NW), self.embedding.weight[1:]).float()
        logits_NV = logits_NV + words_BV.index_select(0, packing.row_N)
        # A text has at least one word.
        first_N = packing.position_N + start == 0
        end_N1 = logits_NV[:, :1].masked_fill(first_N[:, None], IMPOSSIBLE)
        return torch.cat([end_N1, logits_NV[:, 1:]], 1)


class TextLikelihood:
    """p(x | z) of texts, word by word.

    A text has from 1 to L - 1 words and an end. The end cannot come first, and it is certain after L - 1 words. The
    probabilities of all texts that x can hold therefore sum to 1. Padding does not contribute.
    """

    is_bound = False

    def __init__(self, decoder: TextDecoder, condition_BC: Tensor, words_BV: Tensor, word_dropout: float) -> None:
        self.decoder, self.condition_BC, self.words_BV = decoder, condition_BC, words_BV
        self.word_dropout = word_dropout

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of int64 x [B, L] in nats: [B]; 0 for rows of only padding.

        In training mode, each call hides a random share of the words from the decoder, so the result is the
        log-likelihood under a decoder that sees less. In eval mode it is exact.
        """
        x_BT = without_common_padding(x[:, :-1])  # the last token is the end, which is certain
        inputs_BT = nn.functional.pad(x_BT[:, :-1], (1, 0), value=END)
        if self.word_dropout > 0:
            # Drawn for all positions of x: the longest text differs among processes.
            hidden_BT = random_mask(x[:, :-1], self.word_dropout)[:, : inputs_BT.shape[1]]
            hidden_BT[:, 0] = False
            inputs_BT = inputs_BT.masked_fill(hidden_BT, PAD)
        packing = Packing(x_BT != PAD)
        logits_NV = self.decoder.logits(inputs_BT, packing, self.condition_BC, self.words_BV)
        following_N = (packing.pack(x_BT) - 1).clamp_min(0)  # packed padding does not count
        log_prob_N = -nn.functional.cross_entropy(logits_NV, following_N, reduction="none")
        return packing.row_sums(log_prob_N)

    def mode(self) -> Tensor:
        """Generate the text of the most likely next word at each step: int64 [B, L]."""
        return self._generate(lambda logits_BV: logits_BV.argmax(1))

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Sample texts, int64 [B, L], at the decoder's temperature from the words within its top_p."""

        def draw(logits_BV: Tensor) -> Tensor:
            probability_BV = torch.softmax(logits_BV / self.decoder.temperature, 1)
            if self.decoder.top_p < 1:
                probability_BV = nucleus(probability_BV, self.decoder.top_p)
            return torch.multinomial(probability_BV, 1, generator=generator)[:, 0]

        return self._generate(draw)

    @torch.no_grad()
    def _generate(self, choose: Callable[[Tensor], Tensor]) -> Tensor:
        decoder, batch_size = self.decoder, self.condition_BC.shape[0]
        last = decoder.max_tokens - 1
        x_BL = torch.full((batch_size, decoder.max_tokens), PAD, device=self.condition_BC.device)
        token_B, going_B = torch.full_like(x_BL[:, 0], END), torch.full_like(x_BL[:, 0], True, dtype=torch.bool)
        pasts = [Past() for _ in decoder.blocks]
        packing = Packing(going_B[:, None])
        for position in range(last):
            logits_BV = decoder.logits(
                token_B[:, None], packing, self.condition_BC, self.words_BV, start=position, pasts=pasts
            )
            token_B = choose(logits_BV) + 1
            x_BL[:, position] = torch.where(going_B, token_B, PAD)
            going_B = going_B & (token_B != END)
            if not torch.compiler.is_exporting() and not going_B.any():
                break
        x_BL[:, last] = torch.where(going_B, END, PAD)
        return x_BL


def nucleus(probability_BV: Tensor, top_p: float) -> Tensor:
    """Keep the fewest most likely words that together have probability top_p, at least one; set all others to 0.

    Args:
        probability_BV: Probabilities; each row sums to 1.
        top_p: Share in (0, 1].

    Returns:
        [B, V], not renormalised.

    Reference: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    falling_BV, order_BV = probability_BV.sort(1, descending=True)
    before_BV = falling_BV.cumsum(1) - falling_BV
    before_BV[:, 0] = 0.0
    return torch.zeros_like(probability_BV).scatter(1, order_BV, falling_BV * (before_BV < top_p))
