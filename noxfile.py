"""Sessions: lint, types, tests, plugins (the core, then each), example, browser, extras, docs, wheels, dev.

An environment with torch takes several GB and minutes to make, so all sessions that need one share `.nox/torch`, in
which each installs what it is to see and removes what it is not.
"""

import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

PLUGINS = sorted(str(path.parent) for path in Path("plugins").glob("*/pyproject.toml"))
CODE = ["shala_framework", "plugins", "tests", "browser", "benchmarks", "examples", "docs", "noxfile.py"]
EXAMPLE = "examples/shala-inertial"
EXAMPLE_NEEDS = ("plugins/shala-datasets", "plugins/shala-text")
BUILD_TOOLS = ["setuptools>=77"]
TEST_TOOLS = ["jsonschema>=4.21", "pytest>=8", "pytest-xdist>=3.6"]
LINT_TOOLS = ["ruff==0.17.*"]
TYPE_TOOLS = ["mypy==2.*"]
DOCS_TOOLS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings-python>=1.16", *LINT_TOOLS]  # ruff wraps code
WHEEL_TOOLS = ["build>=1.2", "twine>=6.1"]
EXTRAS = {  # of each package, those whose libraries some tests need
    ".": "hub,onnx",
    "plugins/shala-datasets": "huggingface,parquet",
    "plugins/shala-image": "timm,torchvision,transformers",
    "plugins/shala-mlflow": "mlflow",
    "plugins/shala-text": "transformers",
    "plugins/shala-wandb": "wandb",
}
BROWSER_TOOLS = ["gradio>=5", "playwright>=1.45"]
MOST_PROCESSES = "4"  # each holds torch, and up to 2 GB
SHARED = Path(".nox/torch").absolute()
WHEELS = Path(".nox/wheels").absolute()
ALONE = Path(".nox/alone").absolute()  # each plugin's files in a folder of its own
SLOWEST = ("shala-audio", "shala-datasets", "shala-image", "shala-video")  # tests, which begin first

wheel_of: dict[str, str] = {}  # the wheel of each package of this project, built once by this call of nox
installed: set[str] = set()  # packages of this project that are in the shared environment, after the wheels are built
tools_installed: set[str] = set()  # by this call of nox


def run(
    session: nox.Session, program: str, *arguments: str, env: Mapping[str, str] | None = None, silent: bool = False
) -> None:
    """Run a program of the shared environment, which is made on first use; if silent, it prints when it has ended."""
    if not (SHARED / "bin" / "python").exists():
        session.run(sys.executable, "-m", "venv", str(SHARED), external=True)
    path = os.pathsep.join([str(SHARED / "bin"), os.environ.get("PATH", "")])
    environment = {**(env or {}), "PATH": path}
    session.run(str(SHARED / "bin" / program), *arguments, env=environment, silent=silent, external=True)


def pip(session: nox.Session, command: str, *arguments: str) -> None:
    """Run pip in the shared environment."""
    run(session, "python", "-m", "pip", command, "--quiet", *arguments)


def build_wheels(session: nox.Session) -> None:
    """Build every package and install all of them, with what they depend on, in place of what an earlier call left."""
    folders = (".", *PLUGINS, EXAMPLE)
    # setuptools adds to an old build folder and would ship files that are no longer there.
    for folder in folders:
        shutil.rmtree(Path(folder) / "build", ignore_errors=True)
    shutil.rmtree(WHEELS, ignore_errors=True)
    pip(session, "install", *BUILD_TOOLS)
    # One environment builds all: a test holds that each package asks for these tools and no others.
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(WHEELS))
    pip(session, "wheel", *options, *(f"./{folder}" for folder in folders))
    found = {path.name.split("-")[0].replace("_", "-"): str(path) for path in WHEELS.iterdir()}
    wheel_of.update({folder: found[Path(folder).name or "shala-framework"] for folder in folders})
    pip(session, "uninstall", "--yes", *found)
    pip(session, "install", *wheel_of.values())
    installed.update(folders)


def install(session: nox.Session, *tools: str, packages: tuple[str, ...]) -> None:
    """Have these packages of the project and no others installed as a user has them: built and copied, not linked."""
    if not wheel_of:
        build_wheels(session)
    if surplus := installed.difference(packages):
        pip(session, "uninstall", "--yes", *(Path(folder).name for folder in sorted(surplus)))
    if missing := set(packages) - installed:
        pip(session, "install", "--no-deps", *(wheel_of[folder] for folder in sorted(missing)))
    installed.difference_update(surplus)
    installed.update(missing)
    if missing_tools := set(tools) - tools_installed:
        pip(session, "install", *sorted(missing_tools))
        tools_installed.update(missing_tools)


def run_tests(session: nox.Session, *arguments: str) -> None:
    """Run pytest on the installed packages from the checkout's root, a process for each core and a thread in each."""
    # Each process begins with tests in a row, so that most fixtures of a module are made once.
    processes = ["--numprocesses", "auto", "--maxprocesses", MOST_PROCESSES, "--dist", "worksteal"]
    run(session, "pytest", *processes, *arguments, *session.posargs, env=environment_of_tests())


def environment_of_tests() -> dict[str, str]:
    """Return the variables that tests need."""
    return {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",  # threads that wait by spinning slow down what else runs
        "SHALA_DATA": os.environ.get("SHALA_DATA", "../shared/data"),
    }


def run_alone(session: nox.Session, plugin: str) -> None:
    """Run a plugin's tests in one process, which finds the installed core and the plugin's wheel, unpacked.

    The example is run with the plugins that it needs.
    """
    folder = ALONE / Path(plugin).name
    shutil.rmtree(folder, ignore_errors=True)
    for package in (plugin, *(EXAMPLE_NEEDS if plugin == EXAMPLE else ())):
        shutil.unpack_archive(wheel_of[package], folder, "zip")
    environment = {**environment_of_tests(), "PYTHONPATH": str(folder)}
    own = ("-c", f"{EXAMPLE}/pyproject.toml", "-W", "error") if plugin == EXAMPLE else ()
    run(session, "pytest", "-p", "no:cacheprovider", *own, plugin, *session.posargs, env=environment, silent=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint rules."""
    session.install(*LINT_TOOLS)
    session.run("ruff", "format", "--check", *CODE)
    session.run("ruff", "check", *CODE)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Strict types of the core, of every plugin and of the example."""
    install(session, *TYPE_TOOLS, *TEST_TOOLS, packages=(".", *PLUGINS))
    sources = [f"{plugin}/{Path(plugin).name.replace('-', '_')}" for plugin in (*PLUGINS, EXAMPLE)]
    run(session, "mypy", "shala_framework", *sources)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Every test, with everything installed."""
    install(session, *TEST_TOOLS, packages=(".", *PLUGINS))
    run_tests(session)


@nox.session(venv_backend="none")
def plugins(session: nox.Session) -> None:
    """The core's tests without any plugin, then each plugin's own with nothing but the core, and the example's.

    Tests marked "long" take minutes together and know no plugin, which a test checks: the session `tests` runs them.
    """
    install(session, *TEST_TOOLS, packages=(".",))
    run_tests(session, "tests", "-m", "not long")
    # Several plugins at a time: to start the processes of pytest-xdist takes longer than the tests of most.
    by_length = [EXAMPLE, *sorted(PLUGINS, key=lambda plugin: Path(plugin).name not in SLOWEST)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, int(MOST_PROCESSES))) as pool:
        list(pool.map(lambda plugin: run_alone(session, plugin), by_length))


@nox.session(venv_backend="none")
def example(session: nox.Session) -> None:
    """The tutorial's plugin, which is no part of this project's packages, beside nothing but what it needs."""
    install(session, *TEST_TOOLS, packages=(".",))
    run_alone(session, EXAMPLE)


@nox.session(venv_backend="none")
def browser(session: nox.Session) -> None:
    """The report in a real browser: Chromium of the system's packages."""
    install(session, *TEST_TOOLS, *BROWSER_TOOLS, packages=(".", *PLUGINS))
    run_tests(session, "browser", "--dist", "loadgroup")  # one process has all tests of a run, which it trains


@nox.session(venv_backend="none")
def extras(session: nox.Session) -> None:
    """Tests that need optional libraries, which others skip."""
    install(session, *TEST_TOOLS, packages=(".", *PLUGINS))
    pip(session, "install", "pandas", *(f"{wheel_of[folder]}[{names}]" for folder, names in EXTRAS.items()))
    files = ("tests/test_export.py", "tests/test_hub.py", "tests/test_pretrained.py", "tests/test_tables.py")
    files += tuple(f"plugins/shala-datasets/tests/{name}" for name in ("test_folder_rows.py", "test_huggingface.py"))
    folders = ("plugins/shala-image", "plugins/shala-mlflow", "plugins/shala-text", "plugins/shala-wandb")
    run_tests(session, *files, *folders)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site in build/site, with the API from the docstrings; every warning is an error."""
    session.install(*DOCS_TOOLS)
    session.run("mkdocs", "build", "--strict")


@nox.session
def wheels(session: nox.Session) -> None:
    """Wheels and source archives of the core and of every plugin in dist, checked as a package index checks them."""
    session.install(*WHEEL_TOOLS)
    shutil.rmtree("dist", ignore_errors=True)
    for folder in (".", *PLUGINS):
        session.run("python", "-m", "build", "--outdir", "dist", folder, silent=True)
    session.run("twine", "check", "--strict", *sorted(map(str, Path("dist").iterdir())))


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv with everything editable and all tools."""
    session.run("python", "-m", "venv", ".venv")
    python = str(Path(".venv/bin/python"))
    editable = [argument for folder in (".", *PLUGINS) for argument in ("-e", f"./{folder}")]
    tools = [*TEST_TOOLS, *LINT_TOOLS, *TYPE_TOOLS, *BROWSER_TOOLS, "nox"]
    session.run(python, "-m", "pip", "install", *editable, *tools)
