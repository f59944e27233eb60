"""`shala new-plugin`: a whole modality plugin to start from, whose tests pass as it is written."""

import argparse
import importlib.resources
import keyword
import re
from pathlib import Path
from string import Template

from shala_framework.errors import ShalaError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "$module/__init__.py": "module.py",
    "$module/networks.py": "networks.py",
    "tests/test_$module.py": "test_module.py",
}


def new_plugin(arguments: argparse.Namespace) -> int:
    """Write the package and say what to do next.

    Raises:
        ShalaError: The name is none for a package, or its folder is there already.
    """
    name = arguments.name.removeprefix("shala-")
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ShalaError(
            f"expected a name of lower-case letters, digits and single hyphens, such as 'inertial', "
            f"got {arguments.name!r}"
        )
    distribution = f"shala-{name}"
    folder = arguments.out / distribution
    if folder.exists():
        raise ShalaError(f"{folder} exists; give another name, or another folder with --out")
    values = {
        "name": name,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "table": name.replace("-", "_"),
        "cls": "".join(part.capitalize() for part in name.split("-")),
    }
    templates = importlib.resources.files("shala_framework.templates") / "plugin"
    for target, source in _FILES.items():
        text = (templates / f"{source}.template").read_text(encoding="utf-8")
        _write(folder / Template(target).substitute(values), Template(text).substitute(values))
    _write(folder / values["module"] / "py.typed", "")
    print(f"{folder}: the modality {name!r}, a signal of several channels over time")
    print(f"next: pip install -e {folder}; pytest {folder}/tests; then make it yours, as its README.md says")
    return 0


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
