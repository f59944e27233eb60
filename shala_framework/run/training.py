"""The training of a model's stages, and measurements of its cost."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from shala_framework.data.augmenting import augmented_rows
from shala_framework.data.latent_files import LatentFiles, taken_ahead
from shala_framework.data.latent_store import NUM_COPIES, LatentStore, drawn_latents, latents_of
from shala_framework.data.rows import Rows, shuffled_batches
from shala_framework.model import STAGES, ShaLa
from shala_framework.run.data import TrainingData
from shala_framework.run.folder import RunFolder
from shala_framework.run.latents import latents_of_training
from shala_framework.run.preparing import budgeted_plan, keep_plan
from shala_framework.spec.fingerprint import refiner_fingerprint
from shala_framework.support.distributed import processes
from shala_framework.support.distributed.sharded_layers import has_sharded_layers, shard_layers
from shala_framework.support.distributed.sharded_tensors import full_tensor
from shala_framework.support.errors import DataError
from shala_framework.support.progress import Reporter
from shala_framework.support.seeds import forked_rng
from shala_framework.training.adversarial import refiner_training
from shala_framework.training.budget import TIMED_SHARE, StageCost, measure_stage
from shala_framework.training.compiling import compiled
from shala_framework.training.loop import closed_after, train
from shala_framework.training.metrics import MetricsFile
from shala_framework.training.plan import TrainingPlan
from shala_framework.training.precision import Precision
from shala_framework.training.prior_stage import PriorBatch, PriorTraining, fit_to_latents
from shala_framework.training.refinement import RefinerTraining
from shala_framework.training.stages import COUNTED_ROWS, AutoencoderTraining
from shala_framework.training.temperatures import fit_temperatures

SUPPOSED_CLUSTERS = 20  # number of clusters when a step of stage 2 is timed, before there are any
MEASURED_ROWS = 1_024  # number of rows whose latents and residuals define stage 3's units


@attrs.frozen(kw_only=True, eq=False)
class RunTraining:
    """Trains the stages of a model that are not trained yet.

    Attributes:
        model: The model; its spec has the number of steps of each stage.
        data: Training and held-out rows.
        folder: Folder for checkpoints, states and latents; None keeps everything in memory.
        device: Device of the model.
        precision: Number format of the computation.
        metrics: Receives figures.
        reporter: Receives progress.
        stages: Stages that are to be trained.
        step_seconds: Seconds that a step of each stage took when its number of steps was chosen for a time.
    """

    model: ShaLa
    data: TrainingData
    folder: RunFolder | None
    device: torch.device
    precision: Precision
    metrics: MetricsFile
    reporter: Reporter
    stages: Sequence[str] = STAGES
    step_seconds: dict[str, float] = attrs.field(factory=dict)

    def shard_decoders(self) -> None:
        """Shard the large layers of decoders over the processes if the spec asks for it."""
        processes.barrier()  # each process has read the data at its own pace
        if self.model.spec.train.sharding == "decoders" and "autoencoder" not in self.model.stages:
            autoencoder = self.model.autoencoder
            count = shard_layers([autoencoder.decoders, autoencoder.shared_decoders], self.device)
            self.reporter.note(f"{count} layers of decoders are sharded over {processes.world_size()} processes")

    def fix_steps(self, plan: TrainingPlan) -> TrainingPlan:
        """Fix the number of steps of every stage if the spec gives a time, and apply the plan to the model's spec.

        Args:
            plan: The plan so far; the steps of a resumed run stay.

        Raises:
            SpecError: Not one step of some stage fits into the time.
        """
        settings = self.model.spec.train
        if settings.minutes is not None and not plan.steps:
            plan = budgeted_plan(plan, settings, *self.measure(60 * settings.minutes))
            keep_plan(plan, self.folder)
        self.step_seconds.update({name: cost.step_seconds for name, cost in plan.costs.items()})
        if plan.steps:
            self.reporter.note(plan.describe())
        if few := plan.doubt():
            self.reporter.warn(few)
        self.model.spec = attrs.evolve(self.model.spec, train=plan.applied(settings))
        return plan

    def measure(self, seconds: float) -> tuple[dict[str, StageCost], float]:
        """Measure the cost of a step of each stage that is to be trained.

        Args:
            seconds: Time budget; the timed steps take a small share of it.

        Returns:
            The cost of each stage, and the seconds that measuring took and encoding the training set will take.
        """
        start, cost, encoding = time.perf_counter(), dict[str, StageCost](), 0.0
        self.reporter.begin("measuring the rate of training", None, "stage")
        if "autoencoder" in self.stages:
            stage = self._autoencoder_stage()
            with self._compiled(self.model.autoencoder.networks):
                cost["autoencoder"] = measure_stage(
                    stage,
                    self.model.spec.train.autoencoder,
                    self._batches,
                    matrix_dtype=self.precision.dtype,
                    seconds=seconds * TIMED_SHARE,
                )
            self.reporter.advance(1)
        if "prior" in self.stages:
            with closed_after(partial(self.data.batches, 0)) as batches:
                few = next(batches)
            began = time.perf_counter()
            latents_of(self.model.autoencoder, few, self.device, num_copies=NUM_COPIES)
            row_seconds = (time.perf_counter() - began) / len(few)
            num_rows = self.data.num_train_rows() or 0
            encoding = processes.largest(row_seconds * num_rows / processes.world_size())
            cost["prior"] = self.measure_prior(seconds * TIMED_SHARE)
            self.reporter.advance(2)
        if "refiner" in self.stages and "refiner" in self.model.planned_stages:
            cost["refiner"] = self.measure_refiner(seconds * TIMED_SHARE)
            self.reporter.advance(3)
        self.reporter.finish()
        return cost, processes.largest(time.perf_counter() - start) + encoding

    def measure_prior(self, seconds: float) -> StageCost:
        """Measure a step of stage 2 on artificial latents and clusters, because real ones need a trained stage 1."""
        prior, table, settings = self.model.prior, self.model.spec.posterior, self.model.spec.train.prior
        count = settings.batch_size
        latents = LatentStore.blank(
            count,
            latent_dim=table.latent_dim,
            num_modalities=len(self.model.names),
            feature_dim=table.feature_dim,
            device=self.device,
        )
        held_out = latents if self.data.held_out() is not None else None
        with prior.mixture.supposed(SUPPOSED_CLUSTERS), self._compiled([prior.network, prior.guide]):
            stage = PriorTraining(prior, self.model.spec.prior, settings, latents, held_out, precision=self.precision)
            return measure_stage(
                stage,
                settings,
                partial(self._prior_batches, count),
                matrix_dtype=self.precision.dtype,
                seconds=seconds,
            )

    def measure_refiner(self, seconds: float) -> StageCost:
        """Measure a step of stage 3 with the present stage 1."""
        with self._compiled(list(self.model.refiner.networks.values())):
            return measure_stage(
                self._refiner_stage(),
                self.model.spec.train.refiner,
                self._refiner_batches,
                matrix_dtype=self.precision.dtype,
                seconds=seconds,
            )

    def train_autoencoder(self) -> bool:
        """Train stage 1; return whether there was anything to do.

        Raises:
            DataError: A modality is in no training sample.
        """
        if "autoencoder" in self.model.stages or "autoencoder" not in self.stages:
            return False
        state_file = self._state_file("autoencoder")
        self.data.check_presence(resumed=state_file is not None and state_file.exists())
        stage = self._autoencoder_stage()
        if stage.needs_counts and (state_file is None or not state_file.exists()):  # a state contains the counts
            few = self._few_batches(COUNTED_ROWS, self.model.spec.train.autoencoder.batch_size)
            with forked_rng(), closed_after(partial(self.data.batches, 0)) as batches:
                stage.count(islice(batches, few))
        if stage.describe_weights():
            self.reporter.note(f"stage autoencoder: {stage.describe_weights()}")
        with self._compiled(self.model.autoencoder.networks):
            train(
                stage,
                self.model.spec.train.autoencoder,
                self._batches,
                seed=self.model.spec.seed,
                state_file=state_file,
                fingerprint=self.model.fingerprint,
                matrix_dtype=self.precision.dtype,
                metrics=self.metrics,
                reporter=self.reporter,
                planned_seconds=self.step_seconds.get("autoencoder"),
                settled=stage.kept.settled,
            )
        if decided := stage.finish():
            self.reporter.note(decided)
        self._unshard()
        self.model.stages.add("autoencoder")
        self._save("autoencoder")
        return True

    def train_prior(self) -> bool:
        """Train stage 2, and fit its control; return whether there was anything to do."""
        if "prior" in self.model.stages or "prior" not in self.stages:
            return False
        latents = latents_of_training(self.model, self.data, self.folder, self.device, self.reporter)
        held_out = self._held_out_latents()
        prior, settings = self.model.prior, self.model.spec.train.prior
        weights_N = self.data.row_weights()
        self.reporter.begin("clusters of latents", None, "cluster")
        fit_to_latents(prior, drawn_latents(latents, weights_N, self.model.spec.seed), seed=self.model.spec.seed)
        self.reporter.advance(prior.mixture.num_components)
        self.reporter.finish()
        stage = PriorTraining(
            prior,
            self.model.spec.prior,
            settings,
            latents,
            held_out,
            hiding=list(self.model.autoencoder.hiding),
            precision=self.precision,
        )
        batches: Callable[[int], Iterator[PriorBatch]] = partial(self._prior_batches, len(latents), weights_N=weights_N)
        if isinstance(latents, LatentFiles):
            batches = partial(self._batches_of_files, latents, weights_N)
        with self._compiled([prior.network, prior.guide]):
            train(
                stage,
                settings,
                batches,
                seed=self.model.spec.seed,
                state_file=self._state_file("prior"),
                fingerprint=f"{self.model.fingerprint}-{self.model.autoencoder_digest()}",
                matrix_dtype=self.precision.dtype,
                metrics=self.metrics,
                reporter=self.reporter,
                planned_seconds=self.step_seconds.get("prior"),
                settled=stage.kept.settled,
            )
        if decided := stage.finish():
            self.reporter.note(decided)
        if settings.calibrate and held_out is not None:
            self._fit_temperatures(held_out, trained_rows=settings.steps * settings.batch_size)
        self.model.stages.add("prior")
        self._save("prior")
        return True

    def _fit_temperatures(self, held_out: LatentStore, *, trained_rows: int) -> None:
        """Fit the temperatures of sampling to held-out rows, and say which they are."""
        prior, spec = self.model.prior, self.model.spec
        hiding = list(self.model.autoencoder.hiding)
        found = fit_temperatures(
            prior,
            held_out,
            spec.prior,
            spec.generate,
            reporter=self.reporter,
            trained_rows=trained_rows,
            hiding=hiding,
            seed=spec.seed,
        )
        self.reporter.note(f"stage prior: temperature of sampling, fitted to {len(held_out)} held-out rows: {found}")

    def train_refiner(self) -> bool:
        """Train stage 3 if a modality offers a network and the spec gives it steps; return whether it was trained."""
        asked = "refiner" in self.stages and "refiner" in self.model.planned_stages
        if "refiner" in self.model.stages or not asked:
            return False
        stage, settings = self._refiner_stage(), self.model.spec.train.refiner
        state_file = self._state_file("refiner")
        if state_file is None or not state_file.exists():  # a state contains the units
            few = self._few_batches(MEASURED_ROWS, settings.batch_size)
            for measure in stage.measurements:
                with forked_rng(), closed_after(partial(self._refiner_batches, 0)) as batches:
                    torch.manual_seed(self.model.spec.seed)
                    measure(islice(batches, few))
        with self._compiled(list(self.model.refiner.networks.values())):
            train(
                stage,
                settings,
                self._refiner_batches,
                seed=self.model.spec.seed,
                state_file=state_file,
                fingerprint=f"{self.model.fingerprint}-{self.model.autoencoder_digest()}-{refiner_fingerprint(self.model.spec)}",
                matrix_dtype=self.precision.dtype,
                metrics=self.metrics,
                reporter=self.reporter,
                planned_seconds=self.step_seconds.get("refiner"),
                settled=stage.kept.settled,
            )
        if decided := stage.finish():
            self.reporter.note(decided)
        self.model.stages.add("refiner")
        self._save("refiner")
        return True

    def _few_batches(self, num_rows: int, batch_size: int) -> int:
        """Return how many batches have about so many rows, but no more than one pass over the training set."""
        total = self.data.num_train_rows()
        if total is not None and total < num_rows:
            return math.ceil(total / batch_size)
        return max(1, num_rows // batch_size)

    def _refiner_stage(self) -> RefinerTraining:
        with forked_rng():
            torch.manual_seed(self.model.spec.seed)  # critics are made here
            return refiner_training(self.model.spec.refine)(
                self.model.refiner,
                self.model.autoencoder,
                self.model.spec.refine,
                self.model.spec.train.refiner,
                self.device,
                self.data.held_out(),
                precision=self.precision,
            )

    def _refiner_batches(self, start_step: int) -> Iterator[Rows]:
        return self.data.batches(start_step, self.model.spec.train.refiner.batch_size)

    def _autoencoder_stage(self) -> AutoencoderTraining:
        return AutoencoderTraining(
            self.model.autoencoder,
            self.model.spec.train.autoencoder,
            self.device,
            self.data.held_out(),
            precision=self.precision,
        )

    def _batches(self, start_step: int) -> Iterator[Rows]:
        """Return the batches of stage 1, augmented by their modalities.

        Raises:
            DataError: A row lacks a modality, and the method needs all of them.
        """
        method = self.model.autoencoder.method
        for step, batch in enumerate(self.data.batches(start_step), start_step):
            if method.needs_complete_rows and not batch.presence.all():
                row = int((~batch.presence.all(1)).nonzero()[0, 0])
                absent = [name for name, there in zip(batch.x, batch.presence[row].tolist(), strict=True) if not there]
                remedy = "set data.hidden_share to 0" if self.model.spec.data.hidden_share else "leave such rows out"
                raise DataError(
                    f"the method {self.model.spec.posterior.method!r} trains on complete rows alone, but the row "
                    f"{batch.keys[row]!r} lacks {', '.join(absent)}; {remedy}, or choose another method"
                )
            yield augmented_rows(batch, self.model.modalities, seed=self.model.spec.seed, step=step, device=self.device)

    def _prior_batches(self, num_rows: int, start_step: int, *, weights_N: Tensor | None = None) -> Iterator[Tensor]:
        """Return endless row numbers for stage 2's steps; each process gets its share."""
        size, seed = self.model.spec.train.prior.batch_size, self.model.spec.seed
        batches = shuffled_batches(num_rows, size, seed, start_step, weights_N)
        return (index[processes.rank() :: processes.world_size()] for index in batches)

    def _batches_of_files(
        self, latents: LatentFiles, weights_N: Tensor | None, start_step: int
    ) -> Iterator[LatentStore]:
        return taken_ahead(latents, self._prior_batches(len(latents), start_step, weights_N=weights_N))

    def _compiled(self, networks: list[nn.Module]) -> AbstractContextManager[None]:
        return compiled(networks, self.device) if self.model.spec.train.compile else nullcontext()

    def _unshard(self) -> None:
        """Replace sharded networks by replicated ones with the trained weights."""
        if has_sharded_layers(self.model.autoencoder):
            trained = {name: full_tensor(value) for name, value in self.model.autoencoder.state_dict().items()}
            self.model.build().to(self.device)
            self.model.autoencoder.load_state_dict(trained)

    def _state_file(self, stage: str) -> Path | None:
        return self.folder.state_file(stage) if self.folder is not None else None

    def _save(self, stage: str) -> None:
        if self.folder is None:
            return
        if processes.rank() == 0:
            self.model.save(self.folder.path)
        processes.barrier()
        self.reporter.note(f"wrote {self.folder.checkpoint(stage)}")

    def share_weights(self) -> None:
        """Load the weights that the first process has written into all others, so that samples are of one model."""
        if self.folder is not None and processes.rank() != 0:
            for stage in (stage for stage in STAGES if stage in self.model.stages):
                self.model.load_stage(self.folder.path, stage)

    def _held_out_latents(self) -> LatentStore | None:
        rows = self.data.held_out()
        if rows is None:
            return None
        return latents_of(self.model.autoencoder, rows, self.device, num_copies=NUM_COPIES).to(self.device)
