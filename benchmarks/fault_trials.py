"""Trials of the fault campaigns, their outcomes, and the table that counts them."""

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
    """One fault and its outcome.

    Attributes:
        kind: The fault.
        outcome: One of OUTCOMES.
        detail: What to examine if the outcome is bad.
    """

    kind: str
    outcome: str
    detail: str = ""


@attrs.frozen
class Setting:
    """Settings of a campaign.

    Attributes:
        rng: Random generator.
        count: Number of trials.
        folder: An empty folder for the campaign.
    """

    rng: random.Random
    count: int
    folder: Path


def table(trials: list[Trial]) -> str:
    """Count the trials of each kind by outcome."""
    kinds = sorted({trial.kind for trial in trials})
    counts = Counter((trial.kind, trial.outcome) for trial in trials)
    lines = [["", "trials", *OUTCOMES]]
    lines += [
        [kind, str(sum(t.kind == kind for t in trials)), *(str(counts[kind, o]) for o in OUTCOMES)] for kind in kinds
    ]
    totals = Counter(trial.outcome for trial in trials)
    lines.append(["all", str(len(trials)), *(str(totals[outcome]) for outcome in OUTCOMES)])
    return markdown(lines)
