"""Random networks in Verilog, by hand: ``python tests/fuzz/verilog_networks.py FIRST LAST [axi]``.

Each seed is a network of random operators with windows up to 16 x 16, on 1 to 64 lanes; a weight serves 1 to
9 places and 1 to 3 images; with ``axi`` all comes over buses of 32 to 1,024 bits. It is exported, simulated
by Icarus Verilog (``iverilog``, which compiles in a second what takes Verilator half a minute), and compared
on every tensor with ``==``. Ends with status 1 if any differs. It is a second opinion, too: the ordinary
tests use Verilator.
"""

from __future__ import annotations

import collections
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from fuzz_networks import random_images, random_network

from radixpoint.accelerator.program import BUSES
from radixpoint.errors import ExportError
from radixpoint.export import export_network, verify_export, verilog

LANES = (1, 2, 3, 4, 5, 7, 8, 16, 17, 32, 64)
PLACES = (1, 2, 3, 4, 5, 8, 9)
BATCHES = (1, 1, 2, 3)
IMAGES = 3


def icarus(
    sources: Sequence[Path], out: Path, parameters: Mapping[str, int] | None = None, brief: bool = False
) -> Path:
    """In place of ``verilog.verilate``: a program that runs the testbench."""
    out.mkdir(parents=True, exist_ok=True)
    made, program = out / "testbench.vvp", out / "run.sh"
    sizes = [f"-Ptestbench.{name}={value}" for name, value in (parameters or {}).items()]
    where = ["-s", "testbench", f"-I{sources[0].parent}", "-o", str(made)]
    command = ["iverilog", "-g2012", *where, *sizes, *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"iverilog: {done.stderr[:600]}")
    program.write_text(f'#!/bin/sh\nexec vvp -n {made} "$@"\n')
    program.chmod(0o755)
    return program


def main(first: int, last: int, target: str = "verilog") -> int:
    verilog.verilate = icarus
    began, wrong = time.monotonic(), 0
    lanes_seen: collections.Counter[int] = collections.Counter()
    steps_seen: collections.Counter[str] = collections.Counter()
    refused: collections.Counter[str] = collections.Counter()
    for seed in range(first, last):
        network, random = random_network(seed), Random(seed)
        lanes, places, batch = map(random.choice, (LANES, PLACES, BATCHES))
        options = {"lanes": str(lanes), "places": str(places), "batch": str(batch)}
        if target == "axi":
            options["bus"] = str(random.choice(BUSES))
        if network is None or len(network.steps) < 2:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "x"
            try:
                images = random_images(network, seed, IMAGES)
                export_network(network, target, out, images, options)
            except ExportError as error:
                refused[str(error)[-70:]] += 1
                continue
            found = verify_export(out, lambda _, own=images: iter([own])).mismatch
        if found is not None:
            print(f"seed {seed}, {options}: {found}", flush=True)
            wrong += 1
        lanes_seen[lanes] += 1
        steps_seen.update(step.op for step in network.steps)
    print(f"{sum(lanes_seen.values())} networks, {wrong} differ, {time.monotonic() - began:.0f} s")
    print("lanes:", dict(sorted(lanes_seen.items())))
    print("steps:", dict(sorted(steps_seen.items())))
    print("refused:", dict(refused))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
