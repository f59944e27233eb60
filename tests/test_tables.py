"""Sweeps, comparisons, stages taken from another run, and embeddings, on runs of two fake modalities."""

import csv
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch
from small_runs import CHECKPOINTS, metric_lines, run

from shala_framework import CheckpointError, load
from shala_framework.cli.main import dispatch
from shala_framework.data.rows import Rows, load_rows
from shala_framework.evaluation.intervals import Figure
from shala_framework.evaluation.measurements import JOINT, Measurement, Metric
from shala_framework.model.origin import read_origin
from shala_framework.plugin.loading import load_modality
from shala_framework.report.comparison import Comparison, as_csv, as_latex, make_sections
from shala_framework.report.samples import SYNTHETIC
from shala_framework.run.comparing import compare_runs
from shala_framework.run.evaluation import identify_rows
from shala_framework.run.folder import RunFolder
from shala_framework.run.sweeping import plan_sweep
from shala_framework.run.taking import stages_to_take
from shala_framework.spec.grid import make_grid
from shala_framework.support.errors import DataError, SpecError
from shala_framework.support.json_files import dump_json, parse_json
from shala_framework.support.progress import Silent

pytestmark = pytest.mark.long

GRID = ("--set", "posterior.latent_dim=3,4", "--set", "seed=0,1")
FOLDERS = [f"latent_dim-{size}_seed-{seed}" for size in (3, 4) for seed in (0, 1)]


def call(capsys, *words):
    status = dispatch([str(word) for word in words])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def swept(tmp_path_factory, two_spec_text):
    """A folder with a spec and a sweep over two sizes and two seeds, in two parts; tests change copies of it."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "two.toml").write_text(two_spec_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for part in ("1/2", "2/2"):
            assert dispatch(["sweep", "two.toml", *GRID, "--out", "grid", "--part", part]) == 0
    return folder


@pytest.fixture
def grid(swept, monkeypatch):
    """The sweep's folder, as the working directory."""
    monkeypatch.chdir(swept)
    return [Path("grid") / name for name in FOLDERS]


def test_a_sweep_skips_what_is_finished_and_ends_with_the_table(grid, capsys):
    """Each point has a folder; repeating the call trains and evaluates nothing, and prints means over seeds."""
    before = {path: path.stat().st_mtime_ns for path in Path("grid").rglob("*") if path.is_file()}
    status, out, err = call(capsys, "sweep", "two.toml", *GRID, "--out", "grid")
    assert status == 0
    assert err.count("is finished already") == 4
    assert {path: path.stat().st_mtime_ns for path in Path("grid").rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in Path("grid").iterdir()) == FOLDERS
    assert "posterior.latent_dim" in out
    assert "n up to 40" in out
    assert "over 2 runs" in out
    for method in ("real rows", "diffusion", "mixture", "normal", "posterior"):
        assert method in out
    assert " *" in out


def test_a_finished_sweep_is_scored_on_test_rows_without_training(two_spec, capsys):
    """Its weights stay, both evaluations count as finished, and a spec without test rows is refused first."""
    words = ("sweep", two_spec, "--set", "seed=0", "--set", "data.stand_in.options.test=12", "--out", "grid")
    assert call(capsys, *words)[0] == 0
    weights = {path: path.stat().st_mtime_ns for path in Path("grid").glob("*/*.safetensors")}
    status, out, _ = call(capsys, *words, "--split", "test")
    assert status == 0
    assert "joint samples; test split" in out
    assert json.loads(Path("grid/seed-0_test-12/evaluation/test.json").read_text())["rows"] == 12
    assert out.rstrip().endswith("--split test")
    assert {path: path.stat().st_mtime_ns for path in Path("grid").glob("*/*.safetensors")} == weights
    for split in ("test", "validation"):
        assert "is finished already" in call(capsys, *words, "--split", split)[2]
    head, _, rest = two_spec.read_text().partition("[data.stand_in]")
    two_spec.write_text(head + rest[rest.index("[modality.first]") :])
    status, _, err = call(capsys, "sweep", two_spec, "--set", "seed=0", "--out", "grid", "--split", "test")
    assert (status, "two: the spec names no data.test, which --split test evaluates on" in err) == (2, True)


def test_a_run_of_a_sweep_is_the_run_of_its_command(grid, tmp_path, capsys):
    """--dry-run prints one command for each run; a sweep's run has the same weights as the run alone, bit for bit."""
    status, out, _ = call(capsys, "sweep", "two.toml", *GRID, "--out", "grid", "--dry-run")
    assert status == 0
    lines = out.splitlines()
    assert lines[3] == ("shala-run two.toml --set posterior.latent_dim=4 --set seed=1 --out grid/latent_dim-4_seed-1")
    alone = run(Path("two.toml"), str(tmp_path / "alone"), "posterior.latent_dim=4", "seed=1", "evaluate.at_end=false")
    for name in CHECKPOINTS:
        assert (alone / name).read_bytes() == (grid[3] / name).read_bytes()


def with_seeds(spec, seeds):
    """The text of a spec with this value of `seed` in line 3."""
    head, name, rest = spec.read_text().partition('name = "two"\n')
    return f"{head}{name}seed = {seeds}\n{rest}"


def test_a_list_of_seeds_in_the_spec_is_swept(grid, tmp_path, capsys):
    """Its runs are those of --set seed=0,1, in the same folders; a seed of --set takes precedence."""
    listed = tmp_path / "two.toml"
    listed.write_text(with_seeds(Path("two.toml"), "[0, 1]"))
    status, out, _ = call(capsys, "sweep", listed, *GRID[:2], "--out", "grid", "--dry-run")
    assert status == 0
    assert [line.rpartition("/")[2] for line in out.splitlines()] == FOLDERS
    status, out, _ = call(capsys, "sweep", listed, "--out", "grid", "--dry-run")
    assert [line.rpartition("/")[2] for line in out.splitlines()] == ["seed-0", "seed-1"]
    status, out, _ = call(capsys, "sweep", listed, "--set", "seed=7", "--out", "grid", "--dry-run")
    assert [line.rpartition("/")[2] for line in out.splitlines()] == ["seed-7"]
    status, out, err = call(capsys, "sweep", listed, *GRID[:2], "--out", "grid")
    assert (status, err.count("is finished already")) == (0, 4)


@pytest.mark.parametrize("words", [("run",), ("check",), ("run", "--dry-run")])
def test_other_verbs_ask_for_one_seed(words, two_spec, capsys):
    """The message has the line, what was got and expected, and both ways out, of which --set works."""
    two_spec.write_text(with_seeds(two_spec, "[0, 1]"))
    status, _, err = call(capsys, words[0], two_spec, *words[1:])
    assert status == 2
    assert f"{two_spec}:3: seed: expected int, got an array of 2" in err
    assert "`shala sweep` runs each of them; for one run, choose one, such as --set seed=0" in err
    assert err.count("seed:") == 1
    status, _, err = call(capsys, "check", two_spec, "--set", "seed=1")
    assert status == 0


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("[]", "seed: expected at least one element, got ()"),
        ("[0, 1.5]", "seed[1]: expected int, got float 1.5"),
        ("[0, -1]", "seed: [1]: expected a number of at least 0, got -1"),
        ("[0, 1, 0]", "seed: expected every seed once, got 0 twice"),
    ],
)
def test_a_wrong_list_of_seeds_is_named_at_its_line(seeds, message, two_spec, capsys):
    """Before any run begins."""
    two_spec.write_text(with_seeds(two_spec, seeds))
    status, _, err = call(capsys, "sweep", two_spec)
    assert status == 2
    assert re.search(rf"two\.toml:3: {re.escape(message)}", err)


def test_a_failing_run_does_not_stop_the_others(grid, tmp_path, capsys):
    """A failing run gives its message, the finished runs and status 2; a wrong value is found before any training."""
    copied = tmp_path / "grid"
    shutil.copytree("grid", copied)
    (copied / FOLDERS[0] / "finished.json").write_text("{")
    (copied / FOLDERS[0] / "spec.json").write_text((copied / FOLDERS[2] / "spec.json").read_text())
    status, _, err = call(capsys, "sweep", "two.toml", *GRID, "--out", copied)
    assert status == 2
    assert "belongs to another spec" in err
    assert "1 of 4 runs failed" in err
    assert "3 of 4 runs are finished" in err
    status, _, err = call(capsys, "sweep", "two.toml", "--set", "posterior.latent_dim=4,many", "--out", tmp_path / "x")
    assert status == 2
    assert "expected int" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["seed"], "expected KEY=VALUE"),
        (["seed=0,,1"], "expected a value before and after each comma"),
        (["seed=0,1,0"], "expected every value once, got '0' twice"),
        (["seed=0,1", "seed=2"], "expected every key once"),
        (["name='a"], "expected a counterpart of '"),
        (["a=[1,2"], r"expected a counterpart of \["),
        (["a=1]"], "expected brackets in pairs"),
        (["a=" + ",".join(map(str, range(40))), "b=" + ",".join(map(str, range(40)))], "at most 1,000 combinations"),
    ],
)
def test_a_wrong_grid_is_one_message(texts, message):
    with pytest.raises(SpecError, match=message):
        make_grid(texts)


def test_commas_in_brackets_braces_and_quotes_are_part_of_a_value():
    """Arrays, shard patterns and quoted texts are single values; names of folders are distinct and plain."""
    points = make_grid(["e.scales=[1,2],[1,3]", "data.train=x-{0,1}.tar,y.tar", 't="a,b"'])
    assert [point.overrides[:2] for point in points] == [
        (f"e.scales={scales}", f"data.train={train}")
        for scales in ("[1,2]", "[1,3]")
        for train in ("x-{0,1}.tar", "y.tar")
    ]
    assert {point.overrides[2] for point in points} == {'t="a,b"'}
    names = {point.name for point in points}
    assert len(names) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)
    assert len({point.name for point in make_grid(["a=a/b,a-b,a b,../b"])}) == 4


def test_a_comparison_has_means_and_deviations_over_seeds(grid, tmp_path, capsys, monkeypatch):
    """CSV, LaTeX, JSON and the plot contain the evaluations' figures; rows are named by the keys that differ."""
    monkeypatch.setenv("NO_COLOR", "1")
    files = [tmp_path / name for name in ("f.csv", "f.tex", "f.png")]
    words = [word for pair in zip(("--csv", "--latex", "--plot"), files, strict=True) for word in pair]
    status, out, err = call(capsys, "compare", *grid, *words, "--json")
    assert status == 0
    assert SYNTHETIC in err
    values = json.loads(out)
    assert values["by"] == ["posterior.latent_dim"]
    found = [json.loads((path / "evaluation/validation.json").read_text()) for path in grid[:2]]
    coherence = [next(j for j in e["joint"] if j["method"] == "mixture")["coherence"]["value"] for e in found]
    lines = list(csv.DictReader(files[0].read_text().splitlines()))
    assert len(lines) == len(values["figures"])
    line = next(
        line
        for line in lines
        if (line["section"], line["posterior.latent_dim"], line["method"], line["metric"])
        == (JOINT, "3", "mixture", "coherence")
    )
    assert float(line["mean"]) == pytest.approx(np.mean(coherence))
    assert float(line["deviation"]) == pytest.approx(np.std(coherence, ddof=1))
    assert (line["runs"], line["split"], line["n"]) == ("2", "validation", "80")
    assert files[2].read_bytes().startswith(b"\x89PNG")
    tex = files[1].read_text()
    assert check_latex(tex) >= 3
    assert r"posterior.latent\_dim" in tex
    assert r"\textbf{" in tex
    if shutil.which("pdflatex"):
        (tmp_path / "page.tex").write_text(
            r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{f.tex}\end{document}"
        )
        subprocess.run(["pdflatex", "-halt-on-error", "page.tex"], cwd=tmp_path, check=True, capture_output=True)


def check_latex(tex: str) -> int:
    """Check what a compiler would refuse: environments, braces, cells of each line and special characters."""
    opened: list[str] = []
    tables = columns = 0
    for line in tex.splitlines():
        bare = re.sub(r"\\[\\{}&%$#_]|\\(?:textbackslash|textasciitilde|textasciicircum)\{\}", "", line.rstrip("\\"))
        assert bare.count("{") == bare.count("}"), line
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", line):
            assert kind == "begin" or opened.pop() == name, line
            opened += [name] if kind == "begin" else []
        if found := re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", line):
            tables, columns = tables + 1, len(found[1])
        if line.endswith(r"\\"):
            assert opened == ["table", "tabular"], line
            assert bare.count("&") == columns - 1, line
        elif not line.startswith("%"):
            assert "&" not in bare, line
            assert "%" not in bare, line
        words = re.sub(r"\$\\(?:pm|uparrow|downarrow)\$", "", bare)
        assert not re.search(r"[#$_^~]", words) or line.startswith("%"), line
        assert line.isascii(), line
    assert not opened
    assert tex.count(r"\toprule") == tex.count(r"\midrule") == tex.count(r"\bottomrule") == tables
    assert tex.startswith(r"% needs \usepackage{booktabs}")
    return tables


def test_names_of_all_kinds_are_valid_latex_and_csv(tmp_path):
    """Characters that mean something to LaTeX, quotes, commas and line breaks in a name stay within its cell."""
    strange = 'a_b & 50 % of {x}^2 ~ #3 $\\alpha$ "q", <é> ± two\nlines'
    metric = Metric(section=JOINT, name="judge of mo_da#1", better="higher")
    measured = [Measurement(metric=metric, method=strange, figure=Figure(value=v, count=9)) for v in (0.5, 0.25)]
    sections = make_sections({(strange, "y"): [[m] for m in measured], ("z", "y"): [[measured[0]]]})
    compared = Comparison(by=("x.y_z", "k"), split="test", runs=("r",), sections=sections, notes=())
    tex = as_latex(compared).decode()
    assert "é" in tex
    assert check_latex(tex.replace("é", "e")) == 1
    (tmp_path / "f.csv").write_bytes(as_csv(compared))
    with (tmp_path / "f.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["x.y_z"] for line in lines] == [strange, "z"]
    assert all(None not in line and None not in line.values() for line in lines)


@pytest.mark.parametrize("name", ["[1.5, 3]", "*", "[0,1]"])
def test_no_line_of_latex_is_an_argument_of_the_line_before(name):
    """A bracket or a star behind a line break or a rule is its argument, and not text of the cell."""
    metric = Metric(section=JOINT, name="coherence")
    measured = [Measurement(metric=metric, method="diffusion", figure=Figure(value=0.5, low=0.25, high=0.75, count=9))]
    sections = make_sections({(name,): [measured], ("z",): [measured], (f"{name} ",): [measured]})
    compared = Comparison(by=(name,), split="test", runs=("r",), sections=sections, notes=())
    tex = as_latex(compared).decode()
    assert check_latex(tex) == 1
    assert not re.search(r"(?:\\\\|rule|space)\s*[\[*]", tex)
    assert tex.count(f"{{}}{name}") == 3
    assert "& 0.500 [0.250, 0.750] " in tex


def test_the_csv_opens_in_pandas(grid, tmp_path, capsys):
    """Numbers are numbers, blanks are missing, and a pivot gives the table."""
    pandas = pytest.importorskip("pandas")
    assert call(capsys, "compare", *grid, "--csv", tmp_path / "f.csv")[0] == 0
    frame = pandas.read_csv(tmp_path / "f.csv")
    for name in ("mean", "deviation", "low", "high", "n", "runs", "posterior.latent_dim"):
        assert pandas.api.types.is_numeric_dtype(frame[name]), name
    assert not frame["mean"].isna().any()
    assert set(frame["best"].unique()) == {True, False}
    joint = frame[frame["section"] == JOINT]
    table = joint.pivot(index=["posterior.latent_dim", "method"], columns="metric", values="mean")
    assert table.loc[(3, "mixture"), "coherence"] > 0


def test_curves_along_guidance_and_along_a_key(grid, tmp_path, capsys):
    """Both are drawn; a key that rows do not differ in, one without numbers, and a missing --plot are refused."""
    for along in ("guidance", "posterior.latent_dim"):
        path = tmp_path / f"{along}.svg"
        assert call(capsys, "compare", *grid, "--plot", path, "--curve", along)[0] == 0
        text = path.read_text()
        assert text.count('id="axes_') == 2
    for words, message in (
        (["--curve", "guidance"], "--curve: expected --plot FILE too"),
        (["--curve", "seed", "--plot", "a.png"], "expected one of 'guidance', 'posterior.latent_dim', by which rows"),
        (["--curve", "name", "--by", "name", "--plot", "a.png"], "a key whose values are numbers, got 'two'"),
    ):
        status, _, err = call(capsys, "compare", *grid, *words)
        assert status == 2
        assert message in err
        assert not Path("a.png").exists()


def test_the_best_is_marked_and_real_rows_do_not_compete():
    """Values that print equally are equally best, lower distances are better, and LaTeX text is escaped."""
    distance = Metric(section=JOINT, name="Frechet", better="lower")
    groups = {
        (name,): [[Measurement(metric=distance, method=method, figure=Figure(value=value, count=9))]]
        for name, method, value in (
            ("a_1", "diffusion", 1.0001),
            ("b&%", "diffusion", 1.0002),
            ("c", "normal", 2.0),
            ("d", "real rows", 0.1),
            ("e", "diffusion", float("nan")),
        )
    }
    sections = make_sections(groups)
    assert [row.cells[distance].best for row in sections[0].rows] == [True, True, False, False]
    compared = Comparison(by=("x",), split="test", runs=("r",), sections=sections, notes=())
    tex = as_latex(compared).decode()
    assert r"a\_1 & diffusion & \textbf{1.000} \\" in tex
    assert r"b\&\% & " in tex
    assert "d & real rows & 0.100" in tex


def test_runs_can_be_grouped_by_other_keys(grid, capsys):
    """A row that pools different runs says so; an unknown key is answered with the nearest one."""
    status, _, err = call(capsys, "compare", *grid, "--by", "seed")
    assert status == 0
    assert "one row pools runs that differ in posterior.latent_dim" in err
    for key, message in (
        ("posterior.latent_dims", "did you mean 'posterior.latent_dim'?"),
        ("posterior", "it is a table; such as posterior."),
        ("x = [", "`shala keys` lists them"),
    ):
        status, _, err = call(capsys, "compare", *grid, "--by", key)
        assert status == 2
        assert message in err


def edited(source: Path, target: Path, **changes) -> Path:
    """Copy the files of a run that a comparison reads, with other values in its evaluation."""
    (target / "evaluation").mkdir(parents=True)
    shutil.copy(source / "spec.json", target)
    found = parse_json((source / "evaluation/validation.json").read_bytes(), dict)
    (target / "evaluation/validation.json").write_bytes(dump_json(found | changes))
    return target


def test_evaluations_that_differ_in_how_they_were_made_are_refused(grid, tmp_path):
    """Other rows, numbers of samples, judges and splits are refused with the runs that have them."""
    found = parse_json((grid[0] / "evaluation/validation.json").read_bytes(), dict)
    fewer = json.loads(json.dumps(found))
    for method in fewer["joint"]:
        for figure in method["frechet"].values():
            figure["count"] = 20
    judged = json.loads(json.dumps(found["judges"]))
    judged["first"]["steps"] = 30
    for name, changes, message in (
        ("rows", {"held_out": "other"}, "digest of the held-out rows: .* in grid/.*; 'other' in"),
        ("number", {"joint": fewer["joint"]}, r"joint samples a seed \(n\): '40' in .*; '20' in .*number"),
        ("judge", {"judges": judged}, "training steps of the judge of first: '60' in .*; '30' in .*judge"),
        ("split", {"split": "test"}, "split: 'validation' in .*; 'test' in"),
        ("group", {"settings": found["settings"] | {"group": "^."}}, r"together: 'each row alone' in .*; '\^\.' in"),
        (
            "train",
            {"settings": found["settings"] | {"train_rows": 9}},
            "training rows of judges: '10000' in .*; '9' in",
        ),
    ):
        with pytest.raises(CheckpointError, match=message):
            compare_runs([grid[1], edited(grid[0], tmp_path / name, **changes)])
    with pytest.raises(DataError, match="expected every run once"):
        compare_runs([grid[0], grid[0]])
    longer = []
    for steps in (60, 90):
        second = {**found["judges"], "first": {**found["judges"]["first"], "second_steps": steps}}
        longer.append(edited(grid[0], tmp_path / f"second-{steps}", judges=second))
    with pytest.raises(CheckpointError, match=r"training steps of the second judge of first: '60' in .*; '90' in .*"):
        compare_runs(longer)


def test_figures_of_other_judges_and_targets_are_not_pooled(grid, tmp_path):
    """Coherence over other attributes, or agreement of other modalities, is the answer to another question."""
    half = attrs.asdict(Figure(value=0.5, count=9))

    def judged(counts):
        told = {"side": {"real": half, "reconstructed": half, "counts": counts}}
        return {name: judge | {"attributes": told} for name, judge in found["judges"].items()}

    def many(*targets):
        common = {"method": "diffusion", "given": "first", "attribute": "side", "targets": targets}
        figures = dict.fromkeys(("coherence", "independent", "real"), half)
        return [{**common, **figures, "num_values": 0, "variation": None, "variation_by_chance": None}]

    found = parse_json((grid[0] / "evaluation/validation.json").read_bytes(), dict)
    for key, one, other, message in (
        ("judges", judged(True), judged(False), r"judge of first can tell: '\[\"side\"\]' in .*; '\[\]' in"),
        ("one_to_many", many("b", "c"), many("c"), r"have to agree in side, first given: '\[\"b\", \"c\"\]' in .*; "),
    ):
        runs = [edited(grid[n], tmp_path / f"{key}{n}", **{key: one}) for n in (0, 1)]
        assert compare_runs(runs).sections
        with pytest.raises(CheckpointError, match=message):
            compare_runs([runs[0], edited(grid[1], tmp_path / f"{key}2", **{key: other})])


def test_held_out_rows_are_told_apart_by_presence_and_values(grid, tmp_path):
    """Other missing modalities are refused and other values noted; earlier evaluations state neither."""
    found = parse_json((grid[0] / "evaluation/validation.json").read_bytes(), dict)
    assert (len(found["held_out_presence"]), len(found["held_out_values"]), found["held_out_shards"]) == (16, 16, None)
    with pytest.raises(CheckpointError, match=r"modalities that held-out rows have: .* in grid/.*; 'other' in"):
        compare_runs([grid[1], edited(grid[0], tmp_path / "presence", held_out_presence="other")])
    copied = [edited(grid[n], tmp_path / f"{n}", held_out_shards=f"{n}/test-*.tar") for n in (0, 1)]
    noisy = edited(grid[0], tmp_path / "noisy", held_out_values="0" * 16, held_out_shards="noisy/test-*.tar")
    (note,) = (note for note in compare_runs([copied[1], noisy]).notes if "other values" in note)
    assert f"'{found['held_out_values']} of 1/test-*.tar' in {copied[1]}" in note
    assert f"'{'0' * 16} of noisy/test-*.tar' in {noisy}" in note
    earlier = [edited(grid[n], tmp_path / f"e{n}", held_out_presence=None, held_out_values=None) for n in (0, 1)]
    for runs in (earlier, [earlier[0], grid[1]], [earlier[0], noisy], copied, [copied[0], grid[1]]):
        assert not any("other values" in note for note in compare_runs(runs).notes)


def test_digests_of_rows_depend_on_what_they_have_and_not_on_the_order_of_modalities():
    x = {"a": torch.arange(2.0)[:, None], "b": torch.arange(4.0).view(2, 2)}
    presence = torch.tensor([[True, False], [True, True]])
    rows = Rows(x=x, presence=presence, keys=("x", "y"), labels=(None, None))
    one = identify_rows(rows)
    assert identify_rows(attrs.evolve(rows, x=dict(reversed(x.items())), presence=presence.flip(1))) == one
    missing = {"a": x["a"], "b": torch.tensor([[9.0, 9.0], [2.0, 3.0]])}
    assert identify_rows(attrs.evolve(rows, x=missing)) == one
    for key, changes in (
        ("values", {"x": {"a": x["a"], "b": x["b"] + 1}}),
        ("presence", {"presence": torch.tensor([[False, True], [True, True]])}),
        ("keys", {"labels": ("3", None)}),
        ("keys", {"keys": ("x", "z")}),
    ):
        assert identify_rows(attrs.evolve(rows, **changes))[key] != one[key]


def with_option(source, target, value, key="columns"):
    """Copy a run whose first modality has another option."""
    folder = edited(source, target)
    described = parse_json((folder / "spec.json").read_bytes(), dict)
    described["spec"]["modality"]["first"]["options"][key] = value
    (folder / "spec.json").write_bytes(dump_json(described))
    return folder


def test_long_values_are_compared_whole(grid, tmp_path):
    """Lists that differ behind their 100th character are refused, and the message shows where they differ."""
    columns = [f"sensor_number_{i:02d}" for i in range(12)]
    runs = [with_option(grid[n], tmp_path / f"{n}", [*columns, last]) for n, last in ((0, "aaa"), (1, "bbb"))]
    with pytest.raises(CheckpointError, match=r"options\.columns: '\.\.\..*aaa.* in .*; '\.\.\..*bbb.* in "):
        compare_runs(runs)
    assert compare_runs([runs[0], with_option(grid[1], tmp_path / "2", [*columns, "aaa"])]).sections


def test_a_text_is_not_the_value_that_it_looks_like(grid, tmp_path):
    """Keys without a value, numbers and texts name different rows, also if they read alike."""
    values = [None, "none", 3, "3", "three"]
    runs = [edited(grid[0], tmp_path / f"{n}") for n in range(len(values))]
    for folder, value in zip(runs, values, strict=True):
        described = parse_json((folder / "spec.json").read_bytes(), dict)
        described["spec"]["prior"]["novel"] = value
        (folder / "spec.json").write_bytes(dump_json(described))
    rows = compare_runs(runs).sections[0].rows
    assert list(dict.fromkeys(row.group for row in rows)) == [("none",), ('"none"',), ("3",), ('"3"',), ("three",)]


def test_networks_of_stage_3_may_differ_where_judges_do_not_depend_on_them(grid, tmp_path, monkeypatch):
    """Other options of a modality give other judges; these name a row."""
    wide = edited(grid[0], tmp_path / "wide")
    described = parse_json((wide / "spec.json").read_bytes(), dict)
    described["spec"]["modality"]["first"]["options"]["width"] = 33
    (wide / "spec.json").write_bytes(dump_json(described))
    with pytest.raises(CheckpointError, match=r"modality\.first\.options\.width: '32' in .*; '33' in"):
        compare_runs([grid[0], wide])
    monkeypatch.setattr(load_modality("two-floats"), "refiner_options", frozenset({"width"}))
    compared = compare_runs([grid[0], wide])
    assert compared.by == ("modality.first.options.width",)


def test_an_evaluation_counts_with_the_sampler_that_it_used(grid, tmp_path, capsys):
    """Runs of one spec that were evaluated with other samplers are two rows, as if their specs had named these."""
    shutil.copytree(grid[0], tmp_path / "fast")
    assert call(capsys, "evaluate", tmp_path / "fast", "--set", "generate.num_steps=4")[0] == 0
    compared = compare_runs([grid[0], tmp_path / "fast"])
    assert compared.by == ("generate.num_steps",)
    assert {row.group for section in compared.sections for row in section.rows} == {("18",), ("4",)}
    assert not any("pools" in note for note in compared.notes)


def test_an_evaluation_of_fewer_stages_than_a_run_has_is_refused(grid, tmp_path):
    """A stage that was trained after the evaluation has no share in its figures."""
    old = edited(grid[0], tmp_path / "old", stages=["autoencoder", "prior"])
    assert compare_runs([old]).sections
    (old / "refiner.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"before its stage refiner was trained; `shala evaluate .*/old --split"):
        compare_runs([old])


def test_an_evaluation_of_former_weights_counts_nowhere(grid, tmp_path, capsys):
    """After a stage was trained again or removed, no table, report or sweep has its figures; other copies are read."""
    shutil.copytree("grid", tmp_path / "grid")
    old = tmp_path / "grid" / FOLDERS[0]
    (planned,) = (run for run in plan_sweep(Path("two.toml"), GRID[1::2], tmp_path / "grid") if run.folder == old)
    assert planned.is_finished()
    shutil.copy(grid[1] / "prior.safetensors", old)
    with pytest.raises(CheckpointError, match=r"before its stage prior was trained again; `shala evaluate .* rewrites"):
        compare_runs([old])
    assert not planned.is_finished()
    shutil.copy(grid[0] / "prior.safetensors", old)
    assert planned.is_finished()
    (old / "prior.safetensors").unlink()
    with pytest.raises(CheckpointError, match="with stage prior, which the run no longer has"):
        compare_runs([old])
    earlier = edited(grid[0], tmp_path / "earlier", weights=None)
    shutil.copy(grid[1] / "prior.safetensors", earlier)
    assert compare_runs([earlier, edited(grid[1], tmp_path / "collected")]).sections
    shutil.copy(grid[0] / "prior.safetensors", old)
    path = old / "evaluation/validation.json"
    found = parse_json(path.read_bytes(), dict)
    path.write_bytes(dump_json(found | {"weights": {"autoencoder": "0" * 8}}))
    assert call(capsys, "report", old)[2].count("it is left out of the report") == 1
    assert "was not evaluated" in (old / "README.md").read_text()
    kinds = [
        {file.relative_to(folder).parts[0] for file in RunFolder(folder, "", Silent()).results()}
        for folder in (grid[0], old)
    ]
    assert kinds[0] - kinds[1] == {"evaluation"}


def test_what_is_no_run_or_damaged_is_one_message(grid, tmp_path, capsys):
    """A folder without a spec, a missing or damaged evaluation, and an unknown file type give status 2 and no file."""
    lacking, damaged = edited(grid[0], tmp_path / "lacking"), edited(grid[0], tmp_path / "damaged")
    (lacking / "evaluation/validation.json").unlink()
    path = damaged / "evaluation/validation.json"
    path.write_bytes(path.read_bytes().replace(b"0.", b"1.", 1))
    strange = edited(grid[0], tmp_path / "strange", joint=[{"method": 3}])
    for words, message in (
        ([tmp_path], "is not the folder of a run: it has no spec.json"),
        ([tmp_path / "nothing"], "is not the folder of a run"),
        ([lacking], "has no evaluation of the validation split: `shala evaluate"),
        ([damaged], "validation.json is damaged"),
        ([strange], "is not an evaluation of this version"),
        ([grid[0], "--split", "test"], "has no evaluation of the test split"),
        ([grid[0], "--plot", tmp_path / "f.gif"], "expected --plot of a file that ends in .png, .pdf or .svg"),
    ):
        status, out, err = call(capsys, "compare", *words, "--csv", tmp_path / "f.csv")
        assert (status, out) == (2, "")
        assert message in err
        assert not (tmp_path / "f.csv").exists()


def test_a_run_takes_the_stages_whose_settings_agree(grid, tmp_path, capsys):
    """With another prior, stage 1 is copied, not trained; resuming the run does not need the other run."""
    source, folder = tmp_path / "source", tmp_path / "wide"
    shutil.copytree(grid[2], source)
    words = ("run", "two.toml", "--set", "seed=0", "--set", "prior.hidden_dim=48", "--out", folder)
    status, _, err = call(capsys, *words, "--from", source)
    assert status == 0
    assert f"took stage autoencoder from {source}" in err
    assert "prior.hidden_dim: 32 in" in err
    assert {line["stage"] for line in metric_lines(folder)} == {"prior", "summary"}
    one, two = load(source), load(folder)
    assert one.autoencoder_digest() == two.autoencoder_digest()
    assert one.modalities["first"].state() == two.modalities["first"].state()
    assert read_origin(folder).stages == ("autoencoder",)
    assert f"autoencoder from {source}" in (folder / "report.html").read_text()
    whole = run(Path("two.toml"), str(tmp_path / "whole"), "prior.hidden_dim=48")
    assert load(whole).prior.state_dict().keys() == two.prior.state_dict().keys()
    for name, value in load(whole).prior.state_dict().items():
        assert np.array_equal(value, two.prior.state_dict()[name]), name
    shutil.rmtree(source)
    assert call(capsys, *words, "--from", source)[0] == 0


def test_every_stage_is_taken_where_all_settings_agree(grid, tmp_path, capsys):
    """Names, device and logging intervals may differ."""
    words = ("--set", "name='b'", "--set", "train.prior.log_every_steps=7", "--set", "data.validation_samples=20")
    status, _, err = call(capsys, "run", "two.toml", *words, "--from", grid[2], "--out", tmp_path / "b")
    assert status == 0
    assert "took stages autoencoder and prior" in err
    assert load(tmp_path / "b").autoencoder_digest() == load(grid[2]).autoencoder_digest()
    assert read_origin(tmp_path / "b").stages == ("autoencoder", "prior")


def test_a_run_of_other_settings_gives_nothing_and_says_why(grid, tmp_path, capsys):
    """Every key that stage 1 depends on is named with both values, and nothing is written."""
    strange = tmp_path / "strange"
    shutil.copytree(grid[2], strange)
    stage = strange / "autoencoder.safetensors"
    stage.write_bytes(stage.read_bytes()[:-1] + b"?")
    for words, message in (
        (("--from", grid[0]), "posterior.latent_dim: 3 in grid/latent_dim-3_seed-0, 4 here"),
        (("--from", grid[3]), "seed: 1 in"),
        (("--from", grid[2], "--set", "modality.first.options.field=c"), "modality.first.options.field: 'a' in"),
        (("--from", tmp_path), "expected the folder of a run, but it has no spec.json"),
        (("--from", tmp_path / "b"), "expected another run than the one in --out"),
        (("--from", strange), "autoencoder.safetensors is damaged"),
    ):
        status, _, err = call(capsys, "run", "two.toml", *words, "--out", tmp_path / "b")
        assert status == 2
        assert message in err
        assert not list((tmp_path / "b").glob("*.safetensors"))


def test_stages_are_taken_whatever_the_networks_of_a_later_one_are(grid, monkeypatch):
    """Options on which only stage 3's network depends do not count for stages 1 and 2; other options do."""
    described = json.loads((grid[2] / "spec.json").read_text())
    modalities = load(grid[2]).modalities
    described["spec"]["modality"]["first"]["options"]["width"] += 1
    with pytest.raises(CheckpointError, match=r"modality\.first\.options\.width: \d+ in "):
        stages_to_take(grid[2], described, modalities)
    monkeypatch.setattr(type(modalities["first"]), "refiner_options", frozenset({"width"}))
    assert stages_to_take(grid[2], described, modalities).stages == ("autoencoder", "prior")


def test_embeddings_have_keys_and_labels(grid, tmp_path, capsys):
    """CSV and .npz contain the posterior means of every row, in the order of the shards."""
    table, arrays = tmp_path / "z.csv", tmp_path / "z.npz"
    for out in (table, arrays):
        status, said, err = call(capsys, "embed", grid[2], "--out", out)
        assert status == 0
        assert f"dimensions to {out}" in said
        assert SYNTHETIC in err
    lines = list(csv.DictReader(table.read_text().splitlines()))
    with np.load(arrays, allow_pickle=False) as found:
        assert found["z"].shape == found["std"].shape == (len(lines), 4)
        assert [line["key"] for line in lines] == found["keys"].tolist()
        assert [line["class"] for line in lines] == found["classes"].tolist()
        z = np.array([[float(line[f"z{d}"]) for d in range(4)] for line in lines], dtype=np.float32)
        np.testing.assert_array_equal(z, found["z"])
        assert (found["std"] > 0).all()
        model = load(grid[2])
        urls = sorted(str(path) for path in (grid[2] / "data").glob("validation-*.tar"))
        rows = load_rows(urls, model.modalities)
        assert rows.keys == tuple(found["keys"])
        both = rows.having(model.names)
        places = [rows.keys.index(key) for key in both.keys]
        np.testing.assert_allclose(found["z"][places], model.embed(both.x), atol=1e-5)
    assert len({line["key"] for line in lines}) == len(lines) > 10
    assert {line["class"] for line in lines} != {""}


def test_an_embedding_of_given_modalities_is_that_of_the_model(grid, tmp_path, capsys):
    """--given encodes each row from what it has of these modalities, and leaves out and counts rows with none."""
    model, out = load(grid[2]), tmp_path / "z.npz"
    urls = sorted(str(path) for path in (grid[2] / "data").glob("validation-*.tar"))
    rows = load_rows(urls, model.modalities)
    for given in (["second"], ["second", "first"]):
        words = [word for name in given for word in ("--given", name)]
        status, _, err = call(capsys, "embed", grid[2], *words, "--out", out)
        assert status == 0
        with np.load(out, allow_pickle=False) as found:
            keys, z, std = found["keys"].tolist(), found["z"], found["std"]
        there = [row for row in range(len(rows)) if any(rows.presence[row, model.names.index(n)] for n in given)]
        assert keys == [rows.keys[row] for row in there]
        for place, row in enumerate(there):
            x = {n: rows.x[n][row : row + 1] for n in given if rows.presence[row, model.names.index(n)]}
            q = model.posterior(x)
            np.testing.assert_allclose(z[place], q.mean_BD[0], atol=1e-5)
            np.testing.assert_allclose(std[place], (0.5 * q.log_var_BD[0]).exp(), atol=1e-5)
        left_out = len(rows) - len(there)
        assert (f"{left_out} of {len(rows)} rows have none of second and are left out" in err) == (left_out > 0)
        assert (left_out > 0) == (given == ["second"])


def test_an_embedding_that_cannot_be_written_is_refused_first(grid, tmp_path, capsys):
    for words, message in (
        ((grid[2], "--out", tmp_path / "z.txt"), "expected --out of a file that ends in .parquet, .npz or .csv"),
        ((tmp_path, "--out", tmp_path / "z.csv"), "no checkpoint at"),
        ((grid[2], "--out", tmp_path / "z.csv", "--set", "prior.dropout=0.5"), "expected a key of [data]"),
        ((grid[2], "--out", tmp_path / "z.csv", "--given", "frist"), "--given frist: did you mean 'first'?"),
        ((grid[2], "--out", tmp_path / "z.csv", "--given", "first", "--given", "first"), "got --given first twice"),
    ):
        status, _, err = call(capsys, "embed", *words)
        assert status == 2
        assert message in err
    status, _, err = call(capsys, "embed", grid[2], "--out", tmp_path / "z.parquet")
    if importlib.util.find_spec("pyarrow"):
        import pyarrow.parquet

        assert pyarrow.parquet.read_table(tmp_path / "z.parquet").column_names[:3] == ["key", "class", "z0"]
    else:
        assert status == 2
        assert "pip install pyarrow" in err
