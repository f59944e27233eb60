"""Pictures of previews."""

import numpy as np
import pytest

from shala_framework.plugin.modality import Preview
from shala_framework.report.panels import PAGE_LINES, Strip, _text_width, _wrapped, contact_sheet

pytestmark = pytest.mark.long


def sheet(text: str) -> np.ndarray:
    return contact_sheet([[Strip("a text", Preview(text=text))]], title="sheet")


def test_text_is_wrapped_between_words() -> None:
    """Every word stays whole and in order if it fits; a longer one is broken without losing letters."""
    text = "a small bird with a white belly " + "w" * 80 + " and a short bill"
    lines = _wrapped(text, 150)
    assert all(_text_width(line) <= 150 for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert {"small", "white", "belly", "short"} <= set(" ".join(lines).split())


def test_a_page_is_as_wide_as_its_text_needs() -> None:
    """A longer text gets a wider page, up to a limit, and changes within the visible part are visible."""
    short, long, longer = sheet("seven"), sheet("clear lungs " * 12), sheet("clear lungs " * 400)
    assert short.shape[1] < long.shape[1] < longer.shape[1]
    assert sheet("clear lungs " * 800).shape == longer.shape
    assert (sheet("clear lungs " * 11 + "dense lungs ") != long).any()


def test_a_text_is_level_with_its_label() -> None:
    """One line is halfway up its tile, and a full page lies within it."""
    for text, level in (("seven", True), ("clear lungs " * 400, False)):
        tile = sheet(text)[26 : 26 + 96]
        start = 12 + _text_width("a text")
        dark = [np.flatnonzero((part < 128).all(2).any(1)) for part in (tile[:, :start], tile[:, start:])]
        middles = [(rows[0] + rows[-1]) / 2 for rows in dark]
        assert abs(middles[0] - middles[1]) < 4
        assert (dark[1][-1] - dark[1][0] < 16) == level
        assert dark[1][0] > 0
        assert dark[1][-1] < 95


def test_a_text_that_is_cut_says_so() -> None:
    """If the text continues, its last visible line ends in an ellipsis; otherwise it does not."""
    fitting = next(n for n in range(1, 400) if len(_wrapped("lungs " * (n + 1), 8 * 96 - 12)) > PAGE_LINES)
    assert (sheet("lungs " * fitting) != sheet("lungs " * (fitting + 1))).any()


def test_short_strips_share_a_line() -> None:
    """Pictures next to a clip's strip share one line, and a wide strip starts the next line."""
    picture, clip = (Preview(frames=np.full((n, 8, 8, 3), 90, np.uint8)) for n in (1, 8))
    heights = [
        len(contact_sheet([[Strip("s", preview) for preview in previews]], title=""))
        for previews in ([clip], [picture, picture, clip], [picture, clip, picture])
    ]
    assert heights[0] == len(contact_sheet([[Strip("s", picture)] * 3], title=""))
    assert heights[1] - heights[0] == heights[2] - heights[1] == 98


def test_strips_of_a_sheet_stand_below_each_other() -> None:
    """Strips are aligned whatever the length of the texts before them, and lines of a text stay lines."""
    blue = np.zeros((96, 96, 3), np.uint8)
    blue[..., 2] = 255
    groups = [
        [Strip("given", Preview(text=text)), Strip("made", Preview(frames=blue[None]))]
        for text in ("short", "a sentence that needs a page of some width, because it has many words in it")
    ]
    drawn = contact_sheet(groups, title="t")
    starts = {int(np.flatnonzero(row)[0]) for row in (drawn == [0, 0, 255]).all(2) if row.any()}
    assert len(starts) == 1
    assert _wrapped("two\nlines", 1_000) == ["two", "lines"]
