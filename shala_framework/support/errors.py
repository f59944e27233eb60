"""The errors that a user of the framework can mend; every message says where, what was got and what to do."""

import attrs

MOST_PROBLEMS = 100  # that a message lists


class ShalaError(Exception):
    """Something a user can fix; the command line shows its message alone and exits with status 2."""


@attrs.frozen(kw_only=True)
class Problem:
    """One thing wrong in a spec, an option table or an override.

    Attributes:
        path: Where, as a dotted path such as `modality.rgb.options.frames`; empty for the whole file.
        message: What was expected and what was got.
        hint: What to do about it, or empty.
        origin: Where the value was written, such as `specs/a.toml:12` or `--set`, or empty.
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
    """A spec that cannot be used; lists everything that is wrong with it at once, or a hundred things."""

    def __init__(self, problems: list[Problem]) -> None:
        more = len(problems) - MOST_PROBLEMS
        rest = [Problem(path="", message=f"and {more:,} more problems")] if more > 0 else []
        self.problems = [*problems[:MOST_PROBLEMS], *rest]
        super().__init__("\n".join(map(str, self.problems)))


class PluginError(ShalaError):
    """A plugin that is missing, broken, or offers what another one offers."""


class DataError(ShalaError):
    """Raw data or a shard that cannot be read as what it claims to be."""


class CheckpointError(ShalaError):
    """A checkpoint or run folder that is damaged, absent or belongs to something else."""
