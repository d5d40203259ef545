"""The accelerator on a bus: every tensor by ==, in our testbench and beside the models of cocotbext-axi."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import cocotb_tools.config
import numpy as np
import pytest
from cocotb_tools.runner import get_runner

import exports
import networks
from radixpoint.accelerator.machine import BUS_MODULES, Machine
from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import make_engine, quantize_images
from radixpoint.errors import ExportError
from radixpoint.export import export_network, verify_export
from radixpoint.export.source import build
from radixpoint.export.verilog import VerilatedTestbench, verilator
from radixpoint.ir.derived import part
from radixpoint.ir.network import IntGraph
from radixpoint.measure.calibrate import calibrate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from test_export import HLS_CASES, made
from test_export_verilog import change, shared

pytestmark = pytest.mark.slow("it compiles")

RTL = Path(__file__).parent / "rtl"
OPTIONS = {"lanes": "4", "batch": "2"}


@pytest.mark.parametrize(("case", "bus"), [(0, 32), (1, 128), (2, 1024), (3, 64)])
def test_each_bus(case: int, bus: int, tmp_path: Path) -> None:
    """Words shorter and longer than a beat; the memory pauses, and batches are not full."""
    _, rounding, overflow = HLS_CASES[case]
    network = made(case, rounding, overflow)
    options = {"lanes": str(case + 1), "batch": str(1 + case % 2), "places": "3", "bus": str(bus)}
    images = exports.example_images(network, 5)
    export_network(network, "axi", tmp_path / "x", images, options)
    assert verify_export(tmp_path / "x", lambda _: iter([images])).mismatch is None  # alone, then together


def test_words_of_every_kind(tmp_path: Path) -> None:
    """Parameters that differ by place, groups, a division: the order of the list is that of need."""
    network = exports.quantized(shared(), binary_point={"scope": "channel"})
    options = {"lanes": "3", "batch": "2", "places": "5"}
    export_network(network, "axi", tmp_path / "x", exports.example_images(network, 3), options)
    assert verify_export(tmp_path / "x").mismatch is None


def test_demo_network_image_to_class(tmp_path: Path) -> None:
    """The embedded ResNet-50, its program in memory: every tensor of one image, the classes of four more."""
    graph = demo_network()
    network = quantize(graph, calibrate(graph, demo_images("calibration")), Design.separate(conv=6, bn=10))
    images = quantize_images(network, demo_images("test").inputs(0, 5))
    export_network(network, "axi", tmp_path / "x", images[:1], {"bus": "128"})
    result = verify_export(tmp_path / "x", lambda _: iter([images[1:]]))
    assert result.mismatch is None
    assert (result.images, result.more_images) == (1, 4)


@pytest.mark.parametrize("bus", ["0", "8", "96", "2048", "x"])
def test_impossible_bus(bus: str, tmp_path: Path) -> None:
    network = exports.quantized(networks.residual())
    with pytest.raises(ExportError, match="option bus="):
        export_network(network, "axi", tmp_path / "x", options={"bus": bus})
    assert not (tmp_path / "x").exists()


# ----------------------------------------------------------------------------------------- planted errors


@pytest.fixture(scope="module")
def network() -> IntGraph:
    return exports.quantized(networks.residual())


@pytest.fixture(scope="module")
def exported(network: IntGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("axi") / "x"
    export_network(network, "axi", folder, exports.example_images(network, 5), OPTIONS)
    return folder


FAULTS = {
    "a burst across 4 KiB": (
        "rx_fetch.v",
        "left < in_page ? left : in_page",
        "in_page == 0 ? in_page : left",
    ),
    "a read withdrawn": ("rx_fetch.v", "else if (arready) arv", "else if (arready || bursts != 0) arv"),
    "a write withdrawn": ("rx_store.v", "if (awready) awvalid <= 1'b0", "awvalid <= 1'b0"),
    "data withdrawn": ("rx_store.v", "if (wready) wvalid <= 1'b0", "wvalid <= 1'b0"),
    "a write of another kind": ("rx_axi.v", "m_axi_awburst = 2'b01", "m_axi_awburst = 2'b00"),
    "a read beyond the memory": ("rx_axi.v", "image_at : program_at", "image_at : program_at + 64'h1000000"),
    "a read of another kind": ("rx_axi.v", "m_axi_arburst = 2'b01", "m_axi_arburst = 2'b10"),
    "a write that is not whole": ("rx_axi.v", "m_axi_wlast   = 1'b1", "m_axi_wlast   = ~m_axi_wvalid"),
    "no room for what was asked for": ("rx_fetch.v", "rready = 1'b1", "rready = ~held[0]"),
    "an answer that is not taken": ("rx_store.v", "bready = 1'b1", "bready = ~open[1]"),
    "a write beside the results": ("rx_axi.v", ".address(result_at)", ".address(image_at)"),
    "status 00000300": ("rx_axi.v", ": program_beats),", ": program_beats - 32'd1),"),
}
"""What the testbench says, and the fault that it says it of."""


def planted(exported: Path, tmp_path: Path, name: str, right: str, wrong: str) -> Path:
    """A copy of an export in which one file is wrong."""
    shutil.copytree(exported, tmp_path / "x", ignore=shutil.ignore_patterns("simulated"))
    change(tmp_path / "x" / name, lambda text: text.replace(right, wrong))
    return tmp_path / "x"


@pytest.mark.parametrize("said", FAULTS)
def test_planted_fault_of_the_bus(exported: Path, said: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=f"FAIL: {said}"):
        verify_export(planted(exported, tmp_path, *FAULTS[said]))


WRONG = {
    "a lost beat": ("rx_fetch.v", "if (take) read_at <=", "if (take && read_at != 7) read_at <="),
    "no room kept": ("rx_fetch.v", "burst <= room;", "burst <= room + 40;"),
    "order of beats": (
        "rx_gather.v",
        "moved = {beat, word}",
        "moved = {word[BUS-1:0], beat, word[BUS*BEATS-1:BUS]}",
    ),
    "one batch too far": ("rx_axi.v", "image_at + IMAGES_BYTES", "image_at + 2 * IMAGES_BYTES"),
    "early parameters": ("rx_axi.v", "if (parameter_read) parameters", "if (gathered) parameters"),
}


def found(folder: Path) -> str | None:
    """What the testbench says FAIL of, or else the tensor that differs: images one by one, then together."""
    again = np.load(folder / "images.npy").astype(np.int64)
    try:
        mismatch = verify_export(folder, lambda _: iter([again])).mismatch
    except ExportError as error:
        return str(error)[str(error).index("FAIL: ") :]
    return None if mismatch is None else str(mismatch)


@pytest.mark.parametrize("name", WRONG)
def test_planted_error_of_the_shell(exported: Path, name: str, tmp_path: Path) -> None:
    """Words that come in another order or from elsewhere: a tensor differs, or the run does not end."""
    assert found(planted(exported, tmp_path, *WRONG[name])) is not None


def test_without_an_error_nothing_is_found(exported: Path) -> None:
    assert found(exported) is None


def test_planted_bit_of_the_program(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "x")
    program = bytearray((tmp_path / "x" / "program.bin").read_bytes())
    program[49 * 8] ^= 1  # the first weight
    (tmp_path / "x" / "program.bin").write_bytes(program)
    result = verify_export(tmp_path / "x")
    assert result.mismatch is not None
    assert result.layers[-1].layer == "conv0"


# ------------------------------------------------------------------------------------------------ cocotb


def simulate(folder: Path, tests: str, trace: Path | None = None) -> dict[str, str | None]:
    """Run tests of tests/rtl/axi_cocotb.py on an export; of each what failed, or None."""
    library = cocotb_tools.config.libs_dir
    command, environment = verilator()
    scratch = folder / "simulated"
    if not scratch.exists():
        flags = ["--cc", "--exe", "--vpi", "--public-flat-rw", "--timing", "-Wno-fatal", "-O3"]
        flags += ["--prefix", "Vtop", "-o", "axi_tb", "--timescale", "1ns/1ps"]
        flags += ["--top-module", "axi_tb", "-CFLAGS", "-std=c++20", f"-I{folder}"]
        flags += [
            "-LDFLAGS",
            f"-Wl,-rpath,{library} -L{library} -lcocotbvpi_verilator",
            "--Mdir",
            str(scratch),
        ]
        main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
        sources = [main, RTL / "axi_tb.v", folder / "trace.v", *(folder / name for name in BUS_MODULES)]
        build([*command, *flags, *map(str, sources)], str(folder), environment)
        options = ["CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O1", "OPT_GLOBAL=-O1"]
        build(["make", "-C", str(scratch), "-f", "Vtop.mk", "-s", *options], str(scratch), environment)
    log, results = folder / "log.txt", folder / "results.xml"
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):  # where a test fails
        patch.setenv("RX_FOLDER", str(folder))
        patch.syspath_prepend(str(RTL))
        get_runner("verilator").test(
            test_module="axi_cocotb",
            hdl_toplevel="axi_tb",
            hdl_toplevel_lang="verilog",
            test_filter=tests,
            plusargs=[] if trace is None else [f"+trace={trace}"],
            build_dir=scratch,
            test_dir=folder,
            log_file=log,
            results_xml=str(results),
        )
    cases = ElementTree.parse(results).getroot().iter("testcase")
    failed = {case.attrib["name"]: case.find("failure") is not None for case in cases}
    assert failed, log.read_text()[-3000:]
    return {name: log.read_text()[-4000:] if wrong else None for name, wrong in failed.items()}


@pytest.fixture(scope="module")
def bench(network: IntGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with what its results are, and the driver in C."""
    folder = tmp_path_factory.mktemp("cocotb") / "x"
    images = exports.example_images(network, 5)
    export_network(network, "axi", folder, images, OPTIONS)
    np.save(folder / "expected.npy", make_engine(network).run(images)[network.output].reshape(5, -1))
    hooks = (RTL / "axi_hooks.h").read_text()
    (folder / "hooks.h").write_text(hooks)
    flags = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        "-O2",
        "-shared",
        "-fPIC",
        "-include",
        "hooks.h",
    ]
    subprocess.run(["cc", *flags, "-o", "driver.so", "radixpoint_axi.c"], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "back_pressure",
        "errors_of_the_memory",
        "resets_and_stops",
        "what_registers_refuse",
        "starts_at_the_end_of_a_run",
        "what_a_run_refuses",
        "interrupts",
        "driver_in_c",
    ],
)
def test_beside_cocotbext_axi(bench: Path, name: str) -> None:
    assert simulate(bench, f"{name}$") == {name: None}


def test_every_tensor_beside_cocotbext_axi(bench: Path, network: IntGraph, tmp_path: Path) -> None:
    assert simulate(bench, "image_to_class$", tmp_path / "trace.bin") == {"image_to_class": None}
    images = np.load(bench / "images.npy").astype(np.int64)
    machine = Machine(network, lanes=4, batch=2)
    traced = VerilatedTestbench(network, machine, bench, tmp_path).traced(tmp_path / "trace.bin", images)
    right = make_engine(network).run(images, list(network.tensors))
    assert set(traced) == set(right)
    assert all(np.array_equal(traced[name], right[name]) for name in right)


def test_cocotb_finds_a_planted_fault(bench: Path, tmp_path: Path) -> None:
    """A burst across 4 KiB, which it refuses to answer."""
    wrong = planted(bench, tmp_path, *FAULTS["a burst across 4 KiB"])
    assert simulate(wrong, "image_to_class$")["image_to_class"] is not None


class Memory(np.ndarray[Any, np.dtype[Any]]):
    """What ``pynq.allocate`` answers with."""

    device_address = 0

    def flush(self) -> None:
        pass

    def invalidate(self) -> None:
        pass


def allocate(shape: tuple[int, ...], dtype: type) -> Memory:
    return np.zeros(shape, dtype).view(Memory)


@pytest.fixture
def driver(bench: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The driver in Python."""
    monkeypatch.syspath_prepend(str(bench))
    return importlib.import_module("radixpoint_axi")


def test_the_driver_knows_its_accelerator(bench: Path, driver: ModuleType) -> None:
    """It refuses another accelerator, and images of another shape, before anything is run."""

    class Registers:
        def read(self, offset: int) -> int:
            return identifier if offset == 0 else 0

    identifier = 7
    with pytest.raises(driver.AcceleratorError, match="says 0x00000007: expected 0x"):
        driver.Accelerator(Registers(), allocate, bench)
    identifier = json.loads((bench / "radixpoint_network.json").read_text())["identifier"]
    accelerator = driver.Accelerator(Registers(), allocate, bench)
    for wrong in (np.zeros((1, 3, 4, 4), np.int64), np.zeros((2, 3, 12, 12))):
        with pytest.raises(ValueError, match="expected integers"):
            accelerator.run(wrong)
    for value in (accelerator.facts["image_low"] - 1, accelerator.facts["image_high"] + 1):
        with pytest.raises(ValueError, match="expected stored integers, -"):
            accelerator.run(np.full((1, 3, 12, 12), value))


def test_the_driver_stops_what_it_leaves(bench: Path, driver: ModuleType) -> None:
    """After a timeout or an interrupt memory is given back only when the accelerator is at rest."""

    class Registers:
        def __init__(self, interrupt: bool) -> None:
            self.log: list[tuple[int, int]] = []
            self.interrupt, self.polls = interrupt, 0

        def read(self, offset: int) -> int:
            if offset != 0x08 or (0x04, 1) not in self.log:
                return identifier if offset == 0 else 0
            if (0x04, 2) in self.log:
                self.polls += 1
                return int(self.polls < 5)
            if self.interrupt:
                raise KeyboardInterrupt
            return 1

        def write(self, offset: int, value: int) -> None:
            self.log.append((offset, value))

    identifier = json.loads((bench / "radixpoint_network.json").read_text())["identifier"]
    for interrupt, error in ((False, driver.AcceleratorError), (True, KeyboardInterrupt)):
        registers = Registers(interrupt)
        accelerator = driver.Accelerator(registers, allocate, bench)
        with pytest.raises(error):
            accelerator.run(np.zeros((1, 3, 12, 12), np.int64), timeout=0.0)
        assert registers.log[-1] == (0x04, 2)
        assert registers.polls == 5  # until it was at rest


def test_values_that_the_drivers_do_not_hold(tmp_path: Path) -> None:
    """A result that is an accumulator may be longer than their integers."""
    whole = exports.quantized(networks.residual(), conv=16, bn=16)
    sums = next(step.name for step in whole.steps if step.op == "conv")
    network = part(whole, whole.input, [sums])
    assert network.tensors[sums].high >= 1 << 31
    with pytest.raises(ExportError, match=r"the drivers of the bus take .* 32 bits"):
        export_network(network, "axi", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_another_rounding_is_another_program_for_the_same_accelerator(tmp_path: Path) -> None:
    """The identifier is that of the hardware: it changes with a size, not with what memory holds."""
    said = []
    for number, (rounding, bus) in enumerate(
        ((Rounding.RND, "64"), (Rounding.TRN, "64"), (Rounding.RND, "32"))
    ):
        export_network(made(0, rounding, Overflow.SAT), "axi", tmp_path / str(number), options={"bus": bus})
        header = (tmp_path / str(number) / "radixpoint_network.h").read_text()
        said.append([line.split()[2] for line in header.splitlines() if "RX_IDENTIFIER" in line])
    assert said[0] == said[1] != said[2]
