"""The architecture, read from the source: which module may import which, and what no module may do."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest
import tomli

import shala_framework
import shala_framework.plugin

ROOT = Path(__file__).parent.parent
CORE = "shala_framework"
LAYERS = (  # low to high; a module imports from its own layer and from lower ones; a dotted name comes before its part
    {CORE, "support"},
    {"plugin", "spec"},
    {"plugin.loading", "support.distributed"},  # needs torch, so spec and the rest of support do without it
    {"autoencoder", "prior", "refiner"},
    {"data", "model"},
    {"training", "evaluation", "report"},
    {"run", "report.explore"},
    {"cli", "__main__"},
    {"plugin.testing"},  # for plugins' tests; the core does without it
)
MAY_IMPORT = {
    "support": set(),
    "plugin": {"support"},
    "spec": {"support", "plugin"},
    "autoencoder": {"plugin", "spec", "support"},
    "prior": {"autoencoder", "plugin", "spec", "support"},
    "refiner": {"plugin", "prior", "spec", "support"},
    "data": {"autoencoder", "plugin", "spec", "support"},
    "model": {"autoencoder", "plugin", "prior", "refiner", "spec", "support"},
    "training": {"autoencoder", "data", "plugin", "prior", "refiner", "spec", "support"},
    "evaluation": {"data", "model", "plugin", "prior", "refiner", "spec", "support", "training"},
    "report": {"data", "evaluation", "model", "plugin", "spec", "support", "training"},
    "run": {
        "autoencoder",
        "data",
        "evaluation",
        "model",
        "plugin",
        "report",
        "spec",
        "support",
        "training",
    },
    "cli": {"data", "evaluation", "model", "plugin", "report", "run", "spec", "support", "training"},
    "plugin.testing": {"plugin", "spec", "support"},
    "__main__": {"cli"},
}
FACADE_NAMES = (CORE, "plugin")  # resolve names on first use, on behalf of others
UPWARD = {
    # The classes of a spec's plugins check its options. The function that calls them imports the loader, so that
    # broken TOML is reported before torch is loaded.
    ("spec.reading", "plugin.loading"),
    # Networks of plugins draw masks for the rows of their process. They need torch as well.
    ("plugin.layers", "support.distributed.processes"),
}
# Kinds of signal besides those that plugins offer; a sound, a text and a picture are also what a Preview may hold.
SIGNALS = {"audio", "depth", "image", "motion", "pose", "rgb", "skeleton", "speech", "video"}
# Also words of messages, of PyAV (VideoFrame) and of HTML (<video>).
EVERYDAY = {"audio", "digits", "folder", "image", "text", "video"}
# Also what the core calls the class of a sample, a key's place in a spec and a layout of figures.
CORE_WORDS = {"label", "table"}


class Module(NamedTuple):
    """A source file and its dotted name; for the core, the name is relative to shala_framework."""

    name: str
    path: Path

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), str(self.path))

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]


def modules_below(folder: Path) -> list[Module]:
    found = []
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found.append(Module(".".join(parts) or folder.name, path))
    return found


CORE_MODULES = modules_below(ROOT / CORE)
# Folders with code of their own; building leaves copies in build/ and folders of metadata beside them.
PLUGIN_FOLDERS = {
    path.parent.name: path.parent.parent.name for path in (ROOT / "plugins").glob("*/shala_*/__init__.py")
}
PLUGIN_FILES = [
    Module(path.stem, path)
    for path in sorted((ROOT / "plugins").glob("*/*/**/*.py"))
    if "build" not in path.relative_to(ROOT).parts
]
PLUGIN_SOURCES = [module for module in PLUGIN_FILES if "tests" not in module.path.parts]
PLUGIN_PACKAGES = set(PLUGIN_FOLDERS)
OFFERED = {
    name
    for path in (ROOT / "plugins").glob("*/pyproject.toml")
    for name in tomli.loads(path.read_text())["project"]["entry-points"]["shala.plugins"]
}


def imports(module: Module) -> Iterator[tuple[str, str | None]]:
    """Yield the module and the imported name of every import in a file, including those inside functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.path}: relative import"
            yield from ((str(node.module), alias.name) for alias in node.names)


def core_imports(module: Module) -> Iterator[str]:
    """Yield the names of core modules that a file imports, relative to shala_framework."""
    names = {known.name for known in CORE_MODULES}
    for source, name in imports(module):
        if source.partition(".")[0] == CORE:
            inner = source.removeprefix(CORE).removeprefix(".")
            joined = f"{inner}.{name}".strip(".")
            home = inner or shala_framework._HOME.get(str(name), CORE)
            yield joined if joined in names else home


def strings(module: Module) -> Iterator[str]:
    """Yield every string of a file that is not a docstring; parts of f-strings are separate."""
    prose = set()
    tree = module.tree
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.add(node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in prose:
            yield node.value


def identifiers(module: Module) -> Iterator[str]:
    """Yield every name that a file binds, uses or passes."""
    for node in ast.walk(module.tree):
        for field in ("id", "attr", "arg", "name"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield value


def calls(module: Module) -> Iterator[tuple[str, ast.Call]]:
    """Yield every call in a file with the dotted name of the called function."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def layer(name: str) -> int:
    """Return the layer of a module: its own entry in LAYERS, or that of the nearest package above it."""
    above = name
    while above:
        found = [number for number, parts in enumerate(LAYERS) if above in parts]
        if found:
            assert len(found) == 1, f"{above!r} is in several layers"
            return found[0]
        above = above.rpartition(".")[0]
    raise AssertionError(f"{name!r} has no layer: give it its place in LAYERS")


def test_a_module_imports_only_from_its_layer_and_below():
    """Each layer imports only lower ones, from cli over run, training, evaluation, report, model and data to errors."""
    upward = set()
    for module in CORE_MODULES:
        if module.name == CORE:
            continue  # resolves names on first use, on behalf of others
        own = layer(module.name)
        for imported in core_imports(module):
            if layer(imported) > own:
                upward.add((module.name, imported))
    assert upward == UPWARD


def test_modules_import_in_no_circle():
    """Every module comes after the modules it imports, including imports for types and inside functions."""
    graph = {
        module.name: {imported for imported in core_imports(module) if imported not in (CORE, module.name)}
        for module in CORE_MODULES
        if module.name not in FACADE_NAMES
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph) > 100


def part_of(name: str) -> str:
    """Return the part that a module belongs to. The suite for plugins' tests is a separate part."""
    return "plugin.testing" if name.startswith("plugin.testing") else name.partition(".")[0]


def test_parts_import_only_what_they_may():
    """MAY_IMPORT lists exactly the imports between parts, no fewer and no more."""
    found: dict[str, set[str]] = {part: set() for part in MAY_IMPORT}
    for module in CORE_MODULES:
        if module.name not in FACADE_NAMES:
            found[part_of(module.name)] |= {part_of(name) for name in core_imports(module)} - {CORE}
    assert {part: others - {part} for part, others in found.items()} == MAY_IMPORT


def test_no_two_classes_have_one_name():
    """Names are unique in the core and the plugins together, except that each plugin's options are called `Options`."""
    places: dict[str, list[str]] = {}
    for module in [*CORE_MODULES, *PLUGIN_SOURCES]:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef) and node.name != "Options":
                places.setdefault(node.name, []).append(f"{module.path.relative_to(ROOT)}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_the_package_can_be_looked_over():
    """The top level has at most sixteen entries, and no module has more than four hundred lines."""
    folders = [path for path in (ROOT / CORE).iterdir() if any(path.glob("*.py"))]  # a move may leave __pycache__
    entries = folders + [path for path in (ROOT / CORE).iterdir() if path.is_file()]
    assert len(entries) <= 16, sorted(entries)
    long = {module.name: len(module.path.read_text().splitlines()) for module in CORE_MODULES}
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_the_core_imports_no_plugin():
    """The core imports no plugin, neither by an import statement nor by import_module with a literal."""
    for module in CORE_MODULES:
        roots = {source.partition(".")[0] for source, _ in imports(module)}
        assert not roots & (PLUGIN_PACKAGES | {"plugins"}), module.path
        assert not [text for text in strings(module) if text.partition(".")[0] in PLUGIN_PACKAGES], module.path


def test_the_core_names_no_modality_and_no_data_set():
    """No string of the core is the name of a plugin or of a kind of signal.

    So the core can compare, look up or match none of them. Names of our plugins that are not everyday words do not
    occur inside longer strings or identifiers either, except in the examples of the command line's help.
    """
    assert {"skeleton", "video"} <= OFFERED or not (ROOT / "plugins").exists()
    whole = (OFFERED | SIGNALS) - CORE_WORDS
    for module in CORE_MODULES:
        named = [text for text in strings(module) if text in whole]  # "RGB" is Pillow's name of a mode
        assert not named, f"{module.path} says {named}"
        lines = [line for text in strings(module) for line in text.splitlines() if not line.startswith("  shala ")]
        words = [word for line in lines for word in re.findall(r"[\w-]+", line.lower())]
        words += [word for name in identifiers(module) for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
        named = sorted({word for word in words if word.lower() in OFFERED - EVERYDAY - CORE_WORDS})
        assert not named, f"{module.path} says {named}"


def test_help_alone_names_plugins():
    """The command line names plugins only in examples of commands, and never branches on a name."""
    names = (OFFERED | SIGNALS) - {"digits", "folder", "text"} - CORE_WORDS  # everyday words of help and messages
    pattern = re.compile(rf"\b({'|'.join(sorted(names))})\b")
    for module in CORE_MODULES:
        for line in [line for text in strings(module) for line in text.splitlines() if module.part == "cli"]:
            assert not pattern.search(line) or line.startswith("  shala"), f"{module.path}: {line}"


def test_plugins_take_from_the_core_only_what_it_exports():
    """Plugins, the example and the template import `shala_framework.plugin`, and the suite in their tests."""
    written = [Module(path.stem, path) for path in sorted((ROOT / "examples").glob("*/**/*.py"))]
    templates = sorted((ROOT / CORE / "cli" / "templates").glob("*.py.template"))
    assert len(written) > 3
    assert len(templates) == 3
    for path in templates:
        found = re.findall(rf"^(?:from|import) ({CORE}\S*)", path.read_text(), re.MULTILINE)
        assert set(found) <= {f"{CORE}.plugin", f"{CORE}.plugin.testing"}, path
    for module in PLUGIN_FILES + written:
        for source, name in imports(module):
            if source.partition(".")[0] != CORE:
                continue
            if source == f"{CORE}.plugin.testing":
                assert "tests" in module.path.parts, f"{module.path} uses {source} outside its tests"
            else:
                assert source == f"{CORE}.plugin", f"{module.path} imports {source}"
                assert name in shala_framework.plugin.__all__, f"{module.path} imports {name}, which is not exported"


def test_plugins_do_not_import_each_other():
    """Each plugin works without the others."""
    assert {module.path.parent.name for module in PLUGIN_SOURCES} >= PLUGIN_PACKAGES
    for module in PLUGIN_FILES:
        folder = module.path.relative_to(ROOT / "plugins").parts[0]
        others = {package for package, home in PLUGIN_FOLDERS.items() if home != folder}
        assert not {source.partition(".")[0] for source, _ in imports(module)} & others, module.path


def test_long_tests_know_no_plugin():
    """Tests marked long run only where every plugin is installed, so whether there is one must not matter to them."""
    named = (
        PLUGIN_PACKAGES | {package.replace("_", "-") for package in PLUGIN_PACKAGES} | (OFFERED - EVERYDAY - CORE_WORDS)
    )
    marked = [Module(path.stem, path) for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    marked = [module for module in marked if "pytestmark = pytest.mark.long" in module.path.read_text().splitlines()]
    assert len(marked) > 20
    for module in marked:
        assert not named & {*strings(module), *(source.partition(".")[0] for source, _ in imports(module))}, module.path


FACADES = (shala_framework, shala_framework.plugin)  # what users import, and what plugins import


@pytest.mark.parametrize(("facade", "name"), [(facade, name) for facade in FACADES for name in facade.__all__])
def test_every_exported_name_is_there(facade, name):
    """`from FACADE import NAME` works for each name in __all__, and finds it where type checkers do."""
    home = importlib.import_module(f"{CORE}.{facade._HOME[name]}")
    assert getattr(facade, name) is getattr(home, name)


@pytest.mark.parametrize("facade", FACADES)
def test_what_is_exported_is_written_once_for_types_and_once_for_run_time(facade):
    """The imports under TYPE_CHECKING, the lazy table and __all__ are one list without repetition."""
    root = Module(facade.__name__, Path(str(facade.__file__)))
    typed = {str(name): source for source, name in imports(root) if source.startswith(f"{CORE}.")}
    assert typed == {name: f"{CORE}.{home}" for name, home in facade._HOME.items()}
    assert sorted(facade.__all__) == sorted(typed)


def test_users_and_plugins_share_no_name_but_errors():
    """shala_framework.plugin alone has what a plugin needs, and shala_framework alone what a user needs."""
    shared = set(shala_framework.__all__) & set(shala_framework.plugin.__all__)
    assert {shala_framework._HOME[name] for name in shared} == {"support.errors"}


@pytest.mark.parametrize("facade", FACADES)
def test_an_unknown_name_is_an_attribute_error(facade):
    """The error of a misspelt import says which name is missing."""
    with pytest.raises(AttributeError, match="has no attribute 'Modalty'"):
        facade.Modalty  # noqa: B018


def test_only_the_command_line_prints_or_exits():
    """Nothing outside cli prints or exits, including plugins."""
    for module in CORE_MODULES + PLUGIN_SOURCES:
        if module.part == "cli":
            continue
        found = {name for name, _ in calls(module)} & {"print", "input", "exit", "quit", "sys.exit", "os._exit"}
        assert not found, f"{module.path} calls {found}"
        assert "SystemExit" not in set(identifiers(module)), module.path


def test_no_module_draws_masks_by_the_shape_of_its_rows():
    """Dropout is `RowDropout`: torch's masks depend on the number of processes, which all have the same ones."""
    for module in CORE_MODULES + PLUGIN_SOURCES:
        for name, call in calls(module):
            last = name.rpartition(".")[2].lower()
            allowed = last == "rowdropout" or not re.search(r"dropout|bernoulli", last)
            assert allowed, f"{module.path}:{call.lineno} calls {name}"


def test_nothing_is_unpickled_or_evaluated():
    """No module unpickles or uses eval, exec, torch.load or a shell, so data cannot run code."""
    for module in CORE_MODULES + PLUGIN_SOURCES:
        roots = {source.partition(".")[0] for source, _ in imports(module)}
        assert not roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}, module.path
        for name, call in calls(module):
            where = f"{module.path}:{call.lineno} calls {name}"
            assert name not in {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}, where
            assert name not in {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load"}, where
            for keyword in call.keywords:
                if keyword.arg in ("allow_pickle", "shell"):
                    assert isinstance(keyword.value, ast.Constant), where
                    assert keyword.value.value is False, where


def test_the_core_works_without_any_plugin(tmp_path):
    """With only the core and its libraries on the path, every module imports, and no plugin is offered."""
    alone = tmp_path / "alone"
    alone.mkdir()
    for folder in map(Path, sys.path):
        if folder.name in ("site-packages", "dist-packages") and folder.is_dir():
            for entry in folder.iterdir():
                link = alone / entry.name
                if not entry.name.lstrip("_").startswith(("shala", "editable")) and not link.exists():
                    link.symlink_to(entry)
    (alone / CORE).symlink_to(ROOT / CORE)
    code = f"""
import importlib, sys
from shala_framework.cli.main import main
from shala_framework.plugin.loading import installed_offers
for name in {[module.name for module in CORE_MODULES if not module.name.startswith("plugin.testing")]!r}:
    importlib.import_module(name if name == "shala_framework" else "shala_framework." + name)
assert installed_offers() == [], installed_offers()
assert not set(sys.modules) & {PLUGIN_PACKAGES!r}
main(["plugins"])
"""
    environment = {"PYTHONPATH": str(alone), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-S", "-c", code]  # -S: the site-packages of this environment stay out
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no plugins are installed")
