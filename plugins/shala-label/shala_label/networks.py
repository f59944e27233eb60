"""Networks and likelihoods of labels.

Shapes: B batch, K classes, F feature_dim, D latent_dim.
"""

import torch
from torch import Tensor, nn

from shala_framework.plugin import initialise


class LabelEncoder(nn.Module):
    """Encodes class indices [B, 1], or the states of several labels [B, K], as features [B, F]."""

    def __init__(self, num_classes: int, width: int, feature_dim: int, *, several: bool) -> None:
        super().__init__()
        self.num_classes, self.several = num_classes, several
        self.layers = nn.Sequential(
            nn.Linear(2 * num_classes if several else num_classes, width), nn.SiLU(), nn.Linear(width, feature_dim)
        )
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.several:
            inputs = torch.cat([x == 1, x == 0], dim=1)
        else:
            inputs = nn.functional.one_hot(x[:, 0], self.num_classes)
        h_BF: Tensor = self.layers(inputs.float())
        return h_BF.float()


class LabelDecoder(nn.Module):
    """Decodes latents [B, D] as a distribution of labels.

    In training mode the likelihood weights rows by their classes; in eval mode it is exact.

    Args:
        weights: Weight of each class [K], or with `several` of absent and present labels [2, K].
        width: Width of the hidden layer.
        latent_dim: Dimensions of z.
        several: Whether a sample may have several labels.
    """

    weights: Tensor

    def __init__(self, weights: Tensor, width: int, latent_dim: int, *, several: bool) -> None:
        super().__init__()
        self.several = several
        num_classes = weights.shape[-1]
        to_logits = nn.Linear(width, num_classes)
        self.layers = nn.Sequential(nn.Linear(latent_dim, width), nn.SiLU(), to_logits)
        self.register_buffer("weights", weights.clone())
        initialise(self)
        with torch.no_grad():
            to_logits.weight.mul_(0.1)

    def forward(self, z_BD: Tensor) -> "OneLabel | SeveralLabels":
        logits_BK = self.layers(z_BD).float()
        weights = self.weights if self.training else None
        return SeveralLabels(logits_BK, weights) if self.several else OneLabel(logits_BK, weights)


class OneLabel:
    """A categorical distribution over K classes; x is int64 [B, 1].

    Args:
        logits_BK: Unnormalised log-probabilities.
        weights_K: Factor of a row's log-probability by its class, or None for the exact likelihood.
    """

    is_bound = False

    def __init__(self, logits_BK: Tensor, weights_K: Tensor | None = None) -> None:
        self.log_probs_BK, self.weights_K = logits_BK.log_softmax(1), weights_K

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of x [B, 1] in nats: [B]."""
        log_prob_B = self.log_probs_BK.gather(1, x)[:, 0]
        return log_prob_B if self.weights_K is None else log_prob_B * self.weights_K[x[:, 0]]

    def mode(self) -> Tensor:
        return self.log_probs_BK.argmax(1, keepdim=True)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.multinomial(self.log_probs_BK.exp(), 1, generator=generator)


class SeveralLabels:
    """Independent Bernoulli distributions of K labels; x is int64 [B, K]: 1 present, 0 absent, -1 unknown.

    Unknown labels do not contribute to log_prob and are never drawn.

    Args:
        logits_BK: Log-odds of each label.
        weights_2K: Factors of the log-probability of absent and present labels, or None for the exact likelihood.
    """

    is_bound = False

    def __init__(self, logits_BK: Tensor, weights_2K: Tensor | None = None) -> None:
        self.logits_BK, self.weights_2K = logits_BK, weights_2K

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of the known labels of x [B, K] in nats: [B]."""
        log_prob_BK = nn.functional.logsigmoid(torch.where(x == 1, self.logits_BK, -self.logits_BK))
        if self.weights_2K is not None:
            log_prob_BK = log_prob_BK * torch.where(x == 1, self.weights_2K[1], self.weights_2K[0])
        return log_prob_BK.masked_fill(x < 0, 0.0).sum(1)

    def mode(self) -> Tensor:
        return (self.logits_BK > 0).long()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        uniform_BK = torch.rand(self.logits_BK.shape, generator=generator, device=self.logits_BK.device)
        return (uniform_BK < self.logits_BK.sigmoid()).long()


def balanced_weights(counts: Tensor, exponent: float) -> Tensor:
    """Weights of classes that make up for unequal counts, 1 on average over the counted rows.

    Args:
        counts: Rows of each class along the first axis, which may be 0.
        exponent: 0 for equal weights, 1 for weights that give each class the same total.

    Returns:
        float32 weights in the shape of counts.
    """
    counted = counts.double()
    weights = counted.clamp_min(1).pow(-exponent)
    mean = (weights * counted).sum(0, keepdim=True) / counted.sum(0, keepdim=True).clamp_min(1)
    return (weights / torch.where(mean > 0, mean, torch.ones_like(mean))).float()
