"""Previews as elements of an HTML page: clips, pictures, sounds and texts, embedded in the page itself."""

import base64
from typing import Literal

import attrs
import numpy as np

from shala_framework.plugin.media import encode_mp4, encode_png, encode_wav
from shala_framework.plugin.modality import Preview


@attrs.frozen
class Media:
    """One element to see, hear or read.

    Attributes:
        kind: Kind of element.
        source: Data URI, or the text itself for "words".
    """

    kind: Literal["clip", "picture", "sound", "words"]
    source: str


def media_of(preview: Preview | None) -> list[Media]:
    """Return the elements of a preview in display order; none if the signal is missing."""
    if preview is None:
        return []
    found = []
    if preview.frames is not None and len(preview.frames) > 1:
        found.append(Media("clip", _uri("video/mp4", encode_mp4(preview.frames, preview.frames_per_second))))
    elif preview.frames is not None:
        found.append(Media("picture", _uri("image/png", encode_png(preview.frames[0]))))
    if preview.sound is not None:
        found.append(Media("sound", _uri("audio/wav", encode_wav(preview.sound, preview.sample_rate_hz))))
    if preview.text is not None:
        found.append(Media("words", preview.text))
    return found


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_uri(frame: np.ndarray) -> str:
    """Return a picture [H, W, 3] or [H, W] as a data URI."""
    return _uri("image/png", encode_png(frame))
