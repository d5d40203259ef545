"""Source code as text, and running what was compiled from it; shared by the targets that are programs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache

import numpy as np

from radixpoint.errors import ExportError
from radixpoint.export.tools import run_tool
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Ints, Plan, channel_first, channel_last


def literal(value: int) -> str:
    """A C constant of type int64_t (or int, where it fits)."""
    if value == -(1 << 63):
        return "INT64_MIN"
    return str(value) if abs(value) < 1 << 15 else f"INT64_C({value})"


def rows(values: Iterable[int], indent: str = "  ", width: int = 110) -> str:
    """Numbers with commas, in lines."""
    lines, line = [], indent
    for value in values:
        text = "INT64_MIN, " if value == -(1 << 63) else f"{value}, "
        if len(line) + len(text) > width:
            lines.append(line.rstrip())
            line = indent
        line += text
    return "\n".join([*lines, line.rstrip().rstrip(",")])


class Writer:
    """Lines with indentation."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.depth = 0

    def __call__(self, text: str = "") -> None:
        self.lines.append("  " * self.depth + text if text else "")

    def open(self, text: str) -> None:
        self(text + " {")
        self.depth += 1

    def close(self, count: int = 1) -> None:
        for _ in range(count):
            self.depth -= 1
            self("}")


def build(command: Sequence[str], what: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a compiler, in ``environment`` instead of our own.

    Raises:
        ExportError: it failed, with the first lines of what it said.
    """
    done = run_tool(command, what, environment=environment)
    if done.returncode:
        said = "\n".join((done.stderr or done.stdout).decode(errors="replace").splitlines()[:8])
        raise ExportError(f"{what} does not compile: {shlex.join(command)}\n{said}")


def pipe(program: Sequence[str], images: Ints, values: int) -> Ints:
    """Feed images (int64, batch first) to a program; it answers with so many int64 an image.

    Raises:
        ExportError: it failed or answered with another number of values.
    """
    done = run_tool(program, "the exported program", images.astype("<i8").tobytes())
    if done.returncode or len(done.stdout) != 8 * values * len(images):
        said = done.stderr.decode(errors="replace").strip()[:600]
        raise ExportError(
            f"the exported program ended with status {done.returncode} and {len(done.stdout)} bytes: "
            f"expected {8 * values * len(images)}{': ' + said if said else ''}"
        )
    return np.frombuffer(done.stdout, "<i8").reshape(len(images), values).astype(np.int64)


class TracedProgram:
    """An ``radixpoint.engines.Engine`` over exported source: one build traces, the other is fast.

    Args:
        network: what was exported.
        make: builds the program that traces (True) or the fast one (False) and returns its command; called
            when the program is first needed.
    """

    def __init__(self, network: IntGraph, make: Callable[[bool], list[str]]) -> None:
        self.network, self._make = network, cache(make)

    def run(self, images: Ints, keep: Collection[str] | None = None) -> dict[str, Ints]:
        """Stored integers of the tensors in ``keep``; without it the results, by the fast build."""
        tensors = self.network.tensors
        fed = channel_last(np.asarray(images), tensors[self.network.input].shape).reshape(len(images), -1)
        order = self.network.outputs if keep is None else Plan(self.network).order
        sizes = {name: int(np.prod(tensors[name].shape)) for name in order}
        values = pipe(self._make(keep is not None), fed, sum(sizes.values()))
        result, first = {}, 0
        for name, size in sizes.items():
            if keep is None or name in keep:
                result[name] = channel_first(values[:, first : first + size], tensors[name].shape)
            first += size
        return result
