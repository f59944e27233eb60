"""The file of a run's folder that describes the run, and its shape."""

from typing import Any, Final

SPEC_FILE: Final = "spec.json"
SPEC_SHAPE: Final[dict[str, Any]] = {"spec": {"data": dict, "modality": dict}, "stand_in_used": bool}
