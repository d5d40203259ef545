"""Row stationary: Eyeriss. A processing element keeps a row of a filter and slides it along a row of inputs.

Chen, Emer, Sze, "Eyeriss: A Spatial Architecture for Energy-Efficient Dataflow for Convolutional Neural
Networks", ISCA 2016; Chen, Krishna, Emer, Sze, "Eyeriss: An Energy-Efficient Reconfigurable Accelerator for
Deep Convolutional Neural Networks", IEEE Journal of Solid-State Circuits 52(1), 2017, section III.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixpoint.accelerator.dataflows.moves import (
    ARRAY,
    BUFFER,
    DRAM,
    REGISTERS,
    LayerRun,
    Move,
    Operand,
    check_sizes,
    kept_sums,
)
from radixpoint.accelerator.workloads import Loops
from radixpoint.errors import DesignError

_KIB = 8192
NAMES = ("m", "n", "e", "p", "q", "r", "t")
"""Of a mapping, as in the second paper's table II.

Result channels whose sums are in the buffer, images of a pass, rows of results of a set, filters and channels
of an element, sets on other channels, sets on other filters.
"""
Grid = Mapping[str, NDArray[np.int64]]


def _ceil(a: int | NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    return -(-a // b)


class RowStationary(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="row-stationary", tag_field="kind"
):
    """An array of processing elements with registers, before one buffer.

    Attributes:
        rows, columns: of the array.
        weight_registers, input_registers, sum_registers: bits of an element's.
        buffer: KiB, for inputs and sums; weights pass by it.
        batch: images of a batch.
        sums: bits to which unfinished sums are cut; None keeps them whole.
        least: what the mapping of a layer makes as small as it can: the energy, or its product with the
            clocks.
    """

    rows: int
    columns: int
    weight_registers: int
    input_registers: int
    sum_registers: int
    buffer: float
    batch: int = 1
    sums: int | None = None
    least: Literal["energy", "energy-delay"] = "energy-delay"

    def __post_init__(self) -> None:
        check_sizes(self)

    def layer(self, layer: Loops) -> LayerRun:
        """With the best mapping.

        Raises:
            DesignError: a window has more rows than the array, or one more columns than the registers hold.
        """
        grid = self._mappings(layer)
        words = self._words(layer, grid)
        energy = sum(words[what] * self._bits(layer, what) * unit for what, unit in _UNITS.items())
        if self.least == "energy-delay":
            energy = energy * self._clocks(layer, grid)
        best = int(np.argmin(energy))
        return self._at(layer, {name: values[best : best + 1] for name, values in grid.items()})

    def mapped(self, layer: Loops, **mapping: int) -> LayerRun:
        """With a mapping that is given, by ``NAMES``.

        Raises:
            DesignError: it does not fit.
        """
        grid = {name: np.array([mapping[name]]) for name in NAMES}
        if not self._fits(layer, grid)[0]:
            raise DesignError(f"layer {layer.name!r}: the mapping {mapping} does not fit the accelerator")
        return self._at(layer, grid)

    def _at(self, layer: Loops, grid: Grid) -> LayerRun:
        words, images = self._words(layer, grid), self.batch
        moves = tuple(
            Move(memory, operand, float(words[memory, operand][0]) / images, self._bits(layer, what), unit)
            for what, unit in _UNITS.items()
            for memory, operand in [what]
        )
        mapping = tuple((name, int(values[0])) for name, values in grid.items())
        return LayerRun(layer, float(self._clocks(layer, grid)[0]) / images, moves, mapping)

    def _bits(self, layer: Loops, what: tuple[str, str]) -> int:
        memory, operand = what
        if operand == "weights":
            return layer.weight_bits
        if operand == "inputs":
            return layer.stored_bits if memory == "DRAM" else layer.operand_bits
        return layer.result_bits if memory == "DRAM" else kept_sums(layer, self.sums)

    def _mappings(self, layer: Loops) -> Grid:
        """Every mapping that fits, ``m`` as large as the buffer allows: fewer inputs are read again then."""
        height, width = layer.kernel
        registers = self.input_registers // layer.operand_bits
        if height > self.rows or width > min(registers, self.weight_registers // layer.weight_bits):
            raise DesignError(
                f"layer {layer.name!r}: a window of {height} x {width}: expected at most {self.rows} x "
                f"{min(registers, self.weight_registers // layer.weight_bits)}"
            )
        places = layer.places[0]
        sets = self.rows // height * self.columns
        axes = {
            "n": [n for n in range(1, self.batch + 1) if self.batch % n == 0],
            "e": sorted({-(-places // k) for k in range(1, places + 1)}),
            "p": range(1, min(layer.outputs, self.sum_registers // kept_sums(layer, self.sums)) + 1),
            "q": range(1, min(layer.inputs, registers // width) + 1),
            "r": sorted({min(layer.inputs, sets // k) for k in range(1, sets + 1)}),
            "t": range(4),
        }
        found = np.meshgrid(*(np.array(list(values), np.int64) for values in axes.values()), indexing="ij")
        grid = dict(zip(axes, (values.ravel() for values in found), strict=True))
        # Sets that are left are for other filters: as many as have room, or a half, a quarter, an eighth.
        grid["t"] = np.clip(self._room(layer, grid["e"]) // grid["r"] >> grid["t"], 1, layer.outputs)
        grid["m"] = grid["p"] * grid["t"]
        kept = self._fits(layer, grid)
        if not kept.any():
            raise DesignError(f"layer {layer.name!r}: no part of it fits the buffer of {self.buffer:g} KiB")
        grid = {name: values[kept] for name, values in grid.items()}
        step = grid["p"] * grid["t"]
        a_channel = grid["n"] * grid["e"] * layer.places[1] * kept_sums(layer, self.sums)
        most = (self._buffer_bits - self._input_bits(layer, grid)) // a_channel
        grid["m"] = np.minimum(most // step, _ceil(layer.outputs, step)) * step
        return {name: grid[name] for name in NAMES}

    @property
    def _buffer_bits(self) -> int:
        return int(self.buffer * _KIB)

    def _input_bits(self, layer: Loops, grid: Grid) -> NDArray[np.int64]:
        """In the buffer, of a pass."""
        rows = (grid["e"] - 1) * layer.strides[0] + layer.kernel[0]
        return grid["n"] * grid["q"] * grid["r"] * rows * self._columns(layer) * layer.operand_bits

    def _columns(self, layer: Loops) -> int:
        """Of the padded inputs, as far as they are read."""
        return (layer.places[1] - 1) * layer.strides[1] + layer.kernel[1]

    def _room(self, layer: Loops, wide: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sets in the array: as high as the filter, as wide as their results, or folded below themselves."""
        fit = self.rows // layer.kernel[0] * (self.columns // np.minimum(wide, self.columns))
        return fit // _ceil(wide, np.array(self.columns))

    def _fits(self, layer: Loops, grid: Grid) -> NDArray[np.bool_]:
        width = layer.kernel[1]
        sums = grid["n"] * grid["m"] * grid["e"] * layer.places[1] * kept_sums(layer, self.sums)
        return np.asarray(
            (grid["r"] * grid["t"] <= self._room(layer, grid["e"]))
            & (grid["p"] * grid["q"] * width * layer.weight_bits <= self.weight_registers)
            & (grid["q"] * width * layer.operand_bits <= self.input_registers)
            & (grid["p"] * kept_sums(layer, self.sums) <= self.sum_registers)
            & (grid["m"] >= grid["p"] * grid["t"])
            & (self._input_bits(layer, grid) + sums <= self._buffer_bits)
        )

    def _passes(self, layer: Loops, grid: Grid) -> tuple[NDArray[np.int64], ...]:
        """Over images, strips of rows, filters, channels."""
        return (
            _ceil(self.batch, grid["n"]),
            _ceil(layer.places[0], grid["e"]),
            _ceil(layer.outputs, grid["p"] * grid["t"]),
            _ceil(layer.inputs, grid["q"] * grid["r"]),
        )

    def _clocks(self, layer: Loops, grid: Grid) -> NDArray[np.float64]:
        """Of a batch: an element makes one product a clock."""
        a_pass = grid["n"] * grid["p"] * grid["q"] * layer.places[1] * layer.kernel[1]
        return np.asarray(layer.groups * math.prod(self._passes(layer, grid)) * a_pass, np.float64)

    def _words(self, layer: Loops, grid: Grid) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Of a batch, by memory and operand."""
        batch, (height, width) = self.batch, layer.kernel
        images, strips, filters, channels = self._passes(layer, grid)
        results = batch * layer.groups * layer.outputs * math.prod(layer.places)
        stored = layer.groups * layer.outputs * layer.inputs * height * width
        products = float(batch * layer.products)
        # Strips share rows of inputs, which are read for each; the last strip may be lower.
        rows = (layer.places[0] - strips) * layer.strides[0] + strips * height
        read = batch * layer.groups * layer.inputs * rows * self._columns(layer)
        real = batch * layer.groups * layer.inputs * math.prod(layer.source)
        whole = (layer.places[0] - 1) * layer.strides[0] + height
        again = _ceil(layer.outputs, grid["m"])  # a group of filters reads all inputs
        accumulated = results * channels
        one = np.ones_like(channels, np.float64)
        return {
            ("registers", "weights"): products * one,
            ("registers", "inputs"): products * one,
            ("registers", "sums"): 2 * products * one,
            ("array", "sums"): results * channels * (height * grid["r"] - 1.0),
            ("buffer", "inputs"): read * filters * 1.0,
            ("buffer", "sums"): 2.0 * accumulated,
            ("DRAM", "weights"): stored * images * strips * 1.0,
            ("DRAM", "inputs"): real * (rows / whole) * again,
            ("DRAM", "sums"): results * one,
        }


_UNITS: dict[tuple[str, Operand], float] = {
    ("registers", "weights"): REGISTERS[1],
    ("registers", "inputs"): REGISTERS[1],
    ("registers", "sums"): REGISTERS[1],
    ("array", "sums"): ARRAY,
    ("buffer", "inputs"): BUFFER[1],
    ("buffer", "sums"): BUFFER[1],
    ("DRAM", "weights"): DRAM,
    ("DRAM", "inputs"): DRAM,
    ("DRAM", "sums"): DRAM,
}
"""Energy of a 16-bit word, by memory and operand."""
