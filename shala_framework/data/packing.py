"""Pack a data set's samples into indexed shards, at once, in parts, or in several calls."""

import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import attrs

from shala_framework.data.labels import label_field
from shala_framework.data.prepared import PREPARED_FILE, LeftOut, Preparation
from shala_framework.data.shard_index import INDEX_FILE
from shala_framework.data.shards import LABEL_FIELD
from shala_framework.data.workers import WorkerError, describe_exit
from shala_framework.data.writing import LEFT_OUT_FILE, Job, SplitWriter, part_file
from shala_framework.plugin.dataset import Account, Dataset, Sample
from shala_framework.spec import unstructure
from shala_framework.support.checkpoint import write_file
from shala_framework.support.errors import DataError, PluginError
from shala_framework.support.locking import FolderLock

PACK_LOCK = "pack.lock"  # exists while a pack is in progress
CHUNK = 8  # samples that a worker prepares at a time


@attrs.define
class PackReport:
    """Result of packing.

    Attributes:
        samples: Number of samples by split.
        fields: Number of samples that have each field, by split.
        shards: Files written.
        notes: Notes of the data set about the files it left out.
        left_out: Reason and name of every file or sample that the data set or the preparation left out.
        complete: Whether the set has its index, which requires that all parts are complete.
    """

    samples: dict[str, int] = attrs.field(factory=dict)
    fields: dict[str, dict[str, int]] = attrs.field(factory=dict)
    shards: list[Path] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    left_out: list[tuple[str, str]] = attrs.field(factory=list)
    complete: bool = True

    def count(self, split: str, fields: Mapping[str, int], samples: int = 1) -> None:
        """Add samples to the counts, and the number of them that have each field."""
        self.samples[split] = self.samples.get(split, 0) + samples
        counts = self.fields.setdefault(split, {})
        for name, number in fields.items():
            counts[name] = counts.get(name, 0) + number


def pack(
    dataset: Dataset,
    source: Path | None,
    out: Path,
    *,
    shard_samples: int = 500,
    shard_bytes: int = 1 << 30,
    preparation: Preparation | None = None,
    part: tuple[int, int] = (0, 1),
    num_workers: int = 0,
    on_sample: Callable[[int], None] = lambda _: None,
    on_fit: Callable[[str, int], None] = lambda _, __: None,
) -> PackReport:
    """Write a data set's samples as shards `<split>-<number>.tar` and their index.

    Equal samples give equal bytes. Shards are renamed when all are written. The same call resumes a pack that was
    killed or interrupted, or that failed for a reason outside the samples, such as a full disk; it continues after the
    last complete shard. A pack whose data cannot be used leaves nothing behind. `left_out.txt` next to the shards lists
    what was left out.

    Args:
        dataset: Data set of the samples.
        source: Folder of raw files, or None.
        out: Folder for the shards; created if necessary.
        shard_samples: Largest number of samples per shard.
        shard_bytes: Size after which a shard is closed.
        preparation: Converts samples to the tensors of a spec's modalities. None keeps the original bytes.
        part: (i, n) packs part i of n, counted from 0, as `<split>-p<i + 1>-<number>.tar`. The key of each sample
            determines its part. The part that completes the set writes its index.
        num_workers: Number of processes that prepare samples; 0 prepares them in this process.
        on_sample: Called with the number of samples read so far, first with 0.
        on_fit: Called with a modality's name and the number of samples read so far while that modality is fitted.

    Returns:
        Counts, shards and notes.

    Raises:
        DataError: The raw data cannot be used, two samples share a key, a split or the whole set is empty, or out
            contains other shards.
        CheckpointError: Another process is packing into the folder, or the folder was removed in the meantime.
        WorkerError: A worker process was killed.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FolderLock(out, part_file(PACK_LOCK, part)):
            return _pack(
                dataset, source, out, shard_samples, shard_bytes, preparation, part, num_workers, on_sample, on_fit
            )
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty, or the current error says what is wrong
                folder.rmdir()


def _pack(
    dataset: Dataset,
    source: Path | None,
    out: Path,
    shard_samples: int,
    shard_bytes: int,
    preparation: Preparation | None,
    part: tuple[int, int],
    num_workers: int,
    on_sample: Callable[[int], None],
    on_fit: Callable[[str, int], None],
) -> PackReport:
    report = PackReport()
    job = Job(
        out,
        part,
        {
            "dataset": f"{type(dataset).__module__}.{type(dataset).__qualname__}",
            "options": unstructure(dataset.options),
            "source": str(source),
            "shard_samples": shard_samples,
            "shard_bytes": shard_bytes,
            "preparation": preparation.options() if preparation is not None else None,
            "part": part,
        },
    )
    job.begin()
    writers: dict[str, SplitWriter] = {}
    try:
        if preparation is not None:
            preparation.fit(dataset, source, on_fit)
        for split, shards in job.closed.items():
            for shard in shards:
                report.count(split, shard.fields, len(shard.keys))
        on_sample(0)
        splits: set[str] = set()
        written = job.keys()
        account = Account(lambda key: job.mine(key) and key not in written)
        wanted = _wanted(dataset, source, account, on_sample, splits)
        for sample, left_out in _prepared(wanted, preparation, num_workers):
            job.left_out += left_out
            if sample is None:
                continue
            fields = dict(sample.fields)
            try:
                label = label_field(sample.label)
            except DataError as error:
                raise DataError(f"sample {sample.key!r}: {error}") from error
            if label is not None:
                fields[LABEL_FIELD] = label
            if sample.split not in writers:
                writers[sample.split] = SplitWriter(job, sample.split, shard_samples, shard_bytes)
            writers[sample.split].write(sample.key, fields)
            report.count(sample.split, dict.fromkeys(fields, 1))
        for writer in writers.values():
            writer.close()
        report.notes, report.left_out = account.notes, list(account.left_out)
        report.notes += [entry.note for entry in job.left_out if entry.note]
        report.notes += _counted(entry for entry in job.left_out if not entry.note)
        report.left_out += [(entry.reason, f"sample {entry.key!r}") for entry in job.left_out]
        if part[1] == 1:  # with several parts, one may be empty
            _refuse_empty(report, splits)
        if preparation is not None:
            write_file(out / PREPARED_FILE, preparation.description(), owner=job.tag)
        if report.left_out:
            lines = [f"{_one_line(reason)}\t{_one_line(name)}\n" for reason, name in report.left_out]
            write_file(out / part_file(LEFT_OUT_FILE, part), "".join(lines).encode())
        report.shards = job.publish()
        report.complete = (out / INDEX_FILE).exists()
    except BaseException as error:
        for writer in writers.values():
            writer.abandon()
        if isinstance(error, DataError | PluginError) or not job.keep():
            with suppress(OSError):  # the current error says what is wrong
                job.remove()
        raise
    return report


def _refuse_empty(report: PackReport, splits: set[str]) -> None:
    """Raise DataError if none of the samples of a split was written, or if there were none at all."""
    empty = sorted(splits - report.samples.keys())
    if report.samples and not empty:
        return
    reasons = Counter(reason for reason, _ in report.left_out).most_common(3)
    said = "; ".join(f"{number} left out: {reason}" for reason, number in reasons) or "the data set gave none"
    raise DataError(
        f"expected samples{f' of {empty[0]}' if empty and report.samples else ''}, got none to write: {said}"
    )


def _wanted(
    dataset: Dataset, source: Path | None, account: Account, on_sample: Callable[[int], None], splits: set[str]
) -> Iterator[Sample]:
    """Yield the samples that the account needs, and add their splits to a set."""
    keys: set[str] = set()
    for sample in dataset.samples(source, account):
        if sample.key in keys:
            raise DataError(f"the data set gave the key {sample.key!r} twice")
        keys.add(sample.key)
        if account.wanted(sample.key):
            splits.add(sample.split)
            yield sample
        on_sample(len(keys))


def _prepared(
    samples: Iterator[Sample], preparation: Preparation | None, num_workers: int
) -> Iterator[tuple[Sample | None, list[LeftOut]]]:
    """Yield samples as they are to be written, in order, and what was left out of each."""
    if preparation is None:
        yield from ((sample, []) for sample in samples)
    elif num_workers == 0:
        yield from map(preparation.prepare, samples)
    else:
        with ProcessPoolExecutor(num_workers, get_context("spawn"), _start_worker, (preparation,)) as pool:
            waiting: deque[Future[list[tuple[Sample | None, list[LeftOut]]]]] = deque()
            workers: set[BaseProcess] = set()
            try:
                while chunk := list(islice(samples, CHUNK)):
                    waiting.append(pool.submit(_prepare_chunk, chunk))
                    if len(workers) < num_workers:
                        workers.update(active_children())
                    if len(waiting) > 4 * num_workers:
                        yield from waiting.popleft().result()
                while waiting:
                    yield from waiting.popleft().result()
            except BrokenProcessPool as error:
                pool.shutdown(wait=True)
                raise WorkerError(
                    f"a worker {_describe_end(workers)}; the same command resumes after the last complete shard; use "
                    "fewer --workers if memory is short"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _describe_end(workers: Iterable[BaseProcess]) -> str:
    """Describe how the first of a pool's workers ended. The pool then ends the others with SIGTERM."""
    codes = [process.exitcode for process in workers if process.exitcode]
    first = next((code for code in codes if code != -signal.SIGTERM), codes[0] if codes else None)
    return describe_exit(first) if first is not None else "was lost"


_worker: dict[str, Preparation] = {}


def _start_worker(preparation: Preparation) -> None:
    import torch

    torch.set_num_threads(1)
    _worker["preparation"] = preparation


def _prepare_chunk(samples: list[Sample]) -> list[tuple[Sample | None, list[LeftOut]]]:
    return [_worker["preparation"].prepare(sample) for sample in samples]


def _counted(left_out: Iterable[LeftOut]) -> list[str]:
    """Return one note for each reason, with the number of samples and the first key."""
    keys: dict[str, list[str]] = {}
    for entry in left_out:
        keys.setdefault(entry.reason, []).append(entry.key)
    return [
        f"left out of {len(found)} {'sample' if len(found) == 1 else 'samples'}, such as {found[0]!r}: {reason}"
        for reason, found in keys.items()
    ]


def _one_line(text: str) -> str:
    """Put text on one line and in one column, whatever bytes a file's name has."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def describe_pack(report: PackReport) -> str:
    """Format the counts of samples and fields, one line for each split."""
    lines = []
    for split, count in report.samples.items():
        fields = ", ".join(f"{name} {n}" for name, n in sorted(report.fields[split].items()))
        lines.append(f"{split}: {count} samples ({fields})")
    return "\n".join(lines)
