"""What a network takes of a processor's memory: types of whole bytes, and arenas that tensors share."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import ExportError
from radixpoint.ir.arena import arena_layout
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.ops import SELECTED
from radixpoint.ir.plan import Plan

_LAST = {8: (1 << 7) - 1, 16: (1 << 15) - 1, 32: (1 << 31) - 1, 64: (1 << 63) - 1}


def c_type(low: int, high: int) -> str:
    """The narrowest type of ``stdint.h`` that holds low..high.

    Raises:
        ExportError: none does.
    """
    for bits, last in _LAST.items():
        if low >= -last - 1 and high <= last:
            return f"int{bits}_t"
        if low >= 0 and high <= 2 * last + 1:
            return f"uint{bits}_t"
    raise ExportError(f"range {low}..{high}: expected at most 64 bits")


def bits_of(c: str) -> int:
    """Of a type of ``stdint.h``."""
    return int(c.strip("uint_"))


def fits_32(*values: int) -> bool:
    """Whether all are of 32 bits, with a sign."""
    return all(-_LAST[32] - 1 <= value <= _LAST[32] for value in values)


def tensor_type(network: IntGraph, name: str) -> str:
    """Of the elements of a tensor, by its proven range."""
    tensor = network.tensors[name]
    return c_type(tensor.low, tensor.high)


def tensor_bytes(network: IntGraph, name: str) -> int:
    """Of a whole tensor."""
    return math.prod(network.tensors[name].shape) * bits_of(tensor_type(network, name)) // 8


@dataclass(frozen=True)
class Arenas:
    """Where tensors between the input and the results lie.

    Attributes:
        sizes: bytes of each arena, by the bits of its elements.
        places: arena and byte of each tensor.
    """

    sizes: Mapping[int, int]
    places: Mapping[str, tuple[int, int]]

    @property
    def bytes(self) -> int:
        """Of all arenas together."""
        return sum(self.sizes.values())


def arenas(plan: Plan) -> Arenas:
    """Lay out the tensors of a plan.

    C lets an object be read and written by a type of its own width, whatever the sign, and by character
    types. So there is an arena for each width, and bytes lie in the one that is fullest.
    """
    network = plan.network
    outside = {network.input, *network.outputs}
    inside = [name for name in plan.stored if name not in outside]
    sizes = {name: tensor_bytes(network, name) for name in inside}
    bits = {name: bits_of(tensor_type(network, name)) for name in inside}
    wide = sorted({b for b in bits.values() if b > 8})
    shared = max(wide, key=lambda b: (sum(sizes[n] for n in inside if bits[n] == b), b), default=8)
    found: dict[int, int] = {}
    places: dict[str, tuple[int, int]] = {}
    for width in sorted({*wide, shared}):
        own = [n for n in inside if bits[n] == width or (bits[n] == 8 and width == shared)]
        if not own:
            continue
        unit = width // 8
        whole = {n: -(-sizes[n] // unit) * unit for n in own}
        layout = arena_layout(whole, {n: plan.lives[n] for n in own})
        found[width] = max(layout[n] + whole[n] for n in own)
        places |= {n: (width, layout[n]) for n in own}
    return Arenas(found, places)


@dataclass(frozen=True, slots=True)
class LayerFootprint:
    """Bytes of one function of the exported C.

    Attributes:
        function: its name.
        layers: that it computes.
        ram: of the tensors that are alive while it runs, input and results among them.
        flash: of its parameters.
    """

    function: str
    layers: tuple[str, ...]
    ram: int
    flash: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that the exported C takes, without its code and stack.

    Attributes:
        ram: of what lies between layers, and of the input and the results.
        flash: of all arrays beside the code, each in the narrowest type that holds its values: parameters,
            shifts by channel, the table of pixels.
        layers: function by function.
    """

    ram: int
    flash: int
    layers: tuple[LayerFootprint, ...]


_Array = tuple[int, int]
"""How many numbers, and bits of each."""


def _array(values: NDArray[np.int64]) -> _Array:
    return values.size, bits_of(c_type(int(values.min()), int(values.max())))


def _bytes(arrays: Iterable[_Array]) -> int:
    return sum(count * bits // 8 for count, bits in arrays)


def _step_arrays(plan: Plan, step: Step) -> Iterator[tuple[str, _Array]]:
    """Every array that the code of a step reads, by a name that steps may share."""
    network = plan.network
    for role, key in step.parameters.items():
        values = network.parameters[key].data
        if values.size > 1 or role in ("weight", "table"):  # others are written into the code
            yield key, _array(values)
    shifts = {}
    if step.op == "cast":
        shifts["shift"] = plan.cast_shifts(step)
    elif step.row.aligned:
        operands: list[int | str] = [*range(len(step.inputs)), *step.parameters]
        shifts = {f"left_{operand}": plan.left_shifts(step, operand) for operand in operands}
    for role, values in shifts.items():
        if len(values) > 1:
            yield f"{step.name} {role}", _array(values)
    if step.op == "select":
        for axis in SELECTED:
            if step.attributes[axis]:
                yield f"{step.name} {axis}", _array(np.array(step.attributes[axis], np.int64))


def _pixel_table(network: IntGraph) -> _Array:
    """From pixels to stored integers, which ``radixpoint_classify`` reads, if it is there."""
    about = json.loads(network.metadata.get("preprocessing", "null"))
    shape = network.tensors[network.input].shape
    if about is None or about.get("mean_image") or len(shape) != 3 or len(about["mean"]) != shape[0]:
        return 0, 8
    if len(network.tensors[network.output].shape) != 1:
        return 0, 8
    return 256 * shape[0], bits_of(tensor_type(network, network.input))


def footprint(network: IntGraph) -> Footprint:
    """What the exported C takes of a processor's memory, code and stack apart.

    Raises:
        ExportError: the network cannot be written as source code.
    """
    plan = Plan(network, fused=True)
    layers: list[LayerFootprint] = []
    known: dict[str, _Array] = {}
    for number, function in enumerate(plan.functions):
        steps = [step for nest in function.nests for step in nest.steps]
        alive = [n for n in plan.stored if plan.lives[n][0] <= number <= plan.lives[n][1]]
        own = dict(array for step in steps for array in _step_arrays(plan, step))
        known |= own
        layers.append(
            LayerFootprint(
                function.name,
                tuple(dict.fromkeys(network.tensors[step.name].layer for step in steps)),
                sum(tensor_bytes(network, name) for name in alive),
                _bytes(own.values()),
            )
        )
    ends = sum(tensor_bytes(network, name) for name in (network.input, *network.outputs))
    stored = [*known.values(), _pixel_table(network)]
    unit = max(bits for _, bits in stored) // 8  # the structure that holds them is a multiple of its widest
    return Footprint(arenas(plan).bytes + ends, -(-_bytes(stored) // unit) * unit, tuple(layers))
