"""`shala new-plugin`: write a complete modality plugin to start from, with passing tests."""

import importlib.resources
import keyword
import re
from importlib.metadata import entry_points
from pathlib import Path
from string import Template

from shala_framework.cli.commands import FILE, argument, option, verb
from shala_framework.cli.output import say
from shala_framework.support.errors import ShalaError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_IMPORTED = {"Any", "Image", "Iterable", "Mapping", "Modality", "Preview", "Tensor"}  # names that the template imports
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "$module/__init__.py": "module.py",
    "$module/networks.py": "networks.py",
    "tests/test_$module.py": "test_module.py",
}


@verb("  shala new-plugin inertial\n  shala new-plugin heart-rate --out plugins\n")
@argument("name", "Name of the modality; the package is shala-NAME.")
@option("--out", type=FILE, default=Path(), metavar="DIR", help="Folder to write the package into.")
def new_plugin(name: str, out: Path) -> None:
    """Write a complete modality plugin to start from: package, networks, likelihood and passing tests."""
    name = _checked_name(name)
    distribution = f"shala-{name}"
    folder = out / distribution
    if folder.exists():
        raise ShalaError(f"{folder} exists; give another name, or another folder with --out")
    cls = "".join(part.capitalize() for part in name.split("-"))
    values = {
        "name": name,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "table": name.replace("-", "_"),
        "cls": cls if cls not in _IMPORTED else f"{cls}Signal",
    }
    templates = importlib.resources.files("shala_framework.cli") / "templates"
    for target, source in _FILES.items():
        text = (templates / f"{source}.template").read_text(encoding="utf-8")
        _write(folder / Template(target).substitute(values), Template(text).substitute(values))
    _write(folder / values["module"] / "py.typed", "")
    say(f"{folder}: the modality {name!r}, a signal of several channels over time")
    say(f"next: pip install -e {folder} pytest; python -m pytest {folder}/tests")
    say("then adapt it; its README.md says how")


def _checked_name(given: str) -> str:
    """Return the modality's name without the package prefix; refuse names that no package or plugin can have."""
    name = given.removeprefix("shala-")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ShalaError(
            f"expected a name of lower-case letters, digits and single hyphens that is not a Python keyword, such as "
            f"'inertial', got {given!r}"
        )
    taken = next((entry for entry in entry_points(group="shala.plugins") if entry.name == name), None)
    if taken is not None and taken.dist is not None:
        raise ShalaError(f"expected a name that no installed plugin has, got {name!r}, which {taken.dist.name} has")
    return name


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
