"""Checks of the checks: an error planted in the kernels makes their tests fail; sanitizers find nothing.

The extension is built again from a copy of its sources; the kernel tests run with that build in its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import fast
from test_native import COMPILER

ROOT = Path(__file__).parents[1]
CMAKE = shutil.which("cmake")
pytestmark = [
    pytest.mark.slow("it compiles"),
    pytest.mark.skipif(
        COMPILER is None or CMAKE is None, reason="no C++ compiler or no cmake: planted errors are NOT tried"
    ),
]

KERNEL_TESTS = (
    "every_word_length or extremes or edge_of or runs_of_bytes or pair_of or many_blocks "
    "or residuals_and_pools or fewer_products or sixteen_bits"
)

# file, what it says, what it is changed to, instruction set that has to be there
ERRORS = {
    "no upper limit": ("generic/stages.hpp", "return x > high ? high : x;", "return x;", "portable"),
    "split a place too low": (
        "generic/convolution.hpp",
        "sums[i] >> split",
        "sums[i] >> (split + 1)",
        "portable",
    ),
    "left column": ("generic/convolution.hpp", "y < w.height && x >= 0", "y < w.height && x > 0", "portable"),
    "no new block": (
        "engine.cpp",
        "if (blocks.add(unit.data(), operands)) flush();",
        "blocks.add(unit.data(), operands);",
        "portable",
    ),
    "runs of bytes too long": ("engine.cpp", "+ zero, 16)", "+ zero, 17)", "avx2"),
    "sign of a square": (
        "generic/winograd.hpp",
        "column[2] - column[3]",
        "column[2] + column[3]",
        "portable",
    ),
    "below the last line": ("generic/winograd.hpp", "y >= w.out_height", "y > w.out_height", "portable"),
    "the first vector for the second": (
        "isa_avx2.cpp",
        "_mm256_unpackhi_epi16((__m256i)(x)",
        "_mm256_unpacklo_epi16((__m256i)(x)",
        "avx2",
    ),
    "rounded up to beyond a limit": (
        "generic/stages.hpp",
        "std::min(route.all[i - 1].stage->high + addend, most)",
        "std::min(route.all[i - 1].stage->high, most)",
        "avx2",
    ),
    "a limit that is out of reach": (
        "generic/stages.hpp",
        "p.above = high > s.high",
        "p.above = high / 2 > s.high",
        "avx2",
    ),
    "sign of a plane": ("isa_amx.cpp", "_tile_dpbsud(2, 5, 6)", "_tile_dpbssd(2, 5, 6)", "amx"),
}

RUN = """
import importlib.util, sys
import pytest
spec = importlib.util.spec_from_file_location("radixpoint._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
import radixpoint
radixpoint._native = module
# One process: the workers of a parallel run would import the sound extension.
sys.exit(pytest.main(["-x", "-q", "-n0", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


def build(folder: Path, flags: str = "", portable: bool = False) -> Path:
    """Builds the extension from ``folder / source`` and returns the file.

    ``portable``: without the other instruction sets, which takes a quarter of the time.
    """
    import nanobind

    made = folder / ("portable" if portable else "build")
    configure = [
        *(CMAKE or "cmake", "-S", folder / "source", "-B", made, f"-Dnanobind_DIR={nanobind.cmake_dir()}"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-DCMAKE_CXX_FLAGS={flags}"),
        f"-DRADIXPOINT_ONLY_PORTABLE={'ON' if portable else 'OFF'}",
    ]
    for command in (configure, [CMAKE or "cmake", "--build", made, "--parallel", str(os.cpu_count() or 1)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (extension,) = made.glob("_native*.so")
    return extension


def kernel_tests(extension: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            RUN,
            str(extension),
            str(ROOT / "tests" / "test_native.py"),
            "-k",
            KERNEL_TESTS,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    native = folder / "source" / "src" / "radixpoint" / "_native"
    shutil.copytree(ROOT / "src" / "radixpoint" / "_native", native)
    shutil.copy(ROOT / "CMakeLists.txt", folder / "source")
    return folder


@pytest.fixture
def planted(copy: Path) -> Callable[[str, str, str, bool], Path]:
    originals: dict[Path, str] = {}

    def plant(file: str, old: str, new: str, portable: bool) -> Path:
        path = copy / "source" / "src" / "radixpoint" / "_native" / file
        originals[path] = path.read_text()
        assert originals[path].count(old) >= 1, f"{file}: {old} is gone: plant another error"
        path.write_text(originals[path].replace(old, new))
        return build(copy, portable=portable)

    yield plant
    for path, text in originals.items():
        path.write_text(text)


def test_the_sound_kernels_pass(copy: Path) -> None:
    """The control: the same build without an error."""
    done = kernel_tests(build(copy, portable=True))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("name", ERRORS)
def test_a_planted_error_fails(name: str, planted: Callable[[str, str, str, bool], Path]) -> None:
    file, old, new, needs = ERRORS[name]
    if needs not in fast.USABLE:
        pytest.skip(f"no {needs} on this machine")
    done = kernel_tests(planted(file, old, new, needs == "portable"))
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    assert "AssertionError" in done.stdout or "assert" in done.stdout


def test_sanitizers_run_clean(copy: Path, tmp_path: Path) -> None:
    """Address and undefined-behaviour sanitizers over the kernel tests: any finding ends the process."""
    preload = []
    for library in ("libasan.so", "libubsan.so"):
        path = subprocess.run(
            [COMPILER or "c++", f"-print-file-name={library}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        if not Path(path).is_absolute():
            pytest.skip(f"the compiler has no {library}")
        preload.append(path)
    folder = tmp_path / "sanitized"
    shutil.copytree(copy / "source", folder / "source")
    extension = build(folder, "-fsanitize=address,undefined -fno-sanitize-recover=all -g1")
    done = kernel_tests(
        extension, LD_PRELOAD=" ".join(preload), ASAN_OPTIONS="detect_leaks=0", PYTHONMALLOC="malloc"
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
