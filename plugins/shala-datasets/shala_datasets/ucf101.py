"""UCF101: 13,320 short clips of 101 actions, about half of them with sound, split by the published lists.

One field, avi, contains pictures and sound. The clips come as UCF101.rar and the lists as
UCF101TrainTestSplits-RecognitionTask.zip. Both may be unpacked anywhere below one folder.

Reference: Soomro, Zamir and Shah 2012, "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild".
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import attrs

from shala_datasets.files import check_folder, examples, lines_of, printable, read, read_or_leave_out, walk
from shala_datasets.splits import check_share, held_out
from shala_framework.plugin import Account, DataError, Dataset, Sample

LAYOUT = "clips named v_Class_gGG_cCC.avi, such as ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi, at any depth"
LISTS_URL = "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip"

_CLIP = re.compile(r"v_([A-Za-z]+)_g(\d{2})_c(\d{2})")
_LIST = re.compile(r"(classind|(?:train|test)list0[123])\.txt")
_LINE = re.compile(rf"([A-Za-z]+)/({_CLIP.pattern})\.avi(?: +(\d+))?")
_SPELLINGS = {"HandStandPushups": "HandstandPushups"}  # spelling in the clips' names to spelling in lists and folders


@attrs.frozen(order=True)
class Clip:
    """The parts of a clip's name. Clips of one class and group are cut from one video."""

    action: str
    group: int
    number: int

    @classmethod
    def parse(cls, stem: str) -> "Clip | None":
        """Parse a name v_Class_gGG_cCC, with the class spelt as in the lists; return None for other names."""
        match = _CLIP.fullmatch(stem)
        if match is None:
            return None
        action, group, number = match.groups()
        return cls(_SPELLINGS.get(action, action), int(group), int(number))

    def __str__(self) -> str:
        return f"v_{self.action}_g{self.group:02d}_c{self.number:02d}"


class UCF101(Dataset):
    """UCF101 as samples with the fields avi and json (class, group and clip), labelled with the class."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options for the splits.

        Attributes:
            split: Which of the three published divisions into training and test sets to use. "none" needs no lists and
                puts every clip into the training set.
            validation_share: Share of each class's training groups that are held out for validation, with all their
                clips. Above 0, at least one group of every class with two or more is held out.
        """

        split: Literal[1, 2, 3, "none"] = 1
        validation_share: float = attrs.field(default=0.05, validator=check_share)

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the clips in order of class, group and number. The account records what is left out.

        Args:
            source: Folder that contains clips and lists, at any depth.
            account: Receives notes and what is left out.

        Raises:
            DataError: The folder does not exist or lacks clips or the lists of the split, or a list is damaged.
        """
        source = check_folder(source, LAYOUT)
        clips, lists = _find(source, account)
        if not clips:
            raise DataError("\n".join([f"{source}: expected {LAYOUT}, got no such file", *account.notes]))
        splits = self._splits(source, clips, lists)
        splits |= dict.fromkeys(self._validation(splits), "validation")
        unlisted = [str(path.relative_to(source)) for clip, path in clips.items() if clip not in splits]
        for name in unlisted:
            account.leave_out(f"not in the lists of split {self.options.split}", name)
        absent = [str(clip) for clip in sorted(splits) if clip not in clips]
        if absent:
            account.note(f"{len(absent)} of {len(splits)} clips of the lists are absent: {examples(absent)}")
        chosen = sorted(clips.keys() & splits)
        if not chosen:
            raise DataError("\n".join([f"{source}: expected clips of the lists, got none", *account.notes]))
        for clip in (clip for clip in chosen if account.wanted(str(clip))):
            content = read_or_leave_out(clips[clip], source, account)
            if content is not None:
                fields = {"avi": content, "json": json.dumps(attrs.asdict(clip), sort_keys=True).encode()}
                yield Sample(key=str(clip), split=splits[clip], fields=fields, label=clip.action)

    def _splits(self, source: Path, clips: dict[Clip, Path], lists: dict[str, Path]) -> dict[Clip, str]:
        """Return the split of every clip in the lists, "train" or "test"; without lists, of every clip that exists."""
        if self.options.split == "none":
            return dict.fromkeys(clips, "train")
        names = {split: f"{split}list0{self.options.split}.txt" for split in ("train", "test")}
        absent = [name for name in names.values() if name not in lists]
        if absent:
            raise DataError(
                f"{source}: expected the published list {' and '.join(absent)} at any depth, got no such file; unpack "
                f'{LISTS_URL} there, or set split = "none", which puts every clip into the training set'
            )
        train, test = (_read_list(lists[name]) for name in names.values())
        both = sorted(train & test)
        if both:
            raise DataError(
                f"{source}: expected different clips in {' and '.join(names.values())}, got {both[0]} in both"
            )
        return dict.fromkeys(train, "train") | dict.fromkeys(test, "test")

    def _validation(self, splits: dict[Clip, str]) -> set[Clip]:
        """Return the training clips to hold out: the same share of groups in every class."""
        groups: dict[str, set[int]] = defaultdict(set)
        for clip, split in splits.items():
            if split == "train":
                groups[clip.action].add(clip.group)
        share = self.options.validation_share
        out = {action: held_out(of, share, f"ucf101 {action}") for action, of in groups.items()}
        return {clip for clip, split in splits.items() if split == "train" and clip.group in out[clip.action]}


def _find(source: Path, account: Account) -> tuple[dict[Clip, Path], dict[str, Path]]:
    """Return every clip, and every list by its lower-case name; the first in the order of paths if there are two."""
    clips: dict[Clip, Path] = {}
    lists: dict[str, Path] = {}
    for path in walk(source):
        name = str(path.relative_to(source))
        if _LIST.fullmatch(path.name.lower()):
            used = lists.setdefault(path.name.lower(), path)
        elif path.suffix.lower() != ".avi":
            account.leave_out("neither .avi nor a list of the splits", name)
            continue
        elif (clip := Clip.parse(path.stem)) is None:
            account.leave_out("name is not v_Class_gGG_cCC", name)
            continue
        else:
            used = clips.setdefault(clip, path)
        if used is not path:
            account.leave_out("same name twice", f"{name} (used: {used.relative_to(source)})")
    return clips, lists


def _read_list(path: Path) -> set[Clip]:
    """Read the clips of a list. Lines are `Class/v_Class_gGG_cCC.avi`, in training lists with the class's number."""
    clips = set()
    for number, line in enumerate(lines_of(read(path)), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        clip = Clip.parse(match[2]) if match else None
        if clip is None:
            raise DataError(
                f"{printable(path)}, line {number}: expected Class/v_Class_gGG_cCC.avi, got {line[:80]!r}; the list is "
                f"damaged: unpack it again from {LISTS_URL}"
            )
        clips.add(clip)
    if not clips:
        raise DataError(f"{printable(path)}: expected lines Class/v_Class_gGG_cCC.avi, got an empty file")
    return clips
