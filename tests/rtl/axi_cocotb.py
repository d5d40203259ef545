"""rx_axi beside the models of cocotbext-axi; tests/test_axi.py runs it and names the export in RX_FOLDER."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.task import bridge, resume
from cocotb.triggers import ClockCycles, RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiRam, AxiResp
from numpy.typing import NDArray

FOLDER = Path(os.environ["RX_FOLDER"])
SIZE = 1 << 24
CONTROL, STATUS, PROGRAM, PROGRAM_BEATS, BATCHES, IMAGES, RESULTS = 0x04, 0x08, 0x10, 0x18, 0x1C, 0x20, 0x28
READ_ERROR, WRITE_ERROR, SHORT, LONG, SETTING, STOPPED = 1, 2, 3, 4, 5, 6

spec = importlib.util.spec_from_file_location("radixpoint_axi", FOLDER / "radixpoint_axi.py")
assert spec is not None
assert spec.loader is not None
driver = importlib.util.module_from_spec(spec)
spec.loader.exec_module(driver)


class Memory(np.ndarray[Any, np.dtype[Any]]):
    """What ``pynq.allocate`` answers with: an array in the memory that the accelerator sees."""

    device_address: int

    def flush(self) -> None:
        """Nothing lies between."""

    def invalidate(self) -> None:
        """Nothing lies between."""


class Bench:
    """The accelerator, its memory and what drives its registers."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut
        self.bytes = mmap.mmap(-1, SIZE)
        self.memory: NDArray[np.uint8] = np.frombuffer(self.bytes, np.uint8)
        self.free = 0x1008  # a burst from here meets the end of a page
        cocotb.start_soon(Clock(dut.aclk, 10, unit="ns").start())
        reset = {"reset": dut.aresetn, "reset_active_level": False}
        self.registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, **reset)
        self.ram = AxiRam(AxiBus.from_prefix(dut, "m_axi"), dut.aclk, **reset, size=SIZE, mem=self.bytes)
        self.images: NDArray[np.int64] = np.load(FOLDER / "images.npy").astype(np.int64)
        self.expected: NDArray[np.int64] = np.load(FOLDER / "expected.npy")

    async def reset(self) -> None:
        """Hold the reset for some clocks."""
        self.dut.aresetn.value = 0
        await ClockCycles(self.dut.aclk, 5)
        self.dut.aresetn.value = 1
        await ClockCycles(self.dut.aclk, 5)

    def pauses(self, seed: int, of_8: int) -> None:
        """Let every channel pause at random in ``of_8`` clocks of 8."""

        def pattern(own: int) -> Iterator[bool]:
            draws = random.Random(own)
            while True:
                yield draws.randrange(8) < of_8

        read, write, lite = self.ram.read_if, self.ram.write_if, self.registers
        channels = [read.ar_channel, read.r_channel, write.aw_channel, write.w_channel, write.b_channel]
        channels += [lite.write_if.b_channel, lite.read_if.r_channel]
        for number, channel in enumerate(channels):
            channel.set_pause_generator(pattern(100 * seed + number))

    def allocate(self, shape: Any, dtype: Any) -> Memory:
        """``pynq.allocate``."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        place, self.free = self.free, self.free + (count + 0x1FF) // 0x100 * 0x100
        assert self.free <= SIZE
        made = self.memory[place : place + count].view(dtype).reshape(shape).view(Memory)
        made.device_address = place
        return made

    async def read(self, register: int) -> int:
        """A register."""
        return int.from_bytes((await self.registers.read(register, 4)).data, "little")

    async def write(self, register: int, value: int) -> AxiResp:
        """What writing a register is answered with."""
        return (await self.registers.write(register, value.to_bytes(4, "little"))).resp

    async def accelerator(self) -> Any:
        """The driver in Python on this bench; its blocking calls run beside the simulation."""
        return await bridge(driver.Accelerator)(Registers(self), self.allocate, FOLDER)

    async def same(self, accelerator: Any) -> None:
        """See that a run gives the results of the reference."""
        got = await bridge(accelerator.run)(self.images, timeout=1e9)
        assert np.array_equal(got, self.expected)

    async def ends(self) -> int:
        """Wait for the end of a run; its error."""
        while (status := await self.read(STATUS)) & 1 or not status >> 1:
            pass
        return status >> 8


class Registers:
    """What PYNQ calls ``mmio``, for code that blocks."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.refused = 0

    def read(self, offset: int) -> int:
        """A register."""
        return int(resume(self._bench.read)(offset))

    def write(self, offset: int, value: int) -> None:
        """Write a register, which must be taken; C does not see an exception, so it is kept, too."""
        taken = resume(self._bench.write)(offset, value) == AxiResp.OKAY
        self.refused += not taken
        assert taken


async def started(dut: Any) -> tuple[Bench, Any]:
    """A bench after its reset, and the driver."""
    bench = Bench(dut)
    await bench.reset()
    return bench, await bench.accelerator()


@cocotb.test()
async def image_to_class(dut: Any) -> None:
    """As fast as the memory goes; the trace of this run is compared on every tensor."""
    bench, accelerator = await started(dut)
    await bench.same(accelerator)


@cocotb.test()
async def back_pressure(dut: Any) -> None:
    """Every channel pauses at random, some of the time and nearly always."""
    bench, accelerator = await started(dut)
    for seed, of_8 in ((1, 2), (2, 6)):
        bench.pauses(seed, of_8)
        await bench.same(accelerator)
    assert await bench.read(0x34) > 0  # it waited


@cocotb.test()
async def errors_of_the_memory(dut: Any) -> None:
    """A read or a write that is refused ends the run with its error; the next run is right."""
    bench, accelerator = await started(dut)
    for interface, name, error in (
        (bench.ram.read_if, "_read", READ_ERROR),
        (bench.ram.write_if, "_write", WRITE_ERROR),
    ):
        right = getattr(interface, name)
        for refused in (0, 3, 40):
            count = itertools.count()

            async def failing(
                *of: Any, right: Any = right, count: Any = count, refused: int = refused
            ) -> Any:
                if next(count) == refused:
                    raise OSError("refused")
                return await right(*of)

            setattr(interface, name, failing)
            if refused == 40 and name == "_write":
                continue  # there are fewer results
            with pytest.raises(driver.AcceleratorError, match=driver.ERRORS[error]):
                await bench.same(accelerator)
            setattr(interface, name, right)
            await bench.same(accelerator)
        setattr(interface, name, right)


@cocotb.test()
async def resets_and_stops(dut: Any) -> None:
    """In the middle of a run, wherever it is: the next run is right."""
    bench, accelerator = await started(dut)
    for number, clocks in enumerate((1, 40, 300, 900, 1500)):
        await bench.write(PROGRAM, accelerator._program.device_address)
        await bench.write(
            PROGRAM_BEATS, accelerator.facts["program_bytes"] // accelerator.facts["beat_bytes"]
        )
        await bench.write(BATCHES, 1)
        await bench.write(IMAGES, 0x800000)
        await bench.write(RESULTS, 0x900000)
        await bench.write(CONTROL, 1)
        await ClockCycles(dut.aclk, clocks)
        if number % 2:
            await bench.reset()
        else:
            assert await bench.write(CONTROL, 2) == AxiResp.OKAY
            assert await bench.ends() == STOPPED
        bench.free = 0x400008
        await bench.same(accelerator)


@cocotb.test()
async def what_registers_refuse(dut: Any) -> None:
    """Addresses that hold none, parts of one, and what a run depends on while it runs."""
    bench, accelerator = await started(dut)
    refused = AxiResp.SLVERR
    for register in (0x3C, 0x40, 0xFC):
        assert (await bench.registers.read(register, 4)).resp == refused
        assert await bench.write(register, 1) == refused
    for register in (0x00, 0x30, 0x34, 0x38):
        assert await bench.write(register, 1) == refused
    assert (await bench.registers.write(IMAGES, b"\x01")).resp == refused
    assert await bench.read(IMAGES) == 0
    for register in (PROGRAM, PROGRAM + 4, PROGRAM_BEATS, BATCHES, IMAGES, IMAGES + 4, RESULTS, RESULTS + 4):
        assert await bench.write(register, 0xFEDCBA98) == AxiResp.OKAY
        assert await bench.read(register) == 0xFEDCBA98
    await bench.same(accelerator)
    bench.pauses(5, 7)
    await bench.write(CONTROL, 1)
    assert await bench.write(BATCHES, 7) == refused
    assert await bench.write(CONTROL, 1) == refused
    assert await bench.write(CONTROL, 2) == AxiResp.OKAY
    assert await bench.ends() == STOPPED


@cocotb.test()
async def starts_at_the_end_of_a_run(dut: Any) -> None:
    """Whenever a start is taken, what the run before it left in the status is gone."""
    bench, accelerator = await started(dut)
    await bench.same(accelerator)
    for delay in range(8):
        assert await bench.write(CONTROL, 1) == AxiResp.OKAY
        await ClockCycles(dut.aclk, delay)
        while await bench.write(CONTROL, 1) != AxiResp.OKAY:
            pass
        assert await bench.read(STATUS) == 1  # busy, neither done nor an error
        await bench.write(CONTROL, 2)
        assert await bench.ends() == STOPPED


@cocotb.test()
async def what_a_run_refuses(dut: Any) -> None:
    """A program that is too short or too long, an address between two beats, nothing to do."""
    bench, accelerator = await started(dut)
    await bench.same(accelerator)
    beats = accelerator.facts["program_bytes"] // accelerator.facts["beat_bytes"]
    for register, value, error in (
        (PROGRAM_BEATS, beats - 1, SHORT),
        (PROGRAM_BEATS, 1, SHORT),
        (PROGRAM_BEATS, beats + 1, LONG),
        (PROGRAM_BEATS, beats + 1000, LONG),
        (PROGRAM_BEATS, 0, SETTING),
        (BATCHES, 0, SETTING),
        (IMAGES, 0x800004 if accelerator.facts["beat_bytes"] > 4 else 0x800002, SETTING),
    ):
        before = await bench.read(register)
        await bench.write(register, value)
        await bench.write(CONTROL, 1)
        assert await bench.ends() == error
        await bench.write(register, before)
    await bench.same(accelerator)


@cocotb.test()
async def interrupts(dut: Any) -> None:
    """The line rises at the end if it is enabled, and falls when the status is cleared."""
    bench, accelerator = await started(dut)
    await bench.write(0x0C, 1)
    run = cocotb.start_soon(bench.same(accelerator))
    assert not dut.interrupt.value
    await RisingEdge(dut.interrupt)
    await run
    assert dut.interrupt.value
    await bench.write(STATUS, 0)
    assert not dut.interrupt.value


@cocotb.test()
async def driver_in_c(dut: Any) -> None:
    """radixpoint_axi.c, whose registers are functions here."""
    bench, accelerator = await started(dut)
    registers = Registers(bench)
    own = ctypes.CDLL(str(FOLDER / "driver.so"))
    reads = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint64)(lambda a: registers.read(a - 0x1000))
    writes = ctypes.CFUNCTYPE(None, ctypes.c_uint64, ctypes.c_uint32)(
        lambda a, value: registers.write(a - 0x1000, value)
    )
    own.connect(reads, writes)
    at = ctypes.c_uint64(0x1000)
    facts = accelerator.facts
    batches = -(-len(bench.images) // facts["batch"])
    images = np.ascontiguousarray(bench.images, np.int32)
    program = accelerator._program
    given = bench.allocate(
        (batches * facts["batch"] * facts["image_words"] * facts["image_word_bytes"],), np.uint8
    )
    taken = bench.allocate(
        (batches * facts["batch"] * facts["result_words"] * facts["result_word_bytes"],), np.uint8
    )
    results = np.zeros(bench.expected.shape, np.int32)

    def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def work() -> None:
        assert own.rx_open(at) == 0
        assert own.rx_check_program(pointer(program)) == 0
        own.rx_give_results(pointer(taken), batches)
        own.rx_put_images(pointer(given), pointer(images), len(images))
        addresses = [ctypes.c_uint64(m.device_address) for m in (program, given, taken)]
        assert own.rx_start(at, *addresses, batches) == 0
        assert own.rx_start(at, *addresses, batches) == 19  # busy
        assert own.rx_wait(at, 1) == 18  # not done
        assert own.rx_wait(at, 1 << 30) == 0
        own.rx_take_results(pointer(taken), pointer(results), len(images))
        assert own.rx_clocks(at) == accelerator.clocks > own.rx_waited(at) == accelerator.waited
        program[5] ^= 1
        assert own.rx_check_program(pointer(program)) == 17
        program[5] ^= 1
        assert own.rx_start(at, *addresses[:2], ctypes.c_uint64(0x900001), batches) == 0
        assert own.rx_wait(at, 1 << 30) == SETTING

    await bridge(work)()
    assert np.array_equal(results, bench.expected)
    assert registers.refused == 0
