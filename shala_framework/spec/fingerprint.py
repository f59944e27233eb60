"""Compute the fingerprint of a run from everything that its training depends on, and from nothing else."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from shala_framework.spec.later_keys import with_later_keys, without_later_keys
from shala_framework.spec.schema import Refine, Spec
from shala_framework.support.structuring import unstructure

FREE_TO_CHANGE = ("generate", "evaluate", "track", "refine")  # tables that may change between calls
FREE_STAGES = ("refiner",)  # keys of [train] that do not affect the other stages
FREE_DATA_KEYS = ("test", "cache", "cache_bytes", "max_field_bytes")  # keys of [data] that do not affect training


def fixed_part(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a spec.json without the parts that may change between two calls.

    Keys that are missing because an earlier version wrote the file are filled in.
    """
    spec = {key: value for key, value in with_later_keys(described["spec"]).items() if key not in FREE_TO_CHANGE}
    spec["data"] = {key: value for key, value in spec["data"].items() if key not in FREE_DATA_KEYS}
    if "train" in spec:
        spec["train"] = {key: value for key, value in spec["train"].items() if key not in FREE_STAGES}
    return {"spec": spec, "stand_in_used": described["stand_in_used"]}


def refiner_part(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a spec.json that stage 3 alone depends on; the keys of its sampler do not count."""
    spec = with_later_keys(described["spec"])
    refine = {key: value for key, value in spec["refine"].items() if key not in Refine.SAMPLING_KEYS}
    return {"spec": {"refine": refine, "train": {"refiner": spec["train"]["refiner"]}}}


def run_fingerprint(described: Mapping[str, Any]) -> str:
    """Return a hash that is equal for all runs whose spec.json agrees in what training depends on.

    The order of modalities counts.
    """
    order, part = list(described["spec"]["modality"]), fixed_part(described)
    part["spec"] = without_later_keys(part["spec"], Spec)
    return hashlib.sha256(json.dumps([part, order], sort_keys=True).encode()).hexdigest()[:32]


def refiner_fingerprint(spec: Spec) -> str:
    """Return a hash of what the state of stage 3 depends on and the fingerprint of a run does not.

    The keys of its sampler do not count: they may change while the stage is in training.
    """
    refine, stage = (without_later_keys(unstructure(table), type(table)) for table in (spec.refine, spec.train.refiner))
    tables = [{key: value for key, value in refine.items() if key not in spec.refine.SAMPLING_KEYS}, stage]
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]
