"""Random networks in C, by hand: ``python tests/fuzz/c_networks.py FIRST LAST [cortex-m7]``.

Each seed is a network of random operators, formats and ranges, up to the edges of 64 bits. It is exported as
C, compiled with undefined behaviour trapped, run on random and extreme images, and compared on every tensor
with ``==``; with a third argument on a processor that QEMU emulates, plain and with DSP instructions. Ends
with status 1 if any differs.
"""

from __future__ import annotations

import collections
import sys
import tempfile
import time
from pathlib import Path

from fuzz_networks import random_images, random_network

from radixpoint.errors import ExportError
from radixpoint.export import export_network, verify_export

IMAGES = 3


def main(first: int, last: int, machine: str | None) -> int:
    began, wrong, done = time.monotonic(), 0, 0
    steps_seen: collections.Counter[str] = collections.Counter()
    refused: collections.Counter[str] = collections.Counter()
    for seed in range(first, last):
        network = random_network(seed)
        if network is None or not network.steps:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "x"
            try:
                export_network(network, "c", out, random_images(network, seed, IMAGES))
            except ExportError as error:
                refused[str(error)[-70:]] += 1
                continue
            try:
                found = str(verify_export(out, machine=machine).mismatch or "")
            except ExportError as error:
                found = str(error)
        if found:
            print(f"seed {seed}: {found}", flush=True)
            wrong += 1
        done += 1
        steps_seen.update(step.op for step in network.steps)
    print(f"{done} networks, {wrong} differ, {time.monotonic() - began:.0f} s")
    print("steps:", dict(sorted(steps_seen.items())))
    print("refused:", dict(refused))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), *(sys.argv[3:4] or [None])))
