"""MIMIC-CXR: the image and report of a sample, labels, layouts, and notes about what is left out."""

import csv
import gzip
import itertools
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest
from shala_datasets import MIMICCXR
from shala_datasets.mimic_cxr_tables import FINDINGS, Study

from shala_framework.plugin import Account, DataError, Sample

DATA = Path(os.environ.get("SHALA_DATA", Path(__file__).parents[3] / "../shared/data")).resolve()
XRAYS, REPORTS = DATA / "covid_cxr_notes/images256", DATA / "iu_xray_reports/indiana_reports.csv"
COLUMNS = {
    "split": ("dicom_id", "study_id", "subject_id", "split"),
    "metadata": (
        "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
        "StudyDate", "StudyTime",
    ),
    "chexpert": ("subject_id", "study_id", *FINDINGS),
}  # fmt: skip


@attrs.frozen
class Picture:
    """An image of the miniature: name, view, time, and content (None for a file that is absent)."""

    dicom_id: str
    view: str = "PA"
    time: str = "120000.0"
    content: bytes | None = b"jpg"
    date: str = "21800506"


@attrs.frozen
class Visit:
    """A study of the miniature."""

    subject: str
    study: str
    images: tuple[Picture, ...]
    split: str = "train"
    report: bytes | None = b"FINDINGS: clear."
    findings: dict[str, str] = attrs.field(factory=lambda: {"No Finding": "1.0"})

    @property
    def folder(self) -> str:
        """Below `files`."""
        return f"p{self.subject[:2]}/p{self.subject}/s{self.study}"


def write_table(root: Path, kind: str, rows: Iterable[dict[str, str]], zipped: bool = False) -> Path:
    """A table with the columns of the original."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"mimic-cxr-2.0.0-{kind}.csv{'.gz' if zipped else ''}"
    with (gzip.open if zipped else open)(path, "wt", newline="") as file:  # type: ignore[operator]
        writer = csv.DictWriter(file, COLUMNS[kind], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def build(images: Path, reports: Path, visits: Iterable[Visit], zipped: bool = False) -> None:
    """The published trees: images and tables in one root, reports in another or the same."""
    split: list[dict[str, str]] = []
    metadata, chexpert = list(split), list(split)
    for visit in visits:
        ids = {"subject_id": visit.subject, "study_id": visit.study}
        chexpert.append(ids | visit.findings)
        for image in visit.images:
            row = ids | {"dicom_id": image.dicom_id}
            split.append(row | {"split": visit.split})
            metadata.append(
                row | {"ViewPosition": image.view, "StudyDate": image.date, "StudyTime": image.time, "Rows": "3056"}
            )
            if image.content is not None:
                path = images / "files" / visit.folder / f"{image.dicom_id}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image.content)
        if visit.report is not None:
            path = reports / "files" / f"{visit.folder}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(visit.report)
    for kind, rows in (("split", split), ("metadata", metadata), ("chexpert", chexpert)):
        write_table(images, kind, rows, zipped)


def read(root: Path, **options: object) -> tuple[dict[str, Sample], list[str]]:
    """Samples by key, and notes."""
    dataset = MIMICCXR(MIMICCXR.Options(**options))  # type: ignore[arg-type]
    account = Account()
    return {sample.key: sample for sample in dataset.samples(root, account)}, account.notes


TWO = (
    Visit("11000011", "50000003", (Picture("e5", "AP", content=b"ap"),), "test", b"IMPRESSION: effusion.",
          {"Pleural Effusion": "1.0", "Edema": "-1.0"}),
    Visit("10000032", "50414267", (
        Picture("a1", "LATERAL", "80000.0"), Picture("b2", "PA", "213014.531"),
        Picture("c3", "AP", "91500.25", b"first"), Picture("d4", "PA", "91500.25"),
    ), "validate"),
)  # fmt: skip


def test_a_study_is_its_earliest_frontal_image_and_its_report(tmp_path: Path) -> None:
    """Studies come by patient; views and times choose the image, 09:15 before 21:30; json says which; labels follow."""
    build(tmp_path, tmp_path, TWO)
    samples, notes = read(tmp_path)
    assert list(samples) == ["p10000032-s50414267", "p11000011-s50000003"]
    first, second = samples.values()
    assert (first.split, first.label, second.split, second.label) == ("validation", "normal", "test", "abnormal")
    assert (first.fields["jpg"], first.fields["txt"]) == (b"first", b"FINDINGS: clear.")
    assert json.loads(first.fields["json"]) == {
        "subject_id": 10000032, "study_id": 50414267, "dicom_id": "c3", "view": "AP", "findings": {"No Finding": 1},
    }  # fmt: skip
    assert json.loads(second.fields["json"])["findings"] == {"Pleural Effusion": 1, "Edema": -1}
    assert notes == ["3 images not used: a sample has one image"]
    lateral, _ = read(tmp_path, views=("LATERAL",))
    assert json.loads(lateral["p10000032-s50414267"].fields["json"])["dicom_id"] == "a1"
    effusion, _ = read(tmp_path, finding="Pleural Effusion")
    assert [sample.label for sample in effusion.values()] == [None, "positive"]


@pytest.mark.parametrize(
    ("images", "reports"), [("", ""), ("mimic-cxr-jpg/2.1.0", "mimic-cxr-reports"), ("a/b/c/d/e", "physionet.org/z")]
)
def test_layouts_give_the_same_samples(tmp_path: Path, images: str, reports: str) -> None:
    """One tree or two, deep or not, plain tables or gzipped: the samples are the same."""
    build(tmp_path / "one", tmp_path / "one", TWO)
    build(tmp_path / "two" / images, tmp_path / "two" / reports, TWO, zipped=True)
    assert read(tmp_path / "two") == read(tmp_path / "one")


def test_what_is_missing_or_unlisted_is_noted(tmp_path: Path) -> None:
    """A study may lack image or report but not both; an unreadable image gives way to the next; nothing is silent."""
    visits = [
        Visit("10000001", "50000001", (Picture("a1", "LATERAL"), Picture("a2", "LL"))),
        Visit(
            "10000001", "50000002", (Picture("b1", time="10", content=b""), Picture("b2", time="20", content=b"next"))
        ),
        Visit("10000002", "50000003", (Picture("c1", content=None),), report=None),
        Visit("10000002", "50000004", (Picture("d1"),), report=None, findings={}),
        Visit(
            "10000003", "50000005", (Picture("e1", content=None), Picture("e2", time="", date="", content=b"no time"))
        ),
    ]
    build(tmp_path, tmp_path, visits)
    files = tmp_path / "files/p10"
    (files / "p10000001/s50000001/zz.jpg").write_bytes(b"unlisted")
    (files / "p10000001/index.html").write_bytes(b"unlisted")
    (files / "p10999999").mkdir()
    samples, notes = read(tmp_path)
    assert {key: sorted(sample.fields) for key, sample in samples.items()} == {
        "p10000001-s50000001": ["json", "txt"],
        "p10000001-s50000002": ["jpg", "json", "txt"],
        "p10000002-s50000004": ["jpg", "json"],
        "p10000003-s50000005": ["jpg", "json", "txt"],
    }
    assert samples["p10000001-s50000002"].fields["jpg"] == b"next"
    assert samples["p10000003-s50000005"].fields["jpg"] == b"no time"
    assert json.loads(samples["p10000001-s50000001"].fields["json"])["dicom_id"] is None
    assert notes == [
        "1 file left out, empty file: files/p10/p10000001/s50000002/b1.jpg",
        "2 files left out, not in the split table: "
        "files/p10/p10000001/index.html, files/p10/p10000001/s50000001/zz.jpg",
        "1 sample left out, neither image nor report: p10000002-s50000003",
        "1 file left out, no folder of a patient in the split table: files/p10/p10999999",
        "1 of 4 samples without jpg: 1 with no PA or AP image, 0 whose file is absent or unreadable",
        "1 of 4 samples without txt: the report is absent or unreadable",
        "1 of 4 samples without label: 'No Finding' does not decide",
        "1 image in the tables without a file",
        "3 images not used: a sample has one image",
    ]
    images_only, notes = read(tmp_path, reports=False, finding="")
    assert list(images_only) == list(samples)[1:]
    assert not any("txt" in sample.fields or sample.label for sample in images_only.values())
    assert not any("txt" in note or "label" in note for note in notes)


@pytest.mark.parametrize(
    ("findings", "finding", "label"),
    [
        ({"No Finding": 1, "Support Devices": 1}, "No Finding", "normal"),
        ({"Edema": 1, "Pneumonia": -1}, "No Finding", "abnormal"),
        ({"Edema": -1, "Pneumonia": 0}, "No Finding", None),
        ({"Support Devices": 1}, "No Finding", None),
        ({}, "No Finding", None),
        ({"Edema": 1}, "Edema", "positive"),
        ({"Edema": 0}, "Edema", "negative"),
        ({"Edema": -1}, "Edema", None),
        ({"No Finding": 1}, "Edema", None),
    ],
)
def test_labels_follow_the_documented_rule(findings: dict[str, int], finding: str, label: str | None) -> None:
    """Uncertain and not mentioned give no label; "abnormal" needs a positive finding other than support devices."""
    assert Study("train", findings=findings).label(finding) == label


def test_odd_rows_are_left_out_with_their_lines(tmp_path: Path) -> None:
    """Ids that would lead out of the tree, rows twice, and rows that one table has and another has not."""
    build(tmp_path, tmp_path, TWO)
    rows = [
        {"dicom_id": "../../../x", "subject_id": "10000032", "study_id": "50414267", "split": "train"},
        {"dicom_id": "x", "subject_id": "../..", "study_id": "50414267", "split": "train"},
        {"dicom_id": "e5", "subject_id": "11000011", "study_id": "50000003", "split": "test"},
        {"dicom_id": "e5", "subject_id": "11000011", "study_id": "50000003", "split": "test"},
        {"dicom_id": "lost", "subject_id": "11000011", "study_id": "50000003", "split": "test"},
    ]
    write_table(tmp_path, "split", rows)
    samples, notes = read(tmp_path)
    assert list(samples) == ["p11000011-s50000003"]
    assert notes[:4] == [
        "2 rows left out, expected ids such as 10000032 (subject), 50414267 (study) and an image's name: "
        "mimic-cxr-2.0.0-split.csv line 2, mimic-cxr-2.0.0-split.csv line 3",
        "1 row left out, same image twice: mimic-cxr-2.0.0-split.csv line 5",
        "4 rows left out, image is not in the split table: mimic-cxr-2.0.0-metadata.csv line 3, "
        "mimic-cxr-2.0.0-metadata.csv line 4, mimic-cxr-2.0.0-metadata.csv line 5, mimic-cxr-2.0.0-metadata.csv line 6",
        "1 row left out, image of the split table is not in the metadata table, which states its view: lost",
    ]
    assert "1 row left out, study is not in the split table: mimic-cxr-2.0.0-chexpert.csv line 3" in notes


def test_wrong_folders_and_tables_are_errors_with_the_cure(tmp_path: Path) -> None:
    """No tree, absent or damaged tables, unknown values and views: each error says what was expected."""

    def refused(message: str, **options: object) -> None:
        with pytest.raises(DataError, match=message):
            read(tmp_path, **options)

    refused("expected p10/p10000032/.*got no folder p10 to p19")
    build(tmp_path, tmp_path, TWO)
    refused(r"views, \['FRONTAL'\], got AP \(2\), LATERAL \(1\), PA \(2\)", views=("FRONTAL",))
    ids = {"subject_id": "10000032", "study_id": "50414267"}
    write_table(tmp_path, "chexpert", [ids | {"Edema": "nan", "No Finding": "NA", "Fracture": "1.0"}])
    assert json.loads(read(tmp_path)[0]["p10000032-s50414267"].fields["json"])["findings"] == {"Fracture": 1}
    chexpert = write_table(tmp_path, "chexpert", [ids | {"Edema": "yes"}])
    refused("line 2: expected 1.0, 0.0, -1.0 or blank for 'Edema', got 'yes'")
    chexpert.write_text("subject_id,study_id,Oedema\n")
    refused(r"expected columns 'Atelectasis', [\s\S]*, got the columns 'subject_id', 'study_id', 'Oedema'")
    chexpert.unlink()
    refused(r"mimic-cxr-2.0.0-chexpert.csv or .csv.gz .*set finding = \"\"")
    assert len(read(tmp_path, finding="")[0]) == 2
    split = tmp_path / "mimic-cxr-2.0.0-split.csv"
    text = split.read_text()
    split.write_text(text.replace("validate", "val"))
    refused("line 3: expected train, validate, test, got 'val'", finding="")
    split.write_text(text.replace("validate", "test", 1))
    refused("expected one split for all images of study 50414267, got test and validation", finding="")
    split.unlink()
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(gzip.compress(text.encode())[:-20])
    refused(r"mimic-cxr-2.0.0-split.csv.gz: cannot read the table", finding="")
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    refused(r"found none named:\nmimic-cxr-2.0.0-split.csv or .csv.gz \(it comes with MIMIC-CXR-JPG\)$", finding="")
    split.write_text(text)
    shutil.rmtree(tmp_path / "files")
    (tmp_path / "files/p10").mkdir(parents=True)
    refused("got no file of a study\n2 samples left out, neither image nor report", finding="")
    with pytest.raises(ValueError, match=r"expected one of Atelectasis, .* got 'Effusion'"):
        MIMICCXR.Options(finding="Effusion")


def test_one_patient_is_read_at_a_time(tmp_path: Path) -> None:
    """What happens to the files of a later patient shows: nothing was read ahead."""
    build(tmp_path, tmp_path, TWO)
    samples = MIMICCXR(MIMICCXR.Options()).samples(tmp_path, Account())
    assert next(samples).fields["jpg"] == b"first"
    (tmp_path / "files/p11/p11000011/s50000003/e5.jpg").write_bytes(b"later")
    assert next(samples).fields["jpg"] == b"later"


@pytest.mark.real_data
@pytest.mark.skipif(not XRAYS.is_dir() or not REPORTS.is_file(), reason=f"no real X-rays and reports at {DATA}")
def test_real_xrays_and_reports_in_the_published_trees(tmp_path: Path) -> None:
    """Forty real X-rays and reports, trees side by side and tables gzipped, come back byte for byte."""
    with REPORTS.open(newline="", encoding="utf-8") as file:
        rows = list(itertools.islice((row for row in csv.DictReader(file) if row["findings"]), 40))
    visits = [
        Visit(
            subject=f"1{number % 10}{number // 3:06d}",
            study=f"5{number:07d}",
            images=(Picture(f"{number:08x}-0a0b0c0d", content=path.read_bytes()),),
            split=("train", "train", "validate", "test")[number % 4],
            report=f" FINAL REPORT\n FINDINGS:  {row['findings']}\n IMPRESSION: {row['impression']}\n".encode(),
            findings={"No Finding": "1.0"} if row["MeSH"] == "normal" else {"Lung Opacity": "1.0"},
        )
        for number, (path, row) in enumerate(zip(sorted(XRAYS.iterdir()), rows, strict=False))
    ]
    build(tmp_path / "mimic-cxr-jpg", tmp_path / "mimic-cxr-reports", visits, zipped=True)
    samples, notes = read(tmp_path)
    assert not notes
    assert list(samples) == sorted(f"p{visit.subject}-s{visit.study}" for visit in visits)
    for visit in visits:
        sample = samples[f"p{visit.subject}-s{visit.study}"]
        assert (sample.fields["jpg"], sample.fields["txt"]) == (visit.images[0].content, visit.report)
        assert sample.label == ("normal" if "No Finding" in visit.findings else "abnormal")
    assert {sample.label for sample in samples.values()} == {"normal", "abnormal"}
