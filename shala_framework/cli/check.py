"""`shala check`: report everything that is wrong with a spec and its shards."""

import json
from pathlib import Path

import attrs
import click

from shala_framework.cli.commands import allow_pipe_flag, json_flag, profile_option, set_option, spec_argument, verb
from shala_framework.cli.output import say
from shala_framework.support.errors import SpecError


@verb("  shala check specs/ntu_rgb_skeleton.toml\n  shala check specs/ntu_rgb_skeleton.toml --set train.minutes=5\n")
@spec_argument
@set_option("Override a key of the spec.")
@profile_option("Check the shards with this profile of the spec. The spec itself is checked with each of them.")
@allow_pipe_flag
@json_flag("the problems")
def check(spec: Path, overrides: tuple[str, ...], profile: str | None, as_json: bool) -> None:
    """Check a spec, its plugins and some samples of its shards, and report everything that is wrong."""
    from shala_framework.cli.diagnosis import Diagnosis, diagnose

    try:
        found = diagnose(spec, overrides, profile)
    except SpecError as error:
        if not as_json:
            raise
        found = Diagnosis(problems=error.problems)
    if as_json:
        problems = [attrs.asdict(problem) for problem in found.problems]
        print(json.dumps({"sound": not problems, "notes": found.notes, "problems": problems}, indent=2))
        if problems:
            raise click.exceptions.Exit(2)
        return
    for line in found.notes:
        say(line)
    if found.problems:
        raise SpecError(found.problems)
