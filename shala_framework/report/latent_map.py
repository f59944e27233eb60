"""Held-out rows as points in a plane, and a sheet of their thumbnails.

Shapes: N rows, D latent_dim.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from shala_framework.data.rows import Rows
from shala_framework.model import ShaLa
from shala_framework.plugin.modality import Preview

LEAST_ROWS = 30  # t-SNE's neighbours mean nothing for fewer rows
THUMBNAIL = 56  # side in pixels
SHEET_COLUMNS = 16


def plane(z_ND: Tensor) -> tuple[NDArray[np.float64], str]:
    """Return coordinates [N, 2] of latents, and the method: t-SNE, which preserves neighbours, or PCA for few rows."""
    latents = z_ND.double().numpy()
    if len(latents) < LEAST_ROWS:
        count = min(2, *latents.shape)
        found = np.zeros((len(latents), 2))
        found[:, :count] = PCA(count).fit_transform(latents) if len(latents) > 1 else 0
        return found, "PCA"
    perplexity = min(30.0, (len(latents) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(latents).astype(float), "t-SNE"


def thumbnails(model: ShaLa, rows: Rows) -> tuple[NDArray[np.uint8], str] | None:
    """Return a sheet of squares, one per row and SHEET_COLUMNS per line, and the modality shown, or None."""
    for column, name in enumerate(model.names):
        modality = model.modalities[name]
        index = rows.index_having([name]).tolist()
        if not index or modality.preview(rows.x[name][index[0]]).frames is None:
            continue
        lines = -(-len(rows) // SHEET_COLUMNS)
        sheet = np.full((lines * THUMBNAIL, SHEET_COLUMNS * THUMBNAIL, 3), 128, np.uint8)
        for row in range(len(rows)):
            if rows.presence[row, column]:
                line, place = divmod(row, SHEET_COLUMNS)
                tile = _square(modality.preview(rows.x[name][row]))
                sheet[line * THUMBNAIL :, place * THUMBNAIL :][:THUMBNAIL, :THUMBNAIL] = tile
        return sheet, name
    return None


def _square(preview: Preview) -> NDArray[np.uint8]:
    """Fit the middle frame into a square."""
    assert preview.frames is not None
    picture = Image.fromarray(preview.frames[len(preview.frames) // 2])
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL), (128, 128, 128))
    square.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    return np.asarray(square)
