"""Functions that the benchmarks' scripts share. They do not need the framework, because some scripts run without it."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median


def claim_results(folder: Path, **settings: object) -> None:
    """Make a folder of results, or check that what it keeps was made with these settings.

    Args:
        folder: The folder.
        settings: What the kept results depend on beside their names, by the names of the script's options; of a path,
            the last part. None is the script's own value.

    Raises:
        SystemExit: The folder keeps results of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "settings.json"
    mine = {name: value.name if isinstance(value, Path) else value for name, value in settings.items()}
    kept = json.loads(file.read_text()) if file.exists() else {}
    other = [
        f"{name} {kept[name]} there, {value} now" for name, value in mine.items() if kept.get(name, value) != value
    ]
    if other:
        raise SystemExit(f"{folder} keeps results of other settings ({'; '.join(other)}); name another folder")
    file.write_text(json.dumps({**kept, **mine}, indent=2) + "\n")


def cell(values: Sequence[float]) -> str:
    """Format a table's entry: the mean over seeds, with the lowest and highest if there are several."""
    digits = 3 if max(values) < 2 else 0
    text = f"{mean(values):.{digits}f}"
    return f"{text} ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else text


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Format a table; the first line is its head."""
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def by_turns(measure: Mapping[str, Callable[[], float]], repeats: int, bases: Sequence[str], unit: str) -> str:
    """Format a table of things that took turns: medians, and ratios to some of them, with the least and greatest."""
    found: dict[str, list[float]] = {name: [] for name in measure}
    for _ in range(repeats):
        for name, call in measure.items():
            found[name].append(call())
            print(f"  {name}: {found[name][-1]:.4g}", file=sys.stderr, flush=True)
    lines = [["", unit, *(f"ratio to {base}" for base in bases)]]
    for name, values in found.items():
        line = [name, f"{median(values):.4g}"]
        for base in bases:
            ratios = [value / other for value, other in zip(values, found[base], strict=True)]
            line.append(f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(line)
    return markdown(lines)
