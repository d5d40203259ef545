"""What a target of exports is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from radixpoint.engines import Engine
from radixpoint.errors import ExportError
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Ints

FIXED_POINT = frozenset(
    {
        "cast",
        "conv",
        "dense",
        "scale",
        "offset",
        "add",
        "clamp",
        "max_pool",
        "sum_pool",
        "divide",
        "flatten",
        "concat",
    }
)
"""Steps of convolutional classifiers without other functions than ReLU; coded weights are stored decoded."""
EVERY = FIXED_POINT | {
    "lookup",
    "maximum",
    "minimum",
    "multiply",
    "rearrange",
    "select",
    "sum_channels",
}
"""All steps there are."""


class Target(Protocol):
    """One kind of export.

    Attributes:
        name: after ``--to``.
        summary: what it is, in a line.
        options: names of its options.
        steps: names of the steps that it can express; a network with others is refused before any work.
        several_outputs: whether a network may have more than one result.
    """

    name: str
    summary: str
    options: tuple[str, ...]
    steps: frozenset[str]
    several_outputs: bool

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> Mapping[str, bytes]:
        """Contents of its files, by path; the same arguments give the same bytes.

        Args:
            network: a verified IntGraph.
            images: stored integers of the input, int64, batch first.
            options: of this target.

        Raises:
            ExportError: the target cannot express the network, with the layer and the reason.
        """
        ...

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> Mapping[str, Engine]:
        """What runs the files in ``folder``, by a name to print; products of compilers go to ``scratch``.

        Raises:
            ExportError: a tool is missing, or a file cannot be compiled or read.
        """
        ...


@runtime_checkable
class Portable(Target, Protocol):
    """A target whose exports run on other machines too.

    Attributes:
        machines: their names.
    """

    machines: tuple[str, ...]

    def open_on(self, machine: str, folder: Path, network: IntGraph, scratch: Path) -> Mapping[str, Engine]:
        """As ``open``, on one of ``machines``.

        Raises:
            ExportError: a tool is missing, or a file cannot be compiled or read.
        """
        ...


def check_steps(target: Target, network: IntGraph) -> None:
    """Refuse a network with steps that a target cannot express, or with more results than it has.

    Raises:
        ExportError: one that it has, and the steps that are expected.
    """
    for step in network.steps:
        if step.op not in target.steps:
            raise ExportError(
                f"{target.name}: layer {network.tensors[step.name].layer!r}: step {step.name!r} is a "
                f"{step.op}: expected {', '.join(sorted(target.steps))}"
            )
    if network.other_outputs and not target.several_outputs:
        raise ExportError(
            f"{target.name}: {len(network.outputs)} results ({', '.join(map(repr, network.outputs))}): "
            "expected one"
        )
