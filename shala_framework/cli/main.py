"""`shala` and `shala-run`: assemble the verbs and turn errors into one message and an exit status."""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType

import click

from shala_framework.cli.commands import HELP, version_option, write_examples
from shala_framework.cli.completion import complete
from shala_framework.cli.output import remark
from shala_framework.support.errors import ShalaError, SpecError

VERBS = (
    "run", "sweep", "check", "plugins", "keys", "new-plugin", "pack", "index", "sample", "evaluate", "compare", "embed",
    "export", "push", "report", "explore",
)  # fmt: skip
_EXAMPLES = "  shala run specs/ntu_rgb_skeleton.toml\n  shala pack --help\n"


class _Program(click.Group):
    """A group that imports the module of a verb only when the verb is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _verb(cmd_name) if cmd_name in VERBS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args[0] not in VERBS and not args[0].startswith("-"):
            raise click.UsageError(f"no such verb {args[0]!r}; {_nearest(args[0], VERBS, 'verbs')}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, _verb(name).get_short_help_str(limit=200)) for name in VERBS])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(_EXAMPLES, formatter)


def _verb(name: str) -> click.Command:
    """Return the command of a verb: the object with the verb's name in the module with the verb's name."""
    name = name.replace("-", "_")
    command: click.Command = getattr(importlib.import_module(f"shala_framework.cli.{name}"), name)
    return command


@click.group(cls=_Program, invoke_without_command=True, subcommand_metavar="VERB ...", context_settings=HELP)
@version_option
@click.pass_context
def shala(context: click.Context) -> None:
    """Shared-latent generative modelling of any set of modalities."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `shala`: run one verb and exit."""
    _exit_from("shala", arguments)


def main_run(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `shala-run`, which is `shala run`."""
    _exit_from("shala-run", arguments)


def _exit_from(program: str, arguments: Sequence[str] | None) -> None:
    sys.excepthook = _show_traceback
    complete(_command(program), program)
    sys.exit(dispatch(sys.argv[1:] if arguments is None else arguments, program))


def _command(program: str) -> click.Command:
    return shala if program == "shala" else _verb("run")


def parse(arguments: Sequence[str], program: str = "shala") -> click.Context:
    """Parse a command line with a verb, without running it.

    Args:
        arguments: Arguments after the program's name.
        program: "shala" or "shala-run".

    Returns:
        The context of the verb; its `params` are the values.

    Raises:
        click.UsageError: The command line is not valid.
    """
    command, words, context = _command(program), list(arguments), None
    if program == "shala":
        context = click.Context(shala, info_name=program)
        _, found, words = shala.resolve_command(context, words)
        command = found or command
    with command.make_context(command.name, words, parent=context) as parsed:
        return parsed


def dispatch(arguments: Sequence[str], program: str = "shala") -> int:
    """Parse a command line, run it, and return the exit status.

    A mistake in the command line, a ShalaError and an OSError that names a file each become one message and exit status
    2. Other exceptions are not caught.

    Args:
        arguments: Arguments after the program's name.
        program: "shala" or "shala-run".
    """
    command = _command(program)
    try:
        with command.make_context(program, list(arguments)) as context:
            return int(command.invoke(context) or 0)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.UsageError as error:
        remark(_usage_message(error, program))
        return 2
    except ShalaError as error:
        remark(f"error: {_message(error)}")
        return 2
    except KeyboardInterrupt as stop:
        return 128 + getattr(stop, "signal_number", signal.SIGINT)
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except OSError as error:
        if error.filename is None or isinstance(error.filename, int):
            raise
        file = os.fsdecode(error.filename)
        remark(f"error: cannot read or write {file!r}: {error.strerror or error}")
        return 2
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        hint = "lower the sizes in the spec, such as hidden_dim, batch_size or a modality's options, or num_rows"
        remark(f"error: not enough memory: {str(error).strip().splitlines()[0] if str(error) else 'none left'}; {hint}")
        return 2


def _usage_message(error: click.UsageError, program: str) -> str:
    """Format a mistake in a command line, below a line that shows the usage."""
    message = error.format_message().rstrip(".")
    context = error.ctx
    if context is not None and isinstance(error, click.NoSuchOption):
        known = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        options = [name for name in known if name.startswith("--")]
        message = f"no such option {error.option_name!r}; {_nearest(error.option_name, options, 'options')}"
    usage = f"{context.get_usage()}\n" if context is not None else ""
    path = context.command_path if context is not None else program
    return f"{usage}error: {message[:1].lower()}{message[1:]} (see {path} --help)"


def _nearest(name: str, known: Sequence[str], noun: str) -> str:
    from shala_framework.support.hints import nearest

    return nearest(name, known, noun)


def _message(error: ShalaError) -> str:
    if isinstance(error, SpecError) and len(error.problems) > 1:
        return "\n  ".join([f"{len(error.problems)} problems", *map(str, error.problems)])
    return str(error)


def _lacks_memory(error: BaseException) -> bool:
    """Return whether the machine or a device ran out of memory, judging by the messages of Python, NumPy and torch."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "can't allocate memory" in words or "out of memory" in words


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback as Python does, but escape control characters, which a terminal would execute."""
    remark("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))
