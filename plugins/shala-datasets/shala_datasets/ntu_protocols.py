"""Sample keys of NTU RGB+D and the published protocols that divide them into training and test sets.

No protocol publishes a validation set. Under every protocol, whole subjects of the training set are held out for it
here. Three cameras record each performance, so holding out single keys would put near copies of validation clips into
the training set.

Reference: Shahroudy et al. 2016, "NTU RGB+D" (60 actions); Liu et al. 2020, "NTU RGB+D 120".
"""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import attrs

from shala_datasets.splits import held_out

Protocol = Literal["cross-subject", "cross-setup", "cross-view", "none"]
PROTOCOLS: tuple[Protocol, ...] = ("cross-subject", "cross-setup", "cross-view", "none")
Version = Literal[60, 120]

NTU60_TRAIN_SUBJECTS = frozenset({1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38})
NTU120_TRAIN_SUBJECTS = NTU60_TRAIN_SUBJECTS | frozenset(
    {45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86, 89, 91, 92, 93, 94, 95}
    | {97, 98, 100, 103}
)
CROSS_VIEW_TRAIN_CAMERAS = frozenset({2, 3})
NUM_SUBJECTS: dict[Version, int] = {60: 40, 120: 106}
NUM_SETUPS: dict[Version, int] = {60: 17, 120: 32}
NUM_ACTIONS: dict[Version, int] = {60: 60, 120: 120}

_MISSING_SKELETONS = Path(__file__).with_name("ntu_missing_skeletons.txt")
_KEY = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})")


@attrs.frozen(order=True)
class NTUKey:
    """The parts of an NTU file name; all numbers start at 1.

    Attributes:
        setup: Camera height and distance, 1 to 32.
        camera: Camera number, 1 to 3.
        subject: Performer, 1 to 106.
        replication: Repetition, 1 or 2.
        action: Action number, 1 to 120.
    """

    setup: int
    camera: int
    subject: int
    replication: int
    action: int

    @classmethod
    def parse(cls, text: str) -> "NTUKey | None":
        """Parse a key written as SsssCcccPpppRrrrAaaa; return None for other text or a number out of range."""
        match = _KEY.fullmatch(text)
        if match is None:
            return None
        key = cls(*map(int, match.groups()))
        limits = (NUM_SETUPS[120], 3, NUM_SUBJECTS[120], 2, NUM_ACTIONS[120])
        inside = all(1 <= number <= limit for number, limit in zip(attrs.astuple(key), limits, strict=True))
        return key if inside else None

    def in_version(self, version: Version) -> bool:
        """Return whether the key belongs to NTU RGB+D (60) or to NTU RGB+D 120, which includes the former."""
        return self.setup <= NUM_SETUPS[version] and self.action <= NUM_ACTIONS[version]

    def __str__(self) -> str:
        return f"S{self.setup:03d}C{self.camera:03d}P{self.subject:03d}R{self.replication:03d}A{self.action:03d}"


def train_subjects(protocol: Protocol, version: Version) -> frozenset[int]:
    """Return the subjects that may appear in the training set, including validation subjects."""
    if protocol == "cross-subject":
        return NTU60_TRAIN_SUBJECTS if version == 60 else NTU120_TRAIN_SUBJECTS
    return frozenset(range(1, NUM_SUBJECTS[version] + 1))


def held_out_subjects(subjects: Iterable[int], share: float) -> frozenset[int]:
    """Return the validation subjects: the first training subjects in the order of a stable hash.

    Args:
        subjects: Subjects of the training set.
        share: Share of them to hold out, in [0, 1). Above 0, at least one subject is held out.
    """
    return held_out(subjects, share, "ntu subject")


def split_of(key: NTUKey, protocol: Protocol, version: Version, validation_subjects: frozenset[int]) -> str:
    """Return the split of a key: "train", "validation" or "test"."""
    if protocol == "none":
        return "train"
    if protocol == "cross-subject":
        in_train = key.subject in train_subjects(protocol, version)
    elif protocol == "cross-setup":
        in_train = key.setup % 2 == 0
    else:
        in_train = key.camera in CROSS_VIEW_TRAIN_CAMERAS
    if not in_train:
        return "test"
    return "validation" if key.subject in validation_subjects else "train"


@functools.cache
def missing_skeletons() -> frozenset[NTUKey]:
    """Return the samples that the owners list as having a missing or incomplete skeleton."""
    lines = _MISSING_SKELETONS.read_text(encoding="ascii").split("\n")
    keys = [NTUKey.parse(word) for line in lines if not line.startswith("#") for word in line.split()]
    assert None not in keys
    return frozenset(key for key in keys if key is not None)
