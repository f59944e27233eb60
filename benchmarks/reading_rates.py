"""How fast pictures and clips are read from shards: the sections "stream" and "decoding" of throughput.py."""

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar

import attrs
import av
import numpy as np
import torch
from pictures import Picture, load_pictures
from PIL import Image
from scripts import by_turns
from torch import Tensor
from training_rates import BATCH_SIZE, rate_of_loop

from shala_framework.data.order import SampleOrder
from shala_framework.data.packing import pack
from shala_framework.data.prepared import Preparation
from shala_framework.data.random_access import index_shards
from shala_framework.data.rows import Rows, load_rows, shuffled_batches
from shala_framework.data.streams import IndexedStream, stream_batches
from shala_framework.plugin.dataset import Account, Dataset, Sample
from shala_framework.plugin.loading import load_modality
from shala_framework.plugin.media import encode_mp4
from shala_framework.plugin.modality import Modality


class Stored(Picture):
    """A modality that reads a picture from a field of a sample."""

    @attrs.frozen(kw_only=True)
    class Options:
        """The field."""

        field: str

    options: Options

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.options.field,)

    def read(self, sample: Mapping[str, bytes]) -> Tensor | None:
        picture = Image.open(io.BytesIO(sample[self.options.field])).convert("RGB")
        return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).contiguous()


class Files(Dataset):
    """A data set of given samples."""

    @attrs.frozen(kw_only=True)
    class Options:
        """There are no options."""

    needs_source: ClassVar[bool] = False

    def __init__(self, fields: Iterable[Mapping[str, bytes]]) -> None:
        super().__init__(self.Options())
        self.fields = fields

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        for number, fields in enumerate(self.fields):
            yield Sample(key=f"{number:06d}", split="train", fields=fields)


def encoded(picture_HWC: np.ndarray, kind: str) -> bytes:
    """Encode a picture with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, kind)
    return buffer.getvalue()


def stored_modalities() -> dict[str, Stored]:
    return {f"m{i}": Stored(Stored.Options(field=f"m{i}.png")) for i in range(5)}


def pack_pictures(data: Path, folder: Path, *, prepared: bool, count: int, shard_samples: int) -> list[str]:
    x = {name: of_modality[:count] for name, of_modality in load_pictures(data, "train").items()}
    preparation = Preparation(stored_modalities()) if prepared else None
    rows = (
        {f"{name}.png": encoded(of_modality[row].permute(1, 2, 0).numpy(), "png") for name, of_modality in x.items()}
        for row in range(len(x["m0"]))
    )
    report = pack(Files(rows), None, folder, shard_samples=shard_samples, preparation=preparation)
    return [str(path) for path in report.shards]


def stream(args: argparse.Namespace) -> str:
    """Measure training from memory and from shards, and reading alone."""
    with tempfile.TemporaryDirectory() as folder:
        urls = {
            what: pack_pictures(args.data, Path(folder) / what, prepared=ready, count=6_000, shard_samples=500)
            for what, ready in (("prepared", True), ("PNG", False))
        }
        members = stored_modalities()
        rows = load_rows(urls["prepared"], members)

        def memory(start: int) -> Iterator[Rows]:
            return (rows.take(index) for index in shuffled_batches(len(rows), BATCH_SIZE, 0, start))

        def shards(what: str, workers: int) -> Callable[[int], Iterator[Rows]]:
            def batches(start: int) -> Iterator[Rows]:
                found = index_shards(urls[what])
                assert found is not None
                order = SampleOrder(found.counts, seed=0, interleave=8, window=512)
                source = IndexedStream(found, members, order, batch_size=BATCH_SIZE, start_step=start)
                return stream_batches(source, workers)

            return batches

        def alone(what: str) -> float:
            """Return rows a second of reading by itself."""
            source, start = shards(what, 0)(0), time.perf_counter()
            count = sum(len(batch) for batch in islice(source, 30))
            return count / (time.perf_counter() - start)

        measure: dict[str, Callable[[], float]] = {
            "memory": lambda: rate_of_loop(memory, args.seconds),
            **{
                f"{what} shards, {workers} workers": lambda what=what, workers=workers: rate_of_loop(  # type: ignore[misc]
                    shards(what, workers), args.seconds
                )
                for what in urls
                for workers in (0, 1)
            },
            **{f"{what} shards, reading alone": lambda what=what: alone(what) for what in urls},  # type: ignore[misc]
        }
        return by_turns(measure, args.repeats, ["memory"], "rows a second")


def moving_clip(seed: int) -> np.ndarray:
    """Return frames uint8 [60, 240, 320, 3] of a moving picture of smooth noise, with independent grain in each."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (18, 24, 3), dtype=np.uint8)).resize(
        (480, 360), Image.Resampling.BICUBIC
    )
    picture = np.asarray(coarse).astype(np.int16)
    frames = [picture[t : t + 240, 2 * t : 2 * t + 320] + rng.integers(-6, 7, (240, 320, 1)) for t in range(60)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


def by_pillow(content: bytes) -> None:
    """Decode a picture and scale its middle, like the modality."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture.resize((64, 64), Image.Resampling.BICUBIC, (40, 0, 280, 240))


def by_pyav(content: bytes) -> None:
    """Decode every frame of a clip, and discard it."""
    with av.open(io.BytesIO(content)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for _ in container.decode(video=0):
            pass


def rate_of_decoding(decode: Callable[[bytes], None], contents: Sequence[bytes]) -> float:
    """Return files a second of a library alone."""
    begun = time.perf_counter()
    for content in contents:
        decode(content)
    return len(contents) / (time.perf_counter() - begun)


def rate_of_reading(urls: Sequence[str], modality: Modality, count: int) -> float:
    """Return files a second from shards of this many files, in eight batches."""
    found = index_shards(list(urls))
    assert found is not None
    order = SampleOrder(found.counts, seed=0, interleave=8, window=512)
    source = IndexedStream(found, {"x": modality}, order, batch_size=count // 8)
    begun = time.perf_counter()
    for _ in islice(source, 8):
        pass
    return count / (time.perf_counter() - begun)


def decoding(args: argparse.Namespace) -> str:
    """Compare modalities with the libraries that they decode with."""
    clips = [moving_clip(seed) for seed in range(32)]
    kinds: list[tuple[str, str, str, Callable[[bytes], None], list[bytes]]] = [
        ("image", "jpg", "Pillow", by_pillow, [encoded(frame, "jpeg") for clip in clips for frame in clip[::3]]),
        ("video", "mp4", "PyAV", by_pyav, [encode_mp4(clip, 24) for clip in clips]),
    ]
    tables = []
    for plugin, field, library, decode, contents in kinds:
        cls = load_modality(plugin)
        modality = cls(cls.Options(height=64, width=64))
        with tempfile.TemporaryDirectory() as folder:
            samples = Files([{field: content} for content in contents])
            urls = [str(p) for p in pack(samples, None, Path(folder), shard_samples=len(contents) // 8).shards]
            measure = {
                f"{field} by {library}": partial(rate_of_decoding, decode, contents),
                f"{field} in shards, read as 64 x 64": partial(rate_of_reading, urls, modality, len(contents)),
            }
            tables.append(by_turns(measure, args.repeats, [f"{field} by {library}"], "files a second"))
    return "\n\n".join(tables)
