"""One run of a spec, from shards to samples, in a folder in which it can be taken up again."""

import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from shala_framework import processes
from shala_framework.checkpoint import PARTIAL, DamagedFileError, read_checkpoint, write_file
from shala_framework.data.fitting import needs_fit
from shala_framework.data.identity import compare_shards, describe_shards, read_record, write_record
from shala_framework.data.latent_files import LatentFiles, finish_latents, write_latents
from shala_framework.data.latents import Latents, LatentStore, collect_latents, encoded, latent_statistics
from shala_framework.data.packing import describe_pack, pack
from shala_framework.data.prepared import load_preparation
from shala_framework.data.presence import absent_from_first, absent_from_rows
from shala_framework.data.rows import Rows, fit_to_shards, shuffled_batches
from shala_framework.data.splits import SPLITS, STAND_IN_FOLDER
from shala_framework.errors import CheckpointError, DataError, PluginError, Problem, SpecError
from shala_framework.evaluation.run import evaluate_run
from shala_framework.evaluation.suite import Evaluation
from shala_framework.json_files import dump_json, read_json
from shala_framework.locking import LOCK_FILE, FolderLock
from shala_framework.machine import resolve_device
from shala_framework.model import AUTOENCODER_FILE, PRIOR_FILE, SPEC_FILE, SPEC_SHAPE, ShaLa, fixed_part
from shala_framework.plugin.loading import load_dataset
from shala_framework.plugin.tracker import TrackedRun
from shala_framework.report.samples import SYNTHETIC, SampleWriter, choose_rows
from shala_framework.run_data import RunData
from shala_framework.run_phases import REPORT_SECONDS, SAMPLE_SECONDS, RunPhases
from shala_framework.spec import LoadedSpec, doubts, structure, unstructure
from shala_framework.spec.structuring import format_path
from shala_framework.training.budget import TIMED_SHARE, StageCost, measure_stage, stages_of, steps_within
from shala_framework.training.compiling import compiled
from shala_framework.training.loop import train
from shala_framework.training.metrics import MetricsFile, training_seconds
from shala_framework.training.plan import TrainingPlan
from shala_framework.training.precision import choose_precision, doubt_precision
from shala_framework.training.progress import Reporter, Silent
from shala_framework.training.sharding import has_split_layers, shard_layers
from shala_framework.training.split_tensors import whole
from shala_framework.training.stages import AutoencoderTraining, PriorTraining

STAND_IN, READING, STAGE_1, STAGE_2 = "stand-in data", "reading", "autoencoder", "prior"
SAMPLES, REPORT, EVALUATION = "samples", "report", "evaluation"
EVALUATION_SHARE = 0.25  # of the training time, for an evaluation that the spec does not give a time
# What a run that was killed at its very beginning may have left.
_OWN_BEGINNINGS = (f"{SPEC_FILE}.{PARTIAL}", LOCK_FILE)
MOST_LATENT_BYTES = 4 * 2**30  # of latents in memory; more are read from their files


@attrs.frozen(kw_only=True)
class RunSummary:
    """What a run leaves behind, for whoever started it.

    Attributes:
        folder: The run's folder.
        seconds: Wall time by phase; phases that were already done are absent.
        peak_memory_gib: Largest resident set of this process.
        synthetic: Whether the training data were made by a stand-in.
        evaluation: What was measured at the end; None where that is not asked for, or held-out rows have no labels.
    """

    folder: Path
    seconds: dict[str, float]
    peak_memory_gib: float
    synthetic: bool
    evaluation: Evaluation | None = None


class Experiment:
    """The phases of a run: stages whose files are there are not trained again, samples and figures are made anew."""

    def __init__(
        self, loaded: LoadedSpec, folder: Path, reporter: Reporter | None = None, *, command: str = ""
    ) -> None:
        self.loaded, self.spec, self.folder, self.command = loaded, loaded.spec, folder, command
        self.reporter: Reporter = reporter or Silent()
        self.state = folder / "state"
        self.seconds: dict[str, float] = {}
        self.evaluation: Evaluation | None = None

    def run(self) -> RunSummary:
        """Do everything that is not done yet; under torchrun, in all processes together.

        Raises:
            ShalaError: Something that the user can mend.
            Interrupted: Somebody asked to stop; the same call goes on.
        """
        with processes.naming_lost_process(), ExitStack() as stack:
            return self._run(stack)

    def _run(self, stack: ExitStack) -> RunSummary:
        self.model = ShaLa(self.loaded)
        self.fingerprint = self.model.fingerprint
        self.device = processes.join(resolve_device(self.spec.train.device))
        self._check_processes()
        self._check_shards()
        self.phases = RunPhases(self._phase_titles(), self.reporter)
        with processes.first_before_others():
            if processes.rank() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.lock = stack.enter_context(FolderLock(self.folder, on_wait=self.reporter.note))
            self._claim_folder()
            if self.loaded.stand_in_used:
                self._timed("stand_in", STAND_IN, self._make_stand_in)
        self.metrics = self._open_metrics()
        self.data = RunData(
            spec=self.spec,
            modalities=self.model.modalities,
            train_urls=self.model.urls("train", self.folder),
            validation_urls=self.model.urls("validation", self.folder),
            device=self.device,
            reporter=self.reporter,
        )
        with processes.first_before_others():
            if processes.rank() == 0:
                self._check_identity()
            self._fit_modalities()
            self._choose_precision()
        with closing(self.metrics):
            self._timed("reading", READING, self._read)
            self._shard_layers()
            self._fix_steps()
            self._timed("autoencoder", STAGE_1, self._train_autoencoder)
            self._timed("prior", STAGE_2, self._train_prior)
        if processes.rank() == 0:
            self._timed("samples", SAMPLES, self._write_samples)
            self._timed("report", REPORT, self._write_report)
            self._timed("evaluation", EVALUATION, self._measure)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        summary = RunSummary(
            folder=self.folder,
            seconds=self.seconds,
            peak_memory_gib=peak,
            synthetic=self.loaded.stand_in_used,
            evaluation=self.evaluation,
        )
        self.metrics.write("summary", 0, {"seconds": self.seconds, "peak_memory_gib": round(peak, 3)})
        if processes.rank() == 0:
            self.report.write()
        return summary

    def _phase_titles(self) -> list[str]:
        """What is still to be done, in order."""
        missing = [
            (STAND_IN, self.loaded.stand_in_used and not (self.folder / STAND_IN_FOLDER).exists()),
            (READING, self.spec.data.in_memory),
            (STAGE_1, not (self.folder / AUTOENCODER_FILE).exists()),
            (STAGE_2, not (self.folder / PRIOR_FILE).exists()),
            (SAMPLES, True),
            (REPORT, True),
            (EVALUATION, self.spec.evaluate.at_end),
        ]
        return [title for title, wanted in missing if wanted]

    def _open_metrics(self) -> MetricsFile:
        if processes.rank() != 0:
            return MetricsFile(None)
        run = TrackedRun(name=self.spec.name, folder=self.folder, spec=unstructure(self.spec))
        trackers = []
        for name, (tracker, options) in self.loaded.trackers.items():
            try:
                trackers.append(tracker(options, run))
            except Exception as error:
                raise PluginError(
                    f"track.{name}: its start failed: {type(error).__name__}: {error}; mend it, or remove the table"
                ) from error
        return MetricsFile(self.folder / "metrics.jsonl", trackers, self.reporter.warn, self.fingerprint)

    def _timed(self, name: str, title: str, work: Callable[[], bool]) -> None:
        """Do a phase's work, if any is left, and keep the seconds that it took."""
        if title not in self.phases.titles:
            return
        start = time.perf_counter()
        if processes.rank() == 0:
            self.lock.check()
        with self.phases.phase(title):
            done = work()
        if done:
            self.seconds[name] = round(time.perf_counter() - start, 2)

    def _read(self) -> bool:
        """Read the training set, where it is kept in memory and a stage is still to be trained."""
        if len(self.model.stages) == 2:
            return False
        self.data.train()
        return True

    def _check_shards(self) -> None:
        """Raise DataError where shards are not there, before a file is written; a run does without its test split."""
        if self.loaded.stand_in_used:
            return
        for split in SPLITS:
            try:
                self.model.urls(split, self.folder)
            except DataError as error:
                if split != "test":
                    raise
                self.reporter.note(f"{error}; `shala evaluate --split test` will need them")

    def _check_processes(self) -> None:
        """Raise SpecError where rows of a step, or lanes, cannot be shared equally."""
        size, train = processes.world_size(), self.spec.train
        problems = [
            Problem(
                path=path,
                message=f"expected a multiple of {size * parts}, got {value}",
                hint=f"{size} processes{f' with {parts} micro-batches each' if parts > 1 else ''} share it",
            )
            for path, value, parts in (
                ("train.autoencoder.batch_size", train.autoencoder.batch_size, train.autoencoder.micro_batches),
                ("train.prior.batch_size", train.prior.batch_size, train.prior.micro_batches),
                ("data.lanes", 0 if self.spec.data.in_memory else self.spec.data.lanes, 1),
            )
            if value % (size * parts)
        ]
        if problems:
            raise SpecError(problems)

    def _claim_folder(self) -> None:
        """Write spec.json, or make sure that the folder's is this one."""
        mine = {"spec": unstructure(self.spec), "stand_in_used": self.loaded.stand_in_used}
        path = self.folder / SPEC_FILE
        if path.exists():
            theirs = self._read_spec(path)
            differences = (
                _differences(fixed_part(theirs), fixed_part(mine)) or _reordered(theirs, mine) if theirs else []
            )
            if differences:
                listed = "\n".join(f"  {key}: {old!r} in the folder, {new!r} now" for key, old, new in differences)
                raise CheckpointError(
                    f"{self.folder} belongs to another spec:\n{listed}\n"
                    "choose another --out, remove the folder, or put these keys back"
                )
        elif any(entry.name not in _OWN_BEGINNINGS for entry in self.folder.iterdir()):
            raise CheckpointError(f"{self.folder} is not empty and holds no run; choose another --out")
        if processes.rank() == 0:
            write_file(path, dump_json(mine, indent=2))

    def _read_spec(self, path: Path) -> dict[str, Any] | None:
        """The folder's spec.json; None where it is damaged, and states in the folder say that it was this spec.

        Raises:
            CheckpointError: It is damaged, and the folder's states are of another spec, or there are none.
        """
        try:
            found: dict[str, Any] = read_json(
                path, SPEC_SHAPE, error=CheckpointError, advice="choose another --out or remove the folder"
            )
            return found
        except CheckpointError:
            if self._fingerprints() != {self.fingerprint}:
                raise
            self.reporter.warn(f"{path} was damaged and is written again, as every state in the folder is of this spec")
            return None

    def _fingerprints(self) -> set[str]:
        """Of the runs that the folder's states and checkpoints belong to; damaged ones say nothing."""
        found = set()
        for file in (*self.folder.glob("*.safetensors"), *self.state.glob("*.safetensors")):
            with suppress(CheckpointError):
                found.add(str(read_checkpoint(file)[1].get("fingerprint")).partition("-")[0])
        return found

    def _make_stand_in(self) -> bool:
        stand_in = self.spec.data.stand_in
        assert stand_in is not None
        if processes.rank() != 0:
            return False
        self.reporter.warn(
            f"{SYNTHETIC}: no shard matches data.train = {self.spec.data.train!r}, so this run trains on the "
            f"synthetic data set {stand_in.dataset!r}. Its results say nothing about real data."
        )
        write_file(
            self.folder / "SYNTHETIC_DATA.txt",
            f"{SYNTHETIC}. Every sample and figure in this folder comes from the synthetic data set "
            f"{stand_in.dataset!r},\nbecause no shard matched data.train = {self.spec.data.train!r}.\n".encode(),
        )
        if (self.folder / STAND_IN_FOLDER).exists():
            return False
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.reporter.begin("stand-in data", None, "sample")
        dataset_class = load_dataset(stand_in.dataset)
        dataset = dataset_class(structure(stand_in.options, dataset_class.Options))
        report = pack(dataset, None, partial, on_sample=self.reporter.advance)
        partial.rename(self.folder / STAND_IN_FOLDER)
        self.reporter.finish()
        self.reporter.note(describe_pack(report))
        return True

    def _check_identity(self) -> None:
        """Compare the shards with those that the run began with, and keep a record of them.

        Raises:
            CheckpointError: Training has begun on other training shards, and is not done.
        """
        path = self.state / "shards.json"
        now = {
            "train": describe_shards(self.data.train_urls, self.data.cache),
            "validation": describe_shards(self.data.validation_urls, self.data.cache),
        }
        then = read_record(path, self.reporter.warn)
        for split, shards in now.items():
            changes = compare_shards(then[split], shards) if then is not None else []
            if not changes:
                continue
            listed = "\n".join(f"  {line}" for line in changes)
            text = f"data.{split}: these are not the shards that {self.folder} began with:\n{listed}"
            if split == "train" and not (self.folder / PRIOR_FILE).exists():
                raise CheckpointError(
                    f"{text}\nwhat the run has learned so far is of the former; put them back to resume, or choose "
                    "another --out to train on these"
                )
            what = "both stages are of the former" if split == "train" else "earlier figures are of the former"
            self.reporter.warn(f"{text}\n{what}; samples and figures made from now on are of the present ones")
        if then is None or (self.folder / PRIOR_FILE).exists() or then["train"] == now["train"]:
            write_record(path, now)

    def _fit_modalities(self) -> None:
        """Fit those that learn from data, or load what an earlier call fitted, and make the networks."""
        path = self.state / "modalities.json"
        if not (path.exists() and self._load_modalities(path)):
            modalities = self.model.modalities
            prepared = load_preparation(self.data.train_urls, modalities)
            for name, modality in modalities.items() if not prepared else ():
                if needs_fit(modality):
                    self.reporter.note(f"fitting {name} to the training samples")
                    fit_to_shards(
                        name,
                        modality,
                        self.data.train_urls,
                        self.data.cache,
                        max_field_bytes=self.spec.data.max_field_bytes,
                    )
            states = {name: modality.state() for name, modality in modalities.items()}
            write_file(path, dump_json({"fingerprint": self.fingerprint, "states": states}))
        self.model.build()
        for stage, load in (("autoencoder", self.model.load_autoencoder), ("prior", self.model.load_prior)):
            file = self.folder / f"{stage}.safetensors"
            if not file.exists():
                continue
            try:
                load(self.folder)
            except DamagedFileError as error:
                if not list(self.state.glob(f"{stage}.*")):
                    raise CheckpointError(f"{error}; restore it, or remove it to train this stage again") from error
                self.reporter.warn(f"{error}; stage {stage} is finished again from its last saved state")
                unfinished = [STAGE_1, STAGE_2] if stage == STAGE_1 else [STAGE_2]
                self.phases.add(unfinished, before=SAMPLES)
                break  # what depends on it waits for it
        self.model.to(self.device)

    def _load_modalities(self, path: Path) -> bool:
        """Give the modalities the states of an earlier call; False where they are damaged or another run's."""
        try:
            shape = {"fingerprint": str, "states": dict.fromkeys(self.model.names, dict)}
            found = read_json(path, shape, error=CheckpointError, advice="it is made again from the training samples")
            if found["fingerprint"] != self.fingerprint:
                raise CheckpointError(f"{path} is another run's; it is made again from the training samples")
            for name, modality in self.model.modalities.items():
                modality.load_state(found["states"][name])
        except CheckpointError as error:
            self.reporter.warn(str(error))
            return False
        return True

    def _choose_precision(self) -> None:
        """Fix the number format that the run computes in, or take the one that it began with."""
        plan = TrainingPlan.read(self.state, self.fingerprint, self.reporter.warn)
        if plan is None:
            precision = choose_precision(self.spec.train.precision, self.device)
            plan = TrainingPlan(precision=precision.name, reason=precision.reason)
            if processes.rank() == 0:
                plan.write(self.state, self.fingerprint)
            doubt = doubt_precision(precision)
            if doubt:
                self.reporter.warn(doubt)
        self.plan, self.precision = plan, plan.number_format()
        self.reporter.note(f"computing in {plan.precision}: {plan.reason}")

    def _shard_layers(self) -> None:
        """Split large layers of stage 1 among the processes, where the spec asks for it."""
        if self.spec.train.sharding == "decoders" and "autoencoder" not in self.model.stages:
            autoencoder = self.model.autoencoder
            count = shard_layers([autoencoder.decoders, autoencoder.shared_decoders], self.device)
            self.reporter.note(f"{count} layers of decoders are split among {processes.world_size()} processes")

    def _fix_steps(self) -> None:
        """Fix the number of steps of every stage, where the spec gives a time in place of it."""
        settings = self.spec.train
        if settings.minutes is not None and not self.plan.steps:
            costs, encoding = self._measure_stages(60 * settings.minutes)
            left = 60 * settings.minutes - encoding
            steps = steps_within(left, stages_of(settings), costs, minutes=settings.minutes)
            self.plan = attrs.evolve(self.plan, minutes=settings.minutes, steps=steps, costs=costs)
            if processes.rank() == 0:
                self.plan.write(self.state, self.fingerprint)
        if self.plan.steps:
            self.reporter.note(self.plan.describe())
        self.spec = attrs.evolve(self.spec, train=self.plan.applied(settings))
        self.model.spec = self.spec
        for sentence in doubts(self.spec):
            self.reporter.warn(sentence)
        self._expect()

    def _expect(self) -> None:
        """Say what is known of how long the phases will take."""
        expected = {name: steps * self.plan.costs[name].step_seconds for name, steps in self.plan.steps.items()}
        # Compiling a network takes minutes, which an estimate is not worth.
        if not expected and "prior" not in self.model.stages and not self.spec.train.compile:
            settings = self.spec.train.prior
            cost = self._measure_prior(seconds=0.0)
            expected = {STAGE_2: settings.steps * cost.step_seconds}
        generate = self.spec.generate
        samples = generate.num_joint + len(self.model.names) * generate.num_rows * generate.num_samples
        minutes = self.spec.evaluate.minutes
        evaluation = EVALUATION_SHARE * sum(expected.values()) if minutes is None else 60 * minutes
        if self._rows_to_evaluate() is None:
            evaluation = 0.0
        self.phases.expect(
            {**expected, SAMPLES: SAMPLE_SECONDS * samples, REPORT: REPORT_SECONDS, EVALUATION: evaluation}
        )

    def _measure_stages(self, seconds: float) -> tuple[dict[str, StageCost], float]:
        """What steps of both stages cost, and the seconds that measuring took and encoding the training set will."""
        start = time.perf_counter()
        self.reporter.begin("measuring the rate of training", None, "stage")
        limit = seconds * TIMED_SHARE
        settings, cost = self.spec.train, {}
        seen: list[Rows] = []

        def batches(start_step: int) -> Iterator[Rows]:
            for batch in self.data.batches(start_step):
                seen[:] = [batch]
                yield batch

        stage = self._autoencoder_stage()
        with self._compiled(self.model.autoencoder.networks):
            cost["autoencoder"] = measure_stage(
                stage, settings.autoencoder, batches, matrix_dtype=self.precision.dtype, seconds=limit
            )
        self.reporter.advance(1)
        (few,) = seen
        began = time.perf_counter()
        collect_latents(self.model.autoencoder, [few], self.device)
        row_seconds = (time.perf_counter() - began) / len(few)
        num_rows = self.data.num_train_rows() or 0
        encoding = processes.largest(row_seconds * num_rows / processes.world_size(), self.device)
        cost["prior"] = self._measure_prior(limit)
        self.reporter.advance(2)
        self.reporter.finish()
        return cost, processes.largest(time.perf_counter() - start, self.device) + encoding

    def _measure_prior(self, seconds: float) -> StageCost:
        """What a step of stage 2 costs, on made latents: the real ones come of stage 1."""
        table, settings = self.spec.posterior, self.spec.train.prior
        count, modalities = settings.batch_size, len(self.model.names)
        latents = LatentStore(
            torch.zeros(count, table.latent_dim),
            torch.zeros(count, table.latent_dim),
            torch.zeros(count, modalities, table.feature_dim),
            torch.ones(count, modalities, dtype=torch.bool),
        ).to(self.device)
        stage = PriorTraining(self.model.prior, self.spec.prior, settings, latents, precision=self.precision)
        with self._compiled([self.model.prior.network, self.model.prior.guide]):
            return measure_stage(
                stage,
                settings,
                partial(self._prior_batches, count),
                matrix_dtype=self.precision.dtype,
                seconds=seconds,
            )

    def _autoencoder_stage(self) -> AutoencoderTraining:
        return AutoencoderTraining(
            self.model.autoencoder,
            self.spec.posterior,
            self.spec.train.autoencoder,
            self.device,
            self.data.held_out(),
            precision=self.precision,
        )

    def _prior_batches(self, num_rows: int, start_step: int) -> Iterator[Tensor]:
        """Endless row numbers of stage 2's steps, of which each process has its share."""
        batches = shuffled_batches(num_rows, self.spec.train.prior.batch_size, self.spec.seed, start_step)
        return (index[processes.rank() :: processes.world_size()] for index in batches)

    def _train_autoencoder(self) -> bool:
        if "autoencoder" in self.model.stages:
            return False
        state_file = self.state / "autoencoder.safetensors"
        if self.spec.data.in_memory:
            absent = absent_from_rows(
                self.data.train(),
                self.model.modalities,
                self.data.train_urls,
                max_field_bytes=self.spec.data.max_field_bytes,
            )
            if absent:
                raise DataError("\n".join(f"data.train: {sentence}" for sentence in absent))
        elif not state_file.exists():
            limit = self.spec.data.max_field_bytes
            for sentence in absent_from_first(
                self.data.train_urls, self.model.modalities, self.data.cache, max_field_bytes=limit
            ):
                self.reporter.warn(f"data.train: {sentence}")
        stage = self._autoencoder_stage()
        with self._compiled(self.model.autoencoder.networks):
            train(
                stage,
                self.spec.train.autoencoder,
                self.data.batches,
                seed=self.spec.seed,
                state_file=state_file,
                fingerprint=self.fingerprint,
                matrix_dtype=self.precision.dtype,
                metrics=self.metrics,
                reporter=self.reporter,
            )
        self._make_whole()
        self.model.stages.add("autoencoder")
        self._save_model()
        self.reporter.note(f"wrote {self.folder / AUTOENCODER_FILE}")
        return True

    def _compiled(self, networks: list[nn.Module]) -> AbstractContextManager[None]:
        return compiled(networks, self.device) if self.spec.train.compile else nullcontext()

    def _make_whole(self) -> None:
        """Where layers are split among the processes, give every process the trained networks as they are alone."""
        if has_split_layers(self.model.autoencoder):
            trained = {name: whole(value) for name, value in self.model.autoencoder.state_dict().items()}
            self.model.build().to(self.device)
            self.model.autoencoder.load_state_dict(trained)

    def _latents(self) -> Latents:
        """Posterior and features of every training row: each process encodes and writes a share, and reads all."""
        folder, size = self.state / "latents", processes.world_size()
        name = f"{self.fingerprint}-{self.model.autoencoder_digest()}"
        files = self._read_latents(folder, name) if LatentFiles.exist(folder) else None
        if files is None:
            self.reporter.begin("latents", None, "row")
            with torch.random.fork_rng():  # worker processes are seeded from it
                write_latents(folder, processes.rank(), size, self._encoded, self.reporter.advance, fingerprint=name)
            self.reporter.finish()
            processes.barrier()
            if processes.rank() == 0:
                finish_latents(folder, size, fingerprint=name)
            processes.barrier()
            files = LatentFiles(folder, fingerprint=name)
        if files.num_bytes > MOST_LATENT_BYTES:
            self.reporter.note(f"latents: {files.num_bytes / 2**30:.1f} GiB are read from {folder} as they are needed")
            return files
        return files.take(torch.arange(len(files))).to(self.device)

    def _read_latents(self, folder: Path, name: str) -> LatentFiles | None:
        """The latents of an earlier call; None, for all processes, where one found them damaged: they are removed."""
        files, reason = None, "another process found them damaged"
        try:
            files = LatentFiles(folder, fingerprint=name)
        except CheckpointError as error:
            reason = str(error)
        (damaged,) = processes.any_process((files is None,), self.device)
        if not damaged:
            return files
        self.reporter.warn(f"{reason}\nthe training set is encoded again")
        if processes.rank() == 0:
            shutil.rmtree(folder)
        processes.barrier()
        return None

    def _encoded(self, num_rows: int, start: int) -> Iterator[LatentStore]:
        return encoded(self.model.autoencoder, self.data.in_order(num_rows, start), self.device)

    def _save_model(self) -> None:
        if processes.rank() == 0:
            self.model.save(self.folder)
        processes.barrier()

    def _held_out_latents(self) -> LatentStore | None:
        rows = self.data.held_out()
        if rows is None:
            return None
        batches = (rows.take(index) for index in torch.arange(len(rows)).split(64))
        return collect_latents(self.model.autoencoder, batches, self.device).to(self.device)

    def _train_prior(self) -> bool:
        if "prior" in self.model.stages:
            return False
        latents = self._latents()
        prior, settings = self.model.prior, self.spec.train.prior
        prior.set_statistics(*latent_statistics(latents))
        self._fit_mixture(latents)
        stage = PriorTraining(
            prior, self.spec.prior, settings, latents, self._held_out_latents(), precision=self.precision
        )
        batches = partial(self._prior_batches, len(latents))
        with self._compiled([prior.network, prior.guide]):
            train(
                stage,
                settings,
                batches,
                seed=self.spec.seed,
                state_file=self.state / "prior.safetensors",
                fingerprint=f"{self.fingerprint}-{self.model.autoencoder_digest()}",
                matrix_dtype=self.precision.dtype,
                metrics=self.metrics,
                reporter=self.reporter,
            )
        stage.average.copy_to_module()
        self.model.stages.add("prior")
        self._save_model()
        self.reporter.note(f"wrote {self.folder / PRIOR_FILE}")
        return True

    def _fit_mixture(self, latents: Latents, most_rows: int = 10_000) -> None:
        """Fit the control to draws of the aggregate posterior, several a row where rows are few."""
        with torch.random.fork_rng():
            torch.manual_seed(self.spec.seed)
            rows = torch.randperm(len(latents)).repeat(max(1, -(-1_000 // len(latents))))[:most_rows]
            draws = self.model.prior.standardise(latents.take(rows).to(self.device).sample())
        with torch.no_grad():
            self.model.mixture.fit(draws, seed=self.spec.seed)

    def _write_samples(self) -> bool:
        settings = self.spec.generate
        folder = self.folder / "samples"
        shutil.rmtree(folder, ignore_errors=True)
        writer = SampleWriter(model=self.model, folder=folder, on_file=self.reporter.advance)
        if settings.num_joint:
            self.reporter.begin("joint samples", settings.num_joint, "sample")
            writer.joint(settings.num_joint, seed=self.spec.seed)
            self.reporter.finish()
        rows = self.data.held_out()
        if rows is None:
            self.reporter.note("data.validation names no shards: cross-modal samples are of training rows")
            rows = self.data.few_train()
        if settings.num_rows and len(self.model.names) > 1:
            for column, name in enumerate(self.model.names):
                chosen = choose_rows(rows, column, settings.num_rows)
                if not len(chosen):
                    self.reporter.note(f"no row has {name}: nothing is generated from it")
                    continue
                self.reporter.begin(f"given {name}", len(chosen) * settings.num_samples, "sample")
                writer.cross_modal(chosen, [name], num_samples=settings.num_samples, seed=self.spec.seed)
                self.reporter.finish()
        return True

    def _write_report(self) -> bool:
        from shala_framework.report.page import Report  # seconds of imports that training need not wait for

        held_out = self.data.held_out()
        self.report = Report(self.model, self.folder, held_out, command=self.command, reporter=self.reporter)
        self.report.write(evaluating=self._rows_to_evaluate() is not None)
        return True

    def _rows_to_evaluate(self) -> Rows | None:
        """The held-out rows, where they have labels and the spec ends the run with their evaluation; else None."""
        rows = self.data.held_out() if self.spec.evaluate.at_end else None
        return rows if rows is not None and any(rows.labels) else None

    def _evaluation_seconds(self) -> float:
        """Time for what the spec leaves open: what it says, or a quarter of the training."""
        minutes = self.spec.evaluate.minutes
        trained = training_seconds(self.folder / "metrics.jsonl", self.fingerprint)
        return 60 * minutes if minutes is not None else EVALUATION_SHARE * trained

    def _measure(self) -> bool:
        """Evaluate on validation rows, where they have labels; the test split is for `shala evaluate`."""
        rows = self._rows_to_evaluate()
        if rows is None:
            if self.data.held_out() is not None:
                self.reporter.note(
                    "not evaluated: held-out rows have no class (field cls); `shala evaluate` measures the rest"
                )
            return False
        train = self.data.train() if self.spec.data.in_memory else None
        self.evaluation = evaluate_run(
            self.model,
            self.folder,
            "validation",
            self.spec.evaluate,
            train=train,
            held_out=rows,
            seconds=self._evaluation_seconds(),
            seed=self.spec.seed,
            reporter=self.reporter,
        )
        return True


def _reordered(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Whether the modalities, otherwise the same, come in another order, which is that of the networks' inputs."""
    before, now = (list(described["spec"]["modality"]) for described in (old, new))
    return [("order of the modality tables", before, now)] if before != now else []


def _differences(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in _differences(old.get(key), new.get(key), (*path, key))]
    return [] if old == new else [(format_path(path[1:] if len(path) > 1 else path), old, new)]
