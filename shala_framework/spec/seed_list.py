"""A list of seeds in a spec, `seed = [0, 1, 2]`, which `shala sweep` runs one after another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli

from shala_framework.plugin.options import each, not_empty
from shala_framework.spec.lines import key_lines
from shala_framework.spec.overrides import parse_override
from shala_framework.spec.schema import Spec
from shala_framework.spec.toml import LimitError, parse_toml
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.structuring import InvalidValueError, format_path, structure


def _different(_: Any, __: Any, seeds: Sequence[int]) -> None:
    for place, seed in enumerate(seeds):
        if seed in seeds[:place]:
            raise ValueError(f"expected every seed once, got {seed} twice")


@attrs.frozen(kw_only=True)
class _SeedList:
    seed: tuple[int, ...] = attrs.field(
        validator=[not_empty, each(attrs.fields(Spec).seed.validator), _different]  # type: ignore[arg-type]
    )


def seeds_to_sweep(path: Path, texts: Sequence[str]) -> list[str]:
    """Return what a spec's list of seeds adds to the keys of a sweep: `seed=0,1,2`, or nothing.

    Args:
        path: The TOML file.
        texts: Keys that the sweep has already, each as `KEY=VALUE,VALUE`. A seed among them takes precedence.

    Raises:
        SpecError: The spec has a list with something else than different seeds.
    """
    if any(parse_override(text).path == ("seed",) for text in texts):
        return []
    try:
        text = path.read_bytes().decode("utf-8-sig")
        raw = parse_toml(text)
    except (OSError, UnicodeDecodeError, LimitError, tomli.TOMLDecodeError):
        return []  # reading the spec says what is wrong
    if not isinstance(raw.get("seed"), list):
        return []
    try:
        found = structure({"seed": raw["seed"]}, _SeedList)
    except InvalidValueError as error:
        lines = key_lines(text)
        raise SpecError(
            [
                Problem(
                    path=format_path(finding.path),
                    message=finding.message,
                    hint=finding.hint,
                    origin=f"{path}:{lines.get(finding.path) or lines['seed',]}",
                )
                for finding in error.findings
            ]
        ) from None
    return [f"seed={','.join(map(str, found.seed))}"]
