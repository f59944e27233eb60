"""MIMIC-CXR: chest X-rays of MIMIC-CXR-JPG and the reports of MIMIC-CXR, one sample per study.

Credentialed users download both from PhysioNet: MIMIC-CXR-JPG (images and tables) and mimic-cxr-reports.zip of
MIMIC-CXR. The folder must contain, up to six levels down, next to each other or merged into one tree,

    <any>/p10/p10000032/s50414267/<dicom_id>.jpg           images; `<any>` is `files` as published
    <any>/p10/p10000032/s50414267.txt                      reports; may be missing (option `reports`)
    <any>/mimic-cxr-2.0.0-{split,metadata,chexpert}.csv    tables, or .csv.gz

A part of the images or the reports, such as p10 alone, is enough.

Reference: Johnson et al. 2019, "MIMIC-CXR, a de-identified publicly available database of chest radiographs with
free-text reports"; Johnson et al. 2019, "MIMIC-CXR-JPG".
"""

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from shala_datasets.files import check_folder, count, listed, printable, read_or_leave_out, walk
from shala_datasets.mimic_cxr_tables import FINDINGS, NO_FINDING, Study, read_studies
from shala_framework.plugin import Account, DataError, Dataset, Sample, not_empty

LAYOUT = (
    "p10/p10000032/s50414267/<dicom_id>.jpg and p10/p10000032/s50414267.txt, in folders `files` up to six levels down"
)

_GROUP = re.compile(r"p1[0-9]")
_TABLE = re.compile(r"mimic-cxr-2\.[0-9]+\.[0-9]+-(split|metadata|chexpert)\.csv(?:\.gz)?")
_LEVELS = 6


def _check_finding(_: Any, __: Any, finding: str) -> None:
    if finding and finding not in FINDINGS:
        raise ValueError(f"expected one of {', '.join(FINDINGS)}, or nothing for no labels, got {finding!r}")


class MIMICCXR(Dataset):
    """MIMIC-CXR as samples with the fields jpg, txt (the whole report) and json; jpg or txt may be missing.

    The image is the first one, by date, time and name, that has a view in the options and a readable file. Field json
    has subject_id, study_id, dicom_id and view (null without an image) and the findings of CheXpert's labeller: 1
    positive, 0 negative, -1 uncertain, no entry if the report does not mention it.
    """

    @attrs.frozen(kw_only=True)
    class Options:
        """Options for images, reports and label.

        Attributes:
            views: Views to choose the image from, as in ViewPosition. "LATERAL" and "LL" are lateral views.
            finding: Finding that gives the label, "positive" or "negative", or no label if it is uncertain or not
                mentioned. "No Finding" gives "normal", or "abnormal" if any finding but support devices is positive. An
                empty string gives no labels and needs no CheXpert table.
            reports: Whether to include reports. Without them, a study without an image is not a sample.
        """

        views: tuple[str, ...] = attrs.field(default=("PA", "AP"), validator=not_empty)
        finding: str = attrs.field(default=NO_FINDING, validator=_check_finding)
        reports: bool = True

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the studies in order of subject and study, reading one patient's folder at a time.

        Args:
            source: Folder with the trees and tables, as described in the module.
            account: Receives notes and what is left out.

        Raises:
            DataError: The folder does not exist, lacks trees or necessary tables, has a damaged table, or gives no
                sample.
        """
        source = check_folder(source, LAYOUT)
        trees, tables = self._find(source, account)
        studies = read_studies(tables, account)
        self._check_views(studies)
        tally: Counter[str] = Counter()
        for subject_id, keys in itertools.groupby(studies, key=lambda key: key[0]):
            patient = _Patient(trees, subject_id, source, account)
            for key in keys:
                sample = self._sample(key, studies[key], patient, tally)
                if sample is None:
                    account.leave_out("neither image nor report", _name(key), noun="sample")
                else:
                    yield sample
            for name in sorted(str(path.relative_to(source)) for path in itertools.chain(*patient.files.values())):
                if self.options.reports or not name.endswith(".txt"):
                    account.leave_out("not in the split table", name)
        _leave_others(trees, source, {subject_id for subject_id, _ in studies}, account)
        if not tally["samples"]:
            raise DataError("\n".join([f"{source}: expected {LAYOUT}, got no file of a study", *account.notes]))
        self._note_missing(tally, account)

    def _find(self, source: Path, account: Account) -> tuple[list[Path], dict[str, Path]]:
        """Return the folders that contain p10 to p19, and the tables by kind; of several of a kind the first."""
        trees: list[Path] = []
        tables: dict[str, Path] = {}
        level = [source]
        for _ in range(_LEVELS + 1):
            folders: list[Path] = []
            for folder in level:
                inside = listed(folder)
                for path in inside:
                    match = _TABLE.fullmatch(path.name)
                    if match and tables.setdefault(match[1], path) is not path:
                        used = tables[match[1]].relative_to(source)
                        reason = f"another of its kind is used, {printable(used)}"
                        account.leave_out(reason, str(path.relative_to(source)), noun="table")
                below = [path for path in inside if path.is_dir()]
                if any(_GROUP.fullmatch(path.name) for path in below):
                    trees.append(folder)
                folders += [path for path in below if not _GROUP.fullmatch(path.name)]
            level = folders
        if not trees:
            raise DataError(f"{source}: expected {LAYOUT}, got no folder p10 to p19")
        cures = {
            "split": "it comes with MIMIC-CXR-JPG",
            "metadata": "it comes with MIMIC-CXR-JPG",
            "chexpert": 'it comes with MIMIC-CXR-JPG; or set finding = "" to pack without labels',
        }
        absent = [kind for kind in cures if kind not in tables and (kind != "chexpert" or self.options.finding)]
        if absent:
            wanted = "\n".join(f"mimic-cxr-2.0.0-{kind}.csv or .csv.gz ({cures[kind]})" for kind in absent)
            raise DataError(f"{source}: expected the tables next to the folders, found none named:\n{wanted}")
        return trees, tables

    def _check_views(self, studies: dict[tuple[str, str], Study]) -> None:
        """Refuse views that no image has, because the data set would consist of reports only."""
        views = Counter(image.view for study in studies.values() for image in study.images)
        if not any(view in views for view in self.options.views):
            there = ", ".join(f"{view or 'blank'} ({number})" for view, number in sorted(views.items())) or "none"
            raise DataError(f"expected images with a view of option views, {list(self.options.views)}, got {there}")

    def _sample(self, key: tuple[str, str], study: Study, patient: "_Patient", tally: Counter[str]) -> Sample | None:
        """Build the sample of a study, or return None if it has neither image nor report."""
        subject_id, study_id = key
        options = self.options
        facts: dict[str, Any] = {"subject_id": int(subject_id), "study_id": int(study_id)}
        facts |= {"dicom_id": None, "view": None, "findings": study.findings}
        fields: dict[str, bytes] = {}
        paths = {image: patient.take(f"s{study_id}/{image.dicom_id}.jpg") for image in sorted(study.images)}
        wanted = [image for image in paths if image.view in options.views]
        for image in wanted:
            if (content := patient.read(paths[image])) is not None:
                fields["jpg"] = content
                facts |= {"dicom_id": image.dicom_id, "view": image.view}
                break
        report = patient.take(f"s{study_id}.txt") if options.reports else []
        if (content := patient.read(report)) is not None:
            fields["txt"] = content
        if not fields:
            return None
        fields["json"] = json.dumps(facts, sort_keys=True).encode()
        label = study.label(options.finding) if options.finding else None
        tally.update(["samples", *fields])
        tally["unlabelled"] += label is None
        tally["no such view"] += not wanted
        tally["absent images"] += sum(not paths[image] for image in wanted)
        tally["further images"] += sum(map(bool, paths.values())) - ("jpg" in fields)
        return Sample(key=_name(key), split=study.split, fields=fields, label=label)

    def _note_missing(self, tally: Counter[str], account: Account) -> None:
        """Note how many samples lack a field or a label, and how many images are not part of a sample."""
        options, samples = self.options, count(tally["samples"], "sample")
        no_image, no_report = (tally["samples"] - tally[field] for field in ("jpg", "txt"))
        if no_image:
            views, rest = " or ".join(options.views), no_image - tally["no such view"]
            reasons = f"{tally['no such view']} with no {views} image, {rest} whose file is absent or unreadable"
            account.note(f"{no_image} of {samples} without jpg: {reasons}")
        if no_report and options.reports:
            account.note(f"{no_report} of {samples} without txt: the report is absent or unreadable")
        if tally["unlabelled"] and options.finding:
            account.note(f"{tally['unlabelled']} of {samples} without label: {options.finding!r} does not decide")
        if tally["absent images"]:
            account.note(f"{count(tally['absent images'], 'image')} in the tables without a file")
        if tally["further images"]:
            account.note(f"{count(tally['further images'], 'image')} not used: a sample has one image")


class _Patient:
    """The files of one patient in all trees. Files that no study has taken remain in `files`."""

    def __init__(self, trees: list[Path], subject_id: str, source: Path, account: Account) -> None:
        self.source, self.account = source, account
        self.files: dict[str, list[Path]] = defaultdict(list)
        for folder in (tree / f"p{subject_id[:2]}" / f"p{subject_id}" for tree in trees):
            for path in walk(folder) if folder.is_dir() else ():
                self.files[path.relative_to(folder).as_posix()].append(path)

    def take(self, name: str) -> list[Path]:
        """Remove and return the files with one name, such as s50414267.txt, one from each tree that has it."""
        return self.files.pop(name, [])

    def read(self, paths: list[Path]) -> bytes | None:
        """Return the content of the first readable file. Unreadable files are left out with the reason."""
        contents = (read_or_leave_out(path, self.source, self.account) for path in paths)
        return next((content for content in contents if content is not None), None)


def _leave_others(trees: list[Path], source: Path, subjects: set[str], account: Account) -> None:
    """Leave out everything in the trees except the folders of patients in the tables."""
    for group in (path for tree in trees for path in listed(tree) if _GROUP.fullmatch(path.name) and path.is_dir()):
        expected = {f"p{subject_id}" for subject_id in subjects if f"p{subject_id[:2]}" == group.name}
        for path in listed(group):
            if path.name not in expected:
                account.leave_out("no folder of a patient in the split table", str(path.relative_to(source)))


def _name(key: tuple[str, str]) -> str:
    """Return the sample key of a subject and a study."""
    return f"p{key[0]}-s{key[1]}"
