"""Errors that a user of the framework can fix. Every message says where, what was given and what to do."""

import attrs

MOST_PROBLEMS = 100  # number of problems that a message lists


class ShalaError(Exception):
    """An error that a user can fix. The command line shows only its message and exits with status 2."""


@attrs.frozen(kw_only=True)
class Problem:
    """One problem in a spec, an option table or an override.

    Attributes:
        path: Place of the problem as a dotted path such as `modality.rgb.options.frames`; empty for the whole file.
        message: What was expected and what was given.
        hint: How to fix it, or an empty string.
        origin: Where the value was written, such as `specs/a.toml:12` or `--set`, or an empty string.
    """

    path: str
    message: str
    hint: str = ""
    origin: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.origin, self.path) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class SpecError(ShalaError):
    """A spec that cannot be used. The error lists all its problems at once, up to a hundred."""

    def __init__(self, problems: list[Problem]) -> None:
        more = len(problems) - MOST_PROBLEMS
        rest = [Problem(path="", message=f"and {more:,} more problems")] if more > 0 else []
        self.problems = [*problems[:MOST_PROBLEMS], *rest]
        super().__init__("\n".join(map(str, self.problems)))


class PluginError(ShalaError):
    """A plugin is missing or broken, or offers a name that another plugin offers too."""


class DataError(ShalaError):
    """Raw data or a shard cannot be read in the expected format."""


class CheckpointError(ShalaError):
    """A checkpoint or run folder is damaged, missing or belongs to something else."""
