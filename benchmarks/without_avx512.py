"""Run a benchmark as on a processor that has AVX2 but neither AVX-512 nor AMX.

    python benchmarks/without_avx512.py benchmarks/engines.py --data DATA
    python benchmarks/without_avx512.py -m radixpoint demo

What stands behind is what Python gets. Libraries ask the processor what it has with the ``cpuid``
instruction, and most cannot be told to do without. So onnxruntime and OpenVINO are copied, each ``cpuid`` in
the copies becomes an undefined instruction of the same two bytes, and a handler of the signal that follows
answers in the processor's place, without AVX-512, AVX-VNNI and AMX. Settings tell the others: this project's
engine, OpenBLAS, PyTorch with oneDNN and MKL. What is left (Python, numpy's own loops, the C library) still
sees everything; it does next to none of the measured work.

The figures are those of this processor's AVX2 units, not of another processor. At its end, a process says how
many questions were answered so. Needs x86-64, Linux, a C compiler and ``objdump``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("onnxruntime", "openvino")
CPUID, UNDEFINED = b"\x0f\xa2", b"\x0f\x0b"
SETTINGS = {
    "RADIXPOINT_ISA": "avx2",
    "OPENBLAS_CORETYPE": "Zen",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
HANDLER = r"""
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

/* Bits of leaf 7 for AVX-512, AMX, AVX-VNNI, and what came with them (Intel's manual, volume 2A, CPUID). */
enum {
    EBX0 = 1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31,
    ECX0 = 1u << 1 | 1u << 6 | 1u << 8 | 1u << 11 | 1u << 12 | 1u << 14,
    EDX0 = 1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25,
    EAX1 = 1u << 4 | 1u << 5 | 1u << 21 | 1u << 22 | 1u << 23,
    EDX1 = 1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19
};

static unsigned answered;

static void answer(int signal, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *at = (const unsigned char *)r[REG_RIP];
    unsigned leaf = (unsigned)r[REG_RAX], sub = (unsigned)r[REG_RCX], a, b, c, d;
    (void)signal; (void)info;
    if (at[0] != 0x0f || at[1] != 0x0b) abort();
    __cpuid_count(leaf, sub, a, b, c, d);
    if (leaf == 7 && sub == 0) { b &= ~(unsigned)EBX0; c &= ~(unsigned)ECX0; d &= ~(unsigned)EDX0; }
    if (leaf == 7 && sub == 1) { a &= ~(unsigned)EAX1; d &= ~(unsigned)EDX1; }
    r[REG_RAX] = a; r[REG_RBX] = b; r[REG_RCX] = c; r[REG_RDX] = d;
    r[REG_RIP] += 2;
    answered++;
}

__attribute__((destructor)) static void report(void) {
    if (answered) fprintf(stderr, "answered without AVX-512: %u questions\n", answered);
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = answer;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGILL, &action, 0);
}
"""


def replaced(library: Path) -> int:
    """How many ``cpuid`` of ``library`` became undefined instructions; its file is written anew."""
    sections = subprocess.run(
        ["objdump", "-h", "-w", library], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(
        r"^\s*\d+ \S+\s+([0-9a-f]+)\s+([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+).*\bCODE\b", sections, re.M
    )
    spans = [tuple(int(v, 16) for v in span) for span in found]
    content = bytearray(library.read_bytes())
    if CPUID not in content:
        return 0
    count = 0
    with subprocess.Popen(
        ["objdump", "-d", "--no-show-raw-insn", library], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "\tcpuid" not in line:
                continue
            address = int(line.split(":")[0], 16)
            offset = next(a_file + address - at for size, at, a_file in spans if at <= address < at + size)
            assert content[offset : offset + 2] == CPUID, line
            content[offset : offset + 2] = UNDEFINED
            count += 1
    if count:
        library.unlink()
        library.write_bytes(content)
    return count


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for package in PACKAGES:
            spec = importlib.util.find_spec(package)
            if spec is None or spec.origin is None:
                print(f"left out: {package} is not installed")
                continue
            shutil.copytree(Path(spec.origin).parent, root / "packages" / package, symlinks=True)
            count = sum(map(replaced, sorted((root / "packages" / package).rglob("*.so*"))))
            print(f"{package}: {count} questions to the processor are answered without AVX-512", flush=True)
        (root / "answer.c").write_text(HANDLER)
        subprocess.run(
            ["cc", "-O1", "-shared", "-fPIC", "-o", root / "answer.so", root / "answer.c"], check=True
        )
        paths = [str(root / "packages"), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"LD_PRELOAD": str(root / "answer.so"), "PYTHONPATH": os.pathsep.join(paths)}
        done = subprocess.run([sys.executable, *sys.argv[1:]], env=os.environ | SETTINGS | own, check=False)
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
