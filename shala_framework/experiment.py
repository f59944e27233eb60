"""One run of a spec, from shards to samples, in a folder in which it can be taken up again."""

import hashlib
import json
import resource
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from shala_framework import processes
from shala_framework.checkpoint import write_file
from shala_framework.data.fitting import needs_fit
from shala_framework.data.latent_files import LatentFiles, finish_latents, write_latents
from shala_framework.data.latents import Latents, LatentStore, collect_latents, encoded, latent_statistics
from shala_framework.data.packing import describe_pack, pack
from shala_framework.data.prepared import load_preparation
from shala_framework.data.presence import absent_from_first, absent_from_rows
from shala_framework.data.rows import fit_to_shards, shuffled_batches
from shala_framework.data.splits import SPLITS, STAND_IN_FOLDER
from shala_framework.errors import CheckpointError, DataError, PluginError, Problem, SpecError
from shala_framework.evaluation.run import evaluate_run
from shala_framework.evaluation.suite import Evaluation
from shala_framework.machine import resolve_device
from shala_framework.model import AUTOENCODER_FILE, FREE_DATA_KEYS, FREE_TO_CHANGE, PRIOR_FILE, SPEC_FILE, ShaLa
from shala_framework.plugins import load_dataset
from shala_framework.report.samples import SYNTHETIC, SampleWriter, choose_rows
from shala_framework.run_data import RunData
from shala_framework.spec import LoadedSpec, doubts, structure, unstructure
from shala_framework.spec.structuring import format_path
from shala_framework.tracking import TrackedRun
from shala_framework.training.compiling import compiled
from shala_framework.training.loop import train
from shala_framework.training.metrics import MetricsFile
from shala_framework.training.progress import Reporter, Silent
from shala_framework.training.sharding import has_split_layers, shard_layers
from shala_framework.training.split_tensors import whole
from shala_framework.training.stages import AutoencoderTraining, PriorTraining

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
        self.model = ShaLa(self.loaded)
        self.device = processes.join(resolve_device(self.spec.train.device))
        self._check_processes()
        self._check_shards()
        with processes.first_before_others():
            self._claim_folder()
            if self.loaded.stand_in_used:
                self._timed("stand_in", self._make_stand_in)
        for sentence in doubts(self.spec):
            self.reporter.warn(sentence)
        self.metrics = self._open_metrics()
        self.data = RunData(
            spec=self.spec,
            modalities=self.model.modalities,
            train_urls=self.model.urls("train", self.folder),
            validation_urls=self.model.urls("validation", self.folder),
            reporter=self.reporter,
        )
        with processes.first_before_others():
            self._fit_modalities()
        with closing(self.metrics):
            self._timed("autoencoder", self._train_autoencoder)
            self._timed("prior", self._train_prior)
        if processes.rank() == 0:
            self._timed("samples", self._write_samples)
            self._timed("evaluation", self._measure)
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
            from shala_framework.report.page import write_report  # seconds of imports that training need not wait for

            write_report(self.model, self.folder, self.data.held_out(), command=self.command, reporter=self.reporter)
        return summary

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
        return MetricsFile(self.folder / "metrics.jsonl", trackers, self.reporter.warn)

    def _timed(self, name: str, phase: Any) -> None:
        start = time.perf_counter()
        if phase():
            self.seconds[name] = round(time.perf_counter() - start, 2)

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
            try:
                theirs = json.loads(path.read_text())
            except json.JSONDecodeError as error:
                raise CheckpointError(
                    f"{path} is damaged: {error}; choose another --out or remove the folder"
                ) from error
            differences = _differences(_without(theirs), _without(mine)) or _reordered(theirs, mine)
            if differences:
                listed = "\n".join(f"  {key}: {old!r} in the folder, {new!r} now" for key, old, new in differences)
                raise CheckpointError(
                    f"{self.folder} belongs to another spec:\n{listed}\n"
                    "choose another --out, remove the folder, or put these keys back"
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise CheckpointError(f"{self.folder} is not empty and holds no run; choose another --out")
        if processes.rank() == 0:
            write_file(path, (json.dumps(mine, indent=2) + "\n").encode())
        order = list(self.spec.modality)
        self.fingerprint = hashlib.sha256(json.dumps([_without(mine), order], sort_keys=True).encode()).hexdigest()

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

    def _fit_modalities(self) -> None:
        """Fit those that learn from data, or load what an earlier call fitted, and make the networks."""
        path = self.state / "modalities.json"
        modalities = self.model.modalities
        if path.exists():
            states = json.loads(path.read_text())
            for name, modality in modalities.items():
                modality.load_state(states[name])
        else:
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
            write_file(path, json.dumps(states).encode())
        self.model.build().load_stages(self.folder).to(self.device)

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
        if self.spec.train.sharding == "decoders":
            autoencoder = self.model.autoencoder
            count = shard_layers([autoencoder.decoders, autoencoder.shared_decoders], self.device)
            self.reporter.note(f"{count} layers of decoders are split among {processes.world_size()} processes")
        stage = AutoencoderTraining(
            self.model.autoencoder,
            self.spec.posterior,
            self.spec.train.autoencoder,
            self.device,
            self.data.held_out(),
            autocast=self.spec.train.precision == "bfloat16",
        )
        with self._compiled(self.model.autoencoder.networks):
            train(
                stage,
                self.spec.train.autoencoder,
                self.data.batches,
                seed=self.spec.seed,
                state_file=state_file,
                fingerprint=self.fingerprint,
                matrix_dtype=torch.bfloat16 if self.spec.train.precision == "bfloat16" else torch.float32,
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
        if not LatentFiles.exist(folder):
            self.reporter.begin("latents", None, "row")
            with torch.random.fork_rng():  # worker processes are seeded from it
                write_latents(folder, processes.rank(), size, self._encoded, self.reporter.advance)
            self.reporter.finish()
            processes.barrier()
            if processes.rank() == 0:
                finish_latents(folder, size)
        processes.barrier()
        files = LatentFiles(folder)
        if files.num_bytes > MOST_LATENT_BYTES:
            self.reporter.note(f"latents: {files.num_bytes / 2**30:.1f} GiB are read from {folder} as they are needed")
            return files
        return files.take(torch.arange(len(files))).to(self.device)

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
        stage = PriorTraining(prior, self.spec.prior, settings, latents, self._held_out_latents())

        def batches(start_step: int) -> Iterator[Tensor]:
            batches = shuffled_batches(len(latents), settings.batch_size, self.spec.seed, start_step)
            return (index[processes.rank() :: processes.world_size()] for index in batches)

        with self._compiled([prior.network, prior.guide]):
            train(
                stage,
                settings,
                batches,
                seed=self.spec.seed,
                state_file=self.state / "prior.safetensors",
                fingerprint=self.fingerprint,
                matrix_dtype=torch.bfloat16 if self.spec.train.precision == "bfloat16" else torch.float32,
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

    def _measure(self) -> bool:
        """Evaluate on validation rows, where they have labels; the test split is for `shala evaluate`."""
        rows = self.data.held_out()
        if not self.spec.evaluate.at_end or rows is None:
            return False
        if not any(rows.labels):
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
            seed=self.spec.seed,
            reporter=self.reporter,
        )
        return True


def _without(described: Mapping[str, Any]) -> dict[str, Any]:
    """A spec.json without what may change between two calls."""
    spec = {key: value for key, value in described.get("spec", {}).items() if key not in FREE_TO_CHANGE}
    spec["data"] = {key: value for key, value in spec.get("data", {}).items() if key not in FREE_DATA_KEYS}
    return {"spec": spec, "stand_in_used": described.get("stand_in_used")}


def _reordered(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Whether the modalities, otherwise the same, come in another order, which is that of the networks' inputs."""
    before, now = (list(described["spec"]["modality"]) for described in (old, new))
    return [("order of the modality tables", before, now)] if before != now else []


def _differences(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in _differences(old.get(key), new.get(key), (*path, key))]
    return [] if old == new else [(format_path(path[1:] if len(path) > 1 else path), old, new)]
