"""A run's rows: the training set in batches, in order or in memory, and the held-out rows."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, groupby
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from shala_framework.data.hiding import hide_modalities
from shala_framework.data.identity import describe_shards
from shala_framework.data.indexed_shards import IndexedShards
from shala_framework.data.order import SampleOrder, WeightedOrder, default_window
from shala_framework.data.prepared import check_preparation, load_preparation
from shala_framework.data.presence import absent_from_first, absent_from_rows, apart_in_shards, never_together
from shala_framework.data.random_access import index_shards, read_in_order
from shala_framework.data.reading_cost import cost_of_reading
from shala_framework.data.rows import Rows, fit_to_shards, shuffled_batches
from shala_framework.data.shard_cache import ShardCache, cache_of
from shala_framework.data.streams import (
    IndexedStream,
    OrderedStream,
    ShardStream,
    decode_in_order,
    join_rows,
    load_rows_in_workers,
    stream_batches,
)
from shala_framework.data.tally import Tally
from shala_framework.data.weighting import balanced_weights, describe_classes, normalised_weights, read_labels
from shala_framework.plugin.modality import Modality, needs_fit
from shala_framework.spec import Spec
from shala_framework.support.distributed import processes
from shala_framework.support.errors import DataError
from shala_framework.support.progress import Reporter

CPU = torch.device("cpu")
SAMPLES_IN_MEMORY = 512  # that are shuffled together where shards have no index
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

    def row_weights(self) -> Tensor | None:
        """Return the weight of each training row, float64 [N] with a mean of 1, in the order of `in_order`.

        Training sees a row about as often as its weight says. None means that all rows have the same.

        Raises:
            DataError: The weights depend on classes, and no row has one; or the rows of a stream are not known.
        """
        ...

    def held_out(self) -> Rows | None:
        """Return the validation rows in memory; None if there are none."""
        ...


def shuffled_rows(
    rows: Rows, batch_size: int, seed: int, start_step: int, weights_N: Tensor | None = None
) -> Iterator[Rows]:
    """Return shuffled batches of a set in memory, like `TrainingData.batches`."""
    order = shuffled_batches(len(rows), batch_size, seed, start_step, weights_N)
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
        train_weights: Weight of the rows of each training shard; empty gives all the same.
    """

    spec: Spec
    modalities: Mapping[str, Modality]
    train_urls: list[str]
    validation_urls: list[str]
    reporter: Reporter
    device: torch.device = CPU
    given_held_out: Rows | None = None
    train_weights: Sequence[float] = ()
    _train: Rows | None = attrs.field(default=None, init=False)
    _held_out: Rows | None = attrs.field(default=None, init=False)
    _cost_said: bool = attrs.field(default=False, init=False)
    _source_weights: Tensor | None = attrs.field(default=None, init=False)
    _weights: tuple[Tensor | None] | None = attrs.field(default=None, init=False)  # once they are known

    @property
    def cache(self) -> ShardCache | None:
        """Copies of remote shards."""
        return cache_of(self.spec.data)

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
                how = {"max_field_bytes": self.spec.data.max_field_bytes, "num_workers": self.spec.data.num_workers}
                fit_to_shards(name, modality, self.train_urls, self.cache, **how)

    def check_presence(self, *, resumed: bool) -> None:
        limit, doubts = self.spec.data.max_field_bytes, list[str]()
        if self.spec.data.in_memory:
            absent = absent_from_rows(self.train(), self.modalities, self.train_urls, max_field_bytes=limit)
            if absent:
                raise DataError("\n".join(f"data.train: {sentence}" for sentence in absent))
            doubts = never_together(self.train().presence, list(self.modalities))
        elif not resumed:
            doubts = absent_from_first(self.train_urls, self.modalities, self.cache, max_field_bytes=limit)
            doubts += apart_in_shards(self.train_urls, self.modalities, max_field_bytes=limit)
        for sentence in doubts:
            self.reporter.warn(f"data.train: {sentence}")

    def train(self) -> Rows:
        """Return the training set in memory, read on first use."""
        if self._train is None:
            self.reporter.begin("reading", None, "sample")
            parts: list[Rows] = []
            tally, weights = Tally(), list[Tensor]()
            for weight, urls in self._parts():  # rows do not tell which shard they are from
                before = sum(map(len, parts))
                rows = load_rows_in_workers(
                    urls,
                    self.modalities,
                    cache=self.cache,
                    num_workers=self.spec.data.num_workers,
                    on_sample=lambda number, before=before: self.reporter.advance(before + number),  # type: ignore[misc]
                    max_field_bytes=self.spec.data.max_field_bytes,
                )
                parts.append(rows)
                weights.append(torch.full((len(rows),), weight, dtype=torch.float64))
                if rows.tally is not None:
                    tally.add(rows.tally)
            self._train = parts[0] if len(parts) == 1 else attrs.evolve(join_rows(parts), tally=tally or None)
            self._source_weights = torch.cat(weights)
            self.reporter.finish()
            self.reporter.note(describe_rows(self._train))
            self._say("data.train", self._train.tally)
        return self._train

    def _parts(self) -> list[tuple[float, list[str]]]:
        """Return training shards that follow each other with the same weight, in order."""
        weights = self.train_weights or [1.0] * len(self.train_urls)
        pairs = groupby(zip(weights, self.train_urls, strict=True), key=lambda pair: pair[0])
        return [(weight, [url for _, url in group]) for weight, group in pairs]

    def row_weights(self) -> Tensor | None:
        if self._weights is None:
            self._weights = (self._row_weights(),)
        return self._weights[0]

    def _row_weights(self) -> Tensor | None:
        balance = self.spec.data.balance
        if not balance and len(set(self.train_weights)) < 2:
            return None
        labels: Sequence[str | None] = ()
        if self.spec.data.in_memory:
            labels = self.train().labels
            assert self._source_weights is not None
            weights_N = self._source_weights
        else:
            shards = self._indexed()
            weights = self.train_weights or [1.0] * len(shards.counts)
            weights_N = torch.tensor(weights, dtype=torch.float64).repeat_interleave(torch.tensor(shards.counts))
            if balance:
                self.reporter.begin("reading classes", len(shards), "sample")
                labels = read_labels(shards, self.reporter.advance)
                shards.close()
                self.reporter.finish()
        if balance:
            weights_N = balanced_weights(weights_N, labels, balance)
            self.reporter.note(f"data.balance: {describe_classes(labels)}")
        return normalised_weights(weights_N)

    def _indexed(self) -> IndexedShards:
        """Return the training shards with their index.

        Raises:
            DataError: There is none, so that rows have no numbers.
        """
        shards = index_shards(self.train_urls, self.cache, max_field_bytes=self.spec.data.max_field_bytes)
        if shards is None:
            asked = "data.balance" if self.spec.data.balance else "weights in data.train"
            raise DataError(
                f"data.train: expected an index beside each shard for {asked}, got none for some of "
                f"{len(self.train_urls)} shards; write it with `shala index`, or set data.in_memory = true"
            )
        return shards

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
            rows = self._near(self.train())
            return shuffled_rows(rows, batch_size, self.spec.seed, start_step, self.row_weights())
        tally = Tally()
        shards = index_shards(self.train_urls, self.cache, max_field_bytes=data.max_field_bytes, tally=tally)
        self._say("data.train", tally)
        weights_N = self.row_weights()
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
                buffer_size=data.shuffle_buffer or SAMPLES_IN_MEMORY,
                seed=self.spec.seed,
                max_field_bytes=data.max_field_bytes,
                **common,
            )
        else:
            self._say_cost(shards)
            window = data.shuffle_buffer or default_window(remote=shards.is_remote)
            places: dict[str, Any] = {"seed": self.spec.seed, "interleave": data.interleave, "window": window}
            order: SampleOrder | WeightedOrder = SampleOrder(shards.counts, **places)
            if weights_N is not None:
                order = WeightedOrder(shards.counts, weights_N, **places)
            stream = IndexedStream(shards, self.modalities, order, **common)
        epoch_steps = -(-len(shards) // batch_size) if shards is not None else None
        first = self.spec.train.autoencoder.log_every_steps
        return self._saying(stream_batches(stream, data.num_workers), first, epoch_steps)

    def _say_cost(self, shards: IndexedShards) -> None:
        """Warn once if decoding is slow."""
        workers, size = self.spec.data.num_workers, processes.world_size()
        said = None if self._cost_said or processes.rank() else cost_of_reading(shards, self.modalities, workers, size)
        self._cost_said = True
        if said:
            self.reporter.warn(f"data.train: {said}")

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
        """Return this process's share of all training rows, in order, as `TrainingData.in_order` says."""
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
