"""The command ``radixpoint``: its subcommands, and what becomes of errors."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from radixpoint.cli.terminal import errors, say
from radixpoint.errors import RadixpointError
from radixpoint.files import shown

COMMANDS = (
    "inspect",
    "calibrate",
    "search",
    "quantize",
    "retrain",
    "convert",
    "evaluate",
    "export",
    "verify",
    "cost",
    "target",
    "demo",
    "report",
    "explain",
    "compare",
    "worker",
    "reproduce",
)
"""Each is the function of that name in the module of that name."""


class _Commands(TyperGroup):
    """Commands that are imported when they are asked for: a command should not wait for the others."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        nothing: dict[str, Any] = dict.fromkeys(COMMANDS)
        self.commands = nothing  # a name that is misspelt is compared with these

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        found = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        found.command(cmd_name)(getattr(import_module(f"radixpoint.cli.{cmd_name}"), cmd_name))
        return typer.main.get_command(found)


app = typer.Typer(
    cls=_Commands,
    help="Find the smallest fixed-point representation of a trained CNN.\n\n"
    "Start with 'radixpoint demo': the whole job on a network inside the package. Then 'radixpoint inspect "
    "MODEL' tells whether your network can be read, and 'radixpoint search' finds its word lengths.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        say(f"radixpoint {version('radixpoint')}")
        raise typer.Exit


@app.callback()
def _root(
    asked: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Takes the options that belong to no subcommand; its help is that of ``app``."""


def _unexpected(error: Exception) -> None:
    """One line on an error that nobody foresaw, and a file that tells where it came from."""
    kept = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w",
            prefix="radixpoint-error-",
            suffix=".txt",
            delete=False,
            encoding="utf-8",
            errors="backslashreplace",
        ) as handle:
            handle.write("".join(traceback.format_exception(error)))
        kept = f"; {handle.name} tells where"
    except OSError:
        pass  # there is nowhere to write to: the line has to do
    said = shown((str(error).splitlines() or [""])[0][:300])
    say(
        f"error: {type(error).__name__}: {said}: not foreseen: a defect of radixpoint{kept}",
        errors,
        "red",
    )


def _arguments(given: list[str]) -> list[str]:
    """The command line, with the options of a run file in its place."""
    if given[:1] != ["search"]:
        return given
    from radixpoint.cli.run_file import expanded

    group: Any = typer.main.get_command(app)
    options = {option.name: option for option in group.get_command(None, "search").params}
    return ["search", *expanded(given[1:], options)]


def main() -> None:
    """Entry point: errors of the user become one message and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files may be no text
            stream.reconfigure(errors="backslashreplace")
    try:
        sys.argv[1:] = _arguments(sys.argv[1:])
        app()
    except RadixpointError as error:
        said = "\n".join(map(shown, str(error).splitlines()))
        say(f"error: {said}", errors, "red")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever read the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:  # the last resort
        _unexpected(error)
        sys.exit(2)
