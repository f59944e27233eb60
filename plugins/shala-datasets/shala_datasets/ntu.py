"""NTU RGB+D and NTU RGB+D 120 from a folder of raw files: skeleton files and RGB clips, paired by key.

The data set's licence forbids redistribution; its owners provide it to researchers on request. The archives may be
unpacked anywhere below one folder.

Reference: Shahroudy et al. 2016, "NTU RGB+D"; Liu et al. 2020, "NTU RGB+D 120".
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from shala_datasets.files import check_folder, count, examples, read, size, walk
from shala_datasets.ntu_actions import ACTION_NAMES, action_label
from shala_datasets.ntu_body_ids import id_changes
from shala_datasets.ntu_protocols import (
    PROTOCOLS,
    NTUKey,
    Protocol,
    Version,
    held_out_subjects,
    missing_skeletons,
    split_of,
    train_subjects,
)
from shala_datasets.splits import check_share
from shala_framework.plugin import Account, DataError, Dataset, Sample, between, each, not_empty

LAYOUT = (
    "files named SsssCcccPpppRrrrAaaa.skeleton and SsssCcccPpppRrrrAaaa_rgb.avi, such as "
    "S001C001P001R001A001.skeleton, at any depth"
)


def _check_protocol(options: Any, _: Any, protocol: str) -> None:
    if protocol not in PROTOCOLS:
        raise ValueError(f"expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if protocol == "cross-view" and options.version != 60:
        raise ValueError("expected version = 60 with cross-view, which is not defined for NTU RGB+D 120, got 120")


def _check_version(_: Any, __: Any, version: int) -> None:
    if version not in (60, 120):
        raise ValueError(f"expected 60 or 120, got {version!r}")


class NTU(Dataset):
    """NTU RGB+D as samples with the fields skeleton, avi and json. One of the first two may be missing."""

    @attrs.frozen(kw_only=True)
    class Options:
        """Options for the part of the data set and its splits.

        Attributes:
            version: 120 for NTU RGB+D 120, or 60 for NTU RGB+D with its setups 1 to 17 and actions 1 to 60.
            protocol: Published division into training and test sets. "cross-view" exists for version 60 only. "none"
                puts everything into the training set.
            validation_share: Share of the training subjects that are held out for validation, with all their samples.
            cameras: Cameras whose samples are used.
            listed_skeletons: Whether to keep the skeletons that the owners list as missing or incomplete and recommend
                leaving out (302 of version 60, 535 of 120). Their RGB clips are kept in any case.
        """

        version: Version = attrs.field(default=120, validator=_check_version)
        protocol: Protocol = attrs.field(default="cross-subject", validator=_check_protocol)
        validation_share: float = attrs.field(default=0.05, validator=check_share)
        cameras: tuple[int, ...] = attrs.field(default=(1, 2, 3), validator=[not_empty, each(between(1, 3))])
        listed_skeletons: bool = False

    options: Options

    def samples(self, source: Path | None, account: Account) -> Iterator[Sample]:
        """Yield the samples in order of their keys. The account records files that are left out.

        Args:
            source: Folder that contains the raw files, at any depth.
            account: Receives notes and what is left out.

        Raises:
            DataError: The folder does not exist or has no file of the data set, or a file cannot be read.
        """
        source = check_folder(source, LAYOUT)
        files = self._selected(source, self._find(source, account), account)
        options = self.options
        validation = held_out_subjects(train_subjects(options.protocol, options.version), options.validation_share)
        changing: list[str] = []
        for key in (key for key in sorted(files) if account.wanted(str(key))):
            fields = {extension: read(path) for extension, path in sorted(files[key].items())}
            if id_changes(fields.get("skeleton", b"")):
                changing.append(str(key))
            facts = attrs.asdict(key) | {"action_name": ACTION_NAMES[key.action - 1]}
            fields["json"] = json.dumps(facts, sort_keys=True).encode()
            split = split_of(key, options.protocol, options.version, validation)
            yield Sample(key=str(key), split=split, fields=fields, label=action_label(key.action))
        if changing:
            account.note(
                f"{count(len(changing), 'skeleton')} with body ids that never overlap in time; ids that follow each "
                f"other in one place are joined: {examples(changing)}"
            )

    def _find(self, source: Path, account: Account) -> dict[NTUKey, dict[str, Path]]:
        """Return every usable file by key and field. Other files are noted with the reason."""
        files: dict[NTUKey, dict[str, Path]] = defaultdict(dict)
        for path in walk(source):
            name = str(path.relative_to(source))
            field = path.suffix[1:].lower()
            if field not in ("skeleton", "avi"):
                account.leave_out("neither .skeleton nor .avi", name)
                continue
            key = NTUKey.parse(path.stem.removesuffix("_rgb") if field == "avi" else path.stem)
            if key is None:
                account.leave_out("name is not SsssCcccPpppRrrrAaaa with numbers of NTU RGB+D 120", name)
            elif size(path) == 0:
                account.leave_out("empty file", name)
            elif field in files[key]:
                account.leave_out("same key twice", f"{name} (used: {files[key][field].relative_to(source)})")
            else:
                files[key][field] = path
        found = {key: fields for key, fields in files.items() if fields}
        if not found:
            raise DataError("\n".join([f"{source}: expected {LAYOUT}, got no such file", *account.notes]))
        return found

    def _selected(
        self, source: Path, files: dict[NTUKey, dict[str, Path]], account: Account
    ) -> dict[NTUKey, dict[str, Path]]:
        """Return the files that the options select. The number of others is noted."""
        options = self.options
        inside = {key: fields for key, fields in files.items() if key.in_version(options.version)}
        if len(inside) < len(files):
            outside = count(len(files) - len(inside), "key")
            account.note(f"{outside} left out, not in version {options.version} (setups 1 to 17, actions 1 to 60)")
        seen = {key: fields for key, fields in inside.items() if key.camera in options.cameras}
        if len(seen) < len(inside):
            cameras = ", ".join(map(str, options.cameras))
            account.note(f"{count(len(inside) - len(seen), 'key')} left out, camera is not {cameras}")
        seen = seen if options.listed_skeletons else self._without_listed(source, seen, account)
        if not seen:
            raise DataError("\n".join([f"{source}: expected keys that the options select, got none", *account.notes]))
        for field in ("skeleton", "avi"):
            missing = sum(field not in fields for fields in seen.values())
            if missing:
                account.note(f"{missing} of {count(len(seen), 'sample')} without {field}")
        return seen

    def _without_listed(
        self, source: Path, files: dict[NTUKey, dict[str, Path]], account: Account
    ) -> dict[NTUKey, dict[str, Path]]:
        """Return the files without the skeletons on the owners' list. Each of these is noted."""
        listed = missing_skeletons()
        for key, fields in files.items():
            if key in listed and "skeleton" in fields:
                reason = "on NTU's list of samples with missing or incomplete skeletons (option listed_skeletons)"
                account.leave_out(reason, str(fields["skeleton"].relative_to(source)), noun="skeleton")
        kept = {
            key: {field: path for field, path in fields.items() if field != "skeleton" or key not in listed}
            for key, fields in files.items()
        }
        return {key: fields for key, fields in kept.items() if fields}
