"""A browser, and two runs to look at."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHALA_DATA", ROOT / "../shared/data")).resolve()
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FEW = (
    *("train.autoencoder.steps=20", "train.prior.steps=20", "train.autoencoder.batch_size=16"),
    *("train.prior.batch_size=64", "evaluate.at_end=false"),
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install the system's package")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def ntu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on the stand-in of NTU RGB+D."""
    folder = tmp_path_factory.mktemp("ntu")
    small = [f"data.stand_in.options.{option}" for option in ("train=24", "validation=36", "test=4")]
    return train(folder, "ntu_rgb_skeleton", [*small, "train.minutes=0.2"])  # its stand-in trains for minutes


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on real digits in all five modalities."""
    if not DATA.exists():
        pytest.skip("no real data: SHALA_DATA names no folder")
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run(
        ["shala", "pack", "digits", str(DATA), "shards/digits", "--set", "train=60", "--set", "validation=40"],
        cwd=folder, check=True,
    )  # fmt: skip
    return train(folder, "digits5", [])


def train(folder: Path, spec: str, overrides: list[str]) -> Path:
    sets = [text for override in (*FEW, *overrides) for text in ("--set", override)]
    line = ["shala-run", str(ROOT / "specs" / f"{spec}.toml"), *sets]
    subprocess.run(line, cwd=folder, check=True)
    return folder / "runs" / spec / "report.html"
