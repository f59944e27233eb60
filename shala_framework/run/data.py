"""A run's rows: the training set in batches, in order or in memory, and the held-out rows."""

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import attrs
import torch

from shala_framework.data.hiding import hide_modalities
from shala_framework.data.identity import describe_shards
from shala_framework.data.order import SampleOrder
from shala_framework.data.prepared import check_preparation, load_preparation
from shala_framework.data.presence import absent_from_first, absent_from_rows
from shala_framework.data.random_access import index_shards, read_in_order
from shala_framework.data.rows import Rows, fit_to_shards, shuffled_batches
from shala_framework.data.streams import (
    IndexedStream,
    OrderedStream,
    ShardStream,
    decode_in_order,
    load_rows_in_workers,
    stream_batches,
)
from shala_framework.data.tally import Tally
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.spec import Spec
from shala_framework.support.distributed import processes
from shala_framework.support.errors import DataError
from shala_framework.support.progress import Reporter

CPU = torch.device("cpu")
DEVICE_SHARE = 0.25  # largest share of a CUDA device's free memory that the training set may take


class TrainingData(Protocol):
    """Training and held-out rows from any source."""

    def fit(self, modalities: Mapping[str, Modality]) -> None:
        """Fit modalities that learn from training samples.

        Raises:
            DataError: A sample cannot be read, or there is too little to learn from.
        """
        ...

    def check_presence(self, *, resumed: bool) -> None:
        """Check that every modality is in some training sample. A resumed run skips a check that takes long.

        Raises:
            DataError: No training sample has some modality.
        """
        ...

    def batches(self, start_step: int, batch_size: int | None = None) -> Iterator[Rows]:
        """Return endless shuffled training batches from a step on; each process gets its share of every batch.

        Args:
            start_step: The step.
            batch_size: Number of rows of a batch over all processes; None takes stage 1's.
        """
        ...

    def in_order(self, num_rows: int, start: int = 0) -> Iterator[Rows]:
        """Return this process's share of all training rows, in order. Processes take batches in turn.

        Args:
            num_rows: Number of rows of a batch; the last one may have fewer.
            start: Number of this process's batches to skip.
        """
        ...

    def num_train_rows(self) -> int | None:
        """Return the number of training rows; None if it is not known."""
        ...

    def held_out(self) -> Rows | None:
        """Return the validation rows in memory; None if there are none."""
        ...


def shuffled_rows(rows: Rows, batch_size: int, seed: int, start_step: int) -> Iterator[Rows]:
    """Return shuffled batches of a set in memory, like `TrainingData.batches`."""
    order = shuffled_batches(len(rows), batch_size, seed, start_step)
    return (rows.take(index[processes.rank() :: processes.world_size()]) for index in order)


def rows_in_order(rows: Rows, num_rows: int, start: int) -> Iterator[Rows]:
    """Return batches of a set in memory, like `TrainingData.in_order`."""
    own = torch.arange(len(rows)).split(num_rows)[processes.rank() :: processes.world_size()]
    return (rows.take(index) for index in own[start:])


@attrs.define(kw_only=True, eq=False)
class RunData:
    """The data of a run's spec, read by fitted modalities.

    Attributes:
        spec: Spec of the run.
        modalities: Modalities that decode the rows.
        train_urls: Shards of the training split.
        validation_urls: Shards of the validation split; may be empty.
        reporter: Receives progress.
        device: Device of the model.
        given_held_out: Held-out rows that do not come from shards.
    """

    spec: Spec
    modalities: Mapping[str, Modality]
    train_urls: list[str]
    validation_urls: list[str]
    reporter: Reporter
    device: torch.device = CPU
    given_held_out: Rows | None = None
    _train: Rows | None = attrs.field(default=None, init=False)
    _held_out: Rows | None = attrs.field(default=None, init=False)

    @property
    def cache(self) -> Path | None:
        """Folder for copies of remote shards."""
        return Path(self.spec.data.cache) if self.spec.data.cache is not None else None

    def describe_shards(self) -> dict[str, Any]:
        """Describe the shards of both splits, for `RunFolder.check_shards`."""
        return {
            "train": describe_shards(self.train_urls, self.cache),
            "validation": describe_shards(self.validation_urls, self.cache),
        }

    def fit(self, modalities: Mapping[str, Modality]) -> None:
        """Fit modalities to the training shards, unless these were prepared with fitted ones."""
        if load_preparation(self.train_urls, modalities):
            return
        for name, modality in modalities.items():
            if needs_fit(modality):
                self.reporter.note(f"fitting {name} to the training samples")
                limit = self.spec.data.max_field_bytes
                fit_to_shards(name, modality, self.train_urls, self.cache, max_field_bytes=limit)

    def check_presence(self, *, resumed: bool) -> None:
        limit = self.spec.data.max_field_bytes
        if self.spec.data.in_memory:
            absent = absent_from_rows(self.train(), self.modalities, self.train_urls, max_field_bytes=limit)
            if absent:
                raise DataError("\n".join(f"data.train: {sentence}" for sentence in absent))
        elif not resumed:
            for sentence in absent_from_first(self.train_urls, self.modalities, self.cache, max_field_bytes=limit):
                self.reporter.warn(f"data.train: {sentence}")

    def train(self) -> Rows:
        """Return the training set in memory, read on first use."""
        if self._train is None:
            self.reporter.begin("reading", None, "sample")
            self._train = load_rows_in_workers(
                self.train_urls,
                self.modalities,
                cache=self.cache,
                num_workers=self.spec.data.num_workers,
                on_sample=self.reporter.advance,
                max_field_bytes=self.spec.data.max_field_bytes,
            )
            self.reporter.finish()
            self.reporter.note(describe_rows(self._train))
            self._say("data.train", self._train.tally)
        return self._train

    def _near(self, rows: Rows) -> Rows:
        """Move rows to the model's device if they take a small part of its free memory."""
        if self.device.type != "cuda" or rows.num_bytes > DEVICE_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            return rows
        return rows.to(self.device)

    def num_train_rows(self) -> int | None:
        """Return the number of training rows; None for shards that have no index and are not in memory."""
        if self.spec.data.in_memory:
            return len(self.train())
        shards = index_shards(self.train_urls, self.cache)
        return len(shards) if shards is not None else None

    def held_out(self) -> Rows | None:
        """Return the validation rows in memory, read on first use; None if there are none."""
        if self.given_held_out is not None:
            return self.given_held_out
        if self._held_out is None and self.validation_urls:
            check_preparation(self.validation_urls, self.modalities)
            self._held_out = self._few(self.validation_urls)
            self._say("data.validation", self._held_out.tally)
        return self._held_out

    def few_train(self) -> Rows:
        """Return as many training rows as would be held out."""
        return self._few(self.train_urls)

    def _few(self, urls: list[str]) -> Rows:
        data = self.spec.data
        return load_rows_in_workers(
            urls,
            self.modalities,
            limit=data.validation_samples,
            cache=self.cache,
            num_workers=data.num_workers,
            max_field_bytes=data.max_field_bytes,
        )

    def _say(self, where: str, tally: Tally | None) -> None:
        """Report the samples and fields that were skipped."""
        for sentence in tally.sentences() if tally is not None else ():
            self.reporter.note(f"{where}: {sentence}")

    def batches(self, start_step: int, batch_size: int | None = None) -> Iterator[Rows]:
        """Return endless shuffled training batches from a step on; each process gets its share."""
        return map(self._without_hidden, self._batches(start_step, batch_size))

    def _without_hidden(self, rows: Rows) -> Rows:
        return hide_modalities(rows, self.spec.data.hidden_share, self.spec.data.hidden_seed)

    def _batches(self, start_step: int, batch_size: int | None) -> Iterator[Rows]:
        batch_size, data = batch_size or self.spec.train.autoencoder.batch_size, self.spec.data
        if data.in_memory:
            return shuffled_rows(self._near(self.train()), batch_size, self.spec.seed, start_step)
        tally = Tally()
        shards = index_shards(self.train_urls, self.cache, max_field_bytes=data.max_field_bytes, tally=tally)
        self._say("data.train", tally)
        common: dict[str, Any] = {
            "batch_size": batch_size,
            "start_step": start_step,
            "rank": processes.rank(),
            "world_size": processes.world_size(),
        }
        stream: ShardStream | IndexedStream
        if shards is None:
            self.reporter.note(
                "data.train: no index beside these shards, so that several readers do not begin an epoch at one step; "
                "`shala index` makes one"
            )
            stream = ShardStream(
                self.train_urls,
                self.modalities,
                buffer_size=data.shuffle_buffer,
                seed=self.spec.seed,
                max_field_bytes=data.max_field_bytes,
                **common,
            )
        else:
            order = SampleOrder(
                shards.counts, seed=self.spec.seed, interleave=data.interleave, window=data.shuffle_buffer
            )
            stream = IndexedStream(shards, self.modalities, order, **common)
        epoch_steps = -(-len(shards) // batch_size) if shards is not None else None
        first = self.spec.train.autoencoder.log_every_steps
        return self._saying(stream_batches(stream, data.num_workers), first, epoch_steps)

    def _saying(self, batches: Iterator[Rows], first: int, last: int | None) -> Iterator[Rows]:
        """Pass batches on, and report what they skipped after some of them and, if there is more, after an epoch.

        Args:
            batches: Batches of a stream.
            first: Number of batches before the first report.
            last: Number of batches of an epoch, after which nothing is reported; None if it is not known.
        """
        tally, noted = Tally(), 0
        for number, rows in enumerate(batches, 1):
            if rows.tally is not None and (last is None or number <= last):
                tally.add(rows.tally)
            yield rows
            if number in (first, last) and tally.total > noted:
                noted = tally.total
                share = f", {processes.world_size()} processes" if processes.world_size() > 1 else ""
                self._say(f"data.train (the first {number} steps{share})", tally)

    def in_order(self, num_rows: int, start: int = 0) -> Iterator[Rows]:
        """Return this process's share of all training rows, in order. Processes take batches in turn.

        Args:
            num_rows: Number of rows of a batch; the last one may have fewer.
            start: Number of this process's batches to skip.
        """
        return map(self._without_hidden, self._in_order(num_rows, start))

    def _in_order(self, num_rows: int, start: int) -> Iterator[Rows]:
        rank, size = processes.rank(), processes.world_size()
        if self.spec.data.in_memory:
            return rows_in_order(self.train(), num_rows, start)
        shards = index_shards(self.train_urls, self.cache, max_field_bytes=self.spec.data.max_field_bytes)
        if shards is None:
            return self._read_in_order(num_rows, start)
        stream = OrderedStream(shards, self.modalities, num_rows=num_rows, start=start, rank=rank, world_size=size)
        return stream_batches(stream, self.spec.data.num_workers)

    def _read_in_order(self, num_rows: int, start: int) -> Iterator[Rows]:
        """Do the same for shards without an index, which every process reads completely."""
        tally = Tally()  # already reported in training
        samples = read_in_order(
            self.train_urls, self.cache, max_field_bytes=self.spec.data.max_field_bytes, tally=tally
        )
        rank, size = processes.rank(), processes.world_size()
        turns = (number % size == rank and number // size >= start for number in count())
        return decode_in_order(samples, num_rows, self.modalities, tally, turns)


def describe_rows(rows: Rows) -> str:
    """Describe the number of rows and how many have each modality."""
    counts = ", ".join(f"{name} {int(n)}" for name, n in zip(rows.x, rows.presence.sum(0), strict=True))
    return f"training set: {len(rows)} rows ({counts})"
