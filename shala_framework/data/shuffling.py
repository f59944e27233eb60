"""Pack a set whose samples are mixed across shards, so that readers of neighbouring samples see all of it.

Data sets give their samples in the order of their files, which is mostly that of classes or persons. They are therefore
packed twice: in that order into a folder of their own, and from there in an order drawn from a seed. Either pack
resumes after a kill. In the meantime, the shards take twice their room.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch

from shala_framework.data.order import REMOTE_WINDOW
from shala_framework.data.packing import PackReport, pack
from shala_framework.data.prepared import PREPARED_FILE, LeftOut, Preparation
from shala_framework.data.random_access import index_shards
from shala_framework.data.shard_index import INDEX_FILE
from shala_framework.data.writing import LEFT_OUT_FILE, Job, part_file
from shala_framework.plugin.dataset import Account, Dataset, Sample
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import DataError
from shala_framework.support.json_files import dump_json, read_json
from shala_framework.support.seeds import mix_seed

_FOLDER = "unshuffled"
_DONE_FILE = "packed.json"
_REPORT = {"samples": {str: int}, "fields": {str: {str: int}}, "notes": [str], "left_out": [[str]]}


class _Packed(Dataset):
    """The samples of shards in a random order, or in theirs if a split has only one.

    Args:
        options: Options.
        shards: The shards, in order.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options.

        Attributes:
            seed: Seed of the order.
            packed: What the samples depend on; all parts of a set have the same.
        """

        seed: int
        packed: tuple[str, ...]

    needs_source: ClassVar[bool] = False
    options: Options

    def __init__(self, options: Options, shards: Sequence[Path]) -> None:
        super().__init__(options)
        self.shards = shards

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        for split, paths in groupby(self.shards, key=_split_of):
            shards = index_shards(list(map(str, paths)))
            assert shards is not None
            keys = [key for shard in range(len(shards.urls)) for key in shards.keys(shard)]
            order = torch.arange(len(keys))
            if len(shards.urls) > 1:
                order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(mix_seed(self.options.seed)))
            for position in order.tolist():
                if account.wanted(keys[position]):
                    raw = shards.read(*shards.locate(position))
                    yield Sample(key=raw.key, split=split, fields=raw.fields)
            shards.close()


@attrs.frozen
class _AsPacked(Preparation):
    """Leaves samples as an earlier pack has prepared them.

    Attributes:
        content: Content of its `prepared.json`.
    """

    content: bytes = b""

    def fit(
        self, dataset: Dataset, source: Path | None, on_sample: Callable[[str, int], None] = lambda _, __: None
    ) -> None:
        """Fit nothing."""

    def prepare(self, sample: Sample) -> tuple[Sample | None, list[LeftOut]]:
        return sample, []

    def description(self) -> bytes:
        return self.content


def pack_shuffled(
    dataset: Dataset,
    source: Path | None,
    out: Path,
    *,
    seed: int = 0,
    always: bool = True,
    shard_samples: int = 500,
    shard_bytes: int = 1 << 30,
    preparation: Preparation | None = None,
    part: tuple[int, int] = (0, 1),
    num_workers: int = 0,
    on_sample: Callable[[int], None] = lambda _: None,
    on_fit: Callable[[str, int], None] = lambda _, __: None,
    on_shuffle: Callable[[int], None] = lambda _: None,
) -> PackReport:
    """Pack a data set's samples in a random order, each split for itself.

    Args:
        dataset: As for `pack`.
        source: As for `pack`.
        out: Folder for the shards; created if necessary.
        seed: Seed of the order.
        always: Whether to shuffle any set. Otherwise, a set that fits into a reader's window or is not sorted by key
            keeps its order, unless it is packed in parts.
        shard_samples: As for `pack`.
        shard_bytes: As for `pack`.
        preparation: As for `pack`.
        part: As for `pack`; each part is shuffled for itself. Keys decide on a sample's part, so parts are mixed too.
        num_workers: As for `pack`.
        on_sample: As for `pack`.
        on_fit: As for `pack`.
        on_shuffle: Called with the number of samples written in their new order so far.

    Returns:
        As `pack`.

    Raises:
        ShalaError: As in `pack`.
    """
    first = out / part_file(f"{_FOLDER}.d", part).removesuffix(".d")
    sizes: dict[str, Any] = {"shard_samples": shard_samples, "shard_bytes": shard_bytes, "part": part}
    settings = _described(dataset, source, sizes, preparation)
    done = first / _DONE_FILE
    if not done.exists():
        _refuse_others(Job(out, part, {"part": part}), first)
        made = [folder for folder in (out, *out.parents) if not folder.exists()]
        try:
            out.mkdir(parents=True, exist_ok=True)
            report = pack(
                dataset,
                source,
                first,
                preparation=preparation,
                num_workers=num_workers,
                on_sample=on_sample,
                on_fit=on_fit,
                **sizes,
            )
        finally:
            for folder in made:
                with suppress(OSError):  # it is not empty, or the current error says what is wrong
                    folder.rmdir()
        write_file(done, dump_json({**{key: getattr(report, key) for key in _REPORT}, "settings": settings}))
    found = read_json(done, {**_REPORT, "settings": [str]}, error=DataError, advice=f"remove {out} and pack again")
    if found.pop("settings") != settings:
        raise DataError(
            f"{first} holds an unfinished pack with other settings; resume with the earlier settings, or remove {out} "
            "and start again"
        )
    if always or part[1] > 1 or _is_sorted(first, max(found["samples"].values())):
        again = None
        if preparation is not None:
            again = _AsPacked(preparation.modalities, content=(first / PREPARED_FILE).read_bytes())
        packed = _Packed(_Packed.Options(seed=seed, packed=tuple(settings)), sorted(first.glob("*.tar")))
        shards = pack(packed, None, out, preparation=again, on_sample=on_shuffle, **sizes).shards
        listing = part_file(LEFT_OUT_FILE, part)
        if (first / listing).exists():
            (out / listing).write_bytes((first / listing).read_bytes())
    else:
        for path in sorted(first.iterdir(), key=lambda path: (path.name in (INDEX_FILE, _DONE_FILE), path.name)):
            if path != done:
                os.replace(path, out / path.name)
        shards = sorted(out.glob("*.tar"))
    shutil.rmtree(first, ignore_errors=True)
    left_out = [(reason, name) for reason, name in found.pop("left_out")]
    return PackReport(**found, left_out=left_out, shards=shards, complete=(out / INDEX_FILE).exists())


def _refuse_others(job: Job, first: Path) -> None:
    """Raise DataError if the folder for the shards has others, or some that were packed in order."""
    if not job.out.exists():
        return
    job.refuse_shards()
    if job.journal.exists() and not first.exists():
        raise DataError(
            f"{job.out} holds an unfinished pack in the data set's order; resume it with --no-shuffle, or remove it"
        )


def _is_sorted(folder: Path, most: int) -> bool:
    """Return whether shards are sorted by key and hold more samples than a reader shuffles together.

    Args:
        folder: Folder of the shards.
        most: Number of samples of the largest split.
    """
    if most <= REMOTE_WINDOW:
        return False
    for _, paths in groupby(sorted(folder.glob("*.tar")), key=_split_of):
        shards = index_shards(list(map(str, paths)))
        assert shards is not None
        keys = (key for shard in range(len(shards.urls)) for key in shards.keys(shard))
        if any(key > following for key, following in pairwise(keys)):
            return False
    return True


def _split_of(shard: Path) -> str:
    return shard.name.partition("-")[0]


def _described(
    dataset: Dataset, source: Path | None, sizes: dict[str, Any], preparation: Preparation | None
) -> list[str]:
    """Return everything that the samples depend on, for a comparison."""
    kind = type(dataset)
    parts = (kind.__module__, kind.__qualname__, dataset.options, source, sizes["shard_samples"], sizes["shard_bytes"])
    return [*map(str, parts), repr(None if preparation is None else preparation.options())]
