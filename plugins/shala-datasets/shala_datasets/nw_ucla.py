"""Northwestern-UCLA Multiview Action 3D: skeletons of ten actions, seen from three sides, with the action's name.

The plugin reads the JSON files, one per sequence, that papers of the field share.

Reference: Wang et al. 2014, "Cross-view action modeling, learning and recognition".
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np

from shala_datasets.archives import files_in
from shala_datasets.files import check_folder, count, printable
from shala_framework.plugin import Account, DataError, Dataset, Sample, between, each

ACTIONS = {
    1: "pick up with one hand",
    2: "pick up with two hands",
    3: "drop trash",
    4: "walk around",
    5: "sit down",
    6: "stand up",
    8: "donning",
    9: "doffing",
    11: "throw",
    12: "carry",
}
NUM_SUBJECTS, NUM_JOINTS = 10, 20
LAYOUT = (
    "nw_ucla/ with files such as all_sqe/a01_s01_e00_v01.json or a tar archive of them "
    "(github.com/Uason-Chen/CTR-GCN says where to get them)"
)
_NAME = re.compile(r"a(\d\d)_s(\d\d)_e(\d\d)_v(\d\d)\.json", re.ASCII)
_TEST_VIEW = 3
_LARGEST = 32_000_000  # bytes; a sequence has some hundred thousand
_FARTHEST = 100.0  # metres; a Kinect sees a tenth of it


def _check_subjects(_: object, __: object, subjects: tuple[int, ...]) -> None:
    if len(set(subjects)) >= NUM_SUBJECTS:
        raise ValueError(f"expected some of the {NUM_SUBJECTS} subjects to be left for training, got {subjects!r}")


class NWUCLA(Dataset):
    """NW-UCLA as samples with the fields skeleton.json (the original file: [T, 20, 3], metres) and txt (the action)."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options for the splits: views 1 and 2 are for training, view 3 for testing, as published.

        Attributes:
            validation_subjects: Subjects whose sequences in views 1 and 2 are for validation, so both views of a
                performance are in the same split. View 3 tests on every subject.
        """

        validation_subjects: tuple[int, ...] = attrs.field(
            default=(10,), validator=[each(between(1, NUM_SUBJECTS)), _check_subjects]
        )

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples in order of their keys, such as "a01_s01_e00_v01".

        Args:
            source: Folder that contains nw_ucla/, or the files themselves.
            account: Receives notes and what is left out.

        Raises:
            DataError: The folder does not exist, has no sequence, or its archive is damaged.
        """
        source = check_folder(source, LAYOUT)
        place = source / "nw_ucla" if (source / "nw_ucla").is_dir() else source
        num_samples, num_still = 0, 0
        for name, content in files_in(place, ".json", account):
            match = _NAME.fullmatch(name)
            action, subject, _, view = map(int, match.groups()) if match else (0, 0, 0, 0)
            if action not in ACTIONS or not 1 <= subject <= NUM_SUBJECTS or not 1 <= view <= _TEST_VIEW:
                account.leave_out("name is not aNN_sNN_eNN_vNN.json with numbers of NW-UCLA", name)
                continue
            num_frames, problem = check_sequence(content)
            if problem:
                account.leave_out(problem, name)
                continue
            num_samples += 1
            num_still += num_frames == 1
            held = subject in self.options.validation_subjects
            yield Sample(
                key=name.removesuffix(".json"),
                split="test" if view == _TEST_VIEW else "validation" if held else "train",
                fields={"skeleton.json": content, "txt": ACTIONS[action].encode()},
                label=ACTIONS[action],
            )
        if not num_samples:
            raise DataError("\n".join([f"{printable(place)}: expected {LAYOUT}, got no sequence", *account.notes]))
        if num_still:
            account.note(f"{count(num_still, 'sequence')} of a single frame kept")


def check_sequence(content: bytes) -> tuple[int, str]:
    """Check one file.

    Returns:
        Number of frames, and the problem with the file or an empty string.
    """
    if len(content) > _LARGEST:
        return 0, f"more than {_LARGEST} bytes"
    try:
        joints = np.asarray(json.loads(content)["skeletons"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return 0, 'not a JSON object with lists of numbers [frames, joints, coordinates] under "skeletons"'
    if joints.ndim != 3 or not len(joints) or joints.shape[1:] != (NUM_JOINTS, 3) or joints.dtype.kind not in "fi":
        return 0, f'"skeletons" does not have the shape [frames, {NUM_JOINTS}, 3]'
    if not (np.abs(joints.astype(np.float64)) < _FARTHEST).all():
        return 0, f"coordinates are not finite or beyond {_FARTHEST:g} metres"
    return len(joints), ""
