"""The kernels without Python (``tests/native/selftest.cpp``): on this machine, and on an emulated Arm."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from test_native import COMPILER

pytestmark = pytest.mark.slow("it compiles")

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "src" / "radixpoint" / "_native"
CROSS = shutil.which("aarch64-linux-gnu-g++")
EMULATOR = shutil.which("qemu-aarch64")
X86 = {
    "isa_avx2.cpp": ["-mavx2"],
    "isa_avx512vnni.cpp": [f"-mavx512{x}" for x in ("f", "bw", "dq", "vl", "vnni")],
}
ARM = {"isa_neon.cpp": [], "isa_i8mm.cpp": ["-march=armv8.2-a+i8mm"]}


def shared_code(path: Path) -> list[str]:
    """Functions of an object file that the linker may replace by another file's, or another's by them.

    Such a function would be compiled for one instruction set and run on machines that lack it.
    """
    listed = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if " W " in line or " u " in line]


def build(folder: Path, compiler: str, define: str, kernels: dict[str, list[str]]) -> Path:
    """The self-test with these instruction sets."""
    common = ["-std=c++20", "-O2", f"-D{define}", "-Wno-psabi", f"-I{NATIVE}"]
    sources = {"engine.cpp": [], "isa_portable.cpp": [], **kernels}
    objects = []
    for path, flags in [
        (ROOT / "tests/native/selftest.cpp", []),
        *((NATIVE / n, f) for n, f in sources.items()),
    ]:
        objects.append(folder / f"{path.stem}.o")
        subprocess.run([compiler, *common, *flags, "-c", path, "-o", objects[-1]], check=True)
        if path.stem.startswith("isa_"):
            assert shared_code(objects[-1]) == []
    program = folder / "selftest"
    subprocess.run([compiler, "-static", *objects, "-o", program, "-lpthread"], check=True)
    return program


def ran(command: list[str]) -> set[str]:
    """Instruction sets that the self-test reports, each with all outputs equal."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(": ") for line in done.stdout.splitlines()]
    assert all(text.endswith(" outputs equal") and int(text.split()[0]) > 10_000 for _, text in lines)
    return {name for name, _ in lines}


@pytest.mark.skipif(
    COMPILER is None or platform.machine() != "x86_64", reason="no C++ compiler for x86-64: NOT self-tested"
)
def test_here(tmp_path: Path) -> None:
    assert "portable" in ran([str(build(tmp_path, COMPILER or "c++", "RADIXPOINT_X86", X86)), "100"])


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: object files are NOT examined")
def test_shared_code_is_found(tmp_path: Path) -> None:
    """The check of object files fails on an inline function with a symbol of its own."""
    (tmp_path / "a.cpp").write_text("inline int f(int x) { return x; }\nint (*g)(int) = f;\n")
    subprocess.run([COMPILER or "c++", "-c", tmp_path / "a.cpp", "-o", tmp_path / "a.o"], check=True)
    assert len(shared_code(tmp_path / "a.o")) == 1


@pytest.mark.skipif(
    CROSS is None or EMULATOR is None,
    reason="no g++-aarch64-linux-gnu or qemu-user: the kernels are NOT tested on Arm",
)
def test_arm_emulated(tmp_path: Path) -> None:
    program = build(tmp_path, CROSS or "", "RADIXPOINT_ARM", ARM)
    assert ran([EMULATOR or "", "-cpu", "max", str(program), "100"]) == {"i8mm", "neon", "portable"}
    assert ran([EMULATOR or "", "-cpu", "cortex-a72", str(program), "30"]) == {"neon", "portable"}


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: threads are NOT tried")
def test_threads_do_every_task_once(tmp_path: Path) -> None:
    """Under a race detector; and threads that do one task again and again are noticed."""
    source, header = ROOT / "tests/native/threads.cpp", (NATIVE / "threads.hpp").read_text()
    planted = header.replace("(*task_)(static_cast<uint32_t>(seen) - 1)", "(*task_)(0)")
    assert planted != header
    for name, text, sanitizer in (("right", header, ["-fsanitize=thread"]), ("planted", planted, [])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "threads.hpp").write_text(text)
        command = [COMPILER or "c++", "-std=c++20", "-O1", "-g", *sanitizer, f"-I{folder}", source]
        subprocess.run([*command, "-o", folder / "threads", "-pthread"], check=True)
        done = subprocess.run([folder / "threads"], capture_output=True, text=True, check=False, timeout=300)
        assert (done.returncode == 0) == (name == "right"), done.stdout + done.stderr
