"""The accelerator of ``rtl/`` on an AXI4 bus: its program, drivers in C and Python, what synthesis needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from radixpoint.accelerator.machine import BUS_MODULES, Machine
from radixpoint.accelerator.program import BUS, Program
from radixpoint.accelerator.synthesis import rtl
from radixpoint.export.folder import read_manifest
from radixpoint.export.source import rows
from radixpoint.export.target import FIXED_POINT
from radixpoint.export.verilog import VerilatedTestbench, common_texts, make_machine, option_number
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Ints

SOURCES = ("testbench.v", "trace.v", *BUS_MODULES)
"""What is simulated; the first holds the testbench."""
_AS_THEY_ARE = (
    *("radixpoint_axi.h", "radixpoint_axi.c", "radixpoint_axi.py"),
    *("package.tcl", "rx_axi.sdc", "README.md"),
)


class AxiTarget:
    """``--to axi``."""

    name = "axi"
    summary = "the accelerator in Verilog on an AXI4 bus, its program in memory, drivers in C and Python"
    options: tuple[str, ...] = ("lanes", "places", "batch", "bus")
    steps = FIXED_POINT
    several_outputs = False

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``.

        Options: those of ``radixpoint.accelerator.machine.Machine``, and ``bus``, bits of a beat.
        """
        machine, made = _program(network, options)
        program = made.program()
        texts = {
            **common_texts(machine, images),
            "parameters.vh": made.parameters_file(8 * len(program) // made.bus, len(images)),
        }
        facts = _facts(machine, made, program)
        texts["radixpoint_network.h"] = _header(facts)
        texts["radixpoint_network.json"] = json.dumps(facts) + "\n"
        for name in ("rx_fields.vh", "trace.v", *BUS_MODULES):
            texts[name] = rtl(name)
        texts["testbench.v"] = rtl("axi_testbench.v")
        own = files("radixpoint.export") / "axi"
        for name in _AS_THEY_ARE:
            texts[name] = (own / name).read_text()
        return {"program.bin": program, **{name: text.encode() for name, text in texts.items()}}

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, VerilatedTestbench]:
        """See ``radixpoint.export.target.Target``."""
        machine, made = _program(network, read_manifest(folder).options)
        moved = len(made.program()) + machine.batch * (made.image_bytes + made.result_bytes)
        # two batches a start, and a memory that pauses
        patience = 2 * (machine.clocks() + 4 * 8 * moved // made.bus)
        return {"verilator": VerilatedTestbench(network, machine, folder, scratch, SOURCES, patience)}


def _program(network: IntGraph, options: Mapping[str, str]) -> tuple[Machine, Program]:
    machine = make_machine(network, options)
    return machine, Program(machine, option_number(options, "bus", BUS))


def _hash(data: bytes) -> int:
    """FNV-1a of 32 bits, over words of four bytes: what a driver computes to know its program."""
    value = 0x811C9DC5
    for place in range(0, len(data), 4):
        value = (value ^ int.from_bytes(data[place : place + 4], "little")) * 0x01000193 & 0xFFFFFFFF
    return value


def _facts(machine: Machine, made: Program, program: bytes) -> dict[str, int | list[int]]:
    """What the drivers know of the network, by name."""
    numbers, schedule = machine.parameters, machine.schedule
    image, result = schedule.layouts[machine.network.input], schedule.layouts[schedule.output]
    shape = machine.network.tensors[machine.network.input].shape
    channels, rows_, columns = shape if len(shape) == 3 else (shape[0], 1, 1)
    return {
        "identifier": made.identifier,
        "program_bytes": len(program),
        "program_hash": _hash(program),
        "beat_bytes": made.bus // 8,
        "lanes": machine.lanes,
        "batch": machine.batch,
        "image_channels": channels,
        "image_rows": rows_,
        "image_columns": columns,
        "image_bits": numbers["PIXEL"],
        "image_low": machine.network.tensors[machine.network.input].low,
        "image_high": machine.network.tensors[machine.network.input].high,
        "image_word_bytes": made.word_bytes(machine.lanes * numbers["PIXEL"]),
        "image_words": numbers["IMAGE_WORDS"],
        "image_place_words": schedule.blocks(image),
        "image_place_columns": image.width,
        "image_fold_rows": image.fold[0],
        "image_fold_columns": image.fold[1],
        "image_first_row": image.corner[0],
        "image_first_column": image.corner[1],
        "result_values": result.places * (1 + max(result.slots)),
        "result_bits": numbers["WIDE"],
        "result_word_bytes": made.word_bytes(machine.lanes * numbers["WIDE"]),
        "result_words": numbers["LOGIT_WORDS"],
        "result_places": result.places,
        "result_slots": list(result.slots),
    }


def _header(facts: Mapping[str, int | list[int]]) -> str:
    lines = ["/* What radixpoint_axi.c knows of the network. */", "#pragma once", "#include <stdint.h>", ""]
    for name, value in facts.items():
        if isinstance(value, list):
            lines.append(f"static const int32_t RX_{name.upper()}[] = {{\n{rows(value)}\n}};")
        elif value < 0:
            lines.append(f"#define RX_{name.upper()} ({value + 1} - 1)")  # the least has no literal
        else:
            lines.append(f"#define RX_{name.upper()} {value}u")
    return "\n".join(lines) + "\n"
