"""The file of a run's folder that describes the run, and its shape."""

from pathlib import Path
from typing import Any, Final

from shala_framework.support.errors import CheckpointError
from shala_framework.support.json_files import read_json

SPEC_FILE: Final = "spec.json"
SPEC_SHAPE: Final[dict[str, Any]] = {"spec": {"data": dict, "modality": dict}, "stand_in_used": bool}


def recorded_profile(folder: Path) -> str | None:
    """Return the profile that the run of a folder was begun with; None if it has none, or if nothing can be read."""
    try:
        found = read_json(folder / SPEC_FILE, SPEC_SHAPE, error=CheckpointError, advice="")
    except (CheckpointError, OSError):
        return None
    name = found.get("profile")
    return name if isinstance(name, str) else None
