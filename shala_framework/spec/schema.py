"""The schema of a spec: one attrs class a TOML table. A default lives in its field here and nowhere else."""

from typing import Any, Literal

import attrs
from attrs.validators import optional

from shala_framework.plugin.options import above, at_least, between, each, multiple_of, none_or_at_least, not_empty
from shala_framework.spec.limits import (
    LONGEST_NAME,
    LONGEST_RUN,
    MOST_GUIDANCE,
    MOST_ROWS,
    MOST_STEPS,
    MOST_WEIGHT,
    MOST_WIDE,
)
from shala_framework.spec.stages import SCALES_WITH_STEPS as SCALES_WITH_STEPS
from shala_framework.spec.stages import AutoencoderStage as AutoencoderStage
from shala_framework.spec.stages import PriorStage as PriorStage
from shala_framework.spec.stages import RefinerStage as RefinerStage
from shala_framework.spec.stages import Stage as Stage
from shala_framework.spec.stages import Train as Train
from shala_framework.support.hints import shortened
from shala_framework.support.structuring import Finding, InvalidValueError


def _names_files(_: Any, __: Any, name: str, most: int = LONGEST_RUN) -> None:
    if not name or not all(c.isalnum() or c in "_-" for c in name):
        raise ValueError(f"expected letters, digits, '_' and '-' only (it names files), got {shortened(name)}")
    if len(name) > most:
        raise ValueError(f"expected at most {most} characters (it names files), got {shortened(name)}")


def _modality_tables(_: Any, __: Any, tables: dict[str, Any]) -> None:
    if not tables:
        raise ValueError("expected at least one [modality.<name>] table, got none")
    findings = []
    for name, table in tables.items():
        try:
            _names_files(_, __, name, LONGEST_NAME)
        except ValueError as error:
            findings.append(Finding((name,), str(error)))
        if table.share and not table.group:
            hint = 'such as [modality."view_{00..31}"]'
            findings.append(Finding((name, "share"), "expected a name with braces, whose tables can share", hint))
    if findings:
        raise InvalidValueError(findings)


@attrs.frozen(kw_only=True)
class StandIn:
    """[data.stand_in]: a synthetic data set that serves while `train` matches no file.

    Attributes:
        dataset: Name of a data set plugin that makes its samples.
        options: Its options.
        set: Overrides of the spec, dotted key to value, that fit the run to it; a table in it is merged key by key.
            --set wins over them.
    """

    dataset: str
    options: dict[str, Any] = attrs.field(factory=dict)
    set: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Data:
    """[data]: shards and how they are read. Paths are relative to the working directory.

    Attributes:
        train: Shards of the training set: paths with globs and braces, or URLs.
        validation: Shards of held-out rows, for the validation loss and the samples that stand beside the truth.
        test: Shards of rows that nothing is chosen by, for `shala evaluate --split test`.
        stand_in: See StandIn.
        in_memory: Whether to decode the training set once and keep it; otherwise shards are streamed.
        num_workers: Processes that decode while streaming; 0 decodes in the training process.
        shuffle_buffer: Samples that streaming shuffles with one another; of shards without an index, original bytes
            that are held.
        lanes: Parts of the set that streaming reads side by side; the number of processes has to divide it.
        cache: Folder for copies of shards behind URLs; without it they are read over the network in every epoch.
        validation_samples: At most so many held-out rows are kept in memory.
        max_field_bytes: Bytes of the largest field of a sample that is read; a larger one is an error, as it may be
            damage, or meant to fill the memory.
    """

    train: str | tuple[str, ...] = attrs.field(validator=not_empty)
    validation: str | tuple[str, ...] = ()
    test: str | tuple[str, ...] = ()
    stand_in: StandIn | None = None
    in_memory: bool = False
    num_workers: int = attrs.field(default=0, validator=at_least(0, at_most=1_024))
    shuffle_buffer: int = attrs.field(default=512, validator=at_least(1, at_most=MOST_ROWS))
    lanes: int = attrs.field(default=8, validator=at_least(1, at_most=65_536))
    cache: str | None = None
    validation_samples: int = attrs.field(default=512, validator=at_least(1, at_most=MOST_ROWS))
    max_field_bytes: int = attrs.field(default=1 << 28, validator=at_least(1, at_most=1 << 40))


@attrs.frozen(kw_only=True)
class ModalityTable:
    """[modality.<name>]: one signal of the shared latent.

    Attributes:
        plugin: Name of the modality plugin.
        options: Its options; `shala plugins NAME` lists them.
        share: Whether all tables that the braces of the name stand for have one encoder and one decoder, which tell
            them apart by an embedding of each.
        group: The name with its braces, where they share; not to be written in a spec.
    """

    plugin: str
    options: dict[str, Any] = attrs.field(factory=dict)
    share: bool = False
    group: str = attrs.field(default="", metadata={"written": False})


@attrs.frozen(kw_only=True)
class Posterior:
    """[posterior]: the inference model q(z | x_present).

    Attributes:
        latent_dim: Dimensions of z.
        feature_dim: Dimensions of each modality's feature h.
        hidden_dim: Width of the fusion's layers.
        fusion: How features are joined: "concatenation" and linear layers, as in the paper, or "attention" among the
            present modalities.
        modality_dropout: Share of training rows in which q sees a random subset of what is reconstructed.
        subset_weight: Weight of KL(q(z | x_present) || q(z | x_S)) in stage 1, in nats a latent dimension, for a
            random subset S of each row's modalities. It trains the network of q(z | x_S), and nothing else.
        contrast_weight: Weight of the InfoNCE between the features of a row's modalities, in nats; 0 leaves it out.
        recognition_weight: Weight of the InfoNCE between features of decoded modalities and of the row's others, where
            likelihoods can be differentiated and contrast_weight is above 0; 0 leaves it out.
        texture_weight: Weight of the distance between what is decoded and the data in the statistics of the encoders'
            convolutional maps, where likelihoods can be differentiated; 0 leaves it out.
        checked_share: Share of a step's rows of which recognition and texture are asked; it saves passes through the
            encoders.
    """

    latent_dim: int = attrs.field(default=64, validator=at_least(1, at_most=MOST_WIDE))
    feature_dim: int = attrs.field(default=256, validator=at_least(1, at_most=MOST_WIDE))
    hidden_dim: int = attrs.field(default=512, validator=at_least(1, at_most=MOST_WIDE))
    fusion: Literal["concatenation", "attention"] = "concatenation"
    modality_dropout: float = attrs.field(default=0.0, validator=between(0, 1))
    subset_weight: float = attrs.field(default=0.1, validator=at_least(0, at_most=MOST_WEIGHT))
    contrast_weight: float = attrs.field(default=0.05, validator=at_least(0, at_most=MOST_WEIGHT))
    recognition_weight: float = attrs.field(default=0.05, validator=at_least(0, at_most=MOST_WEIGHT))
    texture_weight: float = attrs.field(default=0.1, validator=at_least(0, at_most=MOST_WEIGHT))
    checked_share: float = attrs.field(default=1.0, validator=[above(0), between(0, 1)])


@attrs.frozen(kw_only=True)
class Prior:
    """[prior]: the diffusion model p(z | h_S) over standardised latents.

    Attributes:
        hidden_dim: Width of the denoiser.
        num_blocks: Its residual blocks.
        guide_hidden_dim: Width of the guide, a poorer denoiser that learns beside it, for autoguidance.
        guide_num_blocks: Its residual blocks.
        dropout: Dropout inside them.
        condition: How the features of a subset enter: the "sum" of a projection of each, or "attention" among them.
        log_sigma_mean: Mean of log sigma in training (P_mean of EDM).
        log_sigma_std: Its standard deviation (P_std of EDM).
        sigma_min: Lowest noise level of the sampler, in standard deviations of the latent.
        sigma_max: Highest noise level of the sampler, same unit.
        unconditional_share: Share of training rows whose subset S is empty.
        mixture_components: Components of the Gaussian-mixture control.
    """

    hidden_dim: int = attrs.field(default=256, validator=at_least(1, at_most=MOST_WIDE))
    num_blocks: int = attrs.field(default=3, validator=at_least(1, at_most=1_000))
    guide_hidden_dim: int = attrs.field(default=32, validator=at_least(1, at_most=MOST_WIDE))
    guide_num_blocks: int = attrs.field(default=1, validator=at_least(1, at_most=1_000))
    dropout: float = attrs.field(default=0.0, validator=between(0, 0.9))
    condition: Literal["sum", "attention"] = "sum"
    log_sigma_mean: float = attrs.field(default=0.2, validator=between(-10, 10))
    log_sigma_std: float = attrs.field(default=1.2, validator=above(0, at_most=10))
    sigma_min: float = attrs.field(default=0.01, validator=between(1e-6, 1e4))
    sigma_max: float = attrs.field(default=40.0, validator=between(1e-6, 1e4))
    unconditional_share: float = attrs.field(default=0.5, validator=between(0, 1))
    mixture_components: int = attrs.field(default=10, validator=at_least(1, at_most=10_000))

    def __attrs_post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"expected sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")


@attrs.frozen(kw_only=True)
class Refine:
    """[refine]: the conditional diffusion of the residual between x and the decoder's mean.

    Attributes:
        share: Whether modalities of one plugin and shape share a network where theirs are alike, told apart by an
            embedding of each.
        log_sigma_mean: Mean of log sigma in training (P_mean of EDM).
        log_sigma_std: Its standard deviation (P_std of EDM).
        latent_noise: Noise that is added to z in training, in standard deviations of the latent, as the prior's samples
            are not exactly those of the posterior.
        latent_dropout: Share of training rows in which the network does not see z, for guidance.
        texture_weight: Weight of the distance between the predicted clean x and the data in the statistics of the
            encoders' convolutional maps; 0 leaves it out.
        sampler: "heun" evaluates the network 2 num_steps - 1 times, "dpm" (DPM-Solver++) num_steps times.
        num_steps: Steps of the sampler.
        guidance_scale: w in D_dropped + w (D - D_dropped), where the network does not see z; 1 is no guidance.
        sigma_min: Lowest noise level, in standard deviations of the residual.
        sigma_max: Highest noise level, same unit.
        num_levels: Noise levels of each row in the bound of its log-likelihood.
    """

    share: bool = True
    log_sigma_mean: float = attrs.field(default=-0.4, validator=between(-10, 10))
    log_sigma_std: float = attrs.field(default=1.4, validator=above(0, at_most=10))
    latent_noise: float = attrs.field(default=0.05, validator=at_least(0, at_most=10))
    latent_dropout: float = attrs.field(default=0.1, validator=between(0, 1))
    texture_weight: float = attrs.field(default=0.0, validator=at_least(0, at_most=MOST_WEIGHT))
    sampler: Literal["heun", "dpm"] = "dpm"
    num_steps: int = attrs.field(default=6, validator=at_least(2, at_most=10_000))
    guidance_scale: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_GUIDANCE))
    sigma_min: float = attrs.field(default=0.03, validator=between(1e-6, 1e4))
    sigma_max: float = attrs.field(default=10.0, validator=between(1e-6, 1e4))
    num_levels: int = attrs.field(default=8, validator=at_least(1, at_most=10_000))

    def __attrs_post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"expected sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")


@attrs.frozen(kw_only=True)
class Generate:
    """[generate]: the samples that a run ends with.

    Attributes:
        num_joint: Joint samples.
        num_rows: Held-out rows for the cross-modal samples.
        num_samples: Samples for each such row.
        sampler: "heun" evaluates the denoiser 2 num_steps - 1 times, "dpm" (DPM-Solver++) num_steps times.
        num_steps: Steps of the sampler.
        guidance_scale: w in D_uncond + w (D_cond - D_uncond); 1 is no guidance.
        autoguidance_scale: v in D_guide + v (D - D_guide), away from what a poorer denoiser gets wrong, with or
            without given modalities; 1 is none.
    """

    num_joint: int = attrs.field(default=16, validator=at_least(0, at_most=100_000))
    num_rows: int = attrs.field(default=8, validator=at_least(0, at_most=100_000))
    num_samples: int = attrs.field(default=1, validator=at_least(1, at_most=10_000))
    sampler: Literal["heun", "dpm"] = "heun"
    num_steps: int = attrs.field(default=18, validator=at_least(2, at_most=10_000))
    guidance_scale: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_GUIDANCE))
    autoguidance_scale: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_GUIDANCE))


@attrs.frozen(kw_only=True)
class Evaluate:
    """[evaluate]: what is measured at the end of a run, and by `shala evaluate`.

    A count that is left out follows the number of rows and the time that there is; 0 leaves its part out.

    Attributes:
        at_end: Whether a run ends with it; only where held-out rows have labels.
        minutes: Time that counts which are left out are fitted to; without it a quarter of the run's training time at
            its end, and no limit for `shala evaluate`.
        num_samples: Joint samples a seed, at most 500 unless it is given.
        num_seeds: Seeds of the joint samples.
        num_rows: Most held-out rows whose modalities are given, at most 200 unless it is given.
        num_row_samples: Samples for each of them; what differs between them is the diversity.
        autoguidance_scales: Autoguidance scales of joint samples, one method each.
        guidance_scales: Guidance scales of samples from given modalities, one method each; autoguidance is
            [generate]'s.
        judge_steps: Training steps of each judge, at most 400 unless it is given. Without judges nothing is measured
            that needs classes.
        train_rows: Most training rows that judges and the linear probe learn from.
        held_out_rows: Most rows of the split that is measured.
        likelihood_rows: Held-out rows whose log-likelihood is estimated, at most 16 unless it is given.
        importance_samples: Samples of z for each of those, an even number.
    """

    at_end: bool = True
    minutes: float | None = attrs.field(default=None, validator=optional(above(0, at_most=1e6)))
    num_samples: int | None = attrs.field(default=None, validator=optional(none_or_at_least(2, at_most=MOST_ROWS)))
    num_seeds: int = attrs.field(default=3, validator=at_least(1, at_most=1_000))
    num_rows: int | None = attrs.field(default=None, validator=optional(none_or_at_least(2, at_most=MOST_ROWS)))
    num_row_samples: int = attrs.field(default=4, validator=at_least(1, at_most=10_000))
    autoguidance_scales: tuple[float, ...] = attrs.field(
        default=(1.0, 2.0), validator=[not_empty, each(at_least(0, at_most=MOST_GUIDANCE))]
    )
    guidance_scales: tuple[float, ...] = attrs.field(
        default=(1.0, 2.0), validator=[not_empty, each(at_least(0, at_most=MOST_GUIDANCE))]
    )
    judge_steps: int | None = attrs.field(default=None, validator=optional(at_least(0, at_most=MOST_STEPS)))
    train_rows: int = attrs.field(default=10_000, validator=at_least(2, at_most=MOST_ROWS))
    held_out_rows: int = attrs.field(default=5_000, validator=at_least(2, at_most=MOST_ROWS))
    likelihood_rows: int | None = attrs.field(default=None, validator=optional(at_least(0, at_most=MOST_ROWS)))
    importance_samples: int = attrs.field(default=8, validator=[at_least(2, at_most=1_000_000), multiple_of(2)])


@attrs.frozen(kw_only=True)
class TrackTable:
    """[track.<name>]: a tracker plugin, by its name, that is told the figures of metrics.jsonl as well.

    Attributes:
        options: Its options; `shala plugins NAME` lists them.
    """

    options: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Spec:
    """A whole experiment.

    Attributes:
        schema: Version of this schema.
        name: Names the run's folder.
        seed: Of everything random in the run.
        data: See Data.
        modality: A table for each modality, by name; their order is that of the file.
        posterior: See Posterior.
        prior: See Prior.
        refine: See Refine.
        train: See Train.
        generate: See Generate.
        evaluate: See Evaluate.
        track: See TrackTable.
    """

    schema: Literal[1]
    name: str = attrs.field(validator=_names_files)
    seed: int = attrs.field(default=0, validator=at_least(0, at_most=2**63 - 1))
    data: Data
    modality: dict[str, ModalityTable] = attrs.field(validator=_modality_tables)
    posterior: Posterior = attrs.field(factory=Posterior)
    prior: Prior = attrs.field(factory=Prior)
    refine: Refine = attrs.field(factory=Refine)
    train: Train = attrs.field(factory=Train)
    generate: Generate = attrs.field(factory=Generate)
    evaluate: Evaluate = attrs.field(factory=Evaluate)
    track: dict[str, TrackTable] = attrs.field(factory=dict)
