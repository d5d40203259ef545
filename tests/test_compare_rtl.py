"""Comparing dumps of RTL: faults in the accelerator's modules and in its memories, simulated by Verilator."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from radixpoint.accelerator.machine import LANE_FIELDS, Machine
from radixpoint.accelerator.passes import OFFSET
from radixpoint.export import export_network
from radixpoint.export.verilog import VerilatedTestbench
from test_compare import NETWORK, RESIDUAL, RESULTS, STORED, compared, expect
from test_export_verilog import change, field

pytestmark = pytest.mark.slow("it compiles")

LANES = 4
MACHINE = Machine(NETWORK, LANES)
Edits = dict[str, Callable[[str], str]]
Dump = dict[str, NDArray[np.int64]]


def fields(number: int, **to: Callable[[int], int]) -> Edits:
    """Of one descriptor: each field by what it becomes."""

    def edit(text: str) -> str:
        for name, become in to.items():
            text = field(number, name, become)(text)
        return text

    return {"descriptors.hex": edit}


def window(number: int, order: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> Edits:
    """The words of a convolution's weights, by (tile, row, column, block), in another order."""
    own = MACHINE.descriptors[number].fields
    shape = [own[name] for name in ("TILES", "KERNEL_ROWS", "KERNEL_COLUMNS", "BLOCKS")]
    begin, count = MACHINE.descriptors[number].first_weight, int(np.prod(shape))

    def edit(text: str) -> str:
        words = text.splitlines()
        places = order(np.arange(begin, begin + count).reshape(shape)).ravel()
        return "\n".join([*words[:begin], *(words[i] for i in places), *words[begin + count :]]) + "\n"

    return {"weights.hex": edit}


def lane_field(number: int, name: str, to: Callable[[int], int]) -> Edits:
    """A parameter of every lane in the words of one pass."""
    own, sizes = MACHINE.descriptors[number], MACHINE.sizes
    wide = {"centre": "OFFSET", "offset": "OFFSET", "factor": "FACTOR", "divisor": "DIVISOR"}
    widths = [sizes[wide.get(known, "SHIFT")] for known in LANE_FIELDS]
    place = sum(widths[: LANE_FIELDS.index(name)])
    bits, lane = widths[LANE_FIELDS.index(name)], sum(widths)

    def edit(text: str) -> str:
        words = text.splitlines()
        for row in range(own.first_parameter, own.first_parameter + own.parameters):
            word = int(words[row], 16)
            for begin in range(place, LANES * lane, lane):
                old = word >> begin & ((1 << bits) - 1)
                word += (to(old) % (1 << bits) - old) << begin
            words[row] = f"{word:0{len(words[row])}x}"
        return "\n".join(words) + "\n"

    return {"parameters.hex": edit}


def text(name: str, old: str, new: str) -> Edits:
    def edit(source: str) -> str:
        return re.sub(old, new, source)

    return {name: edit}


MEMORIES: dict[str, tuple[str, Edits]] = {
    "one cast truncates": ("rounding mode", fields(0, CAST_ROUNDING=lambda _: 0)),
    "one cast to even": ("rounding mode", fields(3, RESULT_ROUNDING=lambda _: 6)),
    "one cast wraps": ("overflow", fields(0, RESULT_WRAP=lambda _: 1)),
    "one cast symmetric": ("overflow", fields(0, RESULT_LOW=lambda v: v + 1)),
    "one place more": ("shift", lane_field(0, "cast_shift", lambda v: v + 1)),
    "one place fewer": ("shift", lane_field(3, "result_shift", lambda v: v - 1)),
    "no offset": ("bias", fields(3, STAGES=lambda v: v & ~(1 << OFFSET))),
    "offset not aligned": ("bias", lane_field(2, "offset_align", lambda _: 0)),
    "offset doubled": ("bias", lane_field(0, "offset_align", lambda v: v + 1)),
    "no clamp": ("ReLU", fields(2, CLAMP_LOW=lambda _: -1024)),
    "flipped": ("kernel flipped", window(0, lambda w: w[:, ::-1, ::-1])),
    "transposed": ("kernel transposed", window(3, lambda w: w.swapaxes(1, 2))),
    "top and left": (
        "padding side",
        fields(3, FIRST_Y=lambda v: v - 1, FIRST_X=lambda v: v - 1, READ=lambda v: v - 7),
    ),
    "bottom and right": (
        "padding side",
        fields(0, FIRST_Y=lambda _: 0, FIRST_X=lambda _: 0, READ=lambda _: 0),
    ),
}
"""What the memories of the same hardware may hold wrongly."""
MODULES: dict[str, tuple[str, Edits]] = {
    "truncates everywhere": ("rounding mode", text("rx_round.v", "3'd2: up = half;", "3'd2: up = 1'b0;")),
    "wraps everywhere": ("overflow", text("rx_limit.v", r"assign y = wrap \?", "assign y = ~wrap ?")),
    "offsets subtracted": ("bias", text("rx_offset.v", r"x_places\) \+", "x_places) -")),
    "offsets not aligned": (
        "bias",
        text("rx_offset.v", "(raised) <<< value_places", r"\1 <<< 0 * value_places"),
    ),
    "no sign": ("sign", text("rx_dot.v", r"\[X-1:0\] a = x\[g\*X\+:X\]", "[X:0] a = {1'b0, x[g*X+:X]}")),
    "accumulator of 16 bits": ("accumulator", text("parameters.vh", "ACC = 17", "ACC = 16")),
}
"""What the hardware may do wrongly, everywhere."""
PAIRS = [
    ("one cast truncates", "no clamp"),
    ("flipped", "no offset"),
    ("one cast wraps", "one place fewer"),
    ("transposed", "offset doubled"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("rtl") / "verilog"
    export_network(NETWORK, "verilog", to, STORED, options={"lanes": str(LANES)})
    return to


@pytest.fixture(scope="module")
def hardware(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[Edits]], Dump]:
    """What one simulator computes from memories with edits."""
    testbench = VerilatedTestbench(NETWORK, MACHINE, folder, tmp_path_factory.mktemp("made"))

    def run(edits: list[Edits]) -> Dump:
        kept = {name: (folder / name).read_text() for edit in edits for name in edit}
        try:
            for edit in edits:
                for name, changed in edit.items():
                    change(folder / name, changed)
            return testbench.run(STORED, RESULTS)
        finally:
            for name, was in kept.items():
                (folder / name).write_text(was)

    return run


def test_sound_hardware_has_no_cause(hardware: Callable[[list[Edits]], Dump]) -> None:
    values = hardware([])
    right = RESIDUAL.right()
    assert all(np.array_equal(values[name], right[name]) for name in RESULTS)
    found = compared(values)
    assert found.equal
    assert not found.causes


@pytest.mark.parametrize("name", MEMORIES)
def test_one_fault_in_the_memories(hardware: Callable[[list[Edits]], Dump], name: str) -> None:
    kind, edits = MEMORIES[name]
    expect(RESIDUAL, hardware([edits]), [kind])


@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
def test_two_faults_in_the_memories(hardware: Callable[[list[Edits]], Dump], names: tuple[str, str]) -> None:
    expect(RESIDUAL, hardware([MEMORIES[name][1] for name in names]), [MEMORIES[name][0] for name in names])


@pytest.mark.parametrize("name", MODULES)
def test_one_fault_in_a_module(folder: Path, tmp_path: Path, name: str) -> None:
    kind, edits = MODULES[name]
    shutil.copytree(folder, tmp_path / "x")
    for file, edit in edits.items():
        change(tmp_path / "x" / file, edit)
    wrong = VerilatedTestbench(NETWORK, MACHINE, tmp_path / "x", tmp_path)
    expect(RESIDUAL, wrong.run(STORED, RESULTS), [kind])
