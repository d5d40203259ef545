"""``radixpoint cost``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.table import Table

from radixpoint.accelerator.cost import Cost, check_fixed_point
from radixpoint.accelerator.cost import cost as cost_of
from radixpoint.accelerator.dataflows import Run
from radixpoint.accelerator.fpga import FAMILIES, Fpga, fpga
from radixpoint.accelerator.hardware import AcceleratorCost, Area, accelerator_area, accelerator_cost
from radixpoint.accelerator.machine import LANES, PLACES, Machine
from radixpoint.accelerator.program import BUS, Program
from radixpoint.accelerator.synthesis import ModuleCost, module_costs
from radixpoint.accelerator.target import HardwareTarget
from radixpoint.accelerator.workloads import WORKLOADS, loops
from radixpoint.cli.inputs import make_parents
from radixpoint.cli.options import AsJson, Target
from radixpoint.cli.terminal import bars, emit, out, say
from radixpoint.errors import DesignError, RunError
from radixpoint.files import partial_beside
from radixpoint.ir.memory import footprint
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network

Workload = Literal["timeloop", "zigzag"]
Chip = Literal["ecp5", "xcup"]


def cost(
    network: Annotated[str | None, typer.Argument(help="The quantized network.")] = None,
    lanes: Annotated[int, typer.Option(help="The accelerator has lanes x lanes multipliers.")] = LANES,
    places: Annotated[
        int, typer.Option(help="Places of a result that a weight serves each time it is read.")
    ] = PLACES,
    batch: Annotated[int, typer.Option(help="Images for which weights are fetched once.")] = 1,
    synthesis: Annotated[bool, typer.Option(help="Gate equivalents, LUTs and DSPs, by Yosys.")] = True,
    modules: Annotated[
        bool, typer.Option("--modules", help="The hardware modules at every word length instead.")
    ] = False,
    chip: Annotated[
        Chip | None,
        typer.Option("--fpga", help="The whole accelerator with its bus on an FPGA of this family; minutes."),
    ] = None,
    bus: Annotated[
        int | None, typer.Option(help="For --fpga: bits of a beat of the bus; 64 if not given.")
    ] = None,
    target: Target = None,
    workload: Annotated[
        Workload | None,
        typer.Option(help="Write the layers as this model of accelerators reads them, to the folder --out."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for --workload; it must be new or empty.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a quantized network costs in hardware.

    Counted are operations, memory, energy, clocks and area.

    Example: radixpoint cost run/separate/network.safetensors
    """
    if modules == (network is not None):
        raise DesignError("cost: expected a quantized network, or --modules")
    if (workload is None) != (folder is None) or (workload is not None and network is None):
        raise DesignError("cost: expected a quantized network, --workload and --out together")
    if workload is not None and folder is not None and network is not None:
        if as_json or target is not None:
            raise DesignError("cost --workload: writes files alone: expected neither --json nor --target")
        _write_workload(_fixed_point(network), workload, folder)
        return
    if chip is None and bus is not None:
        raise DesignError("cost --bus: expected --fpga")
    if network is None:
        with bars() as shown:
            task = shown.add_task("synthesis", total=None)
            found = module_costs(progress=lambda done, total: shown.update(task, completed=done, total=total))
        if as_json:
            emit(found)
        else:
            _report_modules(found)
        return
    hardware = None if target is None else HardwareTarget.load(target)
    quantized = _fixed_point(network)
    moved = None if hardware is None else hardware.moved(quantized)  # refused before synthesis
    machine = accelerator_cost(quantized, lanes, places, batch)
    program = None if chip is None else Program(Machine(quantized, lanes, places, batch), bus or BUS)
    area = None
    if synthesis:
        with bars() as shown:
            task = shown.add_task("", total=None)
            area = accelerator_area(
                machine.sizes,
                lanes,
                places,
                lambda what, done, total: shown.reset(task, description=what, completed=done, total=total),
            )
    on_chip = None
    if chip is not None and program is not None:
        with bars() as shown:
            task = shown.add_task("", total=None)
            on_chip = fpga(
                program,
                chip,
                lambda what, done, total: shown.reset(task, description=what, completed=done, total=total),
            )
    counted, taken = cost_of(quantized), footprint(quantized)
    if as_json:
        parts: dict[str, Any] = {"network": counted, "accelerator": machine, "area": area, "c": taken}
        if on_chip is not None:
            parts["fpga"] = {"family": chip, **msgspec.to_builtins(on_chip)}
        if hardware is not None:
            problems, least = hardware.problems(quantized), hardware.clock.least(counted.macs)
            parts["target"] = {"name": hardware.name, "milliseconds": least, "problems": problems}
            parts["target"]["dataflow"] = None if moved is None else _dataflow(hardware, moved)
        emit({name: msgspec.to_builtins(part) for name, part in parts.items()})
        return
    _report(counted, machine, area)
    if chip is not None and on_chip is not None:
        _report_fpga(chip, on_chip, machine)
    say(f"as exported C: {taken.ram:,} bytes of RAM, {taken.flash:,} bytes of flash, stack and code apart")
    if hardware is not None:
        _report_target(hardware, quantized, counted)
        if moved is not None:
            _report_dataflow(hardware, moved)


def _fixed_point(network: str) -> IntGraph:
    quantized = load_network(network)
    try:
        check_fixed_point(quantized)
    except DesignError as error:
        raise DesignError(f"{network}: {error}") from None
    return quantized


def _write_workload(network: IntGraph, workload: Workload, folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: expected a new or an empty folder")
    files = WORKLOADS[workload](network)
    make_parents(folder)
    partial = partial_beside(folder)
    try:
        partial.mkdir()
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        partial.replace(folder)  # whole, or not at all
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from None
    many = f"{len(files)} files" if len(files) > 1 else "one file"
    say(f"{folder}: {len(loops(network))} layers for {workload}, in {many}")


def _report_modules(found: Mapping[str, Mapping[int, ModuleCost]]) -> None:
    for name, by_word in found.items():
        table = Table(
            "bits", "gate equivalents", "LUTs without DSP", "LUTs", "DSPs", "flip-flops", title=name
        )
        for word, cells in by_word.items():
            counts = (cells.luts_without_dsp, cells.luts, cells.dsps, cells.flip_flops)
            table.add_row(str(word), f"{cells.gate_equivalents:,.0f}", *(f"{count:,}" for count in counts))
        out.print(table)


def _report_target(hardware: HardwareTarget, network: IntGraph, counted: Cost) -> None:
    least = hardware.clock.least(counted.macs)
    if least is not None:
        say(f"{hardware.name}: at least {least:,.3g} ms an image, with every multiplier busy")
    problems = hardware.problems(network)
    for problem in problems:
        say(f"{hardware.name}: {problem}")
    if not problems:
        say(f"{hardware.name}: the network fits")


def _dataflow(hardware: HardwareTarget, moved: Run) -> dict[str, Any]:
    """What its dataflow costs, an image."""
    megahertz = hardware.clock.megahertz
    return {
        "clocks": moved.clocks,
        "milliseconds": None if megahertz is None else moved.clocks / megahertz / 1e3,
        "bits": moved.memories,
        "energy": moved.energies,
    }


def _report_dataflow(hardware: HardwareTarget, moved: Run) -> None:
    found = _dataflow(hardware, moved)
    table = Table(f"{hardware.name}, with words as long as the network's", "")
    table.add_row("clocks an image", f"{moved.clocks:,.0f}")
    if found["milliseconds"] is not None:
        table.add_row("with all data there in time", f"{found['milliseconds']:,.3g} ms")
    for memory, bits in moved.memories.items():
        table.add_row(f"moved: {memory}", f"{bits / 8 / 2**20:,.4g} MiB")
    table.add_row("energy, in 16-bit multiply-accumulates", f"{moved.energy / 1e6:,.4g} million")
    for part, energy in moved.energies.items():
        table.add_row(f"energy: {part}", f"{100 * energy / moved.energy:.1f} %")
    out.print(table)


def _kib(bits: int) -> str:
    return f"{bits / 8 / 1024:,.1f} KiB"


def _report_fpga(chip: Chip, found: Fpga, machine: AcceleratorCost) -> None:
    table = Table(f"{FAMILIES[chip].name}, with its bus", "")
    table.add_row("LUTs", f"{found.luts:,}")
    table.add_row("flip-flops", f"{found.flip_flops:,}")
    table.add_row("multipliers", f"{found.multipliers:,}")
    table.add_row("memories of 18 kbit", f"{found.memories:,}")
    if found.megahertz is not None:
        frame = machine.clocks / machine.batch / found.megahertz / 1e3
        table.add_row("clock", f"{found.megahertz:.1f} MHz")
        table.add_row("an image at that clock, memory in time", f"{frame:,.3g} ms")
    table.add_row("by", ", ".join(found.tools))
    out.print(table)


def _report(found: Cost, machine: AcceleratorCost, area: Area | None) -> None:
    table = Table("one image", "")
    x, w = found.conv_bits
    table.add_row("multiply-accumulates", f"{found.macs:,} of {x} x {w} bits")
    x, w = found.scale_bits
    table.add_row("batch normalization and pooling", f"{found.scalings:,} products of {x} x {w} bits")
    table.add_row("bit operations (BOPs)", f"{found.bit_operations:,}")
    table.add_row("weights", _kib(found.weight_bits))
    table.add_row("other parameters", _kib(found.parameter_bits))
    table.add_row("activations alive at once", _kib(found.activation_bits))
    table.add_row("energy of the arithmetic", f"{found.energy / 1e6:,.3g} uJ")
    out.print(table)
    table = Table(f"accelerator, {machine.lanes} x {machine.lanes} multipliers", "")
    table.add_row("clocks an image", f"{machine.clocks / machine.batch:,.0f}")
    table.add_row("multipliers busy", f"{100 * machine.busy:.0f} %")
    for name, bits in machine.memories.items():
        outside = " (off chip)" if name in ("weights", "parameters", "descriptors") else ""
        table.add_row(name + outside, _kib(bits))
    for name, energy in machine.energy.items():
        table.add_row(f"energy: {name}", f"{energy / 1e6:,.3g} uJ")
    table.add_row("DSP48E2, sharing products", f"{machine.dsps:,}")
    if area is not None:
        table.add_row("gate equivalents: array", f"{area.array_gates:,.0f}")
        table.add_row("gate equivalents: lanes", f"{area.lane_gates:,.0f}")
        table.add_row("LUTs with DSPs: array, lanes", f"{area.array_luts:,}, {area.lane_luts:,}")
        table.add_row("LUTs without: array, lanes", f"{area.array_logic:,}, {area.lane_logic:,}")
        table.add_row("DSPs that Yosys infers", f"{area.dsps:,}")
        table.add_row("flip-flops", f"{area.flip_flops:,}")
    out.print(table)
