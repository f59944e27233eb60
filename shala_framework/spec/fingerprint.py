"""Compute the fingerprint of a run from everything that its training depends on, and from nothing else."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FREE_TO_CHANGE = ("generate", "evaluate", "track", "refine")  # tables that may change between calls
FREE_STAGES = ("refiner",)  # keys of [train] that do not affect the other stages
FREE_DATA_KEYS = ("test", "cache", "cache_bytes", "max_field_bytes")  # keys of [data] that do not affect training


def fixed_part(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a spec.json without the parts that may change between two calls."""
    spec = {key: value for key, value in described["spec"].items() if key not in FREE_TO_CHANGE}
    spec["data"] = {key: value for key, value in spec["data"].items() if key not in FREE_DATA_KEYS}
    if "train" in spec:
        spec["train"] = {key: value for key, value in spec["train"].items() if key not in FREE_STAGES}
    return {"spec": spec, "stand_in_used": described["stand_in_used"]}


def run_fingerprint(described: Mapping[str, Any]) -> str:
    """Return a hash that is equal for all runs whose spec.json agrees in what training depends on.

    The order of modalities counts.
    """
    order = list(described["spec"]["modality"])
    return hashlib.sha256(json.dumps([fixed_part(described), order], sort_keys=True).encode()).hexdigest()[:32]
