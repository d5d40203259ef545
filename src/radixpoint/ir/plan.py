"""What every generator of source code shares: identifiers, loop nests, memory, parameters.

A network becomes functions, one a layer; a function becomes loop nests, each one step that reads its
neighbourhood (a convolution, a pooling) followed by the element-wise steps on its result. Only what a later
nest reads is stored. In a fused plan a nest goes on with the element-wise steps of the layers behind it.
Memory order is height, width, channel.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import Rounding
from radixpoint.errors import ExportError
from radixpoint.ir.network import IntGraph, IntTensor, Step

Ints = NDArray[np.int64]

FARTHEST_SHIFT = 62
"""Left shifts beyond are of no use: only 0 and -1 survive them in 64 bits."""


def clean(name: str, longest: int = 40) -> str:
    """A name reduced to letters, digits and single underscores, safe inside any identifier."""
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:longest].rstrip("_")


def extents(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width, channels of a tensor; a vector has one place."""
    return (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, 1, math.prod(shape))


def channel_last(values: Ints, shape: tuple[int, ...]) -> Ints:
    """Values of tensors (batch first) from the order of the IR to height, width, channel."""
    return values.reshape(len(values), *shape).transpose(0, 2, 3, 1) if len(shape) == 3 else values


def channel_first(values: Ints, shape: tuple[int, ...]) -> Ints:
    """The inverse of ``channel_last``; ``values`` is (batch, anything)."""
    height, width, channels = extents(shape)
    if len(shape) != 3:
        return values.reshape(len(values), *shape)
    return values.reshape(len(values), height, width, channels).transpose(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Nest:
    """One loop nest: ``head``, then ``chain``, each of the one before; ``stores`` are kept in memory."""

    head: Step
    chain: tuple[Step, ...]
    stores: frozenset[str]

    @property
    def steps(self) -> tuple[Step, ...]:
        return (self.head, *self.chain)


@dataclass(frozen=True, slots=True)
class Function:
    """The loop nests of one layer. ``reads`` and ``writes`` name tensors in memory, in order."""

    name: str
    layer: str
    nests: tuple[Nest, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Operand:
    """A parameter beside an element-wise step, broadcast to its tensor.

    ``values`` has axes (height, width, channel), each whole or 1.
    """

    values: Ints

    def index(self, y: str = "y", x: str = "x", c: str = "c") -> str:
        """Expression of the element's place in the flattened values."""
        height, width, channels = self.values.shape
        terms = []
        if height > 1:
            terms.append(f"{y} * {width * channels}" if width * channels > 1 else y)
        if width > 1:
            terms.append(f"{x} * {channels}" if channels > 1 else x)
        if channels > 1:
            terms.append(c)
        return " + ".join(terms) or "0"


class Plan:
    """How a network is written as source code.

    Args:
        network: a verified IntGraph.
        fused: whether a nest may go on into the layers behind it.

    Raises:
        ExportError: a network without steps, or one whose input is its output.
    """

    def __init__(self, network: IntGraph, fused: bool = False) -> None:
        if not network.steps:
            raise ExportError("the network has no steps: there is nothing to export")
        self.network, self.fused = network, fused
        ops = {network.input: "input"} | {step.name: step.op for step in network.steps}
        self.order: tuple[str, ...] = tuple(ops)
        """Every tensor, in execution order."""
        self.identifiers: Mapping[str, str] = {
            name: "_".join(filter(None, (f"t{i:03d}", clean(network.tensors[name].layer), op)))
            for i, (name, op) in enumerate(ops.items())
        }
        self.parameter_names: Mapping[str, str] = {
            name: "_".join(filter(None, (f"p{i:03d}", clean(name, 60))))
            for i, name in enumerate(sorted(network.parameters))
        }

    def tensor(self, name: str) -> IntTensor:
        return self.network.tensors[name]

    @cached_property
    def functions(self) -> tuple[Function, ...]:
        """One for each run of steps of one layer, and what is fused behind, in execution order."""
        network = self.network
        runs: list[list[list[Step]]] = []
        previous: Step | None = None
        for step in network.steps:
            layer = network.tensors[step.name].layer
            same = previous is not None and network.tensors[runs[-1][0][0].name].layer == layer
            goes_on = previous is not None and step.row.pointwise and step.inputs == (previous.name,)
            if goes_on and (self.fused or same):
                runs[-1][-1].append(step)
            elif same:
                runs[-1].append([step])
            else:
                runs.append([[step]])
            previous = step
        heads = [steps[0] for run in runs for steps in run]
        stored = {*network.outputs, *(name for head in heads for name in head.inputs)}
        made = []
        for number, run in enumerate(runs):
            nests = tuple(
                Nest(steps[0], tuple(steps[1:]), frozenset(s.name for s in steps if s.name in stored))
                for steps in run
            )
            layer = network.tensors[run[0][0].name].layer
            own = [s.name for nest in nests for s in nest.steps if s.name in stored]
            outside = [i for nest in nests for i in nest.head.inputs if i not in own]
            made.append(
                Function(
                    "_".join(filter(None, (f"layer_{number:03d}", clean(layer)))),
                    layer,
                    nests,
                    tuple(dict.fromkeys(outside)),
                    tuple(own),
                )
            )
        return tuple(made)

    @cached_property
    def stored(self) -> tuple[str, ...]:
        """Tensors in memory, in the order in which they are written; the input is the first."""
        return (self.network.input, *(w for function in self.functions for w in function.writes))

    @cached_property
    def lives(self) -> Mapping[str, tuple[int, int]]:
        """First and last function during which each stored tensor must be kept."""
        lives = {self.network.input: (0, 0)}
        for number, function in enumerate(self.functions):
            for name in function.writes:
                lives[name] = (number, number)
            for name in function.reads:
                lives[name] = (lives[name][0], number)
        for name in self.network.outputs:
            lives[name] = (lives[name][0], len(self.functions))
        return lives

    # --------------------------------------------------------------------------- places in memory

    def place(self, name: str, y: str = "y", x: str = "x", c: str = "c") -> str:
        """Expression of an element's place in a tensor in memory; axes of size 1 take no part."""
        height, width, channels = extents(self.tensor(name).shape)
        terms = []
        if height > 1:
            terms.append(f"({y}) * {width * channels}" if width * channels > 1 else f"({y})")
        if width > 1:
            terms.append(f"({x}) * {channels}" if channels > 1 else f"({x})")
        if channels > 1:
            terms.append(f"({c})")
        return " + ".join(terms) or "0"

    def moved_from(self, step: Step) -> str:
        """Expression of where a ``rearrange`` finds the element (y, x, c) of its result: the number of the
        element of its input, channels slowest."""
        split, order = step.attributes["split"], step.attributes["order"]
        height, width, _ = extents(self.tensor(step.name).shape)
        number = self._number(height, width)
        if len(self.tensor(step.name).shape) == 1:
            number = "c"
        terms, inner = [], 1
        for axis in reversed(order):
            outer = math.prod(split[axis + 1 :])
            digit = f"({number}) / {inner}" if inner > 1 else f"({number})"
            if split[axis] > 1:
                terms.append(f"{digit} % {split[axis]}" + (f" * {outer}" if outer > 1 else ""))
            inner *= split[axis]
        return " + ".join(terms) or "0"

    @staticmethod
    def _number(height: int, width: int) -> str:
        """Of an element of an image, channels slowest."""
        return f"(c * {height} + y) * {width} + x"

    def element(self, name: str, number: str) -> str:
        """Expression of the place in memory of a tensor's element, given its number, channels slowest."""
        height, width, channels = extents(self.tensor(name).shape)
        places = height * width
        return (
            number
            if places == 1 or channels == 1
            else f"{number} % {places} * {channels} + {number} / {places}"
        )

    # ---------------------------------------------------------------------- constants beside a step

    def weights(self, step: Step) -> Ints:
        """Of a convolution: (outputs, height, width, inputs of a group); of a dense step as they are."""
        values = self.network.arrays(step)["weight"]
        return values.transpose(0, 2, 3, 1) if values.ndim == 4 else values

    def operand(self, step: Step, role: str) -> Operand:
        """The parameter of an element-wise step."""
        return self._broadcast(self.network.arrays(step)[role], self.tensor(step.name))

    def _broadcast(self, values: Ints, tensor: IntTensor) -> Operand:
        rank = len(tensor.shape)
        values = values.reshape((1,) * (rank - values.ndim) + values.shape)
        if rank != 3:
            return Operand(values.reshape(1, 1, -1))
        return Operand(values.transpose(1, 2, 0))

    def left_shifts(self, step: Step, operand: int | str) -> Ints:
        """Places by which an input (number) or parameter (role) moves to the result's binary point.

        One value, or one a channel.
        """
        shifts = self.network.align(step, operand)
        if int(shifts.max()) > FARTHEST_SHIFT:
            raise ExportError(
                f"layer {self.tensor(step.name).layer!r}: {step.op} shifts left by {int(shifts.max())} "
                f"places: expected at most {FARTHEST_SHIFT}"
            )
        return shifts if len(np.unique(shifts)) > 1 else shifts[:1]

    def cast_shifts(self, step: Step) -> Ints:
        """Places that a cast shifts right (negative: left); one value, or one a channel."""
        shifts = self.network.shift(step)
        return shifts if len(np.unique(shifts)) > 1 else shifts[:1]

    def is_stochastic(self, step: Step) -> bool:
        return step.op == "cast" and Rounding(step.attributes["rounding"]) is Rounding.STOCHASTIC

    def draw_key(self, step: Step) -> int:
        """State from which the draws of a stochastic cast are counted (arithmetic.md, section 4)."""
        golden = 0x9E3779B97F4A7C15
        mask = (1 << 64) - 1
        z = (int(step.attributes["seed"]) + (int(step.attributes["stream"]) + 1) * golden) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)
