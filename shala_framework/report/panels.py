"""Pictures of previews: strips of a contact sheet, and clips with several panels side by side.

Shapes: T frames, H height, W width; frames are uint8 RGB.
"""

from collections.abc import Sequence

import attrs
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shala_framework.plugin.modality import Preview

TILE = 96  # height of a contact sheet's tiles, in pixels
PANEL = 192  # height of a clip's panels
GAP = 4
SHEET = 9 * TILE  # width up to which short strips of a contact sheet share a line
PAGE_WIDTHS = (TILE, 2 * TILE, 4 * TILE, 8 * TILE)  # widths of a page of text; the narrowest one that fits is used
PAGE_LINES = 6  # lines of a page of text
PAPER = (250, 250, 250)
INK = (40, 40, 40)
ALARM = (190, 30, 30)


@attrs.frozen
class Strip:
    """One line of a contact sheet: a caption and the preview to show, or None if there is nothing to show."""

    caption: str
    preview: Preview | None


def contact_sheet(groups: Sequence[Sequence[Strip]], *, title: str, alarm: str = "", num_tiles: int = 8) -> np.ndarray:
    """Draw groups of strips below each other, with each clip's frames as tiles; short strips share a line.

    Args:
        groups: Strips that belong together, such as given, generated and real ones.
        title: Title at the top.
        alarm: Warning next to the title, in red; empty for none.
        num_tiles: Number of tiles of a strip.

    Returns:
        uint8 array [H, W, 3].
    """
    caption_width = 12 + max((_text_width(s.caption) for group in groups for s in group), default=0)
    strips = _aligned([[_strip(strip, caption_width, num_tiles) for strip in group] for group in groups])
    widest = max((strip.shape[1] for group in strips for strip in group), default=0)
    lines = [_lines(group, max(widest, SHEET)) for group in strips]
    width = max([line.shape[1] for group in lines for line in group] + [16 + _text_width(title) + _text_width(alarm)])
    parts = [_heading(title, alarm, width)]
    for group in lines:
        parts += [_pad_width(line, width) for line in group]
        parts.append(_blank(2 * GAP, width))
    return np.concatenate(parts)


def _aligned(groups: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
    """Pad the n-th strips of all groups to equal widths. Groups of different sizes are left unchanged."""
    if len({len(group) for group in groups}) != 1:
        return groups
    widths = [max(strip.shape[1] for strip in column) for column in zip(*groups, strict=True)]
    return [[_pad_width(strip, width) for strip, width in zip(group, widths, strict=True)] for group in groups]


def _lines(strips: Sequence[np.ndarray], width: int) -> list[np.ndarray]:
    """Place strips of one height side by side, in order, on as few lines as fit."""
    lines: list[np.ndarray] = []
    for strip in strips:
        if lines and lines[-1].shape[1] + 4 * GAP + strip.shape[1] <= width:
            lines[-1] = np.concatenate([lines[-1], _blank(len(strip), 4 * GAP), strip], axis=1)
        else:
            lines.append(strip)
    return lines


def side_by_side(previews: Sequence[tuple[str, Preview | None]], *, alarm: str = "") -> tuple[np.ndarray, float]:
    """Combine captioned panels into one clip. Shorter panels are stretched in time to the longest.

    Args:
        previews: Caption and preview of each panel; None draws an empty panel.
        alarm: Warning above the panels, in red; empty for none.

    Returns:
        Frames [T, H, W, 3] and the number of frames per second.
    """
    frames = [_frames(preview) for _, preview in previews]
    longest = max(frames, key=len)
    rates = [
        p.frames_per_second
        for _, p in previews
        if p is not None and p.frames is not None and len(p.frames) == len(longest)
    ]
    panels = []
    for (caption, _), clip in zip(previews, frames, strict=True):
        picked = clip[np.arange(len(longest)) * len(clip) // len(longest)]
        resized = np.stack([_fit_height(frame, PANEL) for frame in picked])
        caption_width = max(resized.shape[2], _text_width(caption) + 12)
        resized = np.stack([_pad_width(frame, caption_width) for frame in resized])
        head = np.broadcast_to(_label(caption, caption_width, INK), (len(longest), 18, caption_width, 3))
        edge = np.broadcast_to(_blank(PANEL + 18, GAP), (len(longest), PANEL + 18, GAP, 3))
        panels += [np.concatenate([head, resized], axis=1), edge]
    clip = np.concatenate(panels[:-1], axis=2)
    if alarm:
        wanted = max(clip.shape[2], _text_width(alarm) + 12)
        clip = np.stack([_pad_width(frame, wanted) for frame in clip])
        banner = np.broadcast_to(_label(alarm, wanted, ALARM), (len(clip), 18, wanted, 3))
        clip = np.concatenate([banner, clip], axis=1)
    return clip, rates[0] if rates else 1.0


def _frames(preview: Preview | None) -> np.ndarray:
    """Return what is visible of a preview: its frames, or its text as a page, or an empty panel."""
    if preview is not None and preview.frames is not None:
        return preview.frames
    return _text_page("not recorded" if preview is None else preview.text or "sound")[None]


def _text_page(text: str) -> np.ndarray:
    """Draw text on a page TILE pixels high and as wide as necessary; longer text ends in an ellipsis."""
    lines: list[str] = []
    for width in PAGE_WIDTHS:
        lines = _wrapped(text, width - 12)
        if len(lines) <= PAGE_LINES:
            break
    if len(lines) > PAGE_LINES:
        lines = [*lines[: PAGE_LINES - 1], f"{lines[PAGE_LINES - 1]} ..."]
    page = Image.new("RGB", (width, TILE), PAPER)
    # Halfway up, as the label beside it.
    where = (6, TILE / 2)
    ImageDraw.Draw(page).multiline_text(where, "\n".join(lines), fill=INK, font=_font(), spacing=2, anchor="lm")
    return np.asarray(page)


def _wrapped(text: str, width: int) -> list[str]:
    """Break text into lines of at most `width` pixels, between words if possible, keeping its line breaks."""
    return [line for paragraph in text.split("\n") for line in _wrapped_paragraph(paragraph, width)]


def _wrapped_paragraph(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _text_width(longer) <= width:
            lines[-1] = longer
            continue
        lines.append("")
        for letter in word:
            if _text_width(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines if lines[0] or len(lines) == 1 else lines[1:]


def _strip(strip: Strip, caption_width: int, num_tiles: int) -> np.ndarray:
    clip = _frames(strip.preview)
    count = min(num_tiles, len(clip))
    picked = np.linspace(0, len(clip) - 1, count).round().astype(int)
    parts = [_label(strip.caption, caption_width, INK, TILE)]
    for index in picked:
        parts += [_fit_height(clip[index], TILE), _blank(TILE, 2)]
    return np.concatenate([np.concatenate(parts, axis=1), _blank(2, sum(p.shape[1] for p in parts))])


def _fit_height(frame: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    # Small frames are enlarged without smoothing, to show exactly what was generated.
    how = Image.Resampling.NEAREST if frame.shape[0] <= height else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(frame).resize((width, height), how))


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), PAPER, np.uint8)


def _pad_width(picture: np.ndarray, width: int) -> np.ndarray:
    return np.concatenate([picture, _blank(len(picture), width - picture.shape[1])], axis=1)


def _label(text: str, width: int, color: tuple[int, int, int], height: int = 18) -> np.ndarray:
    page = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(page).text((6, height / 2), text, fill=color, font=_font(), anchor="lm")
    return np.asarray(page)


def _heading(title: str, alarm: str, width: int) -> np.ndarray:
    page = Image.new("RGB", (width, 26), PAPER)
    draw = ImageDraw.Draw(page)
    draw.text((6, 13), title, fill=INK, font=_font(), anchor="lm")
    draw.text((width - 6, 13), alarm, fill=ALARM, font=_font(), anchor="rm")
    return np.asarray(page)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


def _text_width(text: str) -> int:
    return int(_font().getlength(text)) + 6 if text else 0
