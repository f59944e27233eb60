"""A run reports its phases and its end, and says when it has become slow."""

import re
import time

from shala_framework.cli.progress_display import LogProgress
from shala_framework.run.phases import RunPhases
from shala_framework.training.rate_watch import RateWatch


def test_a_run_says_what_its_phases_are_and_when_the_last_will_end(capsys):
    """The first line names all phases; later lines estimate the end from the current and the later phases."""
    reporter = LogProgress()
    phases = RunPhases(["reading", "training", "samples"], reporter)
    with phases.phase("reading"):
        pass
    phases.expect({"samples": 3600.0})
    with phases.phase("training"):
        phases.expect({"samples": 3600.0, "evaluation": 9e9})
        reporter.begin("training", 100)
        reporter.task.start -= 30
        reporter.printed -= 30
        before = time.time()
        reporter.advance(50)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "phase 1/3: reading, then training, samples"
    assert lines[1] == "phase 2/3: training", "without an end, which is not known before the first steps"
    (told,) = (line for line in lines if "50/100" in line)
    ends = re.search(r"0:30 left, the run ends about (\d\d:\d\d:\d\d)", told)[1]
    expected = {time.strftime("%H:%M:%S", time.localtime(before + 3630 + late)) for late in range(-1, 4)}
    assert ends in expected


def test_an_unknown_phase_makes_the_end_a_lower_bound(capsys):
    """An unknown phase cannot be counted, so the message says "not before"."""
    reporter = LogProgress()
    phases = RunPhases(["training", "samples", "evaluation"], reporter)
    phases.expect({"training": 60.0, "samples": 10.0})
    with phases.phase("samples"):
        pass
    assert "not before" in reporter.run.describe(5.0)
    phases.expect({"evaluation": 20.0})
    assert "about" in reporter.run.describe(5.0)
    capsys.readouterr()
    reporter.begin("training", 600)
    reporter.begin("training", 600, done=100)
    reporter.begin("fitting", None)
    assert capsys.readouterr().err.splitlines() == [
        "training: starts, 600 steps", "training: starts at 100 of 600 steps", "fitting: starts",
    ]  # fmt: skip


def test_a_run_that_has_become_slow_says_so_once():
    """Three windows in a row below half the first rate are reported; a single one, or a recovery, is not."""
    watch = RateWatch()
    assert [watch.see(rate) for rate in (10.0, 4.0, 4.0, 9.0, 4.0, 4.0)] == [""] * 6
    told = watch.see(2.0)
    assert told.startswith("a step takes 0.5 s, and took 0.1 s at first")
    assert watch.see(2.0) == ""


def test_a_run_that_is_faster_than_planned_says_so_once():
    """A step was counted as 0.3 s beside another program; without it, it takes 0.1 s. Slowness is told as before."""
    watch = RateWatch(planned_seconds=0.3)
    assert [watch.see(rate) for rate in (10.0, 10.0, 5.0, 10.0, 10.0)] == [""] * 5
    told = watch.see(10.0)
    assert told.startswith(
        "a step takes 0.1 s, and took 0.3 s when the number of steps was chosen, when another program"
    )
    assert "in another folder would take more steps" in told
    assert watch.see(10.0) == ""
    slow = RateWatch(planned_seconds=0.3)
    assert [slow.see(1.5) for _ in range(2)] == [""] * 2
    assert slow.see(1.5).startswith("a step takes 0.667 s, and took 0.3 s when the number of steps was chosen: another")
