"""What names say in a folder of files: which files are no samples, and which folders are splits."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal

from shala_datasets.folder_table import SPLITS

_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
_SYSTEM_FOLDERS = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "__pycache__"}
_DESCRIBING = re.compile(
    r"(?:read[_-]?me(?:[-_. ].*)?|licen[cs]es?|copying|copyright|notice|changelog|authors|contributing|citation)",
    re.IGNORECASE,
)
_DOCUMENTS = {"bib", "cff", "htm", "html", "md", "pdf", "rst", "rtf", "txt"}


def left_by_a_system(path: Path) -> bool:
    """Whether a file is what Windows, macOS or a file server leaves beside others.

    Args:
        path: Relative to the folder of samples.
    """
    folders = {part.lower() for part in path.parts[:-1]}
    return path.name.lower() in _SYSTEM_FILES or not folders.isdisjoint(_SYSTEM_FOLDERS)


def describes_the_set(stem: str, fields: Collection[str]) -> bool:
    """Whether files are a README, a licence or the like: documents of such a name, and nothing else of that stem.

    Args:
        stem: What the files share.
        fields: Their extensions.
    """
    documents = all(field.rpartition(".")[2] in _DOCUMENTS for field in fields)
    return documents and _DESCRIBING.fullmatch(stem.rpartition("/")[2]) is not None


def split_folders(folders: Iterable[Path], mode: Literal["auto", "yes", "no"]) -> dict[Path, str]:
    """The folders that say by their name which split the files below them belong to.

    Args:
        folders: Those that hold files, relative to the folder of samples.
        mode: "auto" asks that at least two splits, train among them, lie side by side, as "train" alone may be a class;
            "yes" takes every folder of such a name, and "no" takes none.

    Returns:
        Folder to split.
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
    """The split of files in a folder: that of the outermost folder with one; None where there is none."""
    return next((folders[path] for path in (*reversed(folder.parents), folder) if path in folders), None)
