"""Programs that others wrote, or that were compiled from an export: found, run, and stopped in time."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path

from radixpoint.errors import ExportError

TIME_LIMIT = 3600.0
"""Seconds that one program may take, unless ``time_limit`` is set."""
time_limit: ContextVar[float] = ContextVar("time_limit", default=TIME_LIMIT)


def tool(variable: str, *names: str) -> list[str]:
    """A tool's command: what the environment variable says, options and all, or the first that is installed.

    Raises:
        ExportError: the variable names none that is there, or none of the names is installed.
    """
    asked = os.environ.get(variable, "").strip()
    if asked:
        try:
            command = shlex.split(asked)
        except ValueError as error:
            raise ExportError(f"{variable}={asked!r}: {error}") from None
        if not command or shutil.which(command[0]) is None:
            raise ExportError(f"{variable}={asked!r}: no such program")
        return command
    for name in names:
        if shutil.which(name):
            return [name]
    raise ExportError(f"verify needs a compiler: none of {', '.join(names)} found; {variable} can name one")


def run_tool(
    command: Sequence[str],
    what: str,
    fed: bytes | None = None,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, or stop it and all that it started when its time is over.

    Args:
        command: program and arguments.
        what: it is, for messages.
        fed: its input.
        environment: instead of our own.
        folder: to run in.

    Raises:
        ExportError: it cannot be started, or takes longer than ``time_limit`` allows.
    """
    limit = time_limit.get()
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL if fed is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    except OSError as error:
        raise ExportError(f"{what}: {command[0]} cannot be started: {error.strerror}") from None
    try:
        out, err = process.communicate(fed, timeout=limit)
    except subprocess.TimeoutExpired:
        raise ExportError(f"{what}: not done after {limit:g} seconds: --time-limit allows more") from None
    finally:
        if process.poll() is None:
            _stop(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate()
