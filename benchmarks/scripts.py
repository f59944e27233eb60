"""What the benchmarks' scripts share, without the framework: some run where it is not installed."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from types import ModuleType


def load_script(path: Path) -> ModuleType:
    """A Python file outside this folder, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cell(values: Sequence[float]) -> str:
    """A table's entry: the mean over seeds, with the lowest and highest where there are several."""
    digits = 3 if max(values) < 2 else 0
    text = f"{mean(values):.{digits}f}"
    return f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else text


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))
