"""The explore page in a real browser: what a person has goes in, and the other modalities come out."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

SAMPLES = 4  # that the page makes unless told otherwise
# Keeps every text of the message: one that samples replace within milliseconds would be missed by looking now and then.
KEEP_MESSAGES = """() => {
    window.messages = [];
    const keep = () => window.messages.push(document.querySelector("#message")?.textContent ?? "");
    new MutationObserver(keep).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""


@contextmanager
def serving(run: Path) -> Iterator[str]:
    """The address where `shala explore` serves a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = subprocess.Popen(
        [sys.executable, "-m", "shala_framework", "explore", str(run), "--port", str(port)],
        cwd=run.parents[1],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert served.stderr is not None
    assert served.stderr.readline() == f"loading {run}; the page opens in a few seconds\n"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)), "the message comes before the page is ready"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and served.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.3)
    yield f"http://127.0.0.1:{port}"
    served.terminate()
    served.wait(30)
    served.stderr.close()


@pytest.fixture(scope="session")
def skeleton_address(ntu: Path) -> Iterator[str]:
    """The page of the run on the stand-in of NTU RGB+D."""
    with serving(ntu.parent) as address:
        yield address


@pytest.fixture(scope="session")
def kinds_address(kinds: Path) -> Iterator[str]:
    """The page of the run on a picture, a text, a sound and a clip."""
    with serving(kinds.parent) as address:
        yield address


def generate(page: Page, num_figures: int) -> None:
    """Press the button, see that the page says at once that it works, and wait for what is given and the samples."""
    page.evaluate(KEEP_MESSAGES)
    page.locator("#go").click()
    said = f"text => text.includes('Generating {SAMPLES} samples')"
    page.wait_for_function(f"window.messages.some({said})", timeout=5_000)
    expect(page.locator("#shown figure")).to_have_count(num_figures, timeout=60_000)
    expect(page.locator("#message")).to_have_text("")


def test_a_typed_text_gives_a_picture_a_sound_and_a_clip(kinds_address: str, browser: Browser) -> None:
    """A text box takes the text; the page shows it as given, and each sample as something to see and hear."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(kinds_address)
    page.locator("#given-caption textarea").fill("a red square")
    generate(page, 1 + 3 * SAMPLES)
    assert page.locator("#shown .given .text").all_inner_texts() == ["a red square"]
    assert page.locator("#shown .generated video").count() == SAMPLES
    assert page.locator("#shown .generated audio").count() == SAMPLES
    assert page.locator("#shown .generated .text").count() == 0
    page.locator("#impute input").check()
    generate(page, 1 + 4 * SAMPLES)
    assert page.locator("#shown .generated .text").count() == SAMPLES
    page.close()


def test_a_picture_a_clip_and_the_microphone_give_a_text(kinds: Path, kinds_address: str, browser: Browser) -> None:
    """Each is shown where it was given, and again as the model reads it; a damaged picture gives the reader's words."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000}, permissions=["microphone"])
    page.goto(kinds_address)
    files = kinds.parents[2] / "files"
    page.locator("#given-photo input[type=file]").set_input_files(str(files / "00.png"))
    page.locator("#given-photo img").wait_for()
    page.locator("#given-clip input[type=file]").set_input_files(str(files / "00.mp4"))
    page.locator("#given-clip video").wait_for()
    sound = page.locator("#given-sound")
    sound.get_by_label("Record audio").click()
    sound.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1_500)
    sound.get_by_role("button", name="Stop").first.click()
    sound.get_by_label("Play").first.wait_for()
    generate(page, 3 + SAMPLES)
    assert page.locator("#shown .given img").count() == 2  # the photo, and the sound's spectrogram
    assert page.locator("#shown .given audio").count() == 1
    assert page.locator("#shown .given video").count() == 1
    assert page.locator("#shown .generated .text").count() == SAMPLES
    page.reload()
    bad = files / "bad.png"
    bad.write_bytes(b"no picture")
    page.locator("#given-photo input[type=file]").set_input_files(str(bad))
    page.locator("#given-photo img").wait_for()
    page.locator("#go").click()
    expect(page.locator("#message")).to_contain_text("field 'png': expected", timeout=60_000)
    page.close()


def test_a_skeleton_gives_rgb_and_a_bad_file_a_message(
    ntu: Path, skeleton_address: str, browser: Browser, tmp_path: Path
) -> None:
    skeleton = next((ntu.parent / "samples" / "joint").glob("*.skeleton.npy"))
    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"no array")
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(skeleton_address)
    upload = page.locator("#given-skeleton input[type=file]")
    upload.set_input_files(str(skeleton))
    page.locator("#given-skeleton").get_by_text(skeleton.name[:10]).first.wait_for()
    page.locator("#go").click()
    expect(page.locator("#shown figure")).to_have_count(5, timeout=60_000)  # the given one and four samples
    assert page.locator("#shown video").count() == 5
    assert page.locator("#archive").inner_text().count("samples") >= 1
    page.reload()
    page.locator("#given-skeleton input[type=file]").set_input_files(str(bad))
    page.locator("#given-skeleton").get_by_text("bad").first.wait_for()
    page.locator("#go").click()
    expect(page.locator("#message")).to_contain_text("expected a .npy file", timeout=60_000)
    assert page.locator("#shown figure").count() == 0
    page.close()
