"""The report in a real browser: it opens from disk, what moves moves, and the map answers.

    nox -s browser            # needs Chromium from the system's packages

A run of each spec is trained for a few steps only: what is looked at is the page, not the samples.
"""

import os
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

SCREENSHOTS = os.environ.get("SHALA_SCREENSHOTS")  # a folder in which to leave them


def opened(browser: Browser, path: Path, width: int, scheme: str = "light") -> tuple[Page, list[str]]:
    """The page, and whatever it complained of or asked the network for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: None if r.url.startswith(("data:", "file:")) else wrong.append(r.url))
    page.goto(f"file://{path}")
    return page, wrong


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("run", ["ntu", "digits"])
def test_the_page_opens_without_a_complaint(
    run: str, scheme: str, width: int, browser: Browser, request: pytest.FixtureRequest
) -> None:
    """Nothing is asked of a network, nothing is wider than the window, every picture is there."""
    page, wrong = opened(browser, request.getfixturevalue(run), width, scheme)
    page.wait_for_selector("#map .scatterlayer")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    if SCREENSHOTS:
        for section in ("joint", "cross", "latent", "curves"):
            page.evaluate(f"document.getElementById('{section}').scrollIntoView()")
            page.wait_for_timeout(500)
            page.screenshot(path=f"{SCREENSHOTS}/{run}_{width}_{scheme}_{section}.png")
    assert wrong == []
    page.close()


PLAY = """async element => {
  element.scrollIntoView();
  await element.play();
  const start = element.currentTime;
  for (let turn = 0; turn < 200 && element.currentTime === start; turn++) await new Promise(r => setTimeout(r, 50));
  const moved = element.currentTime !== start && element.duration > 0;
  element.pause();
  return moved;
}"""


@pytest.mark.parametrize(("run", "tags"), [("ntu", ("video",)), ("digits", ("video", "audio"))])
def test_every_clip_and_sound_plays(
    run: str, tags: tuple[str, ...], browser: Browser, request: pytest.FixtureRequest
) -> None:
    page, _ = opened(browser, request.getfixturevalue(run), 1440)
    for tag in tags:
        elements = page.query_selector_all(tag)
        assert elements
        assert all(page.evaluate(PLAY, element) for element in elements)
    page.close()


def test_clips_move_by_themselves_while_they_are_seen(ntu: Path, browser: Browser) -> None:
    """A frame differs from one half a second later; out of sight it stands still."""
    page, _ = opened(browser, ntu, 1440)
    page.evaluate("document.getElementById('joint').scrollIntoView()")
    page.wait_for_timeout(300)
    clip = page.query_selector_all("#joint video")[1]
    first = clip.screenshot()
    page.wait_for_function("v => v.currentTime > 0.5", arg=clip)
    page.wait_for_timeout(200)
    assert clip.screenshot() != first
    page.evaluate("document.getElementById('again').scrollIntoView()")
    page.wait_for_function("v => v.paused", arg=clip)
    page.close()


@pytest.mark.parametrize("width", [390, 1440])
def test_players_are_whole_and_titles_are_not_covered(width: int, kinds: Path, browser: Browser) -> None:
    """Every player is wide enough for its controls and lies within its card; Plotly's bar lies below the title."""
    page, _ = opened(browser, kinds, width)
    page.wait_for_selector(".chart .gtitle")
    wide = page.evaluate("""[...document.querySelectorAll("audio")].map(audio => {
      const own = audio.getBoundingClientRect(), card = audio.closest(".panel").getBoundingClientRect();
      return own.width >= 200 && own.left >= card.left && own.right <= card.right;
    })""")
    assert len(wide) > 10
    assert all(wide)
    for number in range(page.locator(".charts .chart").count()):
        chart = page.locator(".charts .chart").nth(number)
        chart.scroll_into_view_if_needed()
        chart.hover()
        title, bar = chart.locator(".gtitle").bounding_box(), chart.locator(".modebar").bounding_box()
        assert title is not None
        assert bar is not None
        assert title["y"] + title["height"] <= bar["y"] + 1
        assert title["x"] >= 0
        assert title["x"] + title["width"] <= width
    page.close()


def test_rows_without_a_label_are_no_class_of_the_map(kinds: Path, browser: Browser) -> None:
    """The legend has the classes alone; all rows are drawn."""
    page, _ = opened(browser, kinds, 1440)
    page.wait_for_selector("#map .scatterlayer .point")
    assert sorted(page.locator("#map .legendtext").all_text_contents()) == ["blue", "green"]
    labels = page.evaluate("map.labels")
    assert "" in labels
    assert page.locator("#map .scatterlayer .point").count() == len(labels)
    page.close()


@pytest.mark.parametrize("run", ["ntu", "digits"])
def test_the_map_answers_pointer_and_keys(run: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    page, wrong = opened(browser, request.getfixturevalue(run), 1440)
    page.wait_for_selector("#map .scatterlayer .point")
    page.evaluate("document.getElementById('latent').scrollIntoView()")
    box = page.query_selector_all("#map .scatterlayer .point")[3].bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    page.wait_for_function("document.getElementById('pointed').dataset.row !== undefined")
    assert page.inner_text("#pointed-text") != "no row chosen"
    assert "url(" in page.evaluate("document.getElementById('thumbnail').style.backgroundImage")
    page.focus("#map")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#pointed-text")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#pointed-text") != first
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#pointed-text") == first
    assert wrong == []
    page.close()
