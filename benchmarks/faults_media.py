"""Damaged media, skeletons, texts and shards give an x as declared, nothing, or one message; a campaign of faults.py.

A reader's result must have the shape and type of its modality and finite values. If the right outcome is known
without asking the reader, any other is `silent`: a truncated file or a text that is not UTF-8 is an error, a
single flipped bit of a file with checksums (PNG, an indexed shard, a tar header) is an error or changes nothing, and
a plain tar file has the content that Python's tarfile reads.
"""

import functools
import gzip
import io
import os
import random
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fault_batches import Begin, in_child
from fault_files import DAMAGE, SAMPLES, Shard, flipped, sound_files, tar
from fault_trials import Setting, Trial

COUNT = 20_000
PATIENCE = 10.0  # seconds
MEMORY = 2 << 30  # bytes
MOST_SAID = 3_000  # characters of a message
SHARES_THAT_MAY_BE_LEFT = {
    "jpg": 0.8, "png": 0.8, "png of 16 bits": 0.8, "mp4": 0.89, "avi": 0.89, "wav": 0.89,
}  # fmt: skip
"""Largest share of a cut file that remains if the cut has to be noticed."""


def trials(setting: Setting) -> Iterator[Trial]:
    """Run trials with files of every kind whose bytes are changed, cut, doubled and exchanged."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    files = sound_files()
    modalities = _modalities()
    whole = {(kind, data): _read(modalities[kind], {field: data}) for kind in files for field, data in files[kind]}
    for (kind, _), found in whole.items():
        if all(x is None for x in found):
            raise SystemExit(f"a sound file of the kind {kind} is not read")
    (setting.folder / "shards").mkdir()
    work = functools.partial(_trial, setting.rng.random(), files, modalities, whole, setting.folder / "shards")
    yield from in_child(setting.count, work, patience=PATIENCE, memory=MEMORY)


def _modalities() -> dict[str, list[Any]]:
    """Return the modalities that read each kind of file."""
    from shala_audio import Audio
    from shala_image import Image
    from shala_skeleton import Skeleton
    from shala_text import Text
    from shala_video import Video

    pictures = [
        Image(Image.Options(channels=1, height=28, width=28, fit="contain")),
        Image(Image.Options(channels=3, height=32, width=28)),
    ]
    video = Video(Video.Options(frames=4, height=32, width=32))
    audio = Audio(Audio.Options(sample_rate_hz=8_000, clip_seconds=0.4, mels=24))
    bones = ((0, 1), (1, 2), (2, 3))
    skeletons = [
        Skeleton(Skeleton.Options(frames=8, joints=4, bones=bones)),
        Skeleton(Skeleton.Options(frames=7, joints=4, bones=bones, bodies=2, dims=2, centre="every_frame")),
    ]
    texts = [
        Text(Text.Options(max_tokens=16, vocabulary_size=300)),
        Text(Text.Options(max_tokens=16, vocabulary_size=300, sections=("FINDINGS", "IMPRESSION"))),
    ]
    for modality in (audio, *skeletons, *texts):
        modality.fit({field: data} for of in sound_files().values() for field, data in of if field in modality.fields)
    return {
        **dict.fromkeys(("jpg", "png", "png of 16 bits"), pictures),
        "mp4": [video, audio],
        "avi": [video, audio],
        "wav": [audio],
        "flac": [audio],
        **dict.fromkeys(("skeleton", "npy", "json"), skeletons),
        "txt": texts[:1],
    }


def _read(modalities: list[Any], sample: dict[str, bytes]) -> list[Any]:
    """Read a sample with each modality: an x, or None if the file may lack it."""
    return [modality.read(sample) for modality in modalities]


def _trial(
    base: float,
    files: dict[str, list[tuple[str, bytes]]],
    modalities: dict[str, list[Any]],
    whole: dict[tuple[str, bytes], list[Any]],
    folder: Path,
    number: int,
    begin: Begin,
) -> Trial:
    rng = random.Random(f"{base} {number}")
    kinds = [*files, "shard", "shard"]
    kind = kinds[number % len(kinds)]
    how = rng.choice(list(DAMAGE))
    begin(kind)
    if kind == "shard":
        return _shard_trial(rng, kind, how, folder)
    field, data = rng.choice(files[kind])
    other = rng.choice(files[rng.choice(list(files)) if rng.random() < 0.3 else kind])[1]
    damaged = DAMAGE[how](rng, data, other)
    outcomes = []
    for modality, right in zip(modalities[kind], whole[kind, data], strict=True):
        outcomes.append(_judge(modality, field, damaged, right, _known(kind, how, data, damaged)))
    outcome, detail = max(outcomes, key=lambda found: ("right", "message", "silent").index(found[0]))
    return Trial(kind, outcome, detail and f"{how}: {detail}")


def _known(kind: str, how: str, data: bytes, damaged: bytes) -> str:
    """Return the known outcome: "error", "error or the same", or "" if it is not known."""
    if kind == "txt" and damaged and not _is_utf8(damaged):
        return "error"
    if how == "cut" and len(damaged) <= SHARES_THAT_MAY_BE_LEFT.get(kind, 0) * len(data):
        return "error"
    if how == "cut" and kind in ("npy", "json"):
        return "error"
    if how == "cut" and kind == "skeleton" and len(damaged.split()) < len(data.split()):
        return "error"
    if how == "flipped" and (kind.startswith("png") or kind == "flac"):
        return "error or the same"
    return "the same" if damaged == data else ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _judge(modality: Any, field: str, damaged: bytes, right: Any, known: str) -> tuple[str, str]:
    import torch

    from shala_framework import DataError

    name = type(modality).__name__
    try:
        x = modality.read({field: damaged})
    except DataError as error:
        said = str(error)
        if known == "the same":
            return "silent", f"{name}: a sound file is refused: {said}"
        if repr(field) not in said or len(said) > MOST_SAID:
            return "silent", f"{name}: a message of {len(said)} characters: {said[:300]}"
        return "message", ""
    if x is not None:
        if tuple(x.shape) != tuple(modality.shape) or x.dtype != modality.dtype:
            return "silent", f"{name}: expected {modality.dtype} {modality.shape}, got {x.dtype} {list(x.shape)}"
        if not torch.isfinite(x.double()).all():
            return "silent", f"{name}: values that are not finite"
    if known == "error":
        return "silent", f"{name}: {len(damaged)} bytes that are damaged were read as {'nothing' if x is None else 'x'}"
    if known and not (x is right is None or (x is not None and right is not None and torch.equal(x, right))):
        return "silent", f"{name}: another x, for a flipped bit under a checksum"
    return "right", ""


# Shards.


def _shard_trial(rng: random.Random, kind: str, how: str, folder: Path) -> Trial:
    from shala_framework import DataError
    from shala_framework.data.random_access import read_in_order
    from shala_framework.data.shard_index import write_index
    from shala_framework.data.tally import Tally

    for path in folder.iterdir():
        path.unlink()
    form = rng.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
    data = tar(SAMPLES, form)
    indexed, packed = rng.random() < 0.4, rng.random() < 0.2
    path = folder / ("x.tar.gz" if packed and not indexed else "x.tar")
    path.write_bytes(data)
    if indexed:
        write_index(folder)
    elif packed:
        data = gzip.compress(data, mtime=0)
    used = len(data.rstrip(b"\0"))
    damaged = _between_members(rng, data) if how == "cut" and rng.random() < 0.3 else None
    if damaged is None:
        damaged = DAMAGE[how](rng, data[:used], tar(SAMPLES[::-1], form)) + (b"" if how == "cut" else data[used:])
    if how == "flipped" and not indexed and not packed:
        damaged = _header_flipped(rng, data)
    if how == "lying" and not packed and rng.random() < 0.7:
        damaged = _sums_made_right(damaged)
    path.write_bytes(damaged)
    tally = Tally()
    try:
        found: Shard = [(sample.key, sample.fields) for sample in read_in_order([str(path)], tally=tally)]
    except DataError as error:
        said = str(error)
        sound = str(path) in said and len(said) < MOST_SAID
        return Trial(kind, "message") if sound else Trial(kind, "silent", said[:500])
    if found == SAMPLES:
        return Trial(kind, "right")
    if not found and tally:
        return Trial(kind, "message")
    if indexed or packed or how in ("cut", "flipped"):
        return Trial(kind, "silent", f"{'indexed' if indexed else 'packed' if packed else 'plain'}: {found}"[:500])
    theirs, ours = _by_tarfile(damaged), [content for _, fields in found for content in fields.values()]
    if ours[: len(theirs)] != theirs:  # it mistakes some damage for the end
        return Trial(kind, "silent", f"{ours} {theirs}"[:900])
    return Trial(kind, "right")


def _between_members(rng: random.Random, data: bytes) -> bytes | None:
    """Cut where a member begins. Only the missing end mark reveals the loss."""
    starts = [place for place in range(512, len(data), 512) if data[place + 257 : place + 262] == b"ustar"]
    return data[: rng.choice(starts)] if starts else None


def _header_flipped(rng: random.Random, data: bytes) -> bytes:
    starts = [place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"]
    start = rng.choice(starts)
    return data[:start] + flipped(rng, data[start : start + 512], b"") + data[start + 512 :]


def _sums_made_right(data: bytes) -> bytes:
    """Recompute the checksums of headers, so that a wrong size is not detected by them."""
    found = bytearray(data)
    for start in range(0, len(found) - 511, 512):
        if found[start + 257 : start + 262] == b"ustar":
            found[start + 148 : start + 156] = b" " * 8
            found[start + 148 : start + 156] = b"%06o\0 " % sum(found[start : start + 512])
    return bytes(found)


def _by_tarfile(data: bytes) -> list[bytes]:
    """Return the contents of files that are fields, by Python's reader; None if it cannot read them."""
    from shala_framework.data.tar import split_name

    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            named = [(info.name, tar.extractfile(info)) for info in tar if info.isreg()]
            return [file.read() for name, file in named if split_name(name)[0] and file is not None]
    except tarfile.ReadError:  # such as an owner that is not a number
        return []
