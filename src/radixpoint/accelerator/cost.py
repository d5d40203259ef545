"""What a quantized network costs, before any hardware is chosen: operations, memory, energy, DSP blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from radixpoint.errors import DesignError
from radixpoint.ir.arena import arena_layout
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.ops import Family
from radixpoint.quantization.design import Design
from radixpoint.tables import Chart, Row, Tabular


def products_of(network: IntGraph, step: Step) -> int:
    """Multiplications of a step, an image."""
    result = network.tensors[step.name].shape
    if step.family != "product":
        return math.prod(result)
    weight = network.arrays(step)["weight"]
    return math.prod(result) * math.prod(weight.shape[1:])


def multiplier_cost(network: IntGraph) -> int:
    """Partial-product bits an image: over all multiplications, the product of both operands' word lengths.

    An array multiplier's area and switched capacitance grow with it; the count of "bit operations" (BOPs) of
    the literature (Baskin et al., UNIQ, 2018) is the same without its additions.
    """
    return sum(
        products_of(network, step) * math.prod(network.operand_widths(step))
        for step in network.steps
        if step.row.factor is not None
    )


def bit_operations(x: int, w: int, terms: int) -> float:
    """BOPs of one of ``terms`` products of ``x`` by ``w`` bits, with its share of their additions.

    Baskin et al., UNIQ, 2018: ab + a + b + log2 n.
    """
    return x * w + x + w + math.log2(terms)


# --------------------------------------------------------------------------------------------- energy

SRAM: Mapping[int, float] = {8 << 10: 10.0, 32 << 10: 20.0, 1 << 20: 100.0}
"""pJ of an access of 64 bits, by bytes of the memory; a larger one is counted as the largest."""
DRAM = 1300.0
"""pJ of an access of 64 bits; the low end of 1.3 to 2.6 nJ."""


def multiply_energy(a: int, b: int) -> float:
    """pJ of an integer multiplication in 45 nm at 0.9 V.

    0.2 pJ at 8 x 8 bits, in proportion to the partial products: 3.2 pJ at 32 x 32, where 3.1 is published
    (Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9, as are all constants here).
    """
    return 0.2 * a * b / 64


def add_energy(bits: int) -> float:
    """pJ of an integer addition: 0.03 at 8 bits, in proportion (0.12 at 32 bits, where 0.1 is published)."""
    return 0.03 * bits / 8


def product_energy(x: int, w: int, accumulator: int) -> float:
    """pJ of a product of ``x`` by ``w`` bits and of its addition to ``accumulator`` bits."""
    return multiply_energy(x, w) + add_energy(accumulator)


def memory_energy(size_bits: int, bits: int) -> float:
    """pJ to read or write ``bits`` of an on-chip memory of ``size_bits``."""
    fitting = [size for size in SRAM if size_bits <= 8 * size]
    return SRAM[min(fitting, default=max(SRAM))] * bits / 64


# ------------------------------------------------------------------------------------------ DSP blocks


def products_per_dsp(x: int, w: int, symmetric: bool = False) -> Fraction:
    """Products of ``x`` by ``w`` bits, both signed, that a DSP48E2 (27 x 18 bits) makes in one clock.

    Two weights in the wide port, k places apart, share an activation, and the result holds both products, k
    places apart (Xilinx WP486, for 8 bits). k must be x + w, and the packed weights fit 27 bits if
    2w + x <= 26. ``symmetric`` weights lack the most negative value (SAT_SYM): k = x + w - 1, 2w + x <= 28.
    Two activations in the other port as well make four products (WP521, for 4 bits). No bit is left to add
    before the products are taken apart. Above 27 x 18, several blocks make one product.
    """
    small, large = sorted((x, w))
    if 2 * (x + w) + large <= 26 and 2 * small + large <= 17:
        return Fraction(4)
    if 2 * small + large <= (28 if symmetric else 26) and large <= 18:
        return Fraction(2)
    if small <= 18 and large <= 27:
        return Fraction(1)
    return Fraction(1, -(-small // 17) * -(-large // 26))


# ------------------------------------------------------------------------------------------- the whole


@dataclass(frozen=True, slots=True)
class Cost(Tabular):
    """Of one image.

    Attributes:
        macs: multiplications of convolutions and fully connected layers.
        scalings: all other multiplications: of batch normalization, of pooling, of two tensors.
        conv_bits, scale_bits: largest operand word lengths of each: (activation, parameter).
        multiplier_cost: see ``multiplier_cost``.
        bit_operations: BOPs with additions, see ``bit_operations``.
        weight_bits, parameter_bits: stored weights, and all other parameters.
        activation_bits: memory of the activations that live at the same time, at their word lengths.
        energy: pJ of the arithmetic, see ``multiply_energy`` and ``add_energy``.
    """

    macs: int
    scalings: int
    conv_bits: tuple[int, int]
    scale_bits: tuple[int, int]
    multiplier_cost: int
    bit_operations: int
    weight_bits: int
    parameter_bits: int
    activation_bits: int
    energy: float

    def summary(self) -> str:
        """It in a line."""
        (x, w), memory = self.conv_bits, self.weight_bits + self.parameter_bits
        return f"Cost of one image: {self.macs:,} products of up to {x} x {w} bits, {memory / 8192:,.1f} KiB"

    def rows(self) -> list[Row]:
        """A row for each figure."""
        widths = {name: "{} x {}".format(*getattr(self, name)) for name in ("conv_bits", "scale_bits")}
        return [
            {"figure": name, "value": widths.get(name, getattr(self, name)), "unit": unit}
            for name, unit in _UNITS.items()
        ]

    def chart(self) -> Chart:
        """Memory, part by part."""
        parts = {
            "weights": self.weight_bits,
            "other parameters": self.parameter_bits,
            "activations": self.activation_bits,
        }
        return Chart(list(parts), {"memory": [bits / 8192 for bits in parts.values()]}, ("", "KiB"))


_UNITS = {
    "macs": "products",
    "scalings": "products",
    "conv_bits": "bits",
    "scale_bits": "bits",
    "multiplier_cost": "partial-product bits",
    "bit_operations": "bit operations",
    "weight_bits": "bits",
    "parameter_bits": "bits",
    "activation_bits": "bits",
    "energy": "pJ",
}


def _widest(network: IntGraph, family: Family) -> tuple[int, int]:
    steps = (step for step in network.steps if step.row.factor is not None and step.family == family)
    widths = [network.operand_widths(step) for step in steps]
    return max((x for x, _ in widths), default=0), max((w for _, w in widths), default=0)


def activation_bits(network: IntGraph) -> int:
    """A tensor lives from the step that begins to compute it to the last that reads it.

    What only one element-wise step reads is never stored: that step works on it as it comes.
    """
    order = {network.input: 0} | {step.name: i + 1 for i, step in enumerate(network.steps)}
    last = dict(order)
    readers = network.readers
    for step in network.steps:
        for name in step.inputs:
            last[name] = order[step.name]
    sizes = {
        name: math.prod(network.tensors[name].shape) * network.tensors[name].format.word_length
        for name in order
        if name in (network.input, *network.outputs)
        or len(readers[name]) > 1
        or not all(step.row.pointwise for step in readers[name])
    }
    begin = {network.input: 0}
    for step in network.steps:
        flows_in = step.row.pointwise and step.inputs[0] not in sizes
        begin[step.name] = begin[step.inputs[0]] if flows_in else order[step.name]
    layout = arena_layout(sizes, {n: (begin[n], last[n]) for n in sizes})
    return max(layout[n] + sizes[n] for n in sizes)


def check_fixed_point(network: IntGraph) -> None:
    """See that what a network multiplies is fixed-point, whose multipliers are what is counted.

    Raises:
        DesignError: its design codes weights or activations.
    """
    design = Design.recorded(network)
    if design is None:
        return
    coded = [kind for kind in ("weights", "activations") if getattr(design.codes, kind) is not None]
    if coded:
        raise DesignError(
            f"its design codes {' and '.join(coded)}: expected fixed-point operands, whose multipliers are "
            "what is counted"
        )


@dataclass(frozen=True, slots=True)
class LayerCost:
    """What one layer adds to ``Cost``, an image: the same fields, of its own steps.

    Attributes:
        macs, scalings, multiplier_cost, bit_operations, energy: as in ``Cost``.
        weight_bits, parameter_bits: as in ``Cost``; what several layers share counts for the first.
    """

    macs: int = 0
    scalings: int = 0
    multiplier_cost: int = 0
    bit_operations: int = 0
    weight_bits: int = 0
    parameter_bits: int = 0
    energy: float = 0.0


def layer_costs(network: IntGraph) -> dict[str, LayerCost]:
    """Cost of every layer that multiplies or stores anything, by name.

    Raises:
        DesignError: what is multiplied is not fixed-point.
    """
    check_fixed_point(network)
    found: dict[str, LayerCost] = {}
    weights = {s.parameters["weight"] for s in network.steps if s.family == "product"}
    counted: set[str] = set()
    for step in network.steps:
        layer = network.tensors[step.name].layer
        added = found.get(layer, LayerCost())
        own = [key for key in dict.fromkeys(step.parameters.values()) if key not in counted]
        counted.update(own)
        for key in own:
            parameter = network.parameters[key]
            field = "weight_bits" if key in weights else "parameter_bits"
            bits = parameter.data.size * parameter.format.word_length
            added = replace(added, **{field: getattr(added, field) + bits})
        if step.row.factor is not None:
            products, (x, w) = products_of(network, step), network.operand_widths(step)
            terms = 1 if step.family != "product" else math.prod(network.arrays(step)["weight"].shape[1:])
            count = "macs" if step.family == "product" else "scalings"
            added = replace(
                added,
                **{count: getattr(added, count) + products},
                multiplier_cost=added.multiplier_cost + products * x * w,
                bit_operations=added.bit_operations + round(products * bit_operations(x, w, terms)),
                energy=added.energy
                + products * product_energy(x, w, network.tensors[step.name].format.word_length),
            )
        if added != LayerCost():
            found[layer] = added
    return found


def cost(network: IntGraph) -> Cost:
    """Operations, memory and arithmetic energy of one image.

    Raises:
        DesignError: what is multiplied is not fixed-point.
    """
    layers = layer_costs(network).values()
    return Cost(
        sum(layer.macs for layer in layers),
        sum(layer.scalings for layer in layers),
        _widest(network, "product"),
        _widest(network, "elementwise"),
        multiplier_cost(network),
        sum(layer.bit_operations for layer in layers),
        sum(layer.weight_bits for layer in layers),
        sum(layer.parameter_bits for layer in layers),
        activation_bits(network),
        sum(layer.energy for layer in layers),
    )
