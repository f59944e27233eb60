"""What the documentation tells users to write is accepted: specs, command lines, code, links."""

import ast
import doctest
import importlib
import json
import re
import shlex
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tomli
import torch
from PIL import Image

import shala_framework
import shala_framework.plugin
from shala_framework.cli.main import main, parse
from shala_framework.plugin import encode_npy
from shala_framework.plugin.testing import ModalitySuite
from shala_framework.spec import read_spec

from two_floats import ConvolvedFloats, RefinedFloats  # isort: skip

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
    *sorted(ROOT.glob("examples/*/README.md")),
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def named(path):
    return str(path.relative_to(ROOT))


def blocks(language):
    return [(named(page), text) for page in PAGES for kind, text in BLOCK.findall(page.read_text()) if kind == language]


SPECS = [(page, text) for page, text in blocks("toml") if text.startswith("schema")]


@pytest.mark.parametrize(("page", "text"), SPECS, ids=[page for page, _ in SPECS])
def test_a_spec_of_the_documentation_is_sound(page, text, tmp_path):
    missing = {t["plugin"] for t in tomli.loads(text)["modality"].values()} - {
        entry.name for entry in entry_points(group="shala.plugins")
    }
    if missing:
        pytest.skip(f"plugins not installed: {sorted(missing)}")
    (tmp_path / "spec.toml").write_text(text)
    assert read_spec(tmp_path / "spec.toml").spec.name


DOCUMENTED = sorted(
    named(path) for path in (ROOT / "shala_framework").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", DOCUMENTED)
def test_examples_in_docstrings_do_what_they_show(path):
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


def commands():
    """Every line of the documentation that calls this project's commands."""
    lines = [line for _, text in blocks("bash") for line in text.splitlines()]
    lines += [line[4:] for page in PAGES for line in page.read_text().splitlines() if line.startswith("    ")]
    for line in lines:
        for part in re.split(r" && |; ", line.partition(" #")[0]):
            called = re.search(r"(?:^|--no-python )(shala(?:-run)? [^>]*)", part.strip())
            if called and "..." not in called[1] and not called[1].endswith("\\"):
                yield called[1].replace("$SLURM_ARRAY_TASK_ID", "1")


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_of_the_documentation_is_one(line):
    """The verb and options of each documented command exist; shala-run stands for `shala run`."""
    program, *arguments = shlex.split(line)
    assert parse(arguments, program).command.name


PLUGIN_PACKAGES = {path.parent.name for path in (ROOT / "plugins").glob("*/shala_*/__init__.py")}
NOT_OURS = {"diffusers", "multivae"}  # imported by scripts for other systems, which run in an environment of their own


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=named)
def test_what_a_benchmark_imports_is_there(path, monkeypatch):
    """Names that the scripts import from the framework and from each other exist, although the scripts rarely run."""
    monkeypatch.syspath_prepend(str(path.parent))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] not in NOT_OURS:
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if error.name in PLUGIN_PACKAGES:  # the core's tests also run without plugins
                    continue
                raise
            absent = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not absent, f"{path.name}:{node.lineno}: {node.module} has no {absent}"


def anchors(page):
    """Return the anchors of a page's headings, as they appear in addresses."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_somewhere():
    """Links lead to files of the repository and to existing headings."""
    assert len(set(commands())) > 20
    for page in PAGES:
        for target, _, anchor in re.findall(r"\]\(([^)#]*)(#([^)]*))?\)", page.read_text()):
            if "://" not in target:
                found = page.parent / target if target else page
                assert found.exists(), f"{named(page)} links to {target}"
                assert not anchor or anchor in anchors(found), f"{named(page)} links to {target}#{anchor}"


PACKAGES = {"shala_image", "shala_table", "shala_text", "shala_datasets"}
STEPS = re.compile(r"\b(?:steps=[\d_]+|minutes=\d+)")


@pytest.fixture
def packed_shards(tmp_path, monkeypatch):
    """The shards that the pages train on: a few pictures with captions, packed in the working directory."""
    missing = PACKAGES - {entry.value for entry in entry_points(group="shala.plugins")}
    if missing:
        pytest.skip(f"plugins not installed: {sorted(missing)}")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    Path("files").mkdir()
    for number in range(60):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(f"files/{number:02}.png")
        Path(f"files/{number:02}.txt").write_text(f"a picture called {number}")
    with pytest.raises(SystemExit) as leaving:
        main(["pack", "folder", "files", "shards/mine"])
    assert leaving.value.code == 0


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_of_the_pages_runs(page, packed_shards, monkeypatch):
    """All code blocks of a page run in order, in one namespace, with few steps wherever the page sets their number."""
    few = "steps=6, batch_size=8"
    code = [STEPS.sub(few, text) for found, text in blocks("python") if found == page]
    if page == "README.md":
        code = [text.replace('out="runs/photos")', f'{few}, out="runs/photos")') for text in code]
    assert few in "".join(code)
    Path("vectors.py").write_text(VECTORS)
    monkeypatch.syspath_prepend(".")
    monkeypatch.delitem(sys.modules, "vectors", raising=False)
    names: dict[str, Any] = {}
    for text in code:
        exec(compile(text, page, "exec"), names)
    assert names["z"].shape == ((16, 64) if page == "README.md" else (10, 16))


def test_the_first_half_hour_can_be_followed(tmp_path, monkeypatch, capsys):
    """Its code and commands in order, with a few steps of training; the sweep, which trains twice, is only parsed."""
    missing = PACKAGES - {entry.value for entry in entry_points(group="shala.plugins")}
    if missing:
        pytest.skip(f"plugins not installed: {sorted(missing)}")
    monkeypatch.chdir(tmp_path)
    found = BLOCK.findall((ROOT / "docs" / "first_hour.md").read_text())
    few = [f"train.{stage}.{key}=4" for stage in ("autoencoder", "prior") for key in ("steps", "batch_size")]
    few += ["train.autoencoder.warmup_steps=1", "train.prior.warmup_steps=1", "train.autoencoder.kl_warmup_steps=1"]
    few += ["evaluate.at_end=false", "generate.num_joint=1", "generate.num_rows=1"]
    ran = []
    for kind, text in found:
        if kind == "toml":
            Path("shapes.toml").write_text(text)
        elif kind == "python":
            exec(compile(text, "docs/first_hour.md", "exec"), {})
        for line in text.splitlines() if kind == "bash" else ():
            program, *arguments = shlex.split(line)
            if program == "shala-run":
                arguments = ["run", *arguments, *(part for override in few for part in ("--set", override))]
            if program == "pip" or arguments[0] in ("sweep", "compare"):
                continue
            with pytest.raises(SystemExit) as leaving:
                main(arguments)
            assert leaving.value.code == 0, f"{line}: {capsys.readouterr().err}"
            ran.append(arguments[0])
    assert ran == ["pack", "check", "run", "sample", "sample", "sample", "embed"]
    out, err = capsys.readouterr()
    for text in (text for kind, text in found if kind == "text"):
        for line in text.splitlines():
            if line.startswith(("train: 1", "test:", "validation:", "shapes.toml:")) and " in 0." not in line:
                assert line in out
            if line.startswith("note: "):
                assert line in err
    assert len(list(Path("from_text/given_caption").glob("*.photo.png"))) == 4
    assert len(list(Path("captions/given_photo").glob("*.caption.txt"))) == 4
    assert len(Path("z.csv").read_text().splitlines()) == 29


def test_the_readme_is_short():
    """The README says what the project is and how to begin; figures and reference have pages of their own."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_every_page_is_in_the_menu():
    menu = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(("page", "facade"), [("api.md", shala_framework), ("api_plugin.md", shala_framework.plugin)])
def test_the_reference_has_every_exported_name(page, facade):
    """Each exported name is documented once; hooks and the contract tests have modules beside them."""
    shown = re.findall(r"^::: (\S+)$", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    beside = {f"{facade.__name__}.hookspecs", f"{facade.__name__}.testing.ModalitySuite"}
    assert sorted(set(shown) - beside) == sorted(f"{facade.__name__}.{name}" for name in facade.__all__)
    assert len(shown) == len(set(shown))


def test_the_pictures_of_the_architecture_are_of_this_code(monkeypatch):
    """`python docs/draw_architecture.py` draws the committed pictures, the layers from MAY_IMPORT."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    drawing = importlib.import_module("draw_architecture")
    assert (ROOT / "docs" / "layers.svg").read_text() == drawing.layers()
    assert (ROOT / "docs" / "flow.svg").read_text() == drawing.flow()
    assert set(drawing.may_import()) <= set(drawing.WHAT), "every box says what the package holds"
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    assert sorted(table) == sorted(drawing.may_import())


(VECTORS,) = (text for page, text in blocks("python") if page == "docs/plugins.md" and "class Vectors" in text)


class TestVectorsOfTheGuide(ModalitySuite):
    """The complete module in the guide passes the contract tests."""

    written: ClassVar[dict[str, Any]] = {}
    exec(compile(VECTORS, "docs/plugins.md", "exec"), written)
    modality = written["Vectors"]
    options: ClassVar[dict[str, Any]] = {"numbers": 6, "width": 24}

    def sample_fields(self, index):
        generator = np.random.default_rng(index)
        return {"npy": encode_npy((generator.normal(size=6) * 20 + 5).astype(np.float32))}


def test_every_figure_of_training_is_documented(tmp_path):
    """The page names each figure that the three stages log, in training and on held-out rows."""
    torch.manual_seed(0)
    x = {name: torch.randn(24, 2) for name in "ab"}
    modalities = {"a": ConvolvedFloats(field="a"), "b": RefinedFloats(field="b")}
    model = shala_framework.ShaLa(modalities, latent_dim=2, feature_dim=8, refine={"texture_weight": 0.1})
    settings = {"steps": 2, "batch_size": 8, "refiner": {"steps": 2}, "device": "cpu"}
    shala_framework.train(model, x, validation=x, out=tmp_path / "run", **settings)
    logged = {}
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        logged.setdefault(entry["stage"], set()).update(entry.keys() - {"stage", "step", "crc32"})
    page = (ROOT / "docs" / "command_line.md").read_text().partition("## What the figures mean")[2]
    rows = re.findall(r"^\| (\w+) \| (`.*?) \|", page, re.MULTILINE)
    documented = {(stage, name) for stage, names in rows for name in re.findall(r"`(.+?)`", names)}
    assert logged.keys() == {"autoencoder", "prior", "refiner"}
    for stage, names in logged.items():
        for name in names:
            general = re.sub(r"/given_\d+$", "/given_K", re.sub(r"/[ab]$", "/NAME", name.removeprefix("validation_")))
            assert {(stage, general), ("all", general)} & documented, f"{stage}: {name}"
    assert ("autoencoder", "elbo") in documented
