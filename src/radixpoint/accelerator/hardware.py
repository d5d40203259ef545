"""What the accelerator of ``rtl/`` costs when it runs one network: clocks, memories, energy, area."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product

from radixpoint.accelerator.cost import DRAM, memory_energy, product_energy, products_per_dsp
from radixpoint.accelerator.cost import cost as network_cost
from radixpoint.accelerator.machine import LANES, PLACES, Machine
from radixpoint.accelerator.synthesis import Synthesis, multiply_accumulate, synthesize
from radixpoint.ir.network import IntGraph


@dataclass(frozen=True, slots=True)
class Area:
    """Of the array's multipliers with their accumulators, and of all lanes of the pipeline; no memories.

    Attributes:
        array_gates, lane_gates: in gate equivalents.
        array_luts, lane_luts: look-up tables where multipliers are DSP blocks.
        array_logic, lane_logic: look-up tables where they are not.
        dsps: DSP blocks as Yosys infers them.
        flip_flops: of both.
    """

    array_gates: float
    lane_gates: float
    array_luts: int
    lane_luts: int
    array_logic: int
    lane_logic: int
    dsps: int
    flip_flops: int


@dataclass(frozen=True, slots=True)
class AcceleratorCost:
    """Of one image on the accelerator.

    Attributes:
        lanes, places, batch: of ``radixpoint.accelerator.machine.Machine``.
        sizes: word lengths of the hardware, parameters of ``rx_accelerator``.
        clocks: from start to done of a batch.
        busy: share of lanes x lanes x clocks in which a multiplier has a product to make.
        memories: bits of each, by name; ``weights``, ``parameters`` and ``descriptors`` are outside the chip.
        energy: pJ by what spends it; see ``radixpoint.accelerator.cost`` for the constants.
        dsps: DSP48E2 blocks if products share them (``radixpoint.accelerator.cost.products_per_dsp``).
    """

    lanes: int
    places: int
    batch: int
    sizes: Mapping[str, int]
    clocks: int
    busy: float
    memories: Mapping[str, int]
    energy: Mapping[str, float]
    dsps: int


def accelerator_cost(
    network: IntGraph, lanes: int = LANES, places: int = PLACES, batch: int = 1
) -> AcceleratorCost:
    """Count what one image costs.

    Args:
        network: a verified IntGraph.
        lanes: values of a vector.
        places: that a word of weights serves each time it is read.
        batch: images for which weights are fetched once.

    Raises:
        ExportError: the accelerator cannot run the network.
    """
    machine = Machine(network, lanes, places, batch)
    sizes, numbers = machine.sizes, machine.parameters
    counted = network_cost(network)
    lane_bits = 2 * sizes["OFFSET"] + sizes["FACTOR"] + sizes["DIVISOR"] + 7 * sizes["SHIFT"]
    word = lanes * lanes * sizes["W"]
    memories = {
        "narrow": numbers["NARROWS"] * lanes * sizes["X"],
        "wide": numbers["WIDES"] * lanes * sizes["WIDE"],
        "weight buffer": 2 * word << numbers["WINDOW"],
        "weights": numbers["STORES"] * word,
        "parameters": numbers["PARAMETERS"] * lanes * lane_bits,
        "descriptors": numbers["DESCRIPTORS"] * 64,
    }
    narrow = wide = buffer = fetched = 0  # bits read or written
    for d in machine.descriptors:
        f = d.fields
        results = f["IMAGES"] * f["ROWS"] * f["COLUMNS"]
        vectors = f["TILES"] * results
        taps = vectors * f["KERNEL_ROWS"] * f["KERNEL_COLUMNS"] * f["BLOCKS"]
        if f["KIND"] == 0:
            narrow += taps * lanes * sizes["X"]
            groups = results if f["GAP"] else math.ceil(results / places)  # a word serves a group
            buffer += d.weights * (groups + 1) * word
            fetched += d.weights * word
        else:
            wide += taps * lanes * sizes["WIDE"]
        wide += vectors * lanes * sizes["WIDE"] * (f["WRITES"] & 1)
        narrow += vectors * lanes * sizes["X"] * (f["WRITES"] >> 1)
        fetched += lanes * lane_bits * d.parameters
    energy = {
        "multiply-accumulate": counted.macs * product_energy(sizes["X"], sizes["W"], sizes["ACC"]),
        "batch normalization": counted.scalings
        * product_energy(sizes["MUL"], sizes["FACTOR"], sizes["PATH"]),
        "narrow memory": memory_energy(memories["narrow"], narrow) / batch,
        "wide memory": memory_energy(memories["wide"], wide) / batch,
        "weight buffer": memory_energy(memories["weight buffer"], buffer) / batch,
        "off-chip parameters": DRAM * fetched / 64 / batch,
    }
    clocks = machine.clocks()
    return AcceleratorCost(
        lanes,
        places,
        batch,
        sizes,
        clocks,
        batch * counted.macs / (lanes * lanes * clocks),
        memories,
        energy,
        math.ceil(lanes * lanes / products_per_dsp(sizes["X"], sizes["W"]))
        + math.ceil(lanes / products_per_dsp(sizes["MUL"], sizes["FACTOR"])),
    )


def accelerator_area(
    sizes: Mapping[str, int],
    lanes: int,
    places: int = PLACES,
    progress: Callable[[str, int, int], None] | None = None,
) -> Area:
    """Synthesize one multiplier with its accumulator and one lane, and count them.

    Args:
        sizes: of ``AcceleratorCost``.
        lanes: values of a vector.
        places: that a word of weights serves each time it is read.
        progress: called with what is synthesized next, how many are done, and how many there are.

    Raises:
        ExportError: there is no Yosys, or it failed.
    """
    mac = multiply_accumulate(sizes["X"], sizes["W"], sizes["ACC"])
    names = ("PATH", "CAST", "WIDE", "X", "MUL", "FACTOR", "OFFSET", "SHIFT", "LEFT", "DIVIDE", "DIVISOR")
    parts = [
        (lanes * lanes, mac),
        (lanes, ("rx_lane", {name: sizes[name] for name in names})),
        (lanes, ("rx_pool", {"IN": sizes["WIDE"], "OUT": sizes["PATH"]})),
        (lanes, ("rx_add", {"IN": sizes["WIDE"], "OUT": sizes["PATH"], "SHIFT": sizes["SHIFT"]})),
    ]
    if places > 1:
        index = (places - 1).bit_length()
        parts.insert(1, (lanes, ("rx_sums", {"ACC": sizes["ACC"], "PLACES": places, "PLACE": index})))
    array = len(parts) - 3
    found: dict[str, list[Synthesis]] = {}
    for number, (flow, (_, part)) in enumerate(product(("gates", "lut", "dsp"), parts)):
        if progress is not None:
            progress(f"synthesis of {part[0]} ({flow})", number, 3 * len(parts))
        found.setdefault(flow, []).append(synthesize(*part, flow))
    counts = [count for count, _ in parts]
    gates = [count * cells.gate_equivalents for count, cells in zip(counts, found["gates"], strict=True)]
    logic = [count * cells.luts for count, cells in zip(counts, found["lut"], strict=True)]
    fpga = list(zip(counts, found["dsp"], strict=True))
    return Area(
        sum(gates[:array]),
        sum(gates[array:]),
        sum(count * cells.luts for count, cells in fpga[:array]),
        sum(count * cells.luts for count, cells in fpga[array:]),
        sum(logic[:array]),
        sum(logic[array:]),
        sum(count * cells.dsps for count, cells in fpga),
        sum(count * cells.flip_flops for count, cells in fpga),
    )
