"""A grid of runs: each in a folder of its own, trained and evaluated, and skipped once it is finished."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from shala_framework.data.splits import EvaluatedSplit, split_urls
from shala_framework.model import checkpoint_file
from shala_framework.report.saved_evaluations import is_current
from shala_framework.run.evaluation import EVALUATION_FOLDER, evaluate_run
from shala_framework.run.experiment import Experiment
from shala_framework.spec import LoadedSpec, read_spec, unstructure
from shala_framework.spec.grid import GridPoint, make_grid
from shala_framework.spec.later_keys import with_later_keys
from shala_framework.spec.seed_list import seeds_to_sweep
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import CheckpointError, DataError
from shala_framework.support.json_files import check_shape, dump_json, read_json
from shala_framework.support.progress import Reporter

FINISHED_FILE = "finished.json"
_EVALUATES_ITSELF = "evaluate.at_end=false"  # without a limit that depends on the speed, so that counts are equal


@attrs.frozen(kw_only=True)
class SweptRun:
    """One run of a sweep.

    Attributes:
        folder: Folder of the run.
        overrides: Values that distinguish the run, each as `KEY=VALUE`.
        loaded: Spec of the run.
        split: Split that the run is evaluated on.
    """

    folder: Path
    overrides: tuple[str, ...]
    loaded: LoadedSpec
    split: EvaluatedSplit = "validation"

    def is_finished(self) -> bool:
        """Return whether the run is trained and evaluated by this spec, on this split."""
        return self.split in self._finished_splits()

    def _finished_splits(self) -> list[str]:
        """Splits that the run, trained by this spec, is done with; none if it is not trained by it."""
        path = self.folder / FINISHED_FILE
        if not path.is_file():
            return []
        try:
            shape = {"spec": dict, "stages": [str]}
            found = read_json(path, shape, error=CheckpointError, advice="the run is finished again")
            splits = found.get("splits", ["validation"])  # all that earlier versions evaluated on
            check_shape(splits, [str])
        except (CheckpointError, ValueError):
            return []
        trained = all(checkpoint_file(self.folder, stage).is_file() for stage in found["stages"])
        if not trained or with_later_keys(found["spec"]) != self._spec():
            return []
        paths = {split: self._evaluation(split) for split in splits}
        return [split for split, path in paths.items() if not path.is_file() or is_current(path)]

    def _evaluation(self, split: str) -> Path:
        return self.folder / EVALUATION_FOLDER / f"{split}.json"

    def is_evaluated(self) -> bool:
        """Return whether it has an evaluation to compare."""
        return self._evaluation(self.split).is_file()

    def work(self, reporter: Reporter, *, command: str = "", take_from: Path | None = None) -> None:
        """Train the stages that are not trained yet, sample, write the report and evaluate on rows of the split.

        Args:
            reporter: Receives progress.
            command: Command that makes the run, for its report.
            take_from: Run from which stages are taken.

        Raises:
            ShalaError: As for `Experiment.run` and `evaluate_run`.
        """
        splits = self._finished_splits()
        experiment = Experiment(self.loaded, self.folder, reporter, command=command, take_from=take_from)
        experiment.run()
        model, settings = experiment.model, self.loaded.spec.evaluate
        if split_urls(model.spec.data, self.split, self.folder if model.synthetic else None):
            evaluate_run(
                model,
                self.folder,
                self.split,
                settings,
                seconds=60 * settings.minutes if settings.minutes is not None else None,
                seed=self.loaded.spec.seed,
                reporter=reporter,
            )
            experiment.report.write()
        else:
            reporter.note(f"{self.folder} is not evaluated: its spec names no data.{self.split}")
        done = {"spec": self._spec(), "stages": sorted(model.stages), "splits": sorted({*splits, self.split})}
        write_file(self.folder / FINISHED_FILE, dump_json(done))

    def _spec(self) -> Any:
        spec = {key: value for key, value in unstructure(self.loaded.spec).items() if key != "track"}
        return json.loads(json.dumps(spec))


def plan_sweep(
    spec: Path,
    texts: Sequence[str],
    out: Path | None = None,
    split: EvaluatedSplit = "validation",
    *,
    profile: str | None = None,
) -> list[SweptRun]:
    """Read the spec of every run of a sweep, so that a mistake in any is found before the first one trains.

    Args:
        spec: The TOML file.
        texts: Keys with their values, as `make_grid` takes them. If the spec has a list of seeds and they have no seed,
            each seed of the list varies fastest.
        out: Folder of the runs' folders; None is `runs/<name of the spec>_sweep`.
        split: Split that the runs are evaluated on.
        profile: Name of the profile to apply.

    Raises:
        SpecError: A key or value is wrong; it lists what is wrong with the first such run.
        DataError: There are neither keys nor a list of seeds, or a spec has no test rows and the split is "test".
    """
    texts = [*texts, *seeds_to_sweep(spec, texts)]
    if not texts:
        raise DataError(
            "expected at least one --set KEY=VALUE,VALUE, such as --set seed=0,1,2, or a list of seeds in the spec, "
            "seed = [0, 1, 2]"
        )
    points: list[GridPoint] = make_grid(texts)
    loaded = [read_spec(spec, (*point.overrides, _EVALUATES_ITSELF), profile=profile) for point in points]
    for found in loaded:
        if split == "test" and not found.spec.data.test and found.spec.data.stand_in is None:
            raise DataError(
                f"{found.spec.name}: the spec names no data.test, which --split test evaluates on; "
                "name the test shards, or leave --split out"
            )
    base = out or Path("runs") / f"{loaded[0].spec.name}_sweep"
    return [
        SweptRun(folder=base / point.name, overrides=point.overrides, loaded=found, split=split)
        for point, found in zip(points, loaded, strict=True)
    ]
