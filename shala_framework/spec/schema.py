"""The schema of a spec: one attrs class for each TOML table. Each default is written once, in its field here."""

from typing import Any, ClassVar, Literal

import attrs
from attrs.validators import optional

from shala_framework.plugin.options import above, at_least, between, each, multiple_of, none_or_at_least, not_empty
from shala_framework.spec.limits import MOST_GUIDANCE, MOST_ROWS, MOST_STEPS, MOST_WEIGHT, MOST_WIDE
from shala_framework.spec.names import modality_tables, names_files, profile_tables, regular_expression
from shala_framework.spec.posterior import DEFAULT_METHOD as DEFAULT_METHOD
from shala_framework.spec.posterior import DEFAULT_METHOD_KEYS as DEFAULT_METHOD_KEYS
from shala_framework.spec.posterior import Posterior as Posterior
from shala_framework.spec.stages import EARLIER_NONE, MISSING_MEANS
from shala_framework.spec.stages import SCALES_WITH_STEPS as SCALES_WITH_STEPS
from shala_framework.spec.stages import AutoencoderStage as AutoencoderStage
from shala_framework.spec.stages import PriorStage as PriorStage
from shala_framework.spec.stages import RefinerStage as RefinerStage
from shala_framework.spec.stages import Stage as Stage
from shala_framework.spec.stages import Train as Train
from shala_framework.support.structuring import LISTED_IN_SWEEPS, experimental, renamed_from


@attrs.frozen(kw_only=True)
class StandIn:
    """[data.stand_in]: a synthetic data set that replaces the training set while `train` matches no file.

    Attributes:
        dataset: Name of the data set plugin that generates the samples.
        options: Options of that plugin.
        set: Overrides of the spec (dotted key to value) that fit the run to the stand-in. A table is merged key by key.
    """

    dataset: str
    options: dict[str, Any] = attrs.field(factory=dict)
    set: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class WeightedShards:
    """An item of data.train: shards, and how often training sees their rows.

    Attributes:
        path: Shards: a path with globs and braces, or a URL.
        weight: How many times as often training sees each of their rows as a row of weight 1.
    """

    path: str = attrs.field(validator=not_empty)
    weight: float = attrs.field(default=1.0, validator=[above(0), between(1e-6, 1e6)])


@attrs.frozen(kw_only=True)
class Data:
    """[data]: shards and how they are read. Paths are relative to the working directory.

    Attributes:
        train: Shards of the training set: paths with globs and braces, or URLs. In an array, { path = "...", weight =
            2.0 } gives the rows of some shards another weight than 1: each is seen twice as often. Several data sets
            are mixed this way. An epoch has as many rows as the shards; those of low weight are not in every epoch.
        validation: Shards of the held-out rows, for the validation loss and for comparing samples with real data.
        test: Shards of the test set, which `shala evaluate --split test` reads. Nothing is selected or tuned on them.
        balance: How much training makes up for rare classes (field cls): 0 draws rows by their weights alone, 1 draws
            every class equally often. Rows without a class keep their weight.
        stand_in: The table [data.stand_in].
        in_memory: Whether to decode the training set once and keep it in memory. Otherwise shards are streamed.
        num_workers: Number of processes that decode while streaming; 0 decodes in the training process.
        shuffle_buffer: Number of samples that streaming shuffles together. 0 chooses: the whole set up to a million
            samples on a disk, 4,096 behind URLs. For shards without an index, the original bytes of that many samples
            are held in memory, and 0 stands for 512.
        interleave: Number of segments of an epoch that streaming reads in turn, one row from each. The number of
            processes must divide it.
        cache: Folder for copies of shards behind URLs, which all processes of a machine share. Without it, every epoch
            reads them over the network.
        cache_bytes: Size limit of this folder in bytes, or 0 for none; copies used longest ago make room for new ones.
        validation_samples: Largest number of held-out rows that are kept in memory.
        max_field_bytes: Size limit of a sample's field, in bytes. A larger field is refused, as it may be damaged.
        hidden_share: Share of modalities that training does not see, to measure a method with missing data: each
            modality of a training row is hidden with this probability for the whole training, except the last one of a
            row. Held-out rows and judges see everything, and so does what modalities learn from samples beforehand.
        hidden_seed: Seed of what is hidden. It does not depend on the seed of the run.
    """

    train: str | tuple[str | WeightedShards, ...] = attrs.field(validator=not_empty)
    validation: str | tuple[str, ...] = ()
    test: str | tuple[str, ...] = ()
    balance: float = attrs.field(default=0.0, validator=between(0, 1))
    stand_in: StandIn | None = None
    in_memory: bool = False
    num_workers: int = attrs.field(default=0, validator=at_least(0, at_most=1_024))
    shuffle_buffer: int = attrs.field(default=0, validator=at_least(0, at_most=MOST_ROWS))
    interleave: int = attrs.field(default=8, validator=at_least(1, at_most=65_536), metadata=renamed_from("lanes"))
    cache: str | None = None
    cache_bytes: int = attrs.field(default=0, validator=at_least(0, at_most=1 << 50))
    validation_samples: int = attrs.field(default=512, validator=at_least(1, at_most=MOST_ROWS))
    max_field_bytes: int = attrs.field(default=1 << 28, validator=at_least(1, at_most=1 << 40))
    hidden_share: float = attrs.field(default=0.0, validator=between(0, 0.99))
    hidden_seed: int = attrs.field(default=0, validator=at_least(0, at_most=2**63 - 1))

    @property
    def train_names(self) -> tuple[str, ...]:
        """Return the names in `train`, without weights."""
        items = (self.train,) if isinstance(self.train, str) else self.train
        return tuple(item if isinstance(item, str) else item.path for item in items)

    @property
    def train_weights(self) -> tuple[float, ...]:
        """Return the weight of each of `train_names`."""
        items = (self.train,) if isinstance(self.train, str) else self.train
        return tuple(1.0 if isinstance(item, str) else item.weight for item in items)


@attrs.frozen(kw_only=True)
class ModalityTable:
    """[modality.<name>]: one signal of the shared latent.

    Attributes:
        plugin: Name of the modality plugin.
        options: Its options; `shala plugins NAME` lists them.
        share: Whether all tables that the braces in the name stand for share one encoder and one decoder. A learned
            embedding tells the networks which of the tables they process.
        group: The name with its braces if the tables share networks. Not a key of the spec.
    """

    plugin: str
    options: dict[str, Any] = attrs.field(factory=dict)
    share: bool = False
    group: str = attrs.field(default="", metadata={"written": False})


@attrs.frozen(kw_only=True)
class Prior:
    """[prior]: the diffusion model p(z | h_S) over standardised latents.

    Attributes:
        hidden_dim: Width of the denoiser.
        num_blocks: Number of residual blocks of the denoiser.
        guide_hidden_dim: Width of the guide, a weaker denoiser that is trained alongside for autoguidance.
        guide_num_blocks: Number of residual blocks of the guide.
        dropout: Dropout rate inside the residual blocks.
        feature_noise: Standard deviation of the noise that is added to the features, which are standardised, while the
            denoiser is trained. It keeps the denoiser from memorising a small training set; by default it is 300 over
            the number of training rows, at most 1, and 0 with a method that has a denoiser of its own.
        whiten: Whether latents are rotated and scaled so that their covariance is close to the identity; otherwise
            each dimension is only scaled.
        condition: How the features of a subset enter the denoiser: as the "sum" of one projection each, or by
            "attention" among them.
        log_sigma_mean: Mean of log sigma in training (P_mean of EDM).
        log_sigma_std: Standard deviation of log sigma in training (P_std of EDM).
        sigma_min: Lowest noise level of the sampler, in standard deviations of the latent.
        sigma_max: Highest noise level of the sampler, in standard deviations of the latent.
        unconditional_share: Share of training rows whose subset S is empty.
        max_clusters: Largest number of clusters of the latents, one of which each sample draws first. There are as many
            as make latents of other rows most likely, if each cluster is a Gaussian, which may be one alone.
    """

    hidden_dim: int = attrs.field(default=256, validator=at_least(1, at_most=MOST_WIDE))
    num_blocks: int = attrs.field(default=3, validator=at_least(1, at_most=1_000))
    guide_hidden_dim: int = attrs.field(default=32, validator=at_least(1, at_most=MOST_WIDE))
    guide_num_blocks: int = attrs.field(default=1, validator=at_least(1, at_most=1_000))
    dropout: float = attrs.field(default=0.0, validator=between(0, 0.9))
    feature_noise: float | None = attrs.field(default=None, validator=optional(between(0, 100)))
    whiten: bool = False
    condition: Literal["sum", "attention"] = attrs.field(default="sum", metadata=experimental("attention"))
    log_sigma_mean: float = attrs.field(default=0.2, validator=between(-10, 10))
    log_sigma_std: float = attrs.field(default=1.2, validator=above(0, at_most=10))
    sigma_min: float = attrs.field(default=0.01, validator=between(1e-6, 1e4))
    sigma_max: float = attrs.field(default=40.0, validator=between(1e-6, 1e4))
    unconditional_share: float = attrs.field(default=0.5, validator=between(0, 1))
    max_clusters: int = attrs.field(default=50, validator=at_least(1, at_most=1_000))

    def __attrs_post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"expected sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")


@attrs.frozen(kw_only=True)
class Refine:
    """[refine]: the residual between x and the decoder's mean, by a conditional diffusion or in one step.

    Attributes:
        method: "diffusion" denoises the residual in several steps, and bounds its density. "adversarial" makes it in
            one step, and is trained against a critic; it is sharp after fewer rows, and has no density. It needs
            optimizer = "adamw" in [train.refiner], and reads share, latent_noise, texture_weight and recognition_weight
            of this table.
        recognition_weight: Weight, in adversarial training, of how much less samples show z than data do: the excess of
            -log q(z | x) of the modality alone, in nats a latent dimension.
        share: Whether modalities of one plugin and shape share a network where theirs are alike, told apart by an
            embedding.
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
        sigma_min: Lowest noise level of the sampler, in standard deviations of the residual.
        sigma_max: Highest noise level of the sampler, same unit. From a low level, samples keep what the mean shows and
            gain edges and grain. A higher one, such as 10 with 12 steps, also draws large structures, which needs
            longer training. `shala evaluate RUN --set refine.sigma_max=10` compares them without training.
        num_levels: Noise levels of each row in the bound of its log-likelihood.
    """

    # training depends on the others
    SAMPLING_KEYS: ClassVar = ("sampler", "num_steps", "guidance_scale", "sigma_min", "sigma_max", "num_levels")

    method: Literal["diffusion", "adversarial"] = attrs.field(
        default="diffusion", metadata={MISSING_MEANS: "diffusion"}
    )
    recognition_weight: float = attrs.field(
        default=1.0, validator=at_least(0, at_most=MOST_WEIGHT), metadata={MISSING_MEANS: 1.0}
    )
    share: bool = True
    log_sigma_mean: float = attrs.field(default=-0.4, validator=between(-10, 10))
    log_sigma_std: float = attrs.field(default=1.4, validator=above(0, at_most=10))
    latent_noise: float = attrs.field(default=0.05, validator=at_least(0, at_most=10))
    latent_dropout: float = attrs.field(default=0.1, validator=between(0, 1))
    texture_weight: float = attrs.field(default=0.0, validator=at_least(0, at_most=MOST_WEIGHT))
    sampler: Literal["heun", "dpm"] = "dpm"
    num_steps: int = attrs.field(default=5, validator=at_least(2, at_most=10_000))
    guidance_scale: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_GUIDANCE))
    sigma_min: float = attrs.field(default=0.1, validator=between(1e-6, 1e4))
    sigma_max: float = attrs.field(default=1.5, validator=between(1e-6, 1e4))
    num_levels: int = attrs.field(default=8, validator=at_least(1, at_most=10_000))

    def __attrs_post_init__(self) -> None:
        if self.sigma_max <= self.sigma_min:
            raise ValueError(f"expected sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")


@attrs.frozen(kw_only=True)
class Generate:
    """[generate]: the samples that a run draws at its end.

    Attributes:
        num_joint: Number of joint samples.
        num_rows: Number of held-out rows that cross-modal samples are conditioned on.
        num_samples: Number of samples for each of these rows.
        sampler: "heun" evaluates the denoiser 2 num_steps - 1 times, "dpm" (DPM-Solver++) num_steps times.
        num_steps: Number of sampler steps.
        guidance_scale: w in D_uncond + w (D_cond - D_uncond); 1 disables guidance.
        autoguidance_scale: v in D_guide + v (D - D_guide), which steers away from the errors of the weaker denoiser
            D_guide, with or without given modalities; 1 disables it. If both are enabled, the larger of w - 1 and v - 1
            is the strength of both together, which they share in proportion.
        guidance_sigma_min: Lowest noise level at which either kind of guidance is applied.
        guidance_sigma_max: Highest noise level at which either kind of guidance is applied; no limit by default.
    """

    COUNT_KEYS: ClassVar = (
        "num_joint",
        "num_rows",
        "num_samples",
    )  # numbers of the samples that a run writes at its end

    num_joint: int = attrs.field(default=16, validator=at_least(0, at_most=100_000))
    num_rows: int = attrs.field(default=8, validator=at_least(0, at_most=100_000))
    num_samples: int = attrs.field(default=1, validator=at_least(1, at_most=10_000))
    sampler: Literal["heun", "dpm"] = "heun"
    num_steps: int = attrs.field(default=18, validator=at_least(2, at_most=10_000))
    guidance_scale: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_GUIDANCE))
    autoguidance_scale: float = attrs.field(default=1.0, validator=at_least(0, at_most=MOST_GUIDANCE))
    guidance_sigma_min: float = attrs.field(default=0.0, validator=between(0, 1e4))
    guidance_sigma_max: float | None = attrs.field(default=None, validator=optional(between(0, 1e4)))

    def __attrs_post_init__(self) -> None:
        if self.guidance_sigma_max is not None and self.guidance_sigma_max < self.guidance_sigma_min:
            raise ValueError(
                "expected guidance_sigma_min <= guidance_sigma_max, got "
                f"{self.guidance_sigma_min} and {self.guidance_sigma_max}"
            )


@attrs.frozen(kw_only=True)
class Evaluate:
    """[evaluate]: what a run measures at its end, and what `shala evaluate` measures.

    A count that is not set is chosen from the number of rows and the available time. 0 skips that part.

    Attributes:
        at_end: Whether a run evaluates at its end. It does so only if held-out rows have labels.
        suite: "multimodal-vae" adds to the "standard" figures what papers of that field compare: samples of all other
            modalities given one that leaves something open, and what the model costs.
        minutes: Time limit to which the counts that are not set are fitted. The default is a quarter of the training
            time at the end of a run, and no limit for `shala evaluate`.
        num_samples: Number of joint samples for each seed; by default at most 1,000.
        num_seeds: Number of seeds of the joint samples.
        num_rows: Largest number of held-out rows that cross-modal samples are conditioned on; by default at most 200.
        num_row_samples: Number of samples for each of these rows. Diversity is measured among them.
        autoguidance_scales: Autoguidance scales to evaluate for joint samples. Each is reported as one method.
        guidance_scales: Guidance scales to evaluate for cross-modal samples. Each is reported as one method. They use
            the autoguidance scale of [generate]. Samples without any guidance are always evaluated too.
        judge_steps: Number of training steps of each judge; by default at most 400. Without judges, measures that need
            classes are skipped.
        train_rows: Largest number of training rows that judges and the linear probe are trained on.
        held_out_rows: Largest number of rows of the evaluated split.
        group: Regular expression that finds in a row's key what the row shares with other rows, such as "P[0-9]+" for
            the person of an NTU recording. Confidence intervals resample these groups instead of rows, and the rows
            that judges are trained on share no group with the rows that give the distances of real data.
        calibration_rows: Number of held-out rows whose latent is compared with samples of it; by default at most 200.
        likelihood_rows: Number of held-out rows whose log-likelihood is estimated; by default at most 16.
        likelihood: "elbo" computes the evidence lower bound. "importance" adds an importance-weighted bound. "annealed"
            adds annealed importance sampling instead, which starts from a Gaussian of full covariance that is fitted to
            each row. It is far closer to the log-likelihood if z has many dimensions, and slower.
        importance_samples: Number of samples of z, or of annealed chains, for each of these rows; an even number.
        annealing_steps: Number of steps of each annealed chain. More steps bring the estimate closer.
    """

    at_end: bool = True
    suite: Literal["standard", "multimodal-vae"] = "standard"
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
    group: str | None = attrs.field(default=None, validator=optional(regular_expression))
    calibration_rows: int | None = attrs.field(default=None, validator=optional(at_least(0, at_most=MOST_ROWS)))
    likelihood_rows: int | None = attrs.field(default=None, validator=optional(at_least(0, at_most=MOST_ROWS)))
    likelihood: Literal["elbo", "importance", "annealed"] = "importance"
    importance_samples: int = attrs.field(default=8, validator=[at_least(2, at_most=1_000_000), multiple_of(2)])
    annealing_steps: int = attrs.field(default=100, validator=at_least(1, at_most=1_000_000))


@attrs.frozen(kw_only=True)
class TrackTable:
    """[track.<name>]: a tracker plugin, selected by its name, that also receives the values of metrics.jsonl.

    Attributes:
        options: Its options; `shala plugins NAME` lists them.
    """

    options: dict[str, Any] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Spec:
    """A whole experiment.

    Attributes:
        schema: Version of this schema.
        name: Name of the run; it also names the run's folder.
        seed: Seed of every random draw in the run. `shala sweep` also takes an array of seeds and makes a run of each.
        data: The table [data].
        modality: The tables [modality.<name>], by name, in the order of the file.
        posterior: The table [posterior].
        prior: The table [prior].
        refine: The table [refine].
        train: The table [train].
        generate: The table [generate].
        evaluate: The table [evaluate].
        track: The tables [track.<name>], by name.
        profile: Tables [profile.<name>] of other values for keys of this spec; `--profile NAME` applies one, see above.
    """

    schema: Literal[1]
    name: str = attrs.field(validator=names_files)
    seed: int = attrs.field(default=0, validator=at_least(0, at_most=2**63 - 1), metadata={LISTED_IN_SWEEPS: True})
    data: Data
    modality: dict[str, ModalityTable] = attrs.field(validator=modality_tables)
    posterior: Posterior = attrs.field(factory=Posterior)
    prior: Prior = attrs.field(factory=Prior)
    refine: Refine = attrs.field(factory=Refine)
    train: Train = attrs.field(factory=Train)
    generate: Generate = attrs.field(factory=Generate)
    evaluate: Evaluate = attrs.field(factory=Evaluate)
    track: dict[str, TrackTable] = attrs.field(factory=dict)
    profile: dict[str, dict[str, Any]] = attrs.field(factory=dict, validator=profile_tables, metadata=EARLIER_NONE)

    def __attrs_post_init__(self) -> None:
        stage = self.train.refiner
        if self.refine.method == "adversarial" and stage.steps:
            if stage.optimizer != "adamw":
                raise ValueError(
                    f'expected train.refiner.optimizer = "adamw", with a learning_rate of about 1e-3, for '
                    f'refine.method = "adversarial", got {stage.optimizer!r}'
                )
            if stage.micro_batches != 1:
                raise ValueError(
                    f'expected train.refiner.micro_batches = 1 for refine.method = "adversarial", got '
                    f"{stage.micro_batches}"
                )
