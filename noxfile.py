"""Sessions: lint, types, tests (all installed), plugins (core alone, then each with it), example, browser, docs, dev.

An environment with torch takes several GB, so sessions are few and their environments are reused.
"""

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests"]

PLUGINS = sorted(str(path.parent) for path in Path("plugins").glob("*/pyproject.toml"))
CODE = ["shala_framework", "plugins", "tests", "browser", "benchmarks", "examples", "noxfile.py"]
EXAMPLE = "examples/shala-inertial"
TEST_TOOLS = ["jsonschema>=4.21", "pytest>=8", "pytest-xdist>=3.6"]
LINT_TOOLS = ["ruff==0.17.*"]
TYPE_TOOLS = ["mypy==2.*"]
DOCS_TOOLS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.5"]
BROWSER_TOOLS = ["gradio>=5", "playwright>=1.45"]
MOST_PROCESSES = "4"  # each holds torch, and up to 2 GB


def install_project(session: nox.Session, *plugins: str) -> None:
    """Install as a user does: built and copied, not linked to the checkout."""
    # setuptools adds to an old build folder and would ship files that are no longer there.
    for folder in (".", *plugins):
        shutil.rmtree(Path(folder) / "build", ignore_errors=True)
    session.install(".", *(f"./{plugin}" for plugin in plugins))


def run_tests(session: nox.Session, *paths: str) -> None:
    """Run pytest on the installed packages from the checkout's root, a process for each core and a thread in each."""
    environment = {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",  # threads that wait by spinning slow down what else runs
        "SHALA_DATA": os.environ.get("SHALA_DATA", "../shared/data"),
    }
    processes = ["--numprocesses", "auto", "--maxprocesses", MOST_PROCESSES]
    session.run("pytest", *processes, *paths, *session.posargs, env=environment)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint rules."""
    session.install(*LINT_TOOLS)
    session.run("ruff", "format", "--check", *CODE)
    session.run("ruff", "check", *CODE)


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of the core, of every plugin and of the example."""
    install_project(session, *PLUGINS)
    session.install(*TYPE_TOOLS, *TEST_TOOLS)
    sources = [f"{plugin}/{Path(plugin).name.replace('-', '_')}" for plugin in (*PLUGINS, EXAMPLE)]
    session.run("mypy", "shala_framework", *sources)


@nox.session
def tests(session: nox.Session) -> None:
    """Every test, with everything installed."""
    install_project(session, *PLUGINS)
    session.install(*TEST_TOOLS)
    run_tests(session)


@nox.session
def plugins(session: nox.Session) -> None:
    """The core's tests without any plugin, then each plugin's own with nothing but the core."""
    names = [Path(plugin).name for plugin in PLUGINS]
    install_project(session)
    session.install(*TEST_TOOLS)
    session.run("pip", "uninstall", "--yes", "--quiet", *names)
    # What starts processes takes minutes and knows no plugin: the session `tests` has run it.
    run_tests(session, "tests", "--ignore=tests/test_distributed.py")
    for plugin, name in zip(PLUGINS, names, strict=True):
        session.install(f"./{plugin}")
        run_tests(session, plugin)
        session.run("pip", "uninstall", "--yes", "--quiet", name)


@nox.session
def example(session: nox.Session) -> None:
    """The tutorial's plugin, which is no part of this project's packages, in an environment of its own."""
    install_project(session, "plugins/shala-datasets", "plugins/shala-text", EXAMPLE)
    session.install(*TEST_TOOLS)
    run_tests(session, "-c", f"{EXAMPLE}/pyproject.toml", "-W", "error", EXAMPLE)


@nox.session
def browser(session: nox.Session) -> None:
    """The report in a real browser: Chromium of the system's packages."""
    install_project(session, *PLUGINS)
    session.install(*TEST_TOOLS, *BROWSER_TOOLS)
    run_tests(session, "browser", "--numprocesses", "0")  # each process would train the runs to look at


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation as a site in build/site; a broken link is an error."""
    session.install(*DOCS_TOOLS)
    session.run("mkdocs", "build", "--strict")


@nox.session(venv_backend="none")
def dev(session: nox.Session) -> None:
    """Make .venv with everything editable and all tools."""
    session.run("python", "-m", "venv", ".venv")
    python = str(Path(".venv/bin/python"))
    editable = [argument for folder in (".", *PLUGINS) for argument in ("-e", f"./{folder}")]
    tools = [*TEST_TOOLS, *LINT_TOOLS, *TYPE_TOOLS, *BROWSER_TOOLS, "nox"]
    session.run(python, "-m", "pip", "install", *editable, *tools)
