"""Write the shards of one split, and the files from which a stopped pack resumes."""

import io
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs

from shala_framework.data.prepared import PREPARED_FILE, LeftOut
from shala_framework.data.shard_index import (
    INDEX_FILE,
    Listed,
    Member,
    ShardIndex,
    parse_summary,
    write_summary,
)
from shala_framework.support.checkpoint import PARTIAL, naming_file, write_file
from shala_framework.support.checksums import checksum_of
from shala_framework.support.errors import DataError
from shala_framework.support.json_files import dump_json, dump_line, parse_lines, read_json

LEFT_OUT_FILE = "left_out.txt"
_JOURNAL_FILE = "unfinished.json"
_LIST_FILE = "unfinished.left_out.jsonl"  # grows by a line for each entry
_PART_SHARD = re.compile(r"[a-z]+-p[0-9]{4,}-[0-9]{6,}\.tar")
_PART_JOURNAL = re.compile(r"unfinished\.p[0-9]+\.json")
_PART_INDEX = re.compile(r"index\.p([0-9]+)-of-([0-9]+)\.json")


def part_file(name: str, part: tuple[int, int]) -> str:
    """Return a file's name with the number of the part, if there are several parts."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.p{part[0] + 1:04d}.{suffix}" if part[1] > 1 else name


@attrs.frozen
class Whole:
    """Summary of a complete shard that a pack keeps, which stays small for millions of samples.

    Attributes:
        num_bytes: Length of the file.
        keys: Keys of its samples.
        fields: Number of samples that have each field.
        index_checksum: Checksum of its index.
    """

    num_bytes: int
    keys: tuple[str, ...]
    fields: Mapping[str, int]
    index_checksum: str

    @classmethod
    def of(cls, index: ShardIndex, content: bytes) -> "Whole":
        """Build the summary from a shard's index and the content of the index file."""
        fields = Counter(name for _, members in index.samples for name in members)
        return cls(index.num_bytes, tuple(key for key, _ in index.samples), fields, checksum_of(content))


class Job:
    """The files of one pack, or of one part of a pack.

    During packing, a shard's name ends in `.partial`. The shard is complete once its own index exists next to it. A
    journal records the settings, so that the same pack can resume and one with other settings is refused.

    Args:
        out: Folder of the shards.
        part: Number of the part, from 0, and number of parts.
        settings: Everything that the bytes depend on, as JSON.

    Attributes:
        closed: Split to its complete shards, in order.
        left_out: What preparation has left out of them.
    """

    def __init__(self, out: Path, part: tuple[int, int], settings: Mapping[str, Any]) -> None:
        self.out, self.part, self.settings = out, part, json.loads(json.dumps(settings))
        self.tag = f"p{part[0] + 1:04d}-" if part[1] > 1 else ""
        self.own = re.compile(rf"([a-z]+)-{self.tag}([0-9]{{6,}})\.(tar|partial|index\.json|index\.json\.partial)")
        self.journal, self.list = (out / part_file(name, part) for name in (_JOURNAL_FILE, _LIST_FILE))
        self._listed = 0  # number of entries of left_out that have been written
        self.closed: dict[str, list[Whole]] = {}
        self.left_out: list[LeftOut] = []

    def mine(self, key: str) -> bool:
        """Return whether a sample belongs to this part."""
        number, parts = self.part
        return zlib.crc32(key.encode()) % parts == number

    def shard(self, split: str, number: int, suffix: str = ".partial") -> Path:
        """Return the path of a shard."""
        return self.out / f"{split}-{self.tag}{number:06d}{suffix}"

    def keys(self) -> set[str]:
        """Return the keys of the samples in complete shards."""
        return {key for shards in self.closed.values() for shard in shards for key in shard.keys}

    def begin(self) -> None:
        """Resume from what an earlier call left, or make sure that the folder has no other shards.

        Raises:
            DataError: The folder contains other shards, or an unfinished pack with other settings.
        """
        going_on = self.journal.exists()
        self._refuse_shards(going_on)
        if self.tag:
            self._check_others()
        if not going_on:
            self._remove_files()
            write_file(self.journal, self._journal())
            return
        try:
            lines = self.list.read_bytes()
        except FileNotFoundError:
            lines = b""
        settings = self._read_journal(self.journal)
        left_out, damaged = parse_lines(lines, {"key": str, "reason": str, "note": str})
        if (damaged and lines.rpartition(b"\n")[2] == b"") or damaged > 1:  # a crash may have truncated the last line
            raise DataError(f"{self.list} is damaged; remove {self.out} and pack again")
        changed = _changed(settings, self.settings)
        if changed:
            raise DataError(
                f"{self.out} holds an unfinished pack with other settings (before, now): {changed}; "
                "resume with the earlier settings, or remove the folder and start again"
            )
        self._take_up()
        keys = self.keys()
        self.left_out = [LeftOut(**entry) for entry in left_out if entry["key"] in keys]
        self.list.unlink(missing_ok=True)
        self._list_new()

    def refuse_shards(self) -> None:
        """Raise DataError if the folder has shards that this pack did not begin, or parts of another number."""
        self._refuse_shards(self.journal.exists())

    def close_shard(self, split: str, index: ShardIndex) -> None:
        """Record that a shard is complete."""
        content = index.to_json()
        write_file(self.shard(split, len(self.closed.get(split, [])), ".index.json"), content)
        self.closed.setdefault(split, []).append(Whole.of(index, content))
        self._list_new()

    def publish(self) -> list[Path]:
        """Rename every shard and write the index. The last part to finish writes the index of the whole set."""
        shards, lengths = [], {}
        for split, wholes in sorted(self.closed.items()):
            for number, kept in enumerate(wholes):
                shard = self.shard(split, number, ".tar")
                if self.shard(split, number).exists():
                    os.replace(self.shard(split, number), shard)
                shards.append(shard)
                lengths[shard.name] = Listed(kept.num_bytes, len(kept.keys), kept.index_checksum)
        number, parts = self.part
        self.list.unlink(missing_ok=True)
        if parts == 1:
            write_summary(self.out, lengths)
            self.journal.unlink()
        else:
            write_summary(self.out, lengths, f"index.p{number + 1:04d}-of-{parts:04d}.json")
            self._join_parts()
        return shards

    def keep(self) -> bool:
        """Remove incomplete files. Return whether anything is left from which a later call can resume."""
        with suppress(OSError):
            for split in self._splits():
                self.shard(split, len(self.closed.get(split, []))).unlink(missing_ok=True)
        return bool(self.closed)

    def remove(self) -> None:
        """Remove every file of this pack."""
        self._remove_files()
        self.journal.unlink(missing_ok=True)

    def _list_new(self) -> None:
        """Write what was left out since the last call."""
        lines = [
            dump_line({"key": entry.key, "reason": entry.reason, "note": entry.note})
            for entry in self.left_out[self._listed :]
        ]
        if lines:
            with naming_file(self.list), self.list.open("ab") as file:
                file.write("".join(lines).encode())
                file.flush()
                os.fsync(file.fileno())
        self._listed = len(self.left_out)

    def _journal(self) -> bytes:
        return dump_json({"settings": self.settings}, indent=1)

    def _read_journal(self, path: Path) -> dict[str, Any]:
        """Read the settings in a journal.

        Raises:
            DataError: The journal is damaged.
        """
        shape = {"settings": {"part": [int]}}
        found = read_json(path, shape, error=DataError, advice=f"remove {self.out} and pack again")
        return dict(found["settings"])

    def _refuse_shards(self, going_on: bool) -> None:
        shards = sorted(path.name for path in self.out.glob("*.tar"))
        if self.tag:
            in_the_way = [name for name in shards if not _PART_SHARD.fullmatch(name)]
            others = {int(found[2]) for path in self.out.iterdir() if (found := _PART_INDEX.fullmatch(path.name))}
            if others - {self.part[1]}:
                raise DataError(
                    f"{self.out} holds parts of {min(others)}, not of {self.part[1]}; choose an empty folder"
                )
        else:
            in_the_way = [name for name in shards if not (going_on and self.own.fullmatch(name))]
        if not going_on:
            in_the_way = in_the_way or [name for name in shards if self.own.fullmatch(name)]
        if in_the_way:
            raise DataError(
                f"{self.out} already holds {len(in_the_way)} shards, such as {in_the_way[0]}; choose an empty "
                "folder, or remove them"
            )

    def _take_up(self) -> None:
        """Find the complete shards and remove everything else."""
        for split in self._splits():
            number = 0
            while (whole := self._whole(split, number)) is not None:
                self.closed.setdefault(split, []).append(whole)
                number += 1
        for path in self.out.iterdir():
            found = self.own.fullmatch(path.name)
            if found and int(found[2]) >= len(self.closed.get(found[1], [])):
                path.unlink()

    def _whole(self, split: str, number: int) -> Whole | None:
        """Return a shard if its index and length are valid. Otherwise it is written again."""
        try:
            content = self.shard(split, number, ".index.json").read_bytes()
            index = ShardIndex.from_json(content)
            whole = Whole.of(index, content)
        except (OSError, ValueError):
            return None
        if index.shard != self.shard(split, number).stem:
            return None
        for suffix in (".tar", ".partial"):
            shard = self.shard(split, number, suffix)
            if shard.exists() and shard.stat().st_size == whole.num_bytes:
                return whole
        return None

    def _splits(self) -> list[str]:
        return sorted({found[1] for path in self.out.iterdir() if (found := self.own.fullmatch(path.name))})

    def _remove_files(self) -> None:
        """Remove this pack's files except its journal."""
        for path in self.out.iterdir():
            if self.own.fullmatch(path.name):
                path.unlink()
        shared = () if self.tag else (PREPARED_FILE, INDEX_FILE)
        for name in (part_file(LEFT_OUT_FILE, self.part), self.list.name, *shared):
            for path in (self.out / name, *self.out.glob(f"{name}.*{PARTIAL}"), self.out / f"{name}.{PARTIAL}"):
                path.unlink(missing_ok=True)

    def _join_parts(self) -> None:
        """Write the index of the set once all parts are complete. Of parts that finish together, any may do it."""
        found = [path for path in self.out.iterdir() if _PART_INDEX.fullmatch(path.name)]
        if len(found) < self.part[1]:
            return
        self._check_others()
        lengths: dict[str, Listed] = {}
        try:
            for path in sorted(found):
                lengths |= parse_summary(path.read_bytes(), str(path))
        except FileNotFoundError:  # another part has just joined them
            return
        write_summary(self.out, dict(sorted(lengths.items())), owner=self.tag)
        for path in (*found, *self._journals()):
            path.unlink(missing_ok=True)

    def _journals(self) -> list[Path]:
        """Return the journals of all parts. They stay until the parts are joined, and record each part's settings."""
        return sorted(path for path in self.out.iterdir() if _PART_JOURNAL.fullmatch(path.name))

    def _check_others(self) -> None:
        """Raise DataError if another part has other settings or another number of parts."""
        mine = {**self.settings, "part": self.part[1]}
        for path in self._journals():
            try:
                settings = self._read_journal(path)
            except DataError:
                if not path.exists():
                    continue  # the parts have just been joined
                raise
            theirs = {**settings, "part": settings["part"][-1]}
            changed = _changed(theirs, mine)
            if changed:
                raise DataError(
                    f"{path} belongs to a part with other settings (that part, this one): {changed}; "
                    "all parts of a set need equal settings: choose another folder, or use those settings"
                )


def _changed(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, with both values."""
    return {key: (then.get(key), now.get(key)) for key in then | now if then.get(key) != now.get(key)}


class SplitWriter:
    """Writes one split and opens a new shard when the last one is full."""

    def __init__(self, job: Job, split: str, most_samples: int, most_bytes: int) -> None:
        self.job, self.split, self.most_samples, self.most_bytes = job, split, most_samples, most_bytes
        self.tar: tarfile.TarFile | None = None
        self.path = Path()
        self.samples: list[tuple[str, dict[str, Member]]] = []
        self.size = 0

    def write(self, key: str, fields: Mapping[str, bytes]) -> None:
        """Append a sample."""
        if self.tar is None:
            self.path = self.job.shard(self.split, len(self.job.closed.get(self.split, [])))
            self.tar = tarfile.open(self.path, "w", format=tarfile.USTAR_FORMAT, encoding="utf-8")  # noqa: SIM115  (closed in close)
            self.samples, self.size = [], 0
        members: dict[str, Member] = {}
        with naming_file(self.path):
            for name in sorted(fields):
                info = tarfile.TarInfo(f"{key}.{name}")  # no time, user or group, so the bytes are always the same
                info.size = len(fields[name])
                members[name] = Member(self.tar.offset + tarfile.BLOCKSIZE, info.size, zlib.crc32(fields[name]))
                self.tar.addfile(info, io.BytesIO(fields[name]))
                self.size += info.size
        self.samples.append((key, members))
        if len(self.samples) >= self.most_samples or self.size >= self.most_bytes:
            self.close()

    def close(self) -> None:
        """Finish the open shard, if any."""
        if self.tar is None:
            return
        with naming_file(self.path):
            self.tar.close()
        self.tar = None
        self.job.close_shard(self.split, ShardIndex(self.path.stat().st_size, tuple(self.samples), self.path.stem))

    def abandon(self) -> None:
        """Close the open shard without finishing it."""
        if self.tar is not None:
            with suppress(OSError):  # for example on a full disk; the file is removed anyway
                self.tar.close()
            self.tar = None
