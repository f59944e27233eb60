"""The tables of a spec that say how stages are trained."""

from typing import Any, Literal

import attrs
from attrs.validators import optional

from shala_framework.plugin.options import above, at_least, between
from shala_framework.spec.limits import MOST_STEPS, MOST_WEIGHT

SCALES_WITH_STEPS = {"scales_with_steps": True}  # metadata of settings that scale with the number of steps
MISSING_MEANS = "missing_means"  # metadata of keys that a later version added: what runs without them did
EARLIER_NONE: dict[str, Any] = {MISSING_MEANS: {}}  # metadata of tables that earlier versions did not have
DECAY_SHARES = {"trapezoid": 0.2, "inverse-sqrt": 0.9}  # default of decay_share by the schedules that read it


@attrs.frozen(kw_only=True)
class Stage:
    """Settings of the training loop that all stages share.

    Attributes:
        steps: Number of optimiser steps. With train.minutes, the time limit determines the number instead, and the
            warm-ups, intervals and half-life below scale with it.
        batch_size: Number of rows in a step, over all processes.
        micro_batches: Number of micro-batches into which each process divides its rows of a step to save memory. In
            stage 1, each row is then contrasted only with rows of its own micro-batch.
        optimizer: "muon" orthogonalises the updates of linear and convolutional weights and uses AdamW for all other
            parameters. "adamw" uses AdamW for everything, which needs about a tenth of the learning rate.
        learning_rate: Peak of the schedule.
        warmup_steps: Number of warm-up steps, over which the learning rate grows linearly.
        schedule: Learning rate after the warm-up: "cosine" and "linear" fall to zero over all remaining steps,
            "constant" stays at the peak, "trapezoid" stays there and falls linearly to zero over the last decay_share
            of the steps, and "inverse-sqrt" stays there and falls with 1 / sqrt(step) over the last decay_share.
        decay_share: Share of the steps, at the end, in which "trapezoid" and "inverse-sqrt" lower the learning rate; by
            default 0.2 and 0.9. The other schedules do not read it.
        weight_decay: Decoupled weight decay, as in AdamW.
        gradient_clip: Largest norm of the gradient; a larger gradient is scaled down to it.
        log_every_steps: Number of steps between two lines of metrics.jsonl.
        save_every_steps: Number of steps between two saved training states. Each save includes a validation.
        save_every_minutes: Longest time between two saved training states, however few steps it covers.
        time_share: This stage's share of train.minutes, relative to the shares of the other stages.
        keep: Which weights the stage keeps: the "best" on held-out rows, which are measured every `save_every_steps`
            steps, or the "last". They are those of the step in stage 1, if it has no ema_halflife_steps, and otherwise
            their moving average. The last ones are kept too if there are no held-out rows, or if their loss is as low
            as the best but for 1 % of its decline since the first validation. A copy of the weights takes memory
            meanwhile.
        patience: Number of validations in a row without a lower held-out loss after which the stage stops early, if the
            best weights are kept; 0 never stops early. Time that this saves is not given to later stages.
    """

    steps: int = attrs.field(default=10_000, validator=at_least(1, at_most=MOST_STEPS))
    batch_size: int = attrs.field(default=64, validator=at_least(1, at_most=1_048_576))
    micro_batches: int = attrs.field(default=1, validator=at_least(1, at_most=65_536))
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = attrs.field(default=1e-2, validator=above(0, at_most=10))
    warmup_steps: int = attrs.field(default=100, validator=at_least(0, at_most=MOST_STEPS), metadata=SCALES_WITH_STEPS)
    schedule: Literal["cosine", "linear", "constant", "trapezoid", "inverse-sqrt"] = attrs.field(
        default="cosine", metadata={MISSING_MEANS: "cosine"}
    )
    decay_share: float | None = attrs.field(
        default=None, validator=optional((above(0), between(0, 1))), metadata={MISSING_MEANS: None}
    )
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
    keep: Literal["best", "last"] = attrs.field(default="best", metadata={MISSING_MEANS: "last"})
    patience: int = attrs.field(default=0, validator=at_least(0, at_most=MOST_STEPS), metadata={MISSING_MEANS: 0})

    @property
    def decay_steps(self) -> float:
        """Return the number of last steps in which the schedule lowers the rate, if it has such a share; else 0."""
        return self.steps * (self.decay_share or DECAY_SHARES.get(self.schedule, 0.0))


@attrs.frozen(kw_only=True)
class AutoencoderStage(Stage):
    """[train.autoencoder]: stage 1.

    Attributes:
        kl_weight: Final weight of KL(q(z|x) || N(0, I)). With likelihood_rescaling = false, 1 is the ELBO. With it, a
            modality whose log-likelihood has the weight w is trained as by a beta-VAE with beta = kl_weight / w: 1 for
            the largest modality at kl_weight = 1 and less for the others, so that no value is the ELBO unless all
            modalities have equally many values. The run prints w and beta of each modality.
        kl_warmup_steps: Number of steps over which the weight grows from 0.
        likelihood_rescaling: Whether training multiplies each modality's log-likelihood by (number of values of the
            largest modality / number of values of this one), where a text has as many values as tokens and a table as
            many as known cells, on average over the first training rows. z must then describe a skeleton as well as a
            video with fifty times as many values. The validation ELBO is always unscaled.
        ema_halflife_steps: Half-life, in steps, of an exponential moving average of the weights, which is then measured
            on held-out rows and kept in place of the weights of a step; 0 keeps those of a step. At high learning rates
            the average is the better of the two.
        activation_checkpointing: Whether the backward pass computes encoders and decoders again, one at a time,
            instead of keeping their activations. A step then takes less memory and about a third longer. Steps are not
            captured as CUDA graphs.
    """

    kl_weight: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_WEIGHT))
    kl_warmup_steps: int = attrs.field(
        default=1_000, validator=at_least(0, at_most=MOST_STEPS), metadata=SCALES_WITH_STEPS
    )
    likelihood_rescaling: bool = True
    ema_halflife_steps: float = attrs.field(
        default=0.0, validator=at_least(0, at_most=1e9), metadata={MISSING_MEANS: 0.0, **SCALES_WITH_STEPS}
    )
    activation_checkpointing: bool = attrs.field(default=False, metadata={MISSING_MEANS: False})


@attrs.frozen(kw_only=True)
class PriorStage(Stage):
    """[train.prior]: stage 2.

    Attributes:
        ema_halflife_steps: Half-life, in steps, of the exponential moving average of the weights, which sampling uses.
        calibrate: Whether to fit the width of samples to held-out rows at the end, by what is given.
    """

    batch_size: int = attrs.field(default=256, validator=at_least(1, at_most=1_048_576))
    optimizer: Literal["muon", "adamw"] = "adamw"
    learning_rate: float = attrs.field(default=1e-3, validator=above(0, at_most=10))
    time_share: float = attrs.field(default=0.3, validator=above(0, at_most=1e6))
    ema_halflife_steps: float = attrs.field(default=500.0, validator=above(0, at_most=1e9), metadata=SCALES_WITH_STEPS)
    keep: Literal["best", "last"] = "best"  # this stage had both keys before the others
    patience: int = attrs.field(default=0, validator=at_least(0, at_most=MOST_STEPS))
    calibrate: bool = attrs.field(default=True, metadata={MISSING_MEANS: False})


@attrs.frozen(kw_only=True)
class RefinerStage(Stage):
    """[train.refiner]: stage 3, for modalities that offer a network; without a number of steps it is left out.

    Attributes:
        steps: Number of optimiser steps; 0 leaves the stage out. With train.minutes and any other number, the time
            limit determines the number instead, and the warm-ups, intervals and half-life below scale with it.
        ema_halflife_steps: Half-life, in steps, of the exponential moving average of the weights, which sampling uses.
    """

    steps: int = attrs.field(default=0, validator=at_least(0, at_most=MOST_STEPS))
    batch_size: int = attrs.field(default=16, validator=at_least(1, at_most=1_048_576))
    time_share: float = attrs.field(default=0.4, validator=above(0, at_most=1e6))
    ema_halflife_steps: float = attrs.field(default=200.0, validator=above(0, at_most=1e9), metadata=SCALES_WITH_STEPS)


@attrs.frozen(kw_only=True)
class Train:
    """[train]: settings of all stages.

    Attributes:
        device: Device to train on. "auto" uses CUDA if available.
        precision: Number format of matrix products in training. "auto" uses bfloat16 if the device has units for it and
            a measurement at the start of the run finds it faster, and float32 otherwise. A resumed run keeps its
            format.
        minutes: Training time for all stages together, instead of their numbers of steps. The run measures its speed in
            a few steps that do not count, derives the number of steps of every stage, and records it for resuming.
            Reading data, sampling and evaluation take extra time.
        compile: Whether to compile each encoder, decoder and denoiser with torch.compile. The first steps may then take
            minutes; measure whether later steps make up for it.
        sharding: "decoders" shards the large layers of decoders, with their gradients and optimiser moments, over the
            processes of stage 1 (FSDP2), for decoders that do not fit on one device. "none" replicates them.
        autoencoder: The table [train.autoencoder].
        prior: The table [train.prior].
        refiner: The table [train.refiner].
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    minutes: float | None = attrs.field(default=None, validator=optional(above(0, at_most=1e6)))
    compile: bool = False
    sharding: Literal["none", "decoders"] = "none"
    autoencoder: AutoencoderStage = attrs.field(factory=AutoencoderStage)
    prior: PriorStage = attrs.field(factory=PriorStage)
    refiner: RefinerStage = attrs.field(factory=RefinerStage)
