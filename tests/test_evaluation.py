"""The evaluation of a run, by `shala evaluate` and at the end of `shala-run`, on the fake modality."""

import io
import json
import re
import shutil
from pathlib import Path

import attrs
import pytest
import torch
from PIL import Image

from shala_framework import load
from shala_framework.cli.main import dispatch, main, main_run
from shala_framework.data.rows import load_rows
from shala_framework.data.splits import split_urls
from shala_framework.evaluation.attributes import plain_class
from shala_framework.evaluation.coherence import agreement
from shala_framework.evaluation.judge_training import train_judge
from shala_framework.evaluation.judges import Panel
from shala_framework.evaluation.pace import RESERVE, Pace
from shala_framework.evaluation.suite import evaluate
from shala_framework.run.evaluation import evaluate_run
from shala_framework.run.experiment import Experiment
from shala_framework.spec import read_spec
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long

LEARNED = (
    "data.stand_in.options.validation=60",
    "train.autoencoder.steps=400",
    "data.stand_in.set={'train.prior.steps' = 600}",
    "evaluate.judge_steps=300",
)


@pytest.fixture
def trained(two_spec, finished_run):
    """Return a function that gives a model of the spec with its training and validation rows."""

    def give(*overrides):
        folder = Path("r")
        if overrides:
            Experiment(read_spec(two_spec, overrides), folder).run()
        else:
            finished_run("r")
        model = load(folder)
        return model, *(
            load_rows(split_urls(model.spec.data, split, folder if model.synthetic else None), model.modalities)
            for split in ("train", "validation")
        )

    return give


def call(*arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return caught.value.code


def test_a_run_ends_with_figures_beside_their_controls(two_spec, capsys):
    """The evaluation prints tables, writes all figures as JSON and draws plots; figures show what was learned."""
    overrides = [text for override in LEARNED for text in ("--set", override)]
    with pytest.raises(SystemExit) as leaving:
        main_run([str(two_spec), "--set", "evaluate.at_end=true", "--set", "evaluate.num_samples=300", *overrides])
    assert leaving.value.code == 0
    out = capsys.readouterr().out
    for text in ("judges", "joint samples", "real rows", "mixture", "samples from given", "log-likelihood", "probe"):
        assert text in out
    for text in ("diversity of joint samples", "diversity of samples from given", "calibration", "ELBO", "by chance"):
        assert text in out
    folder = Path("runs/two/evaluation")
    found = json.loads((folder / "validation.json").read_text())
    assert found["split"] == "validation"
    assert found["synthetic"] is True
    judges = found["judges"]
    assert all(judge["real"]["value"] > 0.9 for judge in judges.values())
    joint = {figures["method"]: figures for figures in found["joint"]}
    assert set(joint) == {"real rows", "diffusion", "diffusion, autoguidance 2", "mixture", "normal"}
    assert joint["diffusion"]["coherence"]["value"] > 0.8
    assert joint["diffusion"]["coherence"]["count"] == 600
    assert joint["diffusion"]["evaluations"] == 35
    assert joint["diffusion, autoguidance 2"]["evaluations"] == 70
    conditional = {(figures["method"], figures["num_given"]): figures for figures in found["conditional"]}
    assert set(conditional) == {("diffusion", 1), ("diffusion, guidance 2", 1), ("posterior", 1)}
    assert conditional["diffusion", 1]["coherence"]["value"] > 0.8
    assert set(conditional["diffusion", 1]["pairs"]) == {"first", "second"}
    real = conditional["diffusion", 1]["real_frechet"]
    assert real["count"] == conditional["posterior", 1]["frechet"]["count"]
    assert re.search(rf"real rows +1 +{real['value']:.3f} ", out)
    diversity = {
        method: conditional[method, 1]["diversity"]["value"] for method in ("diffusion", "diffusion, guidance 2")
    }
    assert 0 < diversity["diffusion, guidance 2"] < diversity["diffusion"]  # guidance costs diversity
    likelihood = {title: figures["estimate"]["value"] for title, figures in found["log_likelihood"].items()}
    assert likelihood["second given first, diffusion"] > likelihood["second, diffusion"]
    for figures in found["log_likelihood"].values():
        assert figures["elbo"]["value"] + figures["gap"]["value"] == pytest.approx(figures["estimate"]["value"])
    calibration = {(figures["method"], figures["num_given"]): figures for figures in found["calibration"]}
    assert set(calibration) == {(m, 0) for m in set(joint) - {"real rows"}} | set(conditional)
    assert 0.5 < calibration["diffusion", 1]["ratio"]["value"] < 2
    guided = calibration["diffusion, guidance 2", 1]
    assert guided["ratio"]["value"] < calibration["diffusion", 1]["ratio"]["value"]
    assert 0 < joint["diffusion"]["classes_noise"]["first"]["value"] < 0.2
    assert joint["normal"]["classes"]["first"]["value"] >= 0
    assert joint["diffusion"]["second_coherence"]["value"] > 0.7
    assert all(judge["second_real"]["value"] > 0.9 for judge in judges.values())
    assert found["latent"]["probe"]["value"] > 0.8
    for name in ("joint", "conditional", "calibration"):
        assert Image.open(io.BytesIO((folder / f"validation_{name}.png").read_bytes())).width > 800


def test_equal_seeds_give_equal_figures_and_settings_reach_them(two_spec, finished_run, capsys):
    """`shala evaluate` twice writes the same except for times; --set changes only the figures that depend on it."""
    folder = finished_run("r")
    assert not (folder / "evaluation").exists()

    def figures(*arguments):
        assert call("evaluate", folder, *arguments) == 0
        found = json.loads((folder / "evaluation" / "validation.json").read_text())
        del found["checksum"]
        for joint in found["joint"]:
            del joint["milliseconds"]
        return found

    first = figures()
    assert figures() == first
    changes = ("evaluate.guidance_scales=[3.0]", "evaluate.num_seeds=1", "generate.autoguidance_scale=2")
    other = figures(*(argument for change in changes for argument in ("--set", change)))
    guided = "diffusion, autoguidance 2", "diffusion, guidance 3, autoguidance 2"
    methods = ["diffusion", *guided, "posterior"]
    assert [f["method"] for f in other["conditional"]] == methods
    assert other["judges"] == first["judges"]
    assert len(other["joint"][1]["coherence"]["seeds"]) == 1
    capsys.readouterr()


def test_parts_of_other_rows_or_code_are_not_taken(trained, monkeypatch):
    """Noise in rows of the same keys and labels changes the figures, as does another version of the code."""
    model, train, held_out = trained()
    settings = attrs.evolve(model.spec.evaluate, judge_steps=0, likelihood_rows=2, calibration_rows=0)
    noisy = attrs.evolve(held_out, x={name: x + 3 * torch.randn_like(x) for name, x in held_out.x.items()})

    def found(rows):
        figures = evaluate_run(model, Path("r"), "validation", settings, train=train, held_out=rows)
        return next(iter(figures.log_likelihood.values())).elbo.value

    def num_parts():
        return len(list(Path("r/evaluation/parts").iterdir()))

    first, after_first = found(held_out), num_parts()
    assert found(noisy) < first - 1
    after_noisy = num_parts()
    assert after_noisy > after_first
    assert found(held_out) == first
    assert num_parts() == after_noisy
    monkeypatch.setattr("shala_framework.run.evaluation.source_digest", lambda *_: "another")
    assert found(held_out) == first
    assert num_parts() > after_noisy


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--split", "test"), "expected shards of the test split, got none: the spec has no data.test"),
        (("--set", "evaluate.num_samples=1"), "evaluate.num_samples: expected 0 or a number of at least 2, got 1"),
        (("--set", "evaluate.num_sample=9"), "num_samples"),
        (("--set", "prior.dropout=0.5"), "expected a key of [evaluate], [generate], [refine] or [data]"),
        (
            ("--set", "data.test=x.tar"),
            "data.test: this run was trained on a synthetic stand-in, and its rows are those",
        ),
        (("--set", "data.validation=['x.tar']"), "data.validation: this run was trained on a synthetic stand-in"),
        (("--set", "data.train=x.tar"), "data.train: this run was trained on a synthetic stand-in"),
        (("--set", "evaluate.importance_samples=3"), "expected a multiple of 2"),
        (("--set", "evaluate.group=P("), "evaluate.group: expected a regular expression, got"),
    ],
)
def test_what_cannot_be_measured_is_one_message(arguments, expected, two_spec, capsys):
    """A missing split and wrong settings give status 2 and say what to do."""
    Experiment(
        read_spec(two_spec, ("train.autoencoder.steps=1", "data.stand_in.set={'train.prior.steps' = 1}")), Path("r")
    ).run()
    assert call("evaluate", "r", *arguments) == 2
    assert expected in capsys.readouterr().err
    if arguments[1].startswith("data."):
        assert call("embed", "r", "--out", "z.csv", *arguments) == 2
        assert expected in capsys.readouterr().err


def test_without_labels_the_rest_is_measured_and_a_note_says_why(trained):
    """Without labels there are no judges and no coherence, but likelihoods, reconstruction and dimensions."""
    model, train, rows = trained("data.stand_in.options.missing=0.5")
    unlabelled = [type(r)(x=r.x, presence=r.presence, keys=r.keys, labels=(None,) * len(r)) for r in (train, rows)]
    evaluation = evaluate(model, *unlabelled, model.spec.evaluate)
    assert not evaluation.judges
    assert not evaluation.joint
    assert evaluation.latent.probe is None
    assert set(evaluation.reconstruction) == {"first", "second"}
    assert len(evaluation.log_likelihood) == 9
    assert any("no judges" in note for note in evaluation.notes)


def test_rows_of_a_person_are_resampled_together(trained):
    """`evaluate.group` widens intervals if rows of a group are alike, keeps values, and notes too few groups."""
    model, train, rows = trained()
    settings = attrs.evolve(model.spec.evaluate, likelihood_rows=0, num_samples=0, num_rows=0, calibration_rows=0)
    doubled = rows.take(torch.arange(len(rows)).repeat(4))
    doubled = attrs.evolve(doubled, keys=tuple(f"P{key} {n}" for n, key in enumerate(doubled.keys)))
    alone = evaluate(model, train, doubled, settings)
    grouped = evaluate(model, train, doubled, attrs.evolve(settings, group="P[^ ]+"))
    assert {name: judge.real.value for name, judge in grouped.judges.items()} == {
        name: judge.real.value for name, judge in alone.judges.items()
    }
    width, before = (found.latent.kl.high - found.latent.kl.low for found in (grouped, alone))
    assert width == pytest.approx(2 * before, rel=0.25)  # four copies of a row count as one
    assert not any("groups" in note for note in grouped.notes)
    rough = evaluate(model, train, doubled, attrs.evolve(settings, group="P"))
    assert any("no intervals, because all rows are one group" in note for note in rough.notes)


@pytest.mark.parametrize("share", ["all", "some"])
def test_labels_that_training_never_saw_are_named(share, trained):
    """A class with another spelling in held-out rows is named with its count, whether or not others remain."""
    model, train, rows = trained()
    changed = [n for n, label in enumerate(rows.labels) if share == "all" or label == "left"]
    labels = tuple(f"{label}s" if n in changed else label for n, label in enumerate(rows.labels))
    notes = evaluate(model, train, attrs.evolve(rows, labels=labels), model.spec.evaluate).notes
    (note,) = (note for note in notes if "no training row has" in note)
    assert note.startswith(f"{len(changed)} of {len(rows)} held-out rows have labels that no training row has")
    assert f"'lefts' ({sum(label == 'left' for label in rows.labels)})" in note
    assert "training rows have 'left', 'right'" in note


def test_judges_say_what_real_rows_are(trained):
    """Judges learn the class; the panel compares samples with the real rows that have the modality."""
    model, train, rows = trained()
    judges = {
        name: train_judge(m, name, train, plain_class(sorted(set(train.labels))), steps=200, learning_rate=1e-2)
        for name, m in model.modalities.items()
    }
    panel = Panel(judges, rows)
    assert panel.able == [{"first", "second"}]
    for name, judge in judges.items():
        targets_NA = judge.targets(rows.having([name]).labels)
        assert (panel.real_classes[name] == targets_NA).float().mean() > 0.9
    assert len(panel.real["second"]) == int(rows.presence[:, 1].sum())
    with_it = rows.having(["second"])
    assert torch.equal(
        judges["second"].verdicts(panel.real["second"].features), judges["second"].classify(with_it.x["second"])
    )
    same = panel.compare("second", panel.real["second"].features)
    assert same["frechet"] == pytest.approx(0, abs=1e-6)
    assert (same["precision"], same["recall"]) == (1, 1)
    assert "frechet" not in panel.compare("second", panel.real["second"].features[:1])


def test_classes_that_a_modality_never_has_are_no_misses(trained):
    """All judges number classes alike; verdicts on a class that a judge never saw are not counted."""
    model, train, rows = trained(*LEARNED)
    train, rows = _without_second(train), _without_second(rows)
    classes = sorted(set(train.labels))
    judges = {
        name: train_judge(m, name, train, plain_class(classes), steps=300) for name, m in model.modalities.items()
    }
    assert judges["second"].known == (frozenset(classes[1:]),)
    assert judges["second"].targets(classes)[:, 0].tolist() == [-1, *range(1, len(classes))]
    both = rows.having(["first", "second"])
    agreed = agreement({name: judge.classify(both.x[name])[:, 0] for name, judge in judges.items()})
    assert agreed.float().mean() > 0.9
    evaluation = evaluate(model, train, rows, model.spec.evaluate)
    figures = next(f for f in evaluation.conditional if f.method == "diffusion")
    asked = min(model.spec.evaluate.num_rows, len(rows))
    assert figures.pairs["first"]["second"].count < asked * model.spec.evaluate.num_row_samples
    assert figures.pairs["first"]["second"].value > 0.7


def _without_second(rows):
    """Return the same rows in three classes; rows on the left lack the second modality."""
    heights = rows.x["first"][:, 1].tolist()
    labels = tuple(
        label if label == "left" else f"right, {'above' if y > 0 else 'below'}"
        for label, y in zip(rows.labels, heights, strict=True)
    )
    presence = rows.presence.clone()
    presence[:, 1] &= torch.tensor([label != "left" for label in labels])
    return attrs.evolve(rows, presence=presence, labels=labels)


@pytest.mark.parametrize("kept", ["one row", "no label of the second", "one label"])
def test_little_is_measured_without_a_crash(kept, trained):
    """Figures for which there are too few rows are left out with a note; the others are complete."""
    model, train, rows = trained()
    if kept == "one row":
        rows = rows.having(["first", "second"]).take(torch.tensor([0]))
    elif kept == "no label of the second":
        there = rows.presence[:, 1].tolist()
        rows = attrs.evolve(rows, labels=tuple(None if has else "0" for has in there))
        rows = attrs.evolve(rows, presence=rows.presence | torch.tensor([True, False]))
    else:
        rows = attrs.evolve(rows, labels=(rows.labels[0], *[None] * (len(rows) - 1)))
    evaluation = evaluate(model, train, rows, model.spec.evaluate)
    assert "second" not in evaluation.judges
    assert all(figures.coherence is None for figures in evaluation.joint)
    assert any("no judge of second" in note or "no judges" in note for note in evaluation.notes)
    assert evaluation.latent.effective >= 0
    alone = kept == "one row"
    assert ("figures of a single held-out row have no intervals" in evaluation.notes) == alone
    few = evaluate(model, train, rows.take(torch.arange(min(len(rows), 9))), model.spec.evaluate)
    assert ("intervals over 9 held-out rows are rough" in few.notes) != alone


def test_evaluate_needs_a_run(two_spec, capsys):
    """The error for a folder without checkpoints names the folder."""
    assert dispatch(["evaluate", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


class Watching(Silent):
    """Records the titles of tasks, and interrupts when a given one begins."""

    def __init__(self, stop_at: str = "") -> None:
        self.titles, self.stop_at, self.warnings = [], stop_at, []

    def begin(self, title, total, unit="step", done=0):
        self.titles.append(title)
        if self.stop_at and title.startswith(self.stop_at):
            raise KeyboardInterrupt

    def warn(self, text):
        self.warnings.append(text)


def test_a_stopped_evaluation_resumes(trained):
    """Finished parts are not computed again, and the figures equal those of an undisturbed evaluation."""
    model, train, held_out = trained()
    settings = model.spec.evaluate

    def measure(folder: str, reporter: Watching):
        shutil.copytree("r", folder, dirs_exist_ok=True)
        return evaluate_run(
            model, Path(folder), "validation", settings, train=train, held_out=held_out, reporter=reporter
        )

    stopped = Watching("joint samples, mixture")
    with pytest.raises(KeyboardInterrupt):
        measure("stopped", stopped)
    assert "the same command resumes there" in stopped.warnings[-1]
    resumed = Watching()
    found = figures_without_times(measure("stopped", resumed))
    assert "joint samples, diffusion" in stopped.titles
    assert "joint samples, diffusion" not in resumed.titles
    assert {"joint samples, mixture", "joint samples, normal"} <= set(resumed.titles)
    assert found == figures_without_times(measure("whole", Watching()))
    for path in Path("stopped/evaluation/parts").iterdir():
        path.write_bytes(b"{")
    assert figures_without_times(measure("stopped", Watching())) == found


def figures_without_times(evaluation):
    return attrs.evolve(evaluation, joint=[attrs.evolve(j, milliseconds=None) for j in evaluation.joint])


def test_parts_are_left_out_by_zero_and_by_time(trained):
    """A count of 0 switches a part off, and so does too little time; both are noted. Given counts are always kept."""
    model, train, held_out = trained()
    none = {"judge_steps": 0, "likelihood_rows": 0, "calibration_rows": 0}
    off = evaluate(model, train, held_out, attrs.evolve(model.spec.evaluate, **none))
    assert (off.judges, off.joint, off.conditional, off.calibration, off.log_likelihood) == ({}, [], [], [], {})
    assert [note.rpartition(" ")[0] for note in off.notes] == [
        "no judges, and nothing that needs classes: evaluate.judge_steps is",
        "no figures of calibration: evaluate.calibration_rows is",
        "no log-likelihoods: evaluate.likelihood_rows is",
    ]
    asked = attrs.evolve(model.spec.evaluate, num_samples=None, num_rows=0, calibration_rows=None, likelihood_rows=None)
    short = evaluate(model, train, held_out, asked, seconds=1e-3)
    assert short.judges  # their number of steps is given
    assert (short.joint, short.conditional, short.log_likelihood) == ([], [], {})
    assert sum("raise evaluate.minutes" in note for note in short.notes) == 3
    kinds = ("judge_steps", "num_samples", "num_rows", "calibration_rows", "likelihood_rows")
    open_counts = dict.fromkeys(kinds)
    rest = evaluate(model, train, held_out, attrs.evolve(model.spec.evaluate, **open_counts), seconds=1e-3)
    assert not rest.judges
    assert (
        sum("raise evaluate.minutes, or set evaluate.judge_steps" in note for note in rest.notes) == 2
    )  # second judges need first ones


def test_time_is_shared_and_handed_on():
    """Time that one part leaves over goes to later ones; without a limit, counts are as large as useful."""
    now = [0.0]
    pace = Pace(100.0 / (1 - RESERVE), clock=lambda: now[0])
    assert pace.seconds("judges") == pytest.approx(100 * 0.45 / 1.1)
    now[0] = 10
    pace.finish("judges")
    assert pace.seconds("joint") == pytest.approx(90 * 0.2 / 0.65)
    assert pace.count("joint", 500, 40, lambda: 0.5) == 55
    assert pace.count("joint", 500, 80, lambda: 0.5) == 80  # 40 of the 90 seconds left
    assert pace.count("joint", 500, 100, lambda: 0.5) == 0
    assert pace.count("joint", 30, 40, lambda: 0.5) == 30
    now[0] = 200
    assert pace.seconds("likelihood") == 0
    assert Pace(None).count("joint", 500, 40, lambda: 1 / 0) == 500
