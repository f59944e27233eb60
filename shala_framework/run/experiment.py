"""One run of a spec, from shards to samples, in a folder from which it can be resumed."""

import resource
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import attrs

from shala_framework.data.rows import Rows
from shala_framework.data.splits import SPLITS, Split, split_urls, train_weights
from shala_framework.evaluation.suite import Evaluation
from shala_framework.model import STAGES, ShaLa
from shala_framework.model.origin import read_origin
from shala_framework.plugin.modality import Modality
from shala_framework.plugin.tracker import TrackedRun
from shala_framework.report.samples import SampleWriter, choose_rows
from shala_framework.run.data import RunData
from shala_framework.run.evaluation import evaluate_run
from shala_framework.run.folder import RunFolder
from shala_framework.run.passing import read_by_first
from shala_framework.run.phases import REPORT_SECONDS, SAMPLE_SECONDS, RunPhases
from shala_framework.run.preparing import begin_plan, claim_folder, prepare_model
from shala_framework.run.taking import check_same_shards, plan_taking, take_stages
from shala_framework.run.training import RunTraining
from shala_framework.spec import LoadedSpec, doubts, unstructure
from shala_framework.support.distributed import processes
from shala_framework.support.errors import DataError, PluginError, Problem, ShalaError, SpecError
from shala_framework.support.machine import resolve_device
from shala_framework.support.progress import Reporter, Silent
from shala_framework.training.metrics import MetricsFile, training_seconds

STAND_IN, READING, STAGE_1, STAGE_2, STAGE_3 = "stand-in data", "reading", "autoencoder", "prior", "refiner"
SAMPLES, REPORT, EVALUATION = "samples", "report", "evaluation"
LEAST_MEASURED = 20  # steps of stage 2 from which its time is measured beforehand, which takes about five
EVALUATION_SHARE = 0.25  # share of the training time, for an evaluation without a time in the spec


@attrs.frozen(kw_only=True)
class RunSummary:
    """The results of a run, for its caller.

    Attributes:
        folder: The run's folder.
        seconds: Wall time by phase; phases that were already done are absent.
        peak_memory_gib: Largest resident set of this process.
        synthetic: Whether the training data come from a stand-in.
        evaluation: The evaluation at the end; None if the spec asks for none or held-out rows have no labels.
    """

    folder: Path
    seconds: dict[str, float]
    peak_memory_gib: float
    synthetic: bool
    evaluation: Evaluation | None = None


class Experiment:
    """The phases of a run. Stages with a checkpoint are not trained again; samples and figures are made again."""

    def __init__(
        self,
        loaded: LoadedSpec,
        folder: Path,
        reporter: Reporter | None = None,
        *,
        command: str = "",
        take_from: Path | None = None,
    ) -> None:
        self.loaded, self.spec, self.folder, self.command = loaded, loaded.spec, folder, command
        self.take_from = take_from
        self.reporter: Reporter = reporter or Silent()
        self.seconds: dict[str, float] = {}
        self.evaluation: Evaluation | None = None

    def run(self) -> RunSummary:
        """Do everything that is not done yet; under torchrun, in all processes together.

        Raises:
            ShalaError: Something that the user can fix.
            Interrupted: The user asked to stop; the same call resumes.
        """
        with processes.naming_lost_process(), ExitStack() as stack:
            return self._run(stack)

    def _run(self, stack: ExitStack) -> RunSummary:
        self.model = ShaLa.from_spec(self.loaded)
        self.place = RunFolder(self.folder, self.model.fingerprint, self.reporter)
        self.device = processes.join(resolve_device(self.spec.train.device))
        self._check_processes()
        self._check_shards()
        described = {"spec": unstructure(self.spec), "stand_in_used": self.loaded.stand_in_used}
        if self.loaded.profile is not None:
            described["profile"] = self.loaded.profile
        taken = plan_taking(self.take_from, self.place, described, self.model.modalities, self.reporter)
        self.phases = RunPhases(self._phase_titles(), self.reporter)
        with processes.first_before_others():
            self.lock = claim_folder(self.place, described, stack, self.reporter)
            if self.loaded.stand_in_used:
                self._timed("stand_in", STAND_IN, self._make_stand_in)
        self.metrics = self._open_metrics()
        self.data = RunData(
            spec=self.spec,
            modalities=self.model.modalities,
            train_urls=split_urls(self.model.spec.data, "train", self.folder if self.model.synthetic else None),
            validation_urls=split_urls(
                self.model.spec.data, "validation", self.folder if self.model.synthetic else None
            ),
            device=self.device,
            reporter=self.reporter,
            train_weights=train_weights(self.model.spec.data, self.folder if self.model.synthetic else None),
        )
        with processes.first_before_others():
            if processes.rank() == 0:
                shards = self.data.describe_shards()
                self.place.check_shards(shards, last_stage=STAGE_3 if self._refines else STAGE_2)
                if taken is not None:
                    check_same_shards(taken, shards["train"], self.reporter)
                    take_stages(taken, self.place, described, self.reporter)
                    self.phases.remove(taken.stages)
            unfinished = prepare_model(self.model, self.data, self.place, self.reporter)
            self.phases.add([stage for stage in (STAGE_1, STAGE_2, STAGE_3) if stage in unfinished], before=SAMPLES)
            self.model.to(self.device)
            self.plan = begin_plan(self.spec.train, self.device, self.place, self.reporter)
        origin = read_origin(self.folder)
        with closing(self.metrics):
            self.training = RunTraining(
                model=self.model,
                data=self.data,
                folder=self.place,
                device=self.device,
                precision=self.plan.number_format(),
                metrics=self.metrics,
                reporter=self.reporter,
                stages=[stage for stage in STAGES if origin is None or stage not in origin.stages],
            )
            self._timed("reading", READING, self._read)
            self.training.shard_decoders()
            self._fix_steps()
            self._timed("autoencoder", STAGE_1, self.training.train_autoencoder)
            self._timed("prior", STAGE_2, self.training.train_prior)
            self._timed("refiner", STAGE_3, self.training.train_refiner)
            self.training.share_weights()
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
                self.metrics.results(self.place.results())
        return summary

    def _make_stand_in(self) -> bool:
        return processes.rank() == 0 and self.place.make_stand_in(self.spec.data)

    def _phase_titles(self) -> list[str]:
        """Return the titles of the remaining phases, in order."""
        missing = [
            (STAND_IN, self.loaded.stand_in_used and not self.place.has_stand_in),
            (READING, self.spec.data.in_memory),
            (STAGE_1, not self.place.has("autoencoder")),
            (STAGE_2, not self.place.has("prior")),
            (STAGE_3, self._refines and not self.place.has("refiner")),
            (SAMPLES, True),
            (REPORT, True),
            (EVALUATION, self.spec.evaluate.at_end),
        ]
        return [title for title, wanted in missing if wanted]

    @property
    def _refines(self) -> bool:
        """Whether the spec may have a third stage. Networks are known only after modalities are fitted."""
        offered = any(type(m).refiner is not Modality.refiner for m in self.model.modalities.values())
        return offered and self.spec.train.refiner.steps > 0

    def _open_metrics(self) -> MetricsFile:
        if processes.rank() != 0:
            return MetricsFile(None)
        run = TrackedRun(name=self.spec.name, folder=self.folder, spec=unstructure(self.spec))
        trackers = []
        for name, (tracker, options) in self.loaded.trackers.items():
            try:
                trackers.append(tracker(options, run))
            except ShalaError as error:
                raise PluginError(f"track.{name}: {error}") from error
            except Exception as error:
                raise PluginError(
                    f"track.{name}: it failed to start: {type(error).__name__}: {error}; correct its options, or "
                    "remove the table"
                ) from error
        return MetricsFile(self.place.metrics, trackers, self.reporter.warn, self.place.fingerprint)

    def _timed(self, name: str, title: str, work: Callable[[], bool]) -> None:
        """Do the remaining work of a phase, and record its seconds."""
        if title not in self.phases.titles:
            return
        start = time.perf_counter()
        if self.lock is not None:
            self.lock.check()
        with self.phases.phase(title):
            done = work()
        if done:
            self.seconds[name] = round(time.perf_counter() - start, 2)

    def _read(self) -> bool:
        """Read the training set if it is kept in memory and a stage is still to be trained."""
        if set(self.model.planned_stages) <= self.model.stages:
            return False
        self.data.train()
        return True

    def _urls(self, split: Split) -> list[str]:
        return split_urls(self.spec.data, split, self.folder if self.loaded.stand_in_used else None)

    def _check_shards(self) -> None:
        """Raise DataError if shards are missing, before any file is written; only the test split may be missing."""
        if self.loaded.stand_in_used:
            return
        for split in SPLITS:
            try:
                self._urls(split)
            except DataError as error:
                if split != "test":
                    raise
                self.reporter.note(f"{error}; `shala evaluate --split test` will need them")

    def _check_processes(self) -> None:
        """Raise SpecError unless the processes can share the rows of a step, and the segments of an epoch, equally."""
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
                ("train.refiner.batch_size", train.refiner.batch_size, train.refiner.micro_batches),
                ("data.interleave", 0 if self.spec.data.in_memory else self.spec.data.interleave, 1),
            )
            if value % (size * parts)
        ]
        if problems:
            raise SpecError(problems)

    def _fix_steps(self) -> None:
        """Fix the number of steps of every stage, report doubtful settings and estimate the time of the phases."""
        self.plan = self.training.fix_steps(self.plan)
        self.spec = self.model.spec
        for sentence in doubts(self.spec):
            self.reporter.warn(sentence)
        self._expect()

    def _expect(self) -> None:
        """Report the expected time of each phase."""
        expected = {name: steps * self.plan.costs[name].step_seconds for name, steps in self.plan.steps.items()}
        settings, trained = self.spec.train.prior, "prior" in self.model.stages
        # Compiling a network takes minutes, too long for an estimate.
        if not expected and not trained and not self.spec.train.compile and settings.steps >= LEAST_MEASURED:
            cost = self.training.measure_prior(seconds=0.0)
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

    def _write_samples(self) -> bool:
        """Write joint samples, and those given each modality. Processes take these in turn."""
        settings, seed = self.spec.generate, self.spec.seed
        folder = self.place.samples
        if processes.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        processes.barrier()
        writer = SampleWriter(model=self.model, folder=folder, on_file=self.reporter.advance)
        tasks: list[tuple[str, int, Callable[[], None]]] = []
        if settings.num_joint:
            tasks.append(("joint samples", settings.num_joint, partial(writer.joint, settings.num_joint, seed=seed)))
        rows = self.data.held_out()
        if rows is None:
            self.reporter.note("data.validation names no shards: cross-modal samples are of training rows")
            rows = read_by_first(self.data.few_train)
        if settings.num_rows and len(self.model.names) > 1:
            for column, name in enumerate(self.model.names):
                chosen = choose_rows(rows, column, settings.num_rows)
                if not len(chosen):
                    self.reporter.note(f"no row has {name}: nothing is generated from it")
                    continue
                write = partial(writer.cross_modal, chosen, [name], num_samples=settings.num_samples, seed=seed)
                tasks.append((f"given {name}", len(chosen) * settings.num_samples, write))
        for title, count, task in tasks[processes.rank() :: processes.world_size()]:
            self.reporter.begin(title, count, "sample")
            task()
            self.reporter.finish()
        processes.barrier()
        return True

    def _write_report(self) -> bool:
        if processes.rank() != 0:
            return False
        from shala_framework.report.page import Report  # seconds of imports, which training does not need

        held_out = self.data.held_out()
        self.report = Report(self.model, self.folder, held_out, command=self.command, reporter=self.reporter)
        self.report.write(evaluating=self._rows_to_evaluate() is not None)
        return True

    def _rows_to_evaluate(self) -> Rows | None:
        """Return the held-out rows if they have labels and the spec asks for an evaluation at the end; else None."""
        rows = self.data.held_out() if self.spec.evaluate.at_end else None
        return rows if rows is not None and any(rows.labels) else None

    def _evaluation_seconds(self) -> float | None:
        """Return the evaluation's time: the spec's, or a quarter of the training; None if no stage was trained."""
        minutes = self.spec.evaluate.minutes
        trained = training_seconds(self.place.metrics, self.place.fingerprint)
        return 60 * minutes if minutes is not None else EVALUATION_SHARE * trained or None

    def _measure(self) -> bool:
        """Evaluate on validation rows if they have labels; the test split is for `shala evaluate`."""
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
