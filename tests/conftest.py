"""Make the fake plugins of tests/fakes findable like installed ones: by a dist-info folder on the path."""

import importlib
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"
ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(FAKES))

TWO_SPEC = """\
schema = 1
name = "two"

[data]
train = "nowhere/train-{000..001}.tar"
in_memory = true

[data.stand_in]
dataset = "two-floats-made"
options = { missing = 0.2, train = 200 }
set = { "train.prior.steps" = 40 }

[modality.first]
plugin = "two-floats"
options = { field = "a" }

[modality.second]
plugin = "two-floats"
options = { field = "b" }

[posterior]
latent_dim = 4
feature_dim = 16
hidden_dim = 32

[prior]
hidden_dim = 32
num_blocks = 1

[train]
precision = "float32"   # then one process, several processes and all machines agree to rounding

[train.autoencoder]
steps = 60
kl_warmup_steps = 20
save_every_steps = 20

[train.prior]
steps = 99
save_every_steps = 20

[generate]
num_joint = 3
num_rows = 2

[evaluate]
at_end = false
num_samples = 40
num_seeds = 2
num_rows = 10
judge_steps = 60
calibration_rows = 20
likelihood_rows = 3
importance_samples = 4
"""


@pytest.fixture(scope="session")
def two_spec_text() -> str:
    """The text of `two_spec`, for fixtures that outlive a test."""
    return TWO_SPEC


@pytest.fixture
def two_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec of two fake modalities with a stand-in, in the working directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "two.toml"
    path.write_text(TWO_SPEC)
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that copies a finished run of `two_spec`, which each process makes once."""
    from small_runs import run

    home = tmp_path_factory.mktemp("finished")
    (home / "two.toml").write_text(TWO_SPEC)
    made = run(home / "two.toml", str(home / "run"))
    return lambda to: Path(shutil.copytree(made, to))


@pytest.fixture
def command_environment() -> dict[str, str]:
    """Environment in which a child process finds the core and the fake plugin."""
    paths = [str(ROOT), str(FAKES), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p), "OMP_NUM_THREADS": "1"}


class Clock:
    """The clock of retries, which advances only while they wait."""

    def __init__(self):
        self.now, self.waits = 0.0, []
        self._lock = threading.Lock()

    def sleep(self, seconds):
        with self._lock:
            self.waits.append(seconds)
            self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """A clock on which waiting for a server takes no time; no server has answered yet."""
    from shala_framework.support import retrying

    clock = Clock()
    monkeypatch.setattr(retrying, "_sleep", clock.sleep)
    monkeypatch.setattr(retrying, "_clock", lambda: clock.now)
    monkeypatch.setattr(retrying, "_answered", set())
    return clock


@pytest.fixture
def install_distribution(tmp_path, monkeypatch):
    """Return a function that puts a distribution on the path as pip would: a module, and a dist-info folder."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(distribution, code, offers, version="0.1"):
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(code)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = "".join(f"{name} = {module}\n" for name in offers)
        (info / "entry_points.txt").write_text(f"[shala.plugins]\n{lines}")
        importlib.invalidate_caches()
        monkeypatch.delitem(sys.modules, module, raising=False)
        return module

    return install
