"""The parts of a release: one version everywhere, and metadata that a package index accepts."""

import ast
import re
from datetime import date
from pathlib import Path

import pytest
import tomli

import shala_framework

ROOT = Path(__file__).parent.parent
PROJECTS = [ROOT / "pyproject.toml", *sorted((ROOT / "plugins").glob("*/pyproject.toml"))]
PLUGINS = [*PROJECTS[1:], ROOT / "examples" / "shala-inertial" / "pyproject.toml"]


def project(path):
    return tomli.loads(path.read_text())["project"]


def test_the_version_is_the_same_everywhere():
    """Core, plugins, CITATION.cff and the newest dated section of the changelog name one version and one day."""
    version = shala_framework.__version__
    assert {path.parent.name: project(path)["version"] for path in PROJECTS} == {
        path.parent.name: version for path in PROJECTS
    }
    newest = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]? - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    citation = (ROOT / "CITATION.cff").read_text()
    assert newest == (version, date.fromisoformat(newest[1]).isoformat())
    assert f"\nversion: {version}\ndate-released: {newest[1]}\n" in citation


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_a_plugin_needs_a_core_that_has_what_it_imports(path):
    """`shala_framework.plugin` exists since 0.2, so pip must refuse an older core before any import fails."""
    assert "shala-framework>=0.2" in project(path)["dependencies"]


def test_every_package_is_built_with_the_same_tools():
    """nox builds all wheels in one environment, which has nothing but these."""
    tables = [tomli.loads(path.read_text())["build-system"] for path in (PROJECTS[0], *PLUGINS)]
    assert tables == [{"requires": ["setuptools>=77"], "build-backend": "setuptools.build_meta"}] * len(tables)


@pytest.mark.parametrize("path", PROJECTS, ids=lambda path: path.parent.name)
def test_metadata_are_complete(path):
    """A package index shows a page, a summary, a licence and the Python versions (`nox -s wheels` runs twine)."""
    found = project(path)
    assert (path.parent / found["readme"]).read_text().startswith("# ")
    assert found["license"] == "Apache-2.0"
    assert found["description"]
    assert found["requires-python"] == project(PROJECTS[0])["requires-python"]


def test_the_base_installation_stays_light():
    """What one modality, tracker or verb needs belongs in a plugin or in an extra: the core's own list is fixed."""
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in project(PROJECTS[0])["dependencies"]}
    assert names == {
        "attrs", "av", "braceexpand", "cattrs", "click", "fsspec", "jinja2", "matplotlib", "numpy", "pillow", "plotly",
        "pluggy", "rich", "safetensors", "scikit-learn", "tomli", "tomli-w", "torch", "webdataset",
    }  # fmt: skip


def test_every_extra_is_installed_by_a_session_that_tests_it():
    """The session extras has all of them; the page of `shala explore` has the session browser."""
    declared = {
        (path.parent.relative_to(ROOT).as_posix(), name)
        for path in PROJECTS
        for name in project(path).get("optional-dependencies", {})
    }
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    extras = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXTRAS"
    )
    tested = {(folder, name) for folder, names in extras.items() for name in names.split(",")}
    assert declared == tested | {(".", "explore")}
