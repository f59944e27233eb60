"""Runs of a small spec, and helpers that inspect their folders."""

import json
from pathlib import Path

from shala_framework import load
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec, unstructure
from shala_framework.support.progress import Silent

SHORT_STAGES = ("train.autoencoder.steps=8", "train.prior.steps=8", "train.autoencoder.save_every_steps=4")
CHECKPOINTS = ("autoencoder.safetensors", "prior.safetensors")


def run(spec: Path, out: str, *overrides: str, reporter=None) -> Path:
    folder = Path(out)
    Experiment(read_spec(spec, overrides), folder, reporter).run()
    return folder


def metric_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_rates(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in line.items() if k not in ("steps_per_second", "seconds", "peak_memory_gib", "crc32")}
        for line in metric_lines(folder)
    ]


class StopAt(Silent):
    """Interrupts like Ctrl-C after a given number of steps of a stage."""

    def __init__(self, stage: str, step: int) -> None:
        self.stage, self.step, self.title = stage, step, ""

    def begin(self, title, total, unit="step", done=0):
        self.title = title

    def advance(self, done, terms=None):
        if self.title == self.stage and done == self.step:
            raise KeyboardInterrupt


def decided_steps(folder: Path) -> list[str]:
    """Return the overrides of [train] that give another run what this finished one decided."""
    train = unstructure(load(folder).spec.train)
    assert train.pop("minutes") is None
    found = []
    for key, value in train.items():
        inner = {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
        found += [f"train.{name}={json.dumps(v)}" for name, v in inner.items() if v is not None]
    return found
