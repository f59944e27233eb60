"""The tables of MIMIC-CXR-JPG: each study's images, its split, and the findings of CheXpert's labeller.

Reference: Johnson et al. 2019, "MIMIC-CXR-JPG"; Irvin et al. 2019, "CheXpert" (the labeller).
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from shala_datasets.files import printable
from shala_datasets.tables import CsvTable, cell
from shala_framework.plugin import Account, DataError

NO_FINDING = "No Finding"
FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", NO_FINDING, "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
SPLITS = {"train": "train", "validate": "validation", "test": "test"}

_SUBJECT_OR_STUDY = re.compile(r"[0-9]{8}")
_DICOM = re.compile(r"[0-9A-Za-z]+(?:-[0-9A-Za-z]+)*")
_VALUES = {"1.0": 1, "1": 1, "0.0": 0, "0": 0, "-1.0": -1, "-1": -1}


@attrs.frozen(order=True)
class XrayImage:
    """One image of a study. Images sort by the time at which they were taken.

    Attributes:
        date: YYYYMMDD, shifted into the future by the owners; infinite if unknown.
        time: HHMMSS and fractions of a second; infinite if unknown.
        dicom_id: Name of the image file.
        view: ViewPosition in capitals, such as "PA", "AP", "LATERAL" or "LL"; may be empty.
    """

    date: float
    time: float
    dicom_id: str
    view: str


@attrs.define
class Study:
    """The tables' entries for one study.

    Attributes:
        split: "train", "validation" or "test".
        images: Images in order of the metadata table.
        findings: Finding to 1 (positive), 0 (negative) or -1 (uncertain); findings that are not mentioned have no
            entry.
    """

    split: str
    images: list[XrayImage] = attrs.field(factory=list)
    findings: dict[str, int] = attrs.field(factory=dict)

    def label(self, finding: str) -> str | None:
        """Return the class of the study for one finding.

        Every finding but "No Finding" gives "positive" or "negative", or None if it is uncertain or not mentioned. The
        labeller sets "No Finding" if it found nothing positive or uncertain other than support devices, and leaves it
        blank otherwise. Set, it gives "normal". A study with a positive finding other than support devices is
        "abnormal". The result is None if all findings are uncertain or none is mentioned.
        """
        if finding != NO_FINDING:
            return {1: "positive", 0: "negative"}.get(self.findings.get(finding, -1))
        if self.findings.get(NO_FINDING) == 1:
            return "normal"
        found = any(value == 1 for name, value in self.findings.items() if name != "Support Devices")
        return "abnormal" if found else None


def read_studies(tables: Mapping[str, Path], account: Account) -> dict[tuple[str, str], Study]:
    """Return every study of the split table, by subject and study, in that order.

    Args:
        tables: Files by kind: "split", "metadata" and, if needed, "chexpert".
        account: Records the rows that are left out.

    Raises:
        DataError: A table cannot be read or lacks a column, or a value is not one of the data set's.
    """
    studies: dict[tuple[str, str], Study] = {}
    study_of_image = _read_splits(tables["split"], studies, account)
    _read_metadata(tables["metadata"], studies, study_of_image, account)
    if "chexpert" in tables:
        _read_findings(tables["chexpert"], studies, account)
    return dict(sorted(studies.items()))


def _read_splits(path: Path, studies: dict[tuple[str, str], Study], account: Account) -> dict[str, tuple[str, str]]:
    """Add every study with its split, and return the study of each image."""
    table = CsvTable.open(path)
    table.require(("dicom_id", "study_id", "subject_id", "split"))
    study_of_image: dict[str, tuple[str, str]] = {}
    for line, row in table:
        where = f"{path.name} line {line}"
        dicom_id, key = row["dicom_id"], (row["subject_id"], row["study_id"])
        if not (_DICOM.fullmatch(dicom_id) and all(map(_SUBJECT_OR_STUDY.fullmatch, key))):
            account.leave_out(
                "expected ids such as 10000032 (subject), 50414267 (study) and an image's name", where, noun="row"
            )
            continue
        if row["split"] not in SPLITS:
            raise DataError(f"{printable(path)}, line {line}: expected {', '.join(SPLITS)}, got {row['split']!r}")
        split = SPLITS[row["split"]]
        study = studies.setdefault(key, Study(split))
        if study.split != split:
            raise DataError(
                f"{printable(path)}, line {line}: expected one split for all images of study {key[1]}, got "
                f"{study.split} and {split}"
            )
        if study_of_image.setdefault(dicom_id, key) is not key:
            account.leave_out("same image twice", where, noun="row")
    return study_of_image


def _read_metadata(
    path: Path,
    studies: dict[tuple[str, str], Study],
    study_of_image: Mapping[str, tuple[str, str]],
    account: Account,
) -> None:
    """Add the images to their studies."""
    table = CsvTable.open(path)
    table.require(("dicom_id", "ViewPosition", "StudyDate", "StudyTime"))
    unseen = dict(study_of_image)
    for line, row in table:
        key = unseen.pop(row["dicom_id"], None)
        if key is None:
            twice = row["dicom_id"] in study_of_image
            reason = "same image twice" if twice else "image is not in the split table"
            account.leave_out(reason, f"{path.name} line {line}", noun="row")
            continue
        view = cell(row["ViewPosition"]).upper()
        image = XrayImage(_number(row["StudyDate"]), _number(row["StudyTime"]), row["dicom_id"], view)
        studies[key].images.append(image)
    for dicom_id in unseen:
        account.leave_out(
            "image of the split table is not in the metadata table, which states its view", dicom_id, noun="row"
        )


def _read_findings(path: Path, studies: dict[tuple[str, str], Study], account: Account) -> None:
    """Add the findings to their studies."""
    table = CsvTable.open(path)
    table.require(("subject_id", "study_id", *FINDINGS))
    seen = set()
    for line, row in table:
        where, key = f"{path.name} line {line}", (row["subject_id"], row["study_id"])
        if key not in studies:
            account.leave_out("study is not in the split table", where, noun="row")
            continue
        if key in seen:
            account.leave_out("same study twice", where, noun="row")
            continue
        seen.add(key)
        for finding in FINDINGS:
            text = cell(row[finding])
            if text and text not in _VALUES:
                raise DataError(
                    f"{printable(path)}, line {line}: expected 1.0, 0.0, -1.0 or blank for {finding!r}, got {text!r}"
                )
            if text:
                studies[key].findings[finding] = _VALUES[text]


def _number(text: str) -> float:
    """Convert a date or a time to a number for sorting. Blank and invalid text gives infinity, which sorts last."""
    try:
        number = float(text)
    except ValueError:
        return math.inf
    return number if math.isfinite(number) else math.inf
