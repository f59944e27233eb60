"""The shared latent of every row of a split, with keys and labels, as a file for other programs.

Shapes: N rows, D latent_dim.
"""

import csv
import importlib
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

from shala_framework.data.labels import label_title
from shala_framework.data.rows import Rows, collate
from shala_framework.data.splits import Split
from shala_framework.data.tally import Tally
from shala_framework.model import ShaLa
from shala_framework.plugin.posterior import AnyPosterior
from shala_framework.run.split_rows import decoded_chunks
from shala_framework.support.errors import DataError, PluginError
from shala_framework.support.hints import nearest
from shala_framework.support.modes import evaluating
from shala_framework.support.progress import Reporter

KINDS = (".parquet", ".npz", ".csv")
BATCH_ROWS = 64


@attrs.frozen(kw_only=True, eq=False)
class Embeddings:
    """q(z | x) of the rows of a split in the order of its shards.

    Attributes:
        keys: Key of each row.
        labels: Class of each row, or None.
        mean_ND: Posterior means, float32; of a method with mixtures, those of the whole mixture.
        std_ND: Posterior standard deviations, float32.
    """

    keys: tuple[str, ...]
    labels: tuple[str | None, ...]
    mean_ND: Tensor
    std_ND: Tensor


def check_kind(path: Path) -> None:
    """Check that a file of embeddings can be written.

    Raises:
        DataError: The name has another ending than .parquet, .npz or .csv.
        PluginError: It ends in .parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() not in KINDS:
        raise DataError(f"expected --out of a file that ends in .parquet, .npz or .csv, got {path}")
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise PluginError("Parquet needs pyarrow: `pip install pyarrow`, or choose a file that ends in .npz or .csv")


def embed_split(
    model: ShaLa, folder: Path, split: Split, reporter: Reporter, given: Sequence[str] | None = None
) -> Embeddings:
    """Encode every row of a split; samples whose fields are all blank are left out.

    Args:
        model: Model of the run.
        folder: Folder of the run.
        split: "train", "validation" or "test".
        reporter: Receives progress.
        given: Modalities to look at; each row is encoded from those of them that it has, and left out if it has none.
            None takes all modalities.

    Raises:
        DataError: The run has no shards of the split, they cannot be read, or no row has a given modality.
    """
    if given is not None:
        _check_names(model, given)
    tally = Tally()
    keys: list[str] = []
    labels: list[str | None] = []
    parts: list[AnyPosterior] = []
    num_read = 0
    reporter.begin(f"embedding {split}", None, "row")
    for decoded in decoded_chunks(model, folder, split, tally):
        rows = _having_any(collate(decoded, model.modalities), given)
        num_read += len(decoded)
        for batch in rows.split(BATCH_ROWS) if len(rows) else ():
            parts.append(_posterior(model, batch, given))
            keys += batch.keys
            labels += [label_title(label) or None for label in batch.labels]
        reporter.advance(num_read)
    reporter.finish()
    for sentence in tally.sentences():
        reporter.note(f"{split} split: {sentence}")
    names = ", ".join(model.names if given is None else given)
    if not parts:
        raise DataError(f"data.{split}: no sample has any of the modalities {names}")
    if len(keys) < num_read:
        reporter.note(f"{split} split: {num_read - len(keys)} of {num_read} rows have none of {names} and are left out")
    return Embeddings(
        keys=tuple(keys),
        labels=tuple(labels),
        mean_ND=torch.cat([part.mean_BD for part in parts]).float(),
        std_ND=torch.cat([(0.5 * part.log_var_BD).exp() for part in parts]).float(),
    )


def _check_names(model: ShaLa, given: Sequence[str]) -> None:
    """Check the names of --given.

    Raises:
        DataError: One is unknown or named twice, or there is none.
    """
    for place, name in enumerate(given):
        if name not in model.modalities:
            raise DataError(f"--given {name}: {nearest(name, model.names, 'modalities of this run')}")
        if name in given[:place]:
            raise DataError(f"expected each modality once, got --given {name} twice")
    if not given:
        raise DataError(f"expected modalities among {', '.join(model.names)}, got none")


def _having_any(rows: Rows, given: Sequence[str] | None) -> Rows:
    """Select the rows that have at least one of the given modalities."""
    if given is None:
        return rows
    columns = [list(rows.x).index(name) for name in given]
    return rows.take(torch.nonzero(rows.presence[:, columns].any(1))[:, 0])


@torch.no_grad()
def _posterior(model: ShaLa, rows: Rows, given: Sequence[str] | None) -> AnyPosterior:
    """q(z | x) of rows as the data have them, or q(z | x_S) of what is given of them; on the CPU."""
    if given is not None:
        return model.posterior({name: rows.x[name] for name in given}, presence=rows.presence)
    moved = rows.to(model.device)
    with evaluating(model.autoencoder):
        return model.autoencoder.fuse(model.autoencoder.encode(moved.x), moved.presence).to("cpu")


def embeddings_file(embeddings: Embeddings, kind: str) -> bytes:
    """The content of a file of embeddings.

    A CSV or Parquet file has the columns key, class, z0, z1, ... and std0, std1, ...; an .npz file has the arrays keys,
    classes ("" for none), z and std.

    Args:
        embeddings: What is written.
        kind: Ending of the file's name, one of KINDS.
    """
    if kind == ".csv":
        return _as_csv(embeddings)
    if kind == ".npz":
        buffer = io.BytesIO()
        classes = np.array(["" if name is None else name for name in embeddings.labels], dtype=np.str_)
        keys = np.array(embeddings.keys, dtype=np.str_)
        np.savez(buffer, keys=keys, classes=classes, z=embeddings.mean_ND.numpy(), std=embeddings.std_ND.numpy())
        return buffer.getvalue()
    return _as_parquet(embeddings)


def _columns(embeddings: Embeddings) -> list[str]:
    size = embeddings.mean_ND.shape[1]
    return [*(f"z{d}" for d in range(size)), *(f"std{d}" for d in range(size))]


def _as_csv(embeddings: Embeddings) -> bytes:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["key", "class", *_columns(embeddings)])
    values = torch.cat([embeddings.mean_ND, embeddings.std_ND], 1).numpy()
    for key, name, row in zip(embeddings.keys, embeddings.labels, values, strict=True):
        writer.writerow([key, "" if name is None else name, *map(str, row)])  # the shortest text of a float32
    return buffer.getvalue().encode()


def _as_parquet(embeddings: Embeddings) -> bytes:
    arrow: Any = importlib.import_module("pyarrow")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    values = torch.cat([embeddings.mean_ND, embeddings.std_ND], 1).numpy()
    columns: dict[str, Any] = {
        "key": arrow.array(embeddings.keys, arrow.string()),
        "class": arrow.array(embeddings.labels, arrow.string()),
    }
    columns |= {name: arrow.array(values[:, place]) for place, name in enumerate(_columns(embeddings))}
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns), buffer)
    return buffer.getvalue()
