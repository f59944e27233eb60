"""Find the shards of a split: those that the spec names, or those that its stand-in generated."""

from pathlib import Path
from typing import Final, Literal

from shala_framework.spec.making import IN_MEMORY
from shala_framework.spec.schema import Data
from shala_framework.support.errors import DataError
from shala_framework.support.shard_names import expand_urls
from shala_framework.support.urls import local_name

Split = Literal["train", "validation", "test"]
EvaluatedSplit = Literal["validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
STAND_IN_FOLDER = "data"  # within a run's folder


def split_urls(data: Data, split: Split, stand_in_run: Path | None = None) -> list[str]:
    """Return the shards of a split, or none if the spec names none.

    Args:
        data: The spec's table [data].
        split: Name of the split.
        stand_in_run: Folder of the run if its stand-in is used.

    Raises:
        ValueError: There is no such split.
        DataError: The spec's paths match no file.
    """
    if split not in SPLITS:
        raise ValueError(f"expected a split among {list(SPLITS)}, got {split!r}")
    if stand_in_run is not None:
        return sorted(local_name(path) for path in (stand_in_run / STAND_IN_FOLDER).glob(f"{split}-*.tar"))
    names: str | tuple[str, ...] = data.train_names if split == "train" else getattr(data, split)
    if came_from_python(data, split):
        sets = " ".join(f"--set 'data.{name}=shards/{name}-*.tar'" for name in dict.fromkeys(("train", split)))
        raise DataError(
            f"data.{split}: these rows came from Python, and a run's folder does not keep them; write them as shards "
            f'("Evaluate a model trained from Python" in docs/python.md) and name these by {sets}'
        )
    try:
        return expand_urls(names) if names else []
    except DataError as error:
        absent = split != "train" and str(error).startswith("no such shards")
        hint = f"; if the set has no {split} rows, remove data.{split} from the spec" if absent else ""
        raise DataError(f"data.{split}: {error}{hint}") from error


def came_from_python(data: Data, split: Split) -> bool:
    """Return whether the rows of a split were tensors or a Dataset, which no file holds."""
    names: str | tuple[str, ...] = data.train_names if split == "train" else getattr(data, split)
    first = names if isinstance(names, str) else next(iter(names), "")
    return first.startswith(IN_MEMORY)


def train_weights(data: Data, stand_in_run: Path | None = None) -> list[float]:
    """Return the weight of each shard that `split_urls` returns for the training split.

    Args:
        data: The spec's table [data].
        stand_in_run: Folder of the run if its stand-in is used.

    Raises:
        DataError: The spec's paths match no file.
    """
    if stand_in_run is not None or set(data.train_weights) == {1.0}:
        return [1.0] * len(split_urls(data, "train", stand_in_run))
    weighted = zip(data.train_names, data.train_weights, strict=True)
    return [weight for name, weight in weighted for _ in expand_urls(name)]
