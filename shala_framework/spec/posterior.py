"""The schema of [posterior]."""

from typing import Any, Literal

import attrs

from shala_framework.plugin.options import above, at_least, between, not_empty
from shala_framework.spec.limits import MOST_WEIGHT, MOST_WIDE
from shala_framework.spec.stages import MISSING_MEANS
from shala_framework.support.structuring import experimental, renamed_from

DEFAULT_METHOD = "shala"  # the one method of inference that needs no plugin
DEFAULT_METHOD_KEYS = ("fusion", "modality_dropout", "subset_weight")  # of [posterior], which no other method reads


@attrs.frozen(kw_only=True)
class Posterior:
    """[posterior]: the method of inference, which makes q(z | x_S) of features and says what stage 1 maximises.

    Attributes:
        method: Name of the method. "shala" is the default and needs no plugin; `shala plugins` lists those of the
            installed plugins. The keys fusion, modality_dropout and subset_weight belong to "shala" alone. Each added
            term (contrast, recognition, texture) applies to any method.
        options: Options of a plugin's method; `shala plugins NAME` lists them.
        latent_dim: Number of dimensions of z.
        feature_dim: Number of dimensions of each modality's feature h.
        hidden_dim: Width of the layers of the fusion, or of whatever layers another method has.
        fusion: How features are joined: "concatenation" followed by linear layers, as in the paper, or "attention"
            among the present modalities.
        modality_dropout: Share of training rows in which q sees a random subset of the modalities that are
            reconstructed.
        subset_weight: Weight of KL(q(z | x_present) || q(z | x_S)) in stage 1, in nats per latent dimension, for a
            random subset S of each row's modalities. The term trains only the network of q(z | x_S).
        contrast_weight: Weight of the InfoNCE between the features of a row's modalities, in nats; 0 disables it.
        recognition_weight: Weight of the InfoNCE between the features of decoded modalities and those of the row's
            other modalities; 0 disables it. It needs differentiable likelihoods and contrast_weight above 0.
        contrast_tolerance: Share of what the contrast has taught about training rows that may not hold on held-out rows
            before it and recognition are faded out, because training rows are being memorised; from twice this share
            on, their weights are 0. A large number, such as 1000, never fades them out. It needs held-out rows.
        texture_weight: Weight of the distance between decoded and real data in the statistics of the encoders'
            convolutional maps; 0 disables it. It needs differentiable likelihoods.
        auxiliary_share: Share of a step's rows for which the recognition and texture terms are computed. A smaller
            share saves passes through the encoders.
    """

    method: str = attrs.field(default=DEFAULT_METHOD, validator=not_empty)
    options: dict[str, Any] = attrs.field(factory=dict)
    latent_dim: int = attrs.field(default=64, validator=at_least(1, at_most=MOST_WIDE))
    feature_dim: int = attrs.field(default=256, validator=at_least(1, at_most=MOST_WIDE))
    hidden_dim: int = attrs.field(default=512, validator=at_least(1, at_most=MOST_WIDE))
    fusion: Literal["concatenation", "attention"] = attrs.field(
        default="concatenation", metadata=experimental("attention")
    )
    modality_dropout: float = attrs.field(default=0.0, validator=between(0, 1))
    subset_weight: float = attrs.field(default=0.1, validator=at_least(0, at_most=MOST_WEIGHT))
    contrast_weight: float = attrs.field(default=0.05, validator=at_least(0, at_most=MOST_WEIGHT))
    recognition_weight: float = attrs.field(default=0.05, validator=at_least(0, at_most=MOST_WEIGHT))
    contrast_tolerance: float = attrs.field(
        default=0.25, validator=above(0, at_most=MOST_WEIGHT), metadata={MISSING_MEANS: 1000.0}
    )
    texture_weight: float = attrs.field(default=0.1, validator=at_least(0, at_most=MOST_WEIGHT))
    auxiliary_share: float = attrs.field(
        default=1.0, validator=[above(0), between(0, 1)], metadata=renamed_from("checked_share")
    )
