"""A browser, and three runs to look at."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from shala_framework.plugin import encode_mp4, encode_png, encode_wav

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("SHALA_DATA", ROOT / "../shared/data")).resolve()
SHALA = (sys.executable, "-m", "shala_framework")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUNS = ("ntu", "digits", "kinds")  # fixtures below
MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")  # one that beeps
FEW = (
    *("train.autoencoder.steps=20", "train.prior.steps=20", "train.autoencoder.batch_size=16"),
    *("train.prior.batch_size=64", "evaluate.at_end=false"),
)


def pytest_itemcollected(item: pytest.Function) -> None:
    """Give all tests of a run to one process, so that each run is trained once."""
    names = [*(item.callspec.params.values() if hasattr(item, "callspec") else ()), *item.fixturenames]
    for run in RUNS:
        if run in names:
            item.add_marker(pytest.mark.xdist_group(run))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install the system's package")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *MICROPHONE])
        yield found
        found.close()


@pytest.fixture(scope="session")
def ntu(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on the stand-in of NTU RGB+D."""
    folder = tmp_path_factory.mktemp("ntu")
    small = [f"data.stand_in.options.{option}" for option in ("train=24", "validation=36", "test=4")]
    return train(folder, "ntu_rgb_skeleton", [*small, "train.minutes=none"])  # its stand-in trains for minutes


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on real digits in all five modalities."""
    if not DATA.exists():
        pytest.skip("no real data: SHALA_DATA names no folder")
    folder = tmp_path_factory.mktemp("digits")
    subprocess.run(
        [*SHALA, "pack", "digits", str(DATA), "shards/digits", "--set", "train=60", "--set", "validation=40"],
        cwd=folder, check=True,
    )  # fmt: skip
    return train(folder, "digits5", [])


KINDS = """\
schema = 1
name = "kinds"

[data]
train = "shards/train-*.tar"
validation = "shards/validation-*.tar"
in_memory = true

[modality.photo]
plugin = "image"
options = { height = 32, width = 32 }

[modality.caption]
plugin = "text"
options = { max_tokens = 12, vocabulary_size = 300, width = 32, num_layers = 1 }

[modality.sound]
plugin = "audio"

[modality.clip]
plugin = "video"
options = { height = 32, width = 32, frames = 4 }
"""


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run on a picture, a text, a sound and a clip a sample; `files` beside `runs` has the files.

    A third of the samples has no label.
    """
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "files").mkdir()
    for number in range(30):
        frame = np.full((32, 32, 3), 255, np.uint8)
        frame[8:24, 8:24] = np.eye(3, dtype=np.uint8)[number % 3] * 200
        tone = np.sin(np.arange(8_000) * (0.1 + 0.1 * (number % 3))).astype(np.float32) / 2
        stem = folder / "files" / f"{number:02}"
        stem.with_suffix(".png").write_bytes(encode_png(frame))
        stem.with_suffix(".txt").write_text(f"a {('red', 'green', 'blue')[number % 3]} square")
        stem.with_suffix(".wav").write_bytes(encode_wav(tone, 8_000))
        if number % 3:
            stem.with_suffix(".cls").write_text(("red", "green", "blue")[number % 3])
        stem.with_suffix(".mp4").write_bytes(encode_mp4(np.stack([frame] * 8), 8))
    subprocess.run(
        [*SHALA, "pack", "folder", "files", "shards", "--set", "validation_share=0.4"], cwd=folder, check=True
    )
    (folder / "kinds.toml").write_text(KINDS)
    return train(folder, "kinds", ["generate.num_joint=2", "generate.num_rows=1"], folder / "kinds.toml")


def train(folder: Path, name: str, overrides: list[str], spec: Path | None = None) -> Path:
    sets = [text for override in (*FEW, *overrides) for text in ("--set", override)]
    line = [*SHALA, "run", str(spec or ROOT / "specs" / f"{name}.toml"), *sets]
    subprocess.run(line, cwd=folder, check=True)
    return folder / "runs" / name / "report.html"
