"""The benchmark of methods at equal rows: its commands, and a table of a tiny one."""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from shala_framework import load

FAKES, SCRIPT = Path(__file__).parent / "fakes", Path(__file__).parent.parent / "benchmarks" / "equal_rows.py"
TINY = (
    *("train.autoencoder.batch_size=8", "train.prior.steps=4", "generate.num_steps=3", "evaluate.num_seeds=1"),
    *("evaluate.num_samples=40", "evaluate.num_rows=4", "evaluate.judge_steps=10", "evaluate.calibration_rows=0"),
    *("evaluate.likelihood_rows=2", "evaluate.likelihood=elbo", "evaluate.guidance_scales=[1.0]"),
)


def benchmark(*arguments, error=False):
    path = os.pathsep.join([str(FAKES), *filter(None, [os.environ.get("PYTHONPATH")])])
    line = [sys.executable, str(SCRIPT), *arguments]
    found = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert (found.returncode != 0) == error, found.stderr
    return found.stderr if error else found.stdout


@pytest.mark.long
def test_its_commands_give_each_method_equal_rows_and_its_own_sizes(two_spec):
    lines = benchmark(str(two_spec), "--out", "r", "--rows", "800", "--dry-run", "--set", TINY[0]).splitlines()
    sweeps = [shlex.split(line) for line in lines if line.startswith("shala sweep")]
    sets = [dict(text.split("=", 1) for text in sweep if "=" in text) for sweep in sweeps]
    assert {found["train.autoencoder.steps"] for found in sets} == {"100"}
    by_method = {
        sweep[sweep.index("--out") + 1].split("/")[1]: found for sweep, found in zip(sweeps, sets, strict=True)
    }
    methods = ["shala", "mvae", "mmvae", "mmvaeplus", "cmvae", "mopoe", "mvtcae", "jmvae", "mld"]
    assert sorted(by_method) == sorted([*methods, "plain"])
    assert {name: found["posterior.method"] for name, found in by_method.items()} == {
        **{name: name for name in methods},
        "plain": "shala",
    }
    assert by_method["mmvaeplus"]["posterior.latent_dim"] == by_method["cmvae"]["posterior.latent_dim"] == "96"
    assert by_method["mld"]["posterior.latent_dim"] == "320"
    assert [name for name, found in by_method.items() if "posterior.contrast_weight" not in found] == ["shala"]
    assert not any("train.autoencoder.kl_weight" in found for found in by_method.values()), "the spec's, of all"
    assert lines[-1].startswith("shala compare")
    parts = benchmark(str(two_spec), "--out", "r", "--dry-run", "--part", "1/3").splitlines()
    assert all("--part 1/3" in line for line in parts)


@pytest.mark.long
def test_a_spec_of_a_time_limit_is_not_compared_as_if_at_equal_rows(two_spec):
    """train.minutes would decide on the steps and the rows be ignored in silence."""
    common = (str(two_spec), "--out", "r", "--dry-run", "--methods", "mvtcae", "--set", TINY[0])
    minutes = ("--set", "train.minutes=2")
    advice = "train.minutes = 2, which decides how long stages train; add --equal-time, or --set train.minutes=none"
    assert advice in benchmark(*common, *minutes, error=True)
    assert "has no train.minutes; leave out --equal-time" in benchmark(*common, "--equal-time", error=True)
    assert "train.autoencoder.steps" not in benchmark(*common, *minutes, "--equal-time")


def test_a_tiny_one_ends_with_a_table_of_all_methods(two_spec):
    """CSV and LaTeX of both methods under each prior, from runs of equal steps."""
    pytest.importorskip("shala_baselines")
    made = ("data.stand_in.options.missing=0.0", "data.stand_in.options.test=16")
    changes = [part for text in (*TINY, *made) for part in ("--set", text)]
    common = [str(two_spec), "--out", "r", "--rows", "32", "--seeds", "3", "--collect", "kept", *changes]
    benchmark(*common, "--methods", "shala")
    benchmark(*common, "--methods", "shala", "mvtcae")  # the first is complete, and the table is of both
    files = sorted(str(path) for path in Path("kept").rglob("*.json"))
    assert files == [
        f"kept/{m}/seed-3/{name}" for m in ("mvtcae", "shala") for name in ("evaluation/test.json", "spec.json")
    ]
    rows = list(csv.DictReader(Path("r/table.csv").read_text().splitlines()))
    priors = {"diffusion", "mixture", "normal"}
    found = {(row["posterior.method"], row["method"]) for row in rows if row["metric"] == "coherence"}
    assert {(method, prior) for method in ("shala", "mvtcae") for prior in priors} <= found
    assert {row["metric"] for row in rows} >= {"parameters, million", "hours of training", "Frechet, 1 given"}
    assert r"\begin{tabular}" in Path("r/table.tex").read_text()
    assert "kept/shala/seed-3 has a run of another spec" in benchmark(
        *common, "--methods", "shala", "--rows", "64", error=True
    )  # before anything is trained
    runs = [path.parent for path in Path("r").glob("*/*/spec.json")]
    assert {load(run).spec.train.autoencoder.steps for run in runs} == {4}
    (made_run,) = Path("r/shala").iterdir()
    earlier = Path(shutil.copytree(made_run, "r/shala/zzz"))  # of another call, evaluated too
    (earlier / "spec.json").write_text((earlier / "spec.json").read_text().replace('"steps": 4', '"steps": 9'))
    benchmark(*(part if part != "kept" else "other" for part in common), "--methods", "shala")
    kept = (Path("other/shala/seed-3/spec.json"), Path("kept/shala/seed-3/spec.json"))
    assert kept[0].read_text() == kept[1].read_text()


@pytest.mark.long
def test_each_method_chooses_its_kl_weight_on_validation_rows(two_spec):
    """The first seed trains with every weight; test rows and further seeds are for the best alone."""
    made = ("data.stand_in.options.missing=0.0", "data.stand_in.options.test=16")
    changes = [part for text in (*TINY, *made) for part in ("--set", text)]
    common = [str(two_spec), "--out", "r", "--rows", "32", "--seeds", "3,4", "--methods", "shala", *changes]
    said = benchmark(*common, "--kl-weights", "1,50", "--collect", "kept")
    line = next(line for line in said.splitlines() if line.startswith("shala: kl_weight "))
    best, scores = re.fullmatch(r"shala: kl_weight (\d+); .*: (1: [\d.]+, 50: [\d.]+)", line).groups()
    found = dict(text.split(": ") for text in scores.split(", "))
    assert float(found[best]) == max(map(float, found.values()))
    places = {path.parents[1].parent.name: path for path in Path("r").rglob("evaluation/validation.json")}
    assert sorted(places) == ["kl-1", "kl-50"]
    tested = sorted(path.parents[2].name for path in Path("r").rglob("evaluation/test.json"))
    assert tested == [f"kl-{best}", f"kl-{best}"]
    kept = sorted(str(path) for path in Path("kept").rglob("test.json"))
    assert kept == [f"kept/shala/kl-{best}/seed-{seed}/evaluation/test.json" for seed in (3, 4)]
    rows = list(csv.DictReader(Path("r/table.csv").read_text().splitlines()))
    assert {float(row["train.autoencoder.kl_weight"]) for row in rows} == {float(best)}
    weights = {load(path.parents[1]).spec.train.autoencoder.kl_weight for path in places.values()}
    assert weights == {1.0, 50.0}
    again = benchmark(
        *common, "--rows", "40", "--seeds", "3", "--kl-weights", "1,50"
    )  # runs of the other length lie beside these
    assert "shala: kl_weight " in again
    for method in ("shala", "plain"):  # the table has what is kept of both
        refused = benchmark(*common, "--methods", method, "--kl-weights", "2,50", "--collect", "kept", error=True)
        assert "chosen from ['1', '50'], not ['2', '50']" in refused
    assert not Path("r/plain").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("1,50", "--split", "validation"), "--kl-weights chooses by validation rows"),
        (("1,50", "--part", "1/2"), "--kl-weights chooses by validation rows"),
        (("1,50", "--set", "train.autoencoder.kl_weight=8"), "both give the weight; leave out one of them"),
        (("1,1.0",), "expected different numbers above 0, such as 1,4,16, got '1,1.0'"),
        (("1,l6",), "expected different numbers above 0, such as 1,4,16, got '1,l6'"),
    ],
)
def test_weights_that_cannot_be_chosen_from_are_refused_first(two_spec, words, says):
    common = (str(two_spec), "--out", "r", "--methods", "shala", "--set", TINY[0], "--dry-run")
    assert says in benchmark(*common, "--kl-weights", *words, error=True)
