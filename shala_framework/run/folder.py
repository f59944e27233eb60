"""A run's folder: the names of its files, the run that it belongs to, and the shards that the run began with."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shala_framework.data.identity import compare_shards, read_record, write_record
from shala_framework.data.packing import describe_pack, pack
from shala_framework.data.splits import STAND_IN_FOLDER
from shala_framework.model import STAGES, checkpoint_file
from shala_framework.plugin.loading import load_dataset
from shala_framework.report.card import CARD_FILE
from shala_framework.report.samples import REPORT_FILE, SYNTHETIC
from shala_framework.report.saved_evaluations import is_current
from shala_framework.run.files import SPEC_FILE, SPEC_SHAPE
from shala_framework.spec import structure
from shala_framework.spec.fingerprint import fixed_part, refiner_part
from shala_framework.spec.schema import Data
from shala_framework.support.checkpoint import PARTIAL, read_checkpoint, write_file
from shala_framework.support.distributed import processes
from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.locking import LOCK_FILE
from shala_framework.support.progress import Reporter
from shala_framework.support.structuring import format_path

# Files that a run leaves if it is killed at its very beginning.
_OWN_BEGINNINGS = (f"{SPEC_FILE}.{PARTIAL}", LOCK_FILE)


class RunFolder:
    """The folder of one run.

    Attributes:
        path: Path of the folder.
        fingerprint: Fingerprint of the run.
        state: Folder of the files from which a run resumes.
        latents: Folder of the training set's latents.
        samples: Folder of the samples.
        metrics: File of the metrics.
        modalities: File of what modalities learned from the training samples.
    """

    def __init__(self, path: Path, fingerprint: str, reporter: Reporter) -> None:
        self.path, self.fingerprint, self.reporter = path, fingerprint, reporter
        self.state = path / "state"
        self.latents, self.modalities = self.state / "latents", self.state / "modalities.json"
        self.samples, self.metrics = path / "samples", path / "metrics.jsonl"

    def checkpoint(self, stage: str) -> Path:
        """Return the file of a trained stage."""
        return self.path / f"{stage}.safetensors"

    def has(self, stage: str) -> bool:
        """Return whether a stage is trained."""
        return self.checkpoint(stage).exists()

    def has_begun(self) -> bool:
        """Return whether any stage is trained or has a saved state."""
        return any(self.has(stage) or any(self.state.glob(f"{stage}.*")) for stage in STAGES)

    def state_file(self, stage: str) -> Path:
        """Return the state file of a stage in training."""
        return self.state / f"{stage}.safetensors"

    def results(self) -> list[Path]:
        """Return the files with results: the report, the model card, contact sheets and evaluations.

        Evaluations of former weights are left out, and so are their plots.
        """
        patterns = (REPORT_FILE, CARD_FILE, "samples/*.png", "evaluation/*.json", "evaluation/*.png")
        files = [file for pattern in patterns for file in sorted(self.path.glob(pattern)) if file.is_file()]
        former = {path.stem for path in self.path.glob("evaluation/*.json") if not is_current(path)}
        return [file for file in files if file.parent.name != "evaluation" or file.stem.partition("_")[0] not in former]

    @property
    def has_stand_in(self) -> bool:
        """Whether the synthetic data set is complete."""
        return (self.path / STAND_IN_FOLDER).exists()

    def claim(self, described: dict[str, Any]) -> None:
        """Write spec.json, or check that the folder belongs to this spec.

        Args:
            described: The content of spec.json.

        Raises:
            CheckpointError: The folder holds another spec's run, something else, or a damaged spec.json.
        """
        mine, path = described, self.path / SPEC_FILE
        if path.exists():
            theirs = self._read_spec(path)
            found = differences(fixed_part(theirs), fixed_part(mine)) or reordered(theirs, mine) if theirs else []
            trained, again = checkpoint_file(self.path, "refiner"), ""
            if theirs and not found and trained.exists():
                found = differences(refiner_part(theirs), refiner_part(mine))
                again = f", or remove {trained.name} and state/refiner* to train stage 3 again"
            if found:
                listed = "\n".join(f"  {key}: {old!r} in the folder, {new!r} now" for key, old, new in found)
                absent = any(old is ABSENT for _, old, _ in found)
                raise CheckpointError(
                    f"{self.path} belongs to another spec:\n{listed}\n"
                    f"choose another --out, remove the folder, or put these keys back{again}"
                    + (f"; the version that wrote the folder did not know keys that are {ABSENT!r} there" * absent)
                )
        elif any(entry.name not in _OWN_BEGINNINGS for entry in self.path.iterdir()):
            raise CheckpointError(f"{self.path} is not empty and holds no run; choose another --out")
        if processes.rank() == 0:
            write_file(path, dump_json(mine, indent=2))

    def _read_spec(self, path: Path) -> dict[str, Any] | None:
        """Read the folder's spec.json; None if it is damaged and states in the folder belong to this spec.

        Raises:
            CheckpointError: It is damaged, and the folder's states belong to another spec, or there are none.
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
        """Return the fingerprints in the folder's states and checkpoints, except damaged ones."""
        found = set()
        for file in (*self.path.glob("*.safetensors"), *self.state.glob("*.safetensors")):
            with suppress(CheckpointError):
                found.add(str(read_checkpoint(file)[1].get("fingerprint")).partition("-")[0])
        return found

    def make_stand_in(self, data: Data) -> bool:
        """Make the synthetic data set in place of missing shards, once; return whether it was made now."""
        stand_in = data.stand_in
        assert stand_in is not None
        self.reporter.warn(
            f"{SYNTHETIC}: no shard matches data.train = {data.train!r}, so this run trains on the "
            f"synthetic data set {stand_in.dataset!r}. Its results say nothing about real data."
        )
        write_file(
            self.path / "SYNTHETIC_DATA.txt",
            f"{SYNTHETIC}. Every sample and figure in this folder comes from the synthetic data set "
            f"{stand_in.dataset!r},\nbecause no shard matched data.train = {data.train!r}.\n".encode(),
        )
        if self.has_stand_in:
            return False
        partial = self.path / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.reporter.begin("stand-in data", None, "sample")
        dataset_class = load_dataset(stand_in.dataset)
        dataset = dataset_class(structure(stand_in.options, dataset_class.Options))
        report = pack(dataset, None, partial, on_sample=self.reporter.advance)
        partial.rename(self.path / STAND_IN_FOLDER)
        self.reporter.finish()
        self.reporter.note(describe_pack(report))
        return True

    def check_shards(self, now: dict[str, Any], last_stage: str = "prior") -> None:
        """Compare the shards with those that the run began with, and keep a record of them.

        Args:
            now: Shards of each split, as returned by `describe_shards`.
            last_stage: The stage that is trained last.

        Raises:
            CheckpointError: Training has begun on other training shards, and is not done.
        """
        path = self.state / "shards.json"
        then = read_record(path, self.reporter.warn)
        for split, shards in now.items():
            changes = compare_shards(then[split], shards) if then is not None else []
            if not changes:
                continue
            listed = "\n".join(f"  {line}" for line in changes)
            text = f"data.{split}: these are not the shards that {self.path} began with:\n{listed}"
            if split == "train" and not self.has(last_stage):
                raise CheckpointError(
                    f"{text}\nwhat the run has learned so far is of the former; put them back to resume, or choose "
                    "another --out to train on these"
                )
            what = "all stages are of the former" if split == "train" else "earlier figures are of the former"
            self.reporter.warn(f"{text}\n{what}; samples and figures made from now on are of the present ones")
        if then is None or self.has(last_stage) or then["train"] == now["train"]:
            write_record(path, now)


def reordered(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return whether two specs differ only in the order of modalities, which is that of the networks' inputs."""
    before, now = (list(described["spec"]["modality"]) for described in (old, new))
    return [("order of the modality tables", before, now)] if before != now else []


class _Absent:
    """Stands for the value of a key that a description lacks."""

    def __repr__(self) -> str:
        return "not set"


ABSENT = _Absent()


def differences(old: Any, new: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str, Any, Any]]:
    """Return every key in which two descriptions differ, with both values; a spec's keys are named without `spec`.

    The value of a key that one of them lacks is ABSENT.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [d for key in keys for d in differences(old.get(key, ABSENT), new.get(key, ABSENT), (*path, key))]
    return [] if old == new else [(format_path(path[1:] if len(path) > 1 else path), old, new)]
