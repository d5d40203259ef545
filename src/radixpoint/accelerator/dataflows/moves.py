"""What an accelerator does for a layer: clocks, products, and words moved between its memories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec

from radixpoint.accelerator.workloads import Loops
from radixpoint.errors import DesignError
from radixpoint.tables import Chart, Row, Tabular

Operand = Literal["weights", "inputs", "sums"]
"""``sums``: unfinished ones, and results."""
WORD = 16
"""Bits of the words that published energies are of."""
REGISTERS, BUFFER = (4096, 1.0), (100 * 8192, 6.0)
"""Bits of two memories, and the energy of a 16-bit word from each.

Relative to a 16-bit multiply-accumulate, in 65 nm: register files of 0.5 KiB, buffers above 100 KiB (Chen,
Emer, Sze, "Eyeriss: A Spatial Architecture", ISCA 2016, table IV).
"""
ARRAY, DRAM = 2.0, 200.0
"""The same of a word from a neighbour in the array, and from memory outside (the same table)."""


def memory_energy(bits: float) -> float:
    """Energy of a 16-bit word from a memory of so many bits, in 16-bit multiply-accumulates.

    The power of the size that goes through the two that are published: 2 KiB cost 1.6, 32 KiB 4.1.
    """
    (small, low), (large, high) = REGISTERS, BUFFER
    power = math.log(high / low) / math.log(large / small)
    return float(low * max(bits / small, 1.0) ** power)


@dataclass(frozen=True, slots=True)
class Move:
    """Words of one operand that are read from a memory or written to it.

    Attributes:
        memory: ``registers``, ``array``, ``buffer`` or ``DRAM``.
        operand: which.
        words: an image.
        bits: of a word.
        unit: energy of a 16-bit word.
    """

    memory: str
    operand: Operand
    words: float
    bits: int
    unit: float

    @property
    def total_bits(self) -> float:
        """Of an image."""
        return self.words * self.bits

    @property
    def energy(self) -> float:
        """In 16-bit multiply-accumulates; in proportion to the bits."""
        return self.total_bits / WORD * self.unit


@dataclass(frozen=True, slots=True)
class LayerRun:
    """One layer on an accelerator, an image.

    Attributes:
        layer: its loops.
        clocks: in which its products are made, with all data there in time.
        moves: of words.
        mapping: how the layer lies on the accelerator, by the model's own names.
    """

    layer: Loops
    clocks: float
    moves: tuple[Move, ...]
    mapping: tuple[tuple[str, int], ...] = ()

    @property
    def arithmetic(self) -> float:
        """Energy of the products, in 16-bit multiply-accumulates; as the product of the word lengths."""
        return self.layer.products * self.layer.weight_bits * self.layer.operand_bits / WORD**2

    @property
    def energy(self) -> float:
        """Of products and moves, in 16-bit multiply-accumulates."""
        return self.arithmetic + sum(move.energy for move in self.moves)

    def words(self, memory: str, *operands: Operand) -> float:
        """Moved between a memory and its neighbour nearer to the multipliers; of all operands if none is
        named."""
        return sum(
            move.words
            for move in self.moves
            if move.memory == memory and (not operands or move.operand in operands)
        )


@dataclass(frozen=True, slots=True, repr=False)
class Run(Tabular):
    """A network on an accelerator, an image: its layers of products, and nothing else.

    Attributes:
        layers: in their order.
    """

    layers: tuple[LayerRun, ...]

    def summary(self) -> str:
        """It in a line."""
        return (
            f"Run of one image: {self.clocks:,.0f} clocks, {self.memories['DRAM'] / 8e6:,.3g} MB from and to "
            f"memory outside, the energy of {self.energy / 1e6:,.3g} million 16-bit multiply-accumulates"
        )

    def rows(self) -> list[Row]:
        """A row for each layer."""
        return [
            {
                "layer": run.layer.name,
                "clocks": run.clocks,
                "energy": run.energy,
                **{f"{name}, bits": bits for name, bits in Run((run,)).memories.items()},
            }
            for run in self.layers
        ]

    def chart(self) -> Chart:
        """Energy, part by part."""
        found = self.energies
        return Chart(list(found), {"energy": list(found.values())}, ("", "16-bit multiply-accumulates"))

    @property
    def clocks(self) -> float:
        """Of all layers, one after the other."""
        return sum(run.clocks for run in self.layers)

    @property
    def energy(self) -> float:
        """In 16-bit multiply-accumulates."""
        return sum(run.energy for run in self.layers)

    @property
    def memories(self) -> dict[str, float]:
        """Bits moved, by memory, the nearest to the multipliers first."""
        found: dict[str, float] = {}
        for run in self.layers:
            for move in run.moves:
                found[move.memory] = found.get(move.memory, 0.0) + move.total_bits
        return found

    @property
    def energies(self) -> dict[str, float]:
        """In 16-bit multiply-accumulates: of arithmetic, and by memory."""
        found = {"arithmetic": sum(run.arithmetic for run in self.layers)}
        for run in self.layers:
            for move in run.moves:
                found[move.memory] = found.get(move.memory, 0.0) + move.energy
        return found


class Model(Protocol):
    """What a dataflow of a target file can do."""

    def layer(self, layer: Loops) -> LayerRun:
        """One layer.

        Raises:
            DesignError: it does not fit.
        """
        ...


def run(model: Model, layers: Sequence[Loops]) -> Run:
    """All layers of a network; those of one shape are looked at once.

    Raises:
        DesignError: a layer does not fit, by name.
    """
    known: dict[tuple[object, ...], LayerRun] = {}
    found = []
    for layer in layers:
        shape = tuple(getattr(layer, name) for name in Loops.__slots__ if name not in ("name", "before"))
        if shape not in known:
            known[shape] = model.layer(layer)
        own = known[shape]
        found.append(LayerRun(layer, own.clocks, own.moves, own.mapping))
    return Run(tuple(found))


def kept_sums(layer: Loops, sums: int | None) -> int:
    """Bits of an unfinished sum: the accumulator's, or those to which the chip cuts it."""
    return layer.sum_bits if sums is None else min(sums, layer.sum_bits)


def check_sizes(model: msgspec.Struct) -> None:
    """See that every number of a dataflow is above 0.

    Raises:
        DesignError: one is not.
    """
    for name in model.__struct_fields__:
        value = getattr(model, name)
        if isinstance(value, int | float) and not 0 < value < math.inf:
            raise DesignError(f"dataflow.{name} = {value}: expected a number above 0")
