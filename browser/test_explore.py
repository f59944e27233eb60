"""The explore page in a real browser: a file of one's own in, the other modality out."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect


@pytest.fixture(scope="session")
def address(ntu: Path) -> Iterator[str]:
    """Where `shala explore` serves the run on the stand-in of NTU RGB+D."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = subprocess.Popen(
        [sys.executable, "-m", "shala_framework", "explore", str(ntu.parent), "--port", str(port)],
        cwd=ntu.parents[2],
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and served.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.3)
    yield f"http://127.0.0.1:{port}"
    served.terminate()
    served.wait(30)


def test_a_skeleton_gives_rgb_and_a_bad_file_a_message(
    ntu: Path, address: str, browser: Browser, tmp_path: Path
) -> None:
    skeleton = next((ntu.parent / "samples" / "joint").glob("*.skeleton.npy"))
    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"no array")
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(address)
    upload = page.locator("#file-skeleton input[type=file]")
    upload.set_input_files(str(skeleton))
    page.locator("#file-skeleton").get_by_text(skeleton.name[:10]).first.wait_for()
    page.locator("#go").click()
    expect(page.locator("#shown figure")).to_have_count(5, timeout=60_000)  # the given one and four samples
    assert page.locator("#shown video").count() == 5
    assert page.locator("#archive").inner_text().count("samples") >= 1
    page.reload()
    page.locator("#file-skeleton input[type=file]").set_input_files(str(bad))
    page.locator("#file-skeleton").get_by_text("bad").first.wait_for()
    page.locator("#go").click()
    expect(page.locator("#message")).to_contain_text("expected a .npy file", timeout=60_000)
    assert page.locator("#shown figure").count() == 0
    page.close()
