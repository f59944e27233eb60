"""TensorBoard as a tracker: what a run logged is what TensorBoard reads."""

import json
from pathlib import Path

from shala_tensorboard import TensorBoard
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from shala_framework.plugin import TrackedRun


def series(folder: Path, stage: str, name: str) -> dict[int, float]:
    found = EventAccumulator(str(folder / "tensorboard" / stage)).Reload()
    return {event.step: round(event.value, 4) for event in found.Scalars(name)}


def test_figures_can_be_read_back_and_a_resumed_stage_replaces_what_it_does_again(tmp_path: Path) -> None:
    run = TrackedRun(name="two", folder=tmp_path, spec={})
    first = TensorBoard(TensorBoard.Options(), run)
    first.resume("prior", 0)
    for step in (10, 20, 30):
        first.log("prior", step, {"loss": 1 / step, "validation_denoising": 0.5})
    first.close()
    again = TensorBoard(TensorBoard.Options(), run)
    again.resume("prior", 20)
    again.log("prior", 30, {"loss": 7.0})
    again.close()
    assert series(tmp_path, "prior", "loss") == {10: 0.1, 20: 0.05, 30: 7.0}


def test_a_tracker_that_never_hears_of_a_beginning_logs_all_the_same(tmp_path: Path) -> None:
    tracker = TensorBoard(TensorBoard.Options(), TrackedRun(name="two", folder=tmp_path, spec=json.loads("{}")))
    tracker.log("autoencoder", 50, {"kl": 3.0})
    tracker.close()
    assert series(tmp_path, "autoencoder", "kl") == {50: 3.0}
