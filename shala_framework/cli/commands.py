"""The parts that all verbs share: parsing, help pages, answers to misspelt options, and common options."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import click

from shala_framework import __version__
from shala_framework.cli.completion import (
    Completer,
    complete_keys_of,
    complete_profiles,
    complete_runs,
    complete_spec_keys,
)
from shala_framework.support.cores import sharing_cores
from shala_framework.support.hints import shortened
from shala_framework.support.memory import keeping_memory
from shala_framework.support.urls import permit_pipes
from shala_framework.training.stopping import raising_signals

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, readable=False)  # verbs check files themselves, with their own messages
HELP = {"help_option_names": ["-h", "--help"]}
_LIKE_AN_OPTION = re.compile(r"-[-A-Za-z]")


class Argument(click.Argument):
    """A positional argument with a line in the help."""

    def __init__(self, *names: Any, help: str, **settings: Any) -> None:  # noqa: A002  click's name
        super().__init__(*names, **settings)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.human_readable_name, self.help or ""


class Option(click.Option):
    """An option that does not take another option as its value: in `--out --dry-run` the value was forgotten."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        for text in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(text, str) and _LIKE_AN_OPTION.match(text):
                raise click.BadParameter(f"expected a value, got the option {shortened(text)}")
        return super().type_cast_value(ctx, value)


class Verb(click.Command):
    """A command whose help ends with examples.

    Attributes:
        examples: Lines to copy, each indented by two spaces and starting with `shala VERB`.
    """

    def __init__(self, *arguments: Any, examples: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click leaves it empty if an option lacks its value
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. Only its own --allow-pipe permits URLs that run commands."""
        with permit_pipes(ctx.params.pop("allow_pipe", False)), raising_signals(), sharing_cores(), keeping_memory():
            return super().invoke(ctx)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help page. Versions of click differ in whether their own lists arguments."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, kind in (("Arguments", click.Argument), ("Options", click.Option)):
            records = [p.get_help_record(ctx) for p in self.get_params(ctx) if isinstance(p, kind)]
            if records:
                with formatter.section(title):
                    formatter.write_dl([record for record in records if record is not None])
        self.format_epilog(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(self.examples.replace(f"shala {self.name}", ctx.command_path), formatter)


def write_examples(examples: str, formatter: click.HelpFormatter) -> None:
    """Write the examples at the end of a help page."""
    formatter.write(f"\nExamples:\n{examples}")


def verb(examples: str) -> Callable[[Callable[..., Any]], Verb]:
    """Return a decorator that turns a function into a verb. The function's docstring is the help.

    Args:
        examples: Examples for the help page, as in Verb.
    """
    return click.command(cls=Verb, examples=examples, context_settings=HELP)


def argument(name: str, help: str, **settings: Any) -> Callable[[F], F]:  # noqa: A002  click's name
    """Return a decorator that adds a positional argument with a line in the help."""

    def add(function: F) -> F:  # click 8.1 allows a decorator to be used once only
        return click.argument(name, cls=Argument, help=help, **settings)(function)

    return add


def option(*names: str, help: str, **settings: Any) -> Callable[[F], F]:  # noqa: A002  click's name
    """Return a decorator that adds an option. The help shows defaults other than None and False."""

    def add(function: F) -> F:
        shown = settings.get("default") is not None
        return click.option(*names, cls=Option, help=help, show_default=shown, **settings)(function)

    return add


def flag(name: str, help: str) -> Callable[[F], F]:  # noqa: A002  click's name
    """Return a decorator that adds an option without a value."""
    return click.option(name, is_flag=True, help=help)


def json_flag(what: str) -> Callable[[F], F]:
    """Add the option --json, which is passed to the verb's function as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


def set_option(
    help: str,  # noqa: A002
    tables: Collection[str] = (),
    complete: Completer | None = complete_spec_keys,
) -> Callable[[F], F]:
    """Add the option --set, which is passed to the verb's function as `overrides`.

    Args:
        help: What it overrides.
        tables: Tables of a run's spec that the verb may override; none stands for a whole spec.
        complete: Completer, if there are no tables.
    """
    complete = complete_keys_of(tables) if tables else complete
    return option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help=f"{help} Repeatable.", shell_complete=complete
    )


def profile_option(help: str) -> Callable[[F], F]:  # noqa: A002
    """Add the option --profile, which is passed to the verb's function as `profile`."""
    return option("--profile", metavar="NAME", help=help, shell_complete=complete_profiles)


def parse_seed(value: Any) -> int:
    """Parse the value of an option that sets a seed; the result is valid for every random generator."""
    text = str(value)
    if not text.isdecimal() or len(text) > 19 or int(text) >= 2**63:
        raise click.BadParameter(f"expected a whole number from 0 to 2**63 - 1, got {shortened(text)}")
    return int(text)


def from_option(help: str) -> Callable[[F], F]:  # noqa: A002
    """Add the option --from, which is passed to the verb's function as `take_from`."""
    return option("--from", "take_from", type=FILE, metavar="RUN", help=help, shell_complete=complete_runs)


class _RunPath(click.Path):
    """The folder of a run, or where `on_hub` allows it the name of a repository, as text."""

    def __init__(self, *, on_hub: bool) -> None:
        super().__init__(path_type=Path, readable=False)
        self.on_hub = on_hub

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not (isinstance(value, str) and value.startswith("hf://")):
            return super().convert(value, param, ctx)
        if not self.on_hub:
            name = value.removeprefix("hf://").partition("@")[0]
            self.fail(
                f"expected the folder of a run on this machine, got {shortened(value)}; "
                f"fetch it first: hf download {name} --local-dir FOLDER",
                param,
                ctx,
            )
        return value


def run_argument(*, on_hub: bool = False) -> Callable[[F], F]:
    """Add the argument RUN.

    Args:
        on_hub: Whether a repository on the Hugging Face Hub may take the place of the folder. The verb then gets its
            name as text, from which `load` and `local_folder` make a folder.
    """
    where = ", or hf://OWNER/NAME[@REVISION] on the Hugging Face Hub" if on_hub else ""
    return argument("run", f"Folder of a run{where}.", type=_RunPath(on_hub=on_hub), shell_complete=complete_runs)


spec_argument = argument("spec", "TOML file of the experiment.", type=FILE)
device_option = option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Device to compute on; auto uses CUDA if available.",
)
allow_pipe_flag = flag("--allow-pipe", "Allow shards behind pipe: and other URLs that run commands.")
version_option = click.version_option(__version__, message="shala_framework %(version)s")
