"""The tables of a spec that say how stages are trained."""

from typing import Literal

import attrs
from attrs.validators import optional

from shala_framework.plugin.options import above, at_least
from shala_framework.spec.limits import MOST_STEPS, MOST_WEIGHT

SCALES_WITH_STEPS = {"scales_with_steps": True}  # metadata of settings that keep their proportion to a stage's steps


@attrs.frozen(kw_only=True)
class Stage:
    """Settings of the training loop that all stages share.

    Attributes:
        steps: Optimiser steps. Under train.minutes the time decides how many are taken, and the warm-ups, intervals and
            half-life below keep their proportion to them.
        batch_size: Rows a step, over all processes.
        micro_batches: Parts into which a process splits its rows of a step, one computed after the other, to save
            memory. In stage 1 rows are then contrasted with those of their own part alone.
        optimizer: "muon" makes the steps of linear and convolutional weights orthogonal and leaves the rest to AdamW;
            "adamw" trains everything by AdamW, at about a tenth of the learning rate.
        learning_rate: Peak of the schedule: linear warm-up, then a cosine to zero.
        warmup_steps: Steps of the warm-up.
        weight_decay: Decoupled, as in AdamW.
        gradient_clip: Largest norm of the gradient.
        log_every_steps: Steps between two lines of metrics.jsonl.
        save_every_steps: Steps between two saved states from which the stage can go on, each with a validation.
        save_every_minutes: A state is saved after so many minutes too, however few steps they held.
        time_share: This stage's part of train.minutes, relative to the other stages' parts.
    """

    steps: int = attrs.field(default=10_000, validator=at_least(1, at_most=MOST_STEPS))
    batch_size: int = attrs.field(default=64, validator=at_least(1, at_most=1_048_576))
    micro_batches: int = attrs.field(default=1, validator=at_least(1, at_most=65_536))
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = attrs.field(default=1e-2, validator=above(0, at_most=10))
    warmup_steps: int = attrs.field(default=100, validator=at_least(0, at_most=MOST_STEPS), metadata=SCALES_WITH_STEPS)
    weight_decay: float = attrs.field(default=1e-4, validator=at_least(0, at_most=100))
    gradient_clip: float = attrs.field(default=1.0, validator=above(0, at_most=1e9))
    log_every_steps: int = attrs.field(
        default=50, validator=at_least(1, at_most=MOST_STEPS), metadata=SCALES_WITH_STEPS
    )
    save_every_steps: int = attrs.field(
        default=500, validator=at_least(1, at_most=MOST_STEPS), metadata=SCALES_WITH_STEPS
    )
    save_every_minutes: float = attrs.field(default=10.0, validator=above(0, at_most=1e6))
    time_share: float = attrs.field(default=0.7, validator=above(0, at_most=1e6))


@attrs.frozen(kw_only=True)
class AutoencoderStage(Stage):
    """[train.autoencoder]: stage 1.

    Attributes:
        kl_weight: Final weight of KL(q(z|x) || N(0, I)); 1 is the ELBO.
        kl_warmup_steps: Steps over which the weight grows from 0.
        likelihood_rescaling: Whether each modality's log-likelihood is multiplied by (values of the largest modality
            / values of this one) while training, so that z must tell a skeleton as well as the video that has fifty
            times as many numbers. The validation ELBO is always the unscaled one.
    """

    kl_weight: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_WEIGHT))
    kl_warmup_steps: int = attrs.field(
        default=1_000, validator=at_least(0, at_most=MOST_STEPS), metadata=SCALES_WITH_STEPS
    )
    likelihood_rescaling: bool = True


@attrs.frozen(kw_only=True)
class PriorStage(Stage):
    """[train.prior]: stage 2.

    Attributes:
        ema_halflife_steps: Half-life of the weights' exponential moving average, which sampling uses.
    """

    batch_size: int = attrs.field(default=256, validator=at_least(1, at_most=1_048_576))
    optimizer: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = attrs.field(default=1e-3, validator=above(0, at_most=10))
    time_share: float = attrs.field(default=0.3, validator=above(0, at_most=1e6))
    ema_halflife_steps: float = attrs.field(default=500.0, validator=above(0, at_most=1e9), metadata=SCALES_WITH_STEPS)


@attrs.frozen(kw_only=True)
class RefinerStage(Stage):
    """[train.refiner]: stage 3, for modalities that offer a network; steps = 0 leaves it out.

    Attributes:
        steps: Optimiser steps; 0 leaves the stage out. Under train.minutes the time decides how many are taken, and the
            warm-ups, intervals and half-life below keep their proportion to them.
        ema_halflife_steps: Half-life of the weights' exponential moving average, which sampling uses.
    """

    steps: int = attrs.field(default=10_000, validator=at_least(0, at_most=MOST_STEPS))
    batch_size: int = attrs.field(default=32, validator=at_least(1, at_most=1_048_576))
    optimizer: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = attrs.field(default=2e-3, validator=above(0, at_most=10))
    time_share: float = attrs.field(default=0.4, validator=above(0, at_most=1e6))
    ema_halflife_steps: float = attrs.field(default=200.0, validator=above(0, at_most=1e9), metadata=SCALES_WITH_STEPS)


@attrs.frozen(kw_only=True)
class Train:
    """[train]: all stages.

    Attributes:
        device: "auto" takes CUDA where there is one.
        precision: Number format of matrix products in training. "auto" takes bfloat16 where the device has units for it
            and a measurement at the start of the run finds it faster, and float32 elsewhere; a resumed run keeps it.
        minutes: Time for all stages together, in place of their numbers of steps. The run measures its rate in a few
            steps that do not count, fixes the steps of every stage from it, and records them for when it is resumed.
            Reading data, samples and evaluation come on top.
        compile: Whether torch.compile makes one program of each encoder, decoder and denoiser. The first steps then
            may take minutes; try whether later ones win them back.
        sharding: "decoders" splits the large layers of decoders, their gradients and moments among the processes of
            stage 1 (FSDP2), for decoders that one device cannot hold; "none" keeps them whole in each.
        autoencoder: Stage 1.
        prior: Stage 2.
        refiner: Stage 3; steps = 0 leaves it out.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    minutes: float | None = attrs.field(default=None, validator=optional(above(0, at_most=1e6)))
    compile: bool = False
    sharding: Literal["none", "decoders"] = "none"
    autoencoder: AutoencoderStage = attrs.field(factory=AutoencoderStage)
    prior: PriorStage = attrs.field(factory=PriorStage)
    refiner: RefinerStage = attrs.field(factory=RefinerStage)
