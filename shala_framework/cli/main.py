"""Command line of `shala` and `shala-run`; loads torch only once a verb needs it."""

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from shala_framework import __version__
from shala_framework.cli.completion import complete
from shala_framework.cli.output import remark
from shala_framework.errors import ShalaError, SpecError
from shala_framework.training.stopping import raising_signals
from shala_framework.urls import permit_pipes, shortened


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `shala`: run one verb and exit."""
    sys.excepthook = _show_traceback
    sys.exit(dispatch(_parser(), arguments))


def main_run(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `shala-run`, which is `shala run`."""
    sys.excepthook = _show_traceback
    parser = argparse.ArgumentParser(
        prog="shala-run", description=_RUN, formatter_class=_Format, epilog=_RUN_EXAMPLES, allow_abbrev=False
    )
    _add_version(parser)
    _add_run(parser)
    sys.exit(dispatch(parser, arguments))


def dispatch(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Parse and run.

    A ShalaError, and an OSError that names a file, becomes one message and status 2; anything else keeps its traceback.
    """
    complete(parser)
    parsed = parser.parse_args(arguments)
    if parsed.verb is None:
        parser.print_help()
        return 0
    try:
        with permit_pipes(getattr(parsed, "allow_pipe", False)), raising_signals():
            return _VERBS[parsed.verb](parsed)
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


def _lacks_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a device, as Python, NumPy and torch say it."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or "can't allocate memory" in words or "out of memory" in words


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python does, but with whatever a terminal would obey in the messages escaped."""
    remark("".join(traceback.format_exception(kind, error, trace)).rstrip("\n"))


def _message(error: ShalaError) -> str:
    if isinstance(error, SpecError) and len(error.problems) > 1:
        return "\n  ".join([f"{len(error.problems)} problems", *map(str, error.problems)])
    return str(error)


def _later(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """A verb's function, whose module is imported once it is called."""

    def call(arguments: argparse.Namespace) -> int:
        return int(getattr(importlib.import_module(f"shala_framework.cli.{module}"), function)(arguments))

    return call


_VERBS = {
    "run": _later("run", "run"),
    "check": _later("inspect", "check"),
    "plugins": _later("inspect", "plugins"),
    "keys": _later("inspect", "keys"),
    "new-plugin": _later("new_plugin", "new_plugin"),
    "pack": _later("pack", "pack"),
    "index": _later("index", "index"),
    "sample": _later("sample", "sample"),
    "evaluate": _later("evaluate", "evaluate"),
    "report": _later("report", "report"),
    "explore": _later("explore", "explore"),
}
_Format = argparse.RawDescriptionHelpFormatter
_RUN = "Train both stages of a spec and write samples; the same command goes on where it stopped."
_RUN_EXAMPLES = """\
examples:
  shala-run specs/ntu_rgb_skeleton.toml
  shala-run specs/ntu_rgb_skeleton.toml --out runs/long --set train.prior.steps=20000
  shala-run specs/ntu_rgb_skeleton.toml --dry-run
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shala",
        description="Shared-latent generative modelling of any set of modalities.",
        formatter_class=_Format,
        epilog="examples:\n  shala run specs/ntu_rgb_skeleton.toml\n  shala pack --help\n",
        allow_abbrev=False,
    )
    _add_version(parser)
    parser.set_defaults(verb=None)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB")

    def verb(name: str, text: str, examples: str) -> argparse.ArgumentParser:
        epilog = f"examples:\n{examples}" if not examples.startswith("examples") else examples
        return verbs.add_parser(
            name, help=text, description=text, epilog=epilog, formatter_class=_Format, allow_abbrev=False
        )

    _add_run(verb("run", _RUN, _RUN_EXAMPLES.replace("shala-run", "shala run")))

    checking = verb(
        "check",
        "Check a spec, its plugins and its shards, and report everything that is wrong.",
        "  shala check specs/ntu_rgb_skeleton.toml\n",
    )
    _add_spec(checking)
    _add_json(checking, "what is wrong")
    checking.set_defaults(verb="check")

    listing = verb(
        "plugins",
        "List installed plugins by kind, or the options of one.",
        "  shala plugins\n  shala plugins skeleton\n",
    )
    listing.add_argument("name", nargs="?", metavar="NAME", help="a modality, data set or tracker: show its options")
    _add_json(listing, "the list")
    listing.set_defaults(verb="plugins")

    explaining = verb(
        "keys",
        "List what can be written in a spec: every key with its type, default and meaning.",
        "  shala keys\n  shala keys train.prior\n  shala keys --markdown > docs/spec.md\n",
    )
    explaining.add_argument("table", nargs="?", metavar="TABLE", help="this table and those inside it alone")
    explaining.add_argument("--markdown", action="store_true", help="as a page of Markdown")
    explaining.set_defaults(verb="keys")

    starting = verb(
        "new-plugin",
        "Write a whole modality plugin to start from: package, networks, likelihood and tests that pass.",
        "  shala new-plugin inertial\n  shala new-plugin heart-rate --out plugins\n",
    )
    starting.add_argument("name", metavar="NAME", help="name of the modality; the package is shala-NAME")
    starting.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to (default: here)")
    starting.set_defaults(verb="new-plugin")

    packing = verb(
        "pack",
        "Turn a data set's raw files into shards.",
        "  shala pack ntu raw/nturgbd shards/ntu120\n"
        "  shala pack ntu raw/nturgbd shards/ntu60 --set version=60 --set protocol=cross-view\n"
        "  shala pack ntu-synthetic - shards/made --set train=1000\n"
        "  shala pack ntu raw/nturgbd shards/ntu120 --for specs/ntu_rgb_skeleton.toml --workers 8\n"
        "  shala pack ntu raw/nturgbd shards/ntu120 --part $SLURM_ARRAY_TASK_ID/100\n",
    )
    packing.add_argument("dataset", metavar="DATASET", help="name of a data set plugin")
    packing.add_argument("source", metavar="RAW_DIR", help="folder of raw files; - for a data set that needs none")
    packing.add_argument("out", metavar="OUT_DIR", type=Path, help="folder for the shards")
    packing.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the data set; may be repeated"
    )
    packing.add_argument(
        "--for",
        dest="spec",
        type=Path,
        metavar="SPEC",
        help="store what this spec's modalities read, ready for training, in place of the original bytes",
    )
    packing.add_argument("--shard-samples", type=int, default=500, metavar="N", help="samples a shard (default: 500)")
    packing.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that read for --for (default: this one)"
    )
    packing.add_argument(
        "--part", default="1/1", metavar="I/N", help="pack the I-th of N parts, as in a job array; they make one set"
    )
    packing.set_defaults(verb="pack")

    indexing = verb(
        "index",
        "Write the index of shards that something else made: lengths, fields and checksums of their samples.",
        "  shala index shards/mine\n",
    )
    indexing.add_argument("shards", metavar="DIR", type=Path, help="folder of shards (*.tar)")
    indexing.set_defaults(verb="index")

    sampling = verb(
        "sample",
        "Generate from a trained run: every modality jointly, or the others from given files.",
        "  shala sample runs/ntu_rgb_skeleton --num 16 --out samples\n"
        "  shala sample runs/ntu_rgb_skeleton --given skeleton=a.skeleton --num 8\n",
    )
    sampling.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    sampling.add_argument(
        "--given", action="append", default=[], metavar="MODALITY=FILE", help="generate from this file; may be repeated"
    )
    sampling.add_argument(
        "--want",
        action="append",
        default=[],
        metavar="MODALITY",
        help="write files of this modality alone; may be repeated",
    )
    sampling.add_argument("--num", type=int, default=8, metavar="N", help="samples (default: 8)")
    sampling.add_argument("--out", type=Path, default=Path("samples"), metavar="DIR", help="default: samples")
    sampling.add_argument("--seed", type=_seed, default=0, metavar="N", help="default: 0")
    sampling.add_argument("--guidance", type=float, metavar="W", help="guidance scale (default: the spec's)")
    sampling.add_argument("--autoguidance", type=float, metavar="V", help="autoguidance scale (default: the spec's)")
    sampling.add_argument("--steps", type=int, metavar="N", help="sampler steps (default: the spec's)")
    _add_device(sampling)
    _add_json(sampling, "the manifest")
    sampling.set_defaults(verb="sample")

    measuring = verb(
        "evaluate",
        "Measure a trained run: coherence, Frechet distance, precision and recall, likelihoods and the latent.",
        "  shala evaluate runs/ntu_rgb_skeleton\n"
        "  shala evaluate runs/mine --split test --set 'data.test=shards/mine/test-*.tar'\n"
        "  shala evaluate runs/mine --set evaluate.num_samples=5000 --set 'evaluate.guidance_scales=[1,1.5,2,3]'\n",
    )
    measuring.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    measuring.add_argument("--split", choices=["validation", "test"], default="validation", help="default: validation")
    measuring.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of [evaluate], [generate] or [data]; may be repeated",
    )
    measuring.add_argument("--seed", type=_seed, default=0, metavar="N", help="of judges and samples (default: 0)")
    _add_device(measuring)
    _add_allow_pipe(measuring)
    _add_json(measuring, "every figure")
    measuring.set_defaults(verb="evaluate")

    reporting = verb(
        "report",
        "Write a run's report.html anew: samples, latent map, figures and curves on one page.",
        "  shala report runs/ntu_rgb_skeleton\n",
    )
    reporting.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    _add_device(reporting)
    _add_allow_pipe(reporting)
    reporting.set_defaults(verb="report")

    exploring = verb(
        "explore",
        "Serve a local page on which a run is tried: give it any modalities, get the others.",
        "  shala explore runs/ntu_rgb_skeleton\n  shala explore runs/mine --port 8000\n",
    )
    exploring.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    exploring.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine alone"
    )
    exploring.add_argument("--port", type=int, default=7860, metavar="N", help="default: 7860")
    _add_device(exploring)
    _add_allow_pipe(exploring)
    exploring.set_defaults(verb="explore")
    return parser


def _seed(text: str) -> int:
    """A seed that every generator takes."""
    if not text.isdecimal() or len(text) > 19 or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2**63 - 1, got {shortened(text)}")
    return int(text)


def _add_version(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"shala_framework {__version__}")


def _add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default: auto")


def _add_spec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", type=Path, help="TOML file of the experiment")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the spec; may be repeated"
    )
    _add_allow_pipe(parser)


def _add_allow_pipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-pipe",
        action="store_true",
        help="allow shards by pipe: and other URLs that run commands, whoever wrote them",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_spec(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/<name of the spec>)")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved spec, parameter counts and shapes, and stop"
    )
    parser.set_defaults(verb="run")
