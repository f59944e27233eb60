"""metrics.jsonl: one JSON object a line, in the order of training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shala_framework.checkpoint import naming_file


class MetricsFile:
    """Appends to a run's metrics; lines past the step at which a stage goes on are dropped.

    Args:
        path: Of the file; None writes nothing, for all processes but the first.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def rewind(self, stage: str, step: int) -> None:
        """Drop what a stage wrote after a step; a last line cut short by a crash goes too."""
        if self.path is None or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry.get("stage") != stage or entry.get("step", 0) <= step:
                kept.append(line + "\n")
        with naming_file(self.path):
            self.path.write_text("".join(kept))

    def write(self, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line."""
        if self.path is None:
            return
        with naming_file(self.path), self.path.open("a") as file:
            file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
