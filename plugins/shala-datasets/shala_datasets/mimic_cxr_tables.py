"""The tables of MIMIC-CXR-JPG: which images a study has, its split, and what CheXpert's labeller read in its report.

Reference: Johnson et al. 2019, "MIMIC-CXR-JPG"; Irvin et al. 2019, "CheXpert" (the labeller).
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from shala_datasets.files import LeftOut, printable
from shala_datasets.tables import Table, cell
from shala_framework.plugin import DataError

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
class Image:
    """One image of a study; images are in the order in which they were taken.

    Attributes:
        date: YYYYMMDD, shifted into the future by the owners; infinite where it is unknown.
        time: HHMMSS and fractions of a second; infinite where it is unknown.
        dicom_id: Name of its file.
        view: ViewPosition in capitals, such as "PA", "AP", "LATERAL" or "LL"; may be empty.
    """

    date: float
    time: float
    dicom_id: str
    view: str


@attrs.define
class Study:
    """What the tables say of one study.

    Attributes:
        split: "train", "validation" or "test".
        images: In the order of the metadata table.
        findings: 1 (positive), 0 (negative) or -1 (uncertain) by finding, without those not mentioned.
    """

    split: str
    images: list[Image] = attrs.field(factory=list)
    findings: dict[str, int] = attrs.field(factory=dict)

    def label(self, finding: str) -> str | None:
        """The class under one finding.

        Any finding but "No Finding" is "positive" or "negative"; None where it is uncertain or not mentioned. The
        labeller gives "No Finding" where it read nothing positive or uncertain, support devices apart, and otherwise
        leaves it blank. So that is "normal"; "abnormal" is a study with any positive finding but support devices; and
        None one whose findings are all uncertain, or whose report says nothing of any.
        """
        if finding != NO_FINDING:
            return {1: "positive", 0: "negative"}.get(self.findings.get(finding, -1))
        if self.findings.get(NO_FINDING) == 1:
            return "normal"
        found = any(value == 1 for name, value in self.findings.items() if name != "Support Devices")
        return "abnormal" if found else None


def read_studies(tables: Mapping[str, Path], rows_left_out: LeftOut) -> dict[tuple[str, str], Study]:
    """Every study of the split table, by subject and study, in that order.

    Args:
        tables: Files by kind: "split", "metadata" and, if need be, "chexpert".
        rows_left_out: Takes the rows that do not fit.

    Raises:
        DataError: A table cannot be read or lacks a column, or a value is none of those that the data set has.
    """
    studies: dict[tuple[str, str], Study] = {}
    study_of_image = _read_splits(tables["split"], studies, rows_left_out)
    _read_metadata(tables["metadata"], studies, study_of_image, rows_left_out)
    if "chexpert" in tables:
        _read_findings(tables["chexpert"], studies, rows_left_out)
    return dict(sorted(studies.items()))


def _read_splits(
    path: Path, studies: dict[tuple[str, str], Study], rows_left_out: LeftOut
) -> dict[str, tuple[str, str]]:
    """Add every study with its split; return the study of each image."""
    table = Table.open(path)
    table.require(("dicom_id", "study_id", "subject_id", "split"))
    study_of_image: dict[str, tuple[str, str]] = {}
    for line, row in table:
        where = f"{path.name} line {line}"
        dicom_id, key = row["dicom_id"], (row["subject_id"], row["study_id"])
        if not (_DICOM.fullmatch(dicom_id) and all(map(_SUBJECT_OR_STUDY.fullmatch, key))):
            rows_left_out.add("expected ids such as 10000032 (subject), 50414267 (study) and an image's name", where)
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
            rows_left_out.add("same image twice", where)
    return study_of_image


def _read_metadata(
    path: Path,
    studies: dict[tuple[str, str], Study],
    study_of_image: Mapping[str, tuple[str, str]],
    rows_left_out: LeftOut,
) -> None:
    """Add the images to their studies."""
    table = Table.open(path)
    table.require(("dicom_id", "ViewPosition", "StudyDate", "StudyTime"))
    unseen = dict(study_of_image)
    for line, row in table:
        key = unseen.pop(row["dicom_id"], None)
        if key is None:
            twice = row["dicom_id"] in study_of_image
            reason = "same image twice" if twice else "image is not in the split table"
            rows_left_out.add(reason, f"{path.name} line {line}")
            continue
        view = cell(row["ViewPosition"]).upper()
        image = Image(_number(row["StudyDate"]), _number(row["StudyTime"]), row["dicom_id"], view)
        studies[key].images.append(image)
    for dicom_id in unseen:
        rows_left_out.add("image of the split table is not in the metadata table, which knows its view", dicom_id)


def _read_findings(path: Path, studies: dict[tuple[str, str], Study], rows_left_out: LeftOut) -> None:
    """Add the findings to their studies."""
    table = Table.open(path)
    table.require(("subject_id", "study_id", *FINDINGS))
    seen = set()
    for line, row in table:
        where, key = f"{path.name} line {line}", (row["subject_id"], row["study_id"])
        if key not in studies:
            rows_left_out.add("study is not in the split table", where)
            continue
        if key in seen:
            rows_left_out.add("same study twice", where)
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
    """A date or a time as a number to sort by; infinite, hence last, where it is blank or no number."""
    try:
        number = float(text)
    except ValueError:
        return math.inf
    return number if math.isfinite(number) else math.inf
