"""Interpret names in a folder of files: which files are not samples, and which folders are splits."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal

from shala_datasets.folder_table import SPLITS

_LONGEST_KEY = 80  # bytes; with a field's name below 100 characters, the limit of a tar header
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "__pycache__"}
_DESCRIBING = re.compile(
    r"(?:read[_-]?me(?:[-_. ].*)?|licen[cs]es?|copying|copyright|notice|changelog|authors|contributing|citation)",
    re.IGNORECASE,
)
_DOCUMENTS = {"bib", "cff", "htm", "html", "md", "pdf", "rst", "rtf", "txt"}


def left_by_a_system(path: Path) -> bool:
    """Return whether Windows, macOS or a file server left this file behind.

    Args:
        path: Path relative to the folder of samples.
    """
    folders = {part.lower() for part in path.parts[:-1]}
    return path.name.lower() in _SYSTEM_FILES or not folders.isdisjoint(_SYSTEM_FOLDERS)


def describes_the_set(stem: str, fields: Collection[str]) -> bool:
    """Return whether files are a README, a licence or similar: documents of such a name, and no others of that stem.

    Args:
        stem: Stem that the files share.
        fields: Extensions of the files.
    """
    documents = all(field.rpartition(".")[2] in _DOCUMENTS for field in fields)
    return documents and _DESCRIBING.fullmatch(stem.rpartition("/")[2]) is not None


def split_folders(folders: Iterable[Path], mode: Literal["auto", "yes", "no"]) -> dict[Path, str]:
    """Return the folders whose names define the split of the files below them.

    Args:
        folders: Folders that contain files, relative to the folder of samples.
        mode: "auto" requires at least two splits, including train, next to each other, because "train" alone may be a
            class. "yes" uses every folder of such a name, "no" none.

    Returns:
        Map from folder to split.
    """
    if mode == "no":
        return {}
    beside: dict[Path, dict[Path, str]] = defaultdict(dict)
    for folder in {path for holder in folders for path in (holder, *holder.parents)}:
        if folder.name.lower() in SPLITS:
            beside[folder.parent][folder] = SPLITS[folder.name.lower()]
    chosen: dict[Path, str] = {}
    for found in beside.values():
        if mode == "yes" or (len(set(found.values())) > 1 and "train" in found.values()):
            chosen |= found
    return chosen


def split_of(folder: Path, folders: Mapping[Path, str]) -> str | None:
    """Return the split of files in a folder, from the outermost folder that has one, or None."""
    return next((folders[path] for path in (*reversed(folder.parents), folder) if path in folders), None)


def safe_key(stem: str, taken: Collection[str]) -> str:
    """Return an unused key of letters and digits of any script, "_" and "-". A long or taken one ends in a hash.

    Letters are composed (NFC), as macOS stores "ü" as two characters, so that a set has the same keys on every system.

    Args:
        stem: Name of the sample.
        taken: Keys that are used.
    """
    name = unicodedata.normalize("NFC", stem.replace("/", "_"))
    key = "".join(c if c in "_-" or unicodedata.category(c)[0] in "LNM" else "-" for c in name)
    if key in taken or len(key.encode()) > _LONGEST_KEY:
        digest = hashlib.sha256(stem.encode(errors="surrogateescape")).hexdigest()[:12]
        key = f"{key.encode()[: _LONGEST_KEY - 13].decode(errors='ignore')}-{digest}"
    return key
