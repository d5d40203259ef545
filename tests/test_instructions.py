"""Instructions of the native engine, counted: times are noisy, and do not show that a kernel grew."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fast
import radixpoint
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import quantize_images
from radixpoint.ir.storage import save_network

VALGRIND = shutil.which("valgrind")
pytestmark = [
    pytest.mark.slow("it runs under valgrind"),
    pytest.mark.skipif(VALGRIND is None, reason="no valgrind: instructions are NOT counted"),
    pytest.mark.skipif("avx2" not in fast.USABLE, reason="no AVX2: instructions are NOT counted"),
]
MOST = 3_010_000
"""Of one image through the network in the package, 8 bits, AVX2: 2.74 million with GCC 12.2, and a tenth."""
RUN = """
import sys
from pathlib import Path
import numpy as np
from radixpoint.engines.native.engine import NativeEngine
from radixpoint.ir.storage import load_network
engine = NativeEngine(load_network(Path(sys.argv[1])), 1, sys.argv[3], winograd=False)
image = np.load(sys.argv[2])
for _ in range(int(sys.argv[4])):
    engine.run(image)
"""


def counted(folder: Path, isa: str, runs: int) -> int:
    """Instructions of a whole process that runs so many images."""
    counting = (VALGRIND or "valgrind", "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}")
    files = (str(folder / "network.safetensors"), str(folder / "image.npy"))
    done = subprocess.run(
        [*counting, sys.executable, "-c", RUN, *files, isa, str(runs)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    (line,) = (line for line in done.stderr.splitlines() if "Collected" in line)
    return int(line.rpartition(":")[2])


def test_instructions_of_an_image(tmp_path: Path) -> None:
    """The difference of two processes, whose starts differ by less than a hundredth of it."""
    graph, images = demo_network(), demo_images("calibration").first(64)
    network = radixpoint.quantize(
        graph, radixpoint.calibrate(graph, images), radixpoint.Design.separate(8, 16)
    )
    save_network(network, tmp_path / "network.safetensors")
    np.save(tmp_path / "image.npy", quantize_images(network, images.inputs(0, 1)))
    each = {
        isa: (counted(tmp_path, isa, more) - counted(tmp_path, isa, 1)) / (more - 1)
        for isa, more in (("avx2", 201), ("portable", 21))
    }
    assert each["avx2"] < MOST
    assert each["portable"] > 1.5 * MOST, "a kernel that takes more is not seen"
