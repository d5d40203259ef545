"""Inner products: DianNao. Each clock, some inputs of one place meet the weights of some outputs.

Chen et al., "DianNao: A Small-Footprint High-Throughput Accelerator for Ubiquitous Machine-Learning", ASPLOS
2014, sections 3 and 5.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixpoint.accelerator.dataflows.moves import (
    DRAM,
    LayerRun,
    Move,
    check_sizes,
    kept_sums,
    memory_energy,
)
from radixpoint.accelerator.workloads import Loops
from radixpoint.errors import DesignError

_KIB = 8192
Counts = NDArray[np.int64]


class InnerProduct(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="inner-product", tag_field="kind"
):
    """A unit of multipliers and adder trees between three buffers.

    Which part of a layer is in the buffers at a time is not published; here it is the one that moves the
    fewest bits from and to memory outside, with unfinished sums never leaving the chip.

    Attributes:
        outputs, inputs: of the unit: one weight for each pair of them a clock.
        input_buffer, output_buffer, weight_buffer: KiB.
        sums: bits to which unfinished sums are cut; None keeps them whole.
    """

    outputs: int
    inputs: int
    input_buffer: float
    output_buffer: float
    weight_buffer: float
    sums: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self)

    @property
    def operations(self) -> int:
        """Multiplications and additions a clock: each output's tree has one adder less than multipliers."""
        return self.outputs * (2 * self.inputs - 1)

    def layer(self, layer: Loops) -> LayerRun:
        """With the tiles that move the fewest bits.

        Raises:
            DesignError: the buffers do not hold one window of one channel.
        """
        window, places = math.prod(layer.kernel), math.prod(layer.places)
        clocks = layer.groups * places * window
        clocks *= -(-layer.outputs // self.outputs) * -(-layer.inputs // self.inputs)
        tiles = self._tiles(layer)
        weights, inputs = self._read(layer, tiles)
        bits = weights * layer.weight_bits + inputs * layer.stored_bits
        best = int(np.lexsort((-tiles["channels"], bits))[0])  # few chunks: sums are stored less often
        chunks = -(-layer.inputs // int(tiles["channels"][best]))
        results = layer.groups * layer.outputs * places
        held = kept_sums(layer, self.sums)
        sizes = {"weights": self.weight_buffer, "inputs": self.input_buffer, "sums": self.output_buffer}
        unit = {what: memory_energy(kib * _KIB) for what, kib in sizes.items()}
        loaded = {"weights": float(weights[best]), "inputs": float(inputs[best])}
        used = {"weights": self.outputs * self.inputs, "inputs": self.inputs}
        moves = (
            Move(
                "buffer",
                "weights",
                clocks * used["weights"] + loaded["weights"],
                layer.weight_bits,
                unit["weights"],
            ),
            Move(
                "buffer",
                "inputs",
                clocks * used["inputs"] + loaded["inputs"],
                layer.operand_bits,
                unit["inputs"],
            ),
            Move("buffer", "sums", results * (2.0 * chunks - 1), held, unit["sums"]),
            Move("DRAM", "weights", loaded["weights"], layer.weight_bits, DRAM),
            Move("DRAM", "inputs", loaded["inputs"], layer.stored_bits, DRAM),
            Move("DRAM", "sums", float(results), layer.result_bits, DRAM),
        )
        return LayerRun(layer, clocks, moves, tuple((name, int(own[best])) for name, own in tiles.items()))

    def _tiles(self, layer: Loops) -> dict[str, Counts]:
        """Outputs, rows and columns of places, channels: every tile that the buffers hold."""

        def halves(most: int) -> list[int]:
            return sorted({-(-most // k) for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, most)})

        step = min(self.outputs, layer.outputs)
        axes = {
            "outputs": sorted({-(-count // step) * step for count in halves(layer.outputs)} | {step}),
            "rows": halves(layer.places[0]),
            "columns": halves(layer.places[1]),
            "channels": halves(layer.inputs),
        }
        grid = np.meshgrid(*(np.array(values, np.int64) for values in axes.values()), indexing="ij")
        tiles = dict(zip(axes, (values.ravel() for values in grid), strict=True))
        seen = self._rows(layer, tiles["rows"], 0) * self._rows(layer, tiles["columns"], 1)
        held = tiles["outputs"] * tiles["rows"] * tiles["columns"] * kept_sums(layer, self.sums)
        weights = tiles["outputs"] * tiles["channels"] * math.prod(layer.kernel) * layer.weight_bits
        fits = (
            (seen * tiles["channels"] * layer.operand_bits <= self.input_buffer * _KIB)
            & (held <= self.output_buffer * _KIB)
            & (weights <= self.weight_buffer * _KIB)
        )
        if not fits.any():
            raise DesignError(f"layer {layer.name!r}: no part of it fits the buffers")
        return {name: values[fits] for name, values in tiles.items()}

    def _rows(self, layer: Loops, places: Counts, axis: int) -> Counts:
        return (places - 1) * layer.strides[axis] + layer.kernel[axis]

    def _read(self, layer: Loops, tiles: dict[str, Counts]) -> tuple[Counts, Counts]:
        """Words of weights and of inputs from outside, an image, in the better of two orders."""
        stored = layer.groups * layer.outputs * layer.inputs * math.prod(layer.kernel)
        by_output = -(-layer.outputs // tiles["outputs"])
        strips = [-(-layer.places[axis] // tiles[name]) for axis, name in enumerate(("rows", "columns"))]
        by_place = strips[0] * strips[1]
        area = layer.groups * layer.inputs * np.ones_like(by_place)
        for axis, count in enumerate(strips):  # tiles share rows and columns, which are read for each
            area *= (layer.places[axis] - count) * layer.strides[axis] + count * layer.kernel[axis]
        a_tile = tiles["outputs"] * layer.inputs * math.prod(layer.kernel) * layer.weight_bits
        keeps_weights = a_tile <= self.weight_buffer * _KIB
        outputs_first = np.where(keeps_weights, stored, stored * by_place), area * by_output
        keeps_inputs = tiles["channels"] >= layer.inputs
        places_first = stored * by_place, np.where(keeps_inputs, area, area * by_output)

        def bits(weights: Counts, inputs: Counts) -> Counts:
            return weights * layer.weight_bits + inputs * layer.stored_bits

        first = bits(*outputs_first) <= bits(*places_first)
        return (
            np.where(first, outputs_first[0], places_first[0]),
            np.where(first, outputs_first[1], places_first[1]),
        )
