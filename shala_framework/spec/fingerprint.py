"""The name of a run: all that its training depends on, and nothing else."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FREE_TO_CHANGE = ("generate", "evaluate", "track", "refine")  # tables that a finished or stopped run may be given anew
FREE_STAGES = ("refiner",)  # of [train], on which the other stages do not depend
FREE_DATA_KEYS = ("test", "cache", "max_field_bytes")  # of [data], which training does not depend on


def fixed_part(described: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a spec.json without what may change between two calls."""
    spec = {key: value for key, value in described["spec"].items() if key not in FREE_TO_CHANGE}
    spec["data"] = {key: value for key, value in spec["data"].items() if key not in FREE_DATA_KEYS}
    if "train" in spec:
        spec["train"] = {key: value for key, value in spec["train"].items() if key not in FREE_STAGES}
    return {"spec": spec, "stand_in_used": described["stand_in_used"]}


def run_fingerprint(described: Mapping[str, Any]) -> str:
    """A name for all runs of what a spec.json holds that training depends on, the order of modalities included."""
    order = list(described["spec"]["modality"])
    return hashlib.sha256(json.dumps([fixed_part(described), order], sort_keys=True).encode()).hexdigest()[:32]
