"""Exported C on a Cortex-M7, as QEMU emulates it: cross-compiled, run, compared.

Debian has what it needs: gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm.
"""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

from radixpoint.export.source import TracedProgram, build
from radixpoint.export.tools import tool
from radixpoint.ir.network import IntGraph

_OWN = files("radixpoint.export") / "c"
LINKER = (_OWN / "cortex_m7.ld").read_text()
"""Memory of QEMU's machine mps2-an500."""
VECTORS = (_OWN / "cortex_m7.c").read_text()
"""Where the processor begins."""
MACHINE = ("-mcpu=cortex-m7", "-mthumb", "-mfloat-abi=soft")
"""Options of the compiler."""
EMULATOR = ("-M", "mps2-an500", "-nographic", "-semihosting-config", "enable=on,target=native")
"""Options of QEMU: files of the program are files in the folder in which it runs."""


def programs(
    folder: Path, network: IntGraph, scratch: Path, warnings: tuple[str, ...]
) -> dict[str, TracedProgram]:
    """The exported C on the processor: plain, and with the DSP instructions.

    Args:
        folder: the export.
        network: what was exported.
        scratch: for what is built.
        warnings: options of the compiler.

    Raises:
        ExportError: the cross compiler or the emulator is missing, or the C does not compile.
    """
    compiler = tool("ARM_CC", "arm-none-eabi-gcc")
    emulator = tool("QEMU_ARM", "qemu-system-arm")
    (scratch / "cortex_m7.ld").write_text(LINKER)
    (scratch / "cortex_m7.c").write_text(VECTORS)
    names = ("network.c", "parameters.c", "harness.c")
    sources = [str(folder / name) for name in names if (folder / name).exists()]
    sources.append(str(scratch / "cortex_m7.c"))

    def program(what: str, flags: tuple[str, ...]) -> TracedProgram:
        def make(traces: bool) -> list[str]:
            place = scratch / f"{what}-{'traced' if traces else 'plain'}"
            place.mkdir()
            options = ["-std=gnu99", *warnings, *MACHINE, "-O3", *flags, "--specs=rdimon.specs"]
            files = ['-DRADIXPOINT_INPUT="images"', '-DRADIXPOINT_OUTPUT="results"', f"-I{folder}"]
            if (folder / "parameters.bin").exists():
                (place / "parameters.bin").symlink_to(folder.resolve() / "parameters.bin")
                files.append('-DRADIXPOINT_PARAMETERS="parameters.bin"')
            traced = ["-DRADIXPOINT_TRACE"] if traces else []
            script = ["-T", str(scratch / "cortex_m7.ld"), "-o", str(place / "program.elf")]
            build([*compiler, *options, *traced, *files, *sources, *script], f"{folder}/network.c for {what}")
            run = shlex.join([*emulator, *EMULATOR, "-kernel", "program.elf"])
            steps = f"cat > images && {run} >&2 && cat results"
            return ["sh", "-c", f"cd {shlex.quote(str(place))} && rm -f results && {steps}"]

        return TracedProgram(network, make)

    return {"cortex-m7": program("cortex-m7", ()), "cortex-m7, DSP": program("dsp", ("-DRADIXPOINT_DSP",))}
