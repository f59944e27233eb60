"""Trials of the campaigns in which something goes wrong, what becomes of them, and the table that counts them."""

import random
from collections import Counter
from pathlib import Path

import attrs
from scripts import markdown

ROOT = Path(__file__).resolve().parent.parent
FAKES = ROOT / "tests" / "fakes"
GOOD = ("right", "message")
OUTCOMES = (*GOOD, "lost", "silent", "traceback", "hang")


@attrs.frozen
class Trial:
    """One fault and what came of it.

    Attributes:
        kind: What was done to what.
        outcome: One of OUTCOMES.
        detail: What to look at where the outcome is bad.
    """

    kind: str
    outcome: str
    detail: str = ""


@attrs.frozen
class Setting:
    """What a campaign has.

    Attributes:
        rng: Source of everything random in it.
        count: Number of trials.
        folder: An empty folder of its own.
    """

    rng: random.Random
    count: int
    folder: Path


def table(trials: list[Trial]) -> str:
    """How many trials of each kind ended how."""
    kinds = sorted({trial.kind for trial in trials})
    counts = Counter((trial.kind, trial.outcome) for trial in trials)
    lines = [["", "trials", *OUTCOMES]]
    lines += [
        [kind, str(sum(t.kind == kind for t in trials)), *(str(counts[kind, o]) for o in OUTCOMES)] for kind in kinds
    ]
    totals = Counter(trial.outcome for trial in trials)
    lines.append(["all", str(len(trials)), *(str(totals[outcome]) for outcome in OUTCOMES)])
    return markdown(lines)
