"""`resx`: the commands, and the one place where errors become an exit code.

Nothing heavy is imported here: `resx --help` answers in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer

from resx import machine, streams
from resx._version import __version__
from resx.cli import completion, failures, output
from resx.cli.commands.bench import bench
from resx.cli.commands.compare import compare
from resx.cli.commands.demo import demo
from resx.cli.commands.deploy import deploy
from resx.cli.commands.doctor import doctor
from resx.cli.commands.evaluate import evaluate
from resx.cli.commands.export import export
from resx.cli.commands.gc import gc
from resx.cli.commands.info import info
from resx.cli.commands.lesion import lesion
from resx.cli.commands.logs import logs
from resx.cli.commands.models import models
from resx.cli.commands.paths import paths
from resx.cli.commands.plan import plan
from resx.cli.commands.predict import predict
from resx.cli.commands.profile import profile
from resx.cli.commands.pull import pull
from resx.cli.commands.push import push
from resx.cli.commands.query import query
from resx.cli.commands.rollback import rollback
from resx.cli.commands.runs import runs
from resx.cli.commands.serve import serve
from resx.cli.commands.shrink import shrink
from resx.cli.commands.status import status
from resx.cli.commands.stop import stop
from resx.cli.commands.train import train
from resx.cli.commands.tune import tune
from resx.cli.commands.undeploy import undeploy
from resx.cli.commands.verify import verify
from resx.cli.failures import INTERRUPTED, Failure, failure, failure_of, wrong_usage
from resx.cli.options.grouping import Command, Group, help_of, ungroup
from resx.cli.packages import missing
from resx.errors import ResxError, UsageError
from resx.files import home
from resx.text import join_lines, printable

COMMANDS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Models": (models, info, train, runs),
    "Research": (lesion, paths, shrink),
    "Export": (export, compare, verify, push, pull),
    "Serving": (serve, stop, status, logs, deploy, rollback, undeploy, gc, query, predict),
    "Measuring": (evaluate, bench, tune, plan, profile),
    "Machine": (doctor, demo),
}
"""By group, in the order of `resx --help`; each function's name is the command's."""

app = typer.Typer(
    name="resx",
    cls=Group,
    help="Train, export, serve and benchmark ResNet-family models.\n\n"
    "A variant is a network by its name, such as resnet50; a run is the folder of a trained one. An export is "
    "published as a version in the repository, a folder that Triton serves.\n\n"
    "Examples: resx demo; resx export resnet50 --weights imagenet && resx serve --detach; "
    "resx query resnet50 photo.jpg && resx bench resnet50",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _group, _commands in COMMANDS.items():
    for _command in _commands:
        app.command(_command.__name__, cls=Command, help=help_of(_command), rich_help_panel=_group)(ungroup(_command))

_WRONG_USAGE: type[Exception] = typer.BadParameter.__bases__[0]
"""What Typer raises for whatever was typed wrongly; by itself it has no public name."""


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resx {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Accept what stands before the command."""


_SHOWS_BYTES = ("query", "predict")


def main() -> None:
    """Run the command that was typed and end the process with its exit code."""
    os.environ["PYTHONSAFEPATH"] = "1"  # for all that is started: no modules out of the working folder
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # whatever the locale's encoding lacks is shown escaped
    streams.make_readable()
    machine.limit_libraries()
    machine.allow_open_files()
    sys.exit(_run())


def _require_text(arguments: Sequence[str]) -> None:
    """Refuse paths and names with bytes that are no UTF-8 before anything is written: no record can hold them.

    Commands that only read images show such names escaped.
    """
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    for argument in arguments if command not in _SHOWS_BYTES else ():
        if printable(argument) != argument:
            raise UsageError(f"{argument}: is not valid UTF-8, which cards and runs cannot record; rename it")


def _run() -> int:
    if completion.is_asked(os.environ):
        return completion.answer(lambda: app(standalone_mode=False), os.environ)
    output.expect_answer()
    try:
        home.settle_home()
        _require_text(sys.argv[1:])
        code = app(standalone_mode=False)
        with contextlib.suppress(AttributeError):
            sys.stdout.flush()
    except ResxError as error:
        return _fail(failure_of(error))
    except _WRONG_USAGE as error:
        wrong = wrong_usage(error)
        # Nothing was typed: the help is on stdout, and says it all.
        return _fail(wrong) if wrong.message else 2
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is left goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except MemoryError:
        return _fail(failure("out of memory; close other programs, or process less at once", 1))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(failure(f"{where}{error.strerror or error}", 1))
    except ImportError as error:
        lacking = missing(error)
        if lacking is None:
            raise
        return _fail(failure(join_lines(str(lacking)), lacking.exit_code))
    if code == INTERRUPTED:
        # Ctrl-C inside an exec of a string (dataclasses and named tuples are made so, hence an import of torch) sets a
        # flag by which `python -m` kills itself with SIGINT at its end, though the interrupt was caught. The next exec
        # of a string clears it.
        exec("")  # noqa: S102
        return _fail(failure_of(KeyboardInterrupt()))
    return code if isinstance(code, int) else 0


def _fail(failed: Failure) -> int:
    """Say why, in one line and with `--json` as an object too; return the exit code."""
    output.fail(failed.line)
    if failures.wants_json(sys.argv[1:]):
        output.fail_as_json(failed)
    return failed.code
