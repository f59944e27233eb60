"""The tables of MIMIC-CXR-JPG: which images a study has, its split, and what CheXpert's labeller read in its report.

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
    images: list[XrayImage] = attrs.field(factory=list)
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


def read_studies(tables: Mapping[str, Path], account: Account) -> dict[tuple[str, str], Study]:
    """Every study of the split table, by subject and study, in that order.

    Args:
        tables: Files by kind: "split", "metadata" and, if need be, "chexpert".
        account: Receives the rows that do not fit.

    Raises:
        DataError: A table cannot be read or lacks a column, or a value is none of those that the data set has.
    """
    studies: dict[tuple[str, str], Study] = {}
    study_of_image = _read_splits(tables["split"], studies, account)
    _read_metadata(tables["metadata"], studies, study_of_image, account)
    if "chexpert" in tables:
        _read_findings(tables["chexpert"], studies, account)
    return dict(sorted(studies.items()))


def _read_splits(path: Path, studies: dict[tuple[str, str], Study], account: Account) -> dict[str, tuple[str, str]]:
    """Add every study with its split; return the study of each image."""
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
            "image of the split table is not in the metadata table, which knows its view", dicom_id, noun="row"
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
    """A date or a time as a number to sort by; infinite, hence last, where it is blank or no number."""
    try:
        number = float(text)
    except ValueError:
        return math.inf
    return number if math.isfinite(number) else math.inf
