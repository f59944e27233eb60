"""Profiles: tables of a spec with other values for its keys, one of which a command can choose."""

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

from shala_framework.spec.applying import Places, apply_overrides, changes_of
from shala_framework.spec.overrides import Override
from shala_framework.spec.schema import Spec
from shala_framework.support.errors import Problem, SpecError
from shala_framework.support.hints import nearest, shortened
from shala_framework.support.structuring import InvalidValueError, structure

Resolve = Callable[[dict[str, Any], Places, list[Problem]], Any]


@attrs.frozen(kw_only=True)
class _Profiles:
    profile: dict[str, dict[str, Any]] = attrs.field(validator=attrs.fields(Spec).profile.validator)


def chosen_profile(profiles: Any, name: str | None, file: str) -> Mapping[str, Any]:
    """Return the profile of a name; nothing for None, and for one that is no table, which is reported elsewhere.

    Raises:
        SpecError: There is no such profile.
    """
    if name is None:
        return {}
    known = list(profiles) if isinstance(profiles, dict) else []
    if name not in known:
        listed = f"expected one of {', '.join(map(repr, known))}" if known else "expected a spec with profiles"
        message = f"{listed}, got {shortened(name)}"
        hint = nearest(name, known, "profiles") if known else f"{file} has no table [profile.{name}]"
        raise SpecError([Problem(path="", message=message, hint=hint, origin="--profile")])
    return profiles[name] if isinstance(profiles[name], dict) else {}


def problems_of_profiles(
    raw: Mapping[str, Any], profiles: Any, places: Places, patterns: Mapping[str, str], resolve: Resolve
) -> list[Problem]:
    """Return what is wrong with the spec under each of its profiles, apart from what is wrong without any.

    Args:
        raw: The spec as TOML values, without profiles.
        profiles: Its table of profiles.
        places: Knows where each key was written.
        patterns: As for `apply_overrides`.
        resolve: Checks a spec, and raises SpecError with its problems and those passed to it.
    """
    if profiles == {}:
        return []
    problems: list[Problem] = []
    try:
        structure({"profile": profiles}, _Profiles)
    except InvalidValueError as error:
        return [places.problem(finding) for finding in error.findings]
    without = set(_all_problems(raw, [], places, patterns, resolve))
    for name, table in profiles.items():
        own: list[Problem] = []
        changes = changes_of(table, ("profile", name), places, own)
        problems += own or [one for one in _all_problems(raw, changes, places, patterns, resolve) if one not in without]
    return problems


def _all_problems(
    raw: Mapping[str, Any], changes: Iterable[Override], places: Places, patterns: Mapping[str, str], resolve: Resolve
) -> list[Problem]:
    """Return what is wrong with a spec under some changes."""
    tried, own = copy.deepcopy(dict(raw)), Places(places.file, places.lines)
    problems = apply_overrides(tried, changes, own, patterns)
    try:
        resolve(tried, own, problems)
    except SpecError as error:
        return error.problems
    return []
