"""The exported C on a Cortex-M7: instructions for each product, RAM, flash.

    python benchmarks/microcontroller.py [--bits 8] [--flags=-O2] [--flags=-O3] [--only mobile]

Needs Debian's gcc-arm-none-eabi, libnewlib-arm-none-eabi and qemu-system-arm. QEMU runs the program at one
instruction a nanosecond of its own time (``-icount shift=0``). The program reads that time before and after
``radixpoint_run``, so what is counted is the same on every machine, to 40 instructions. RAM is the buffer and
what else changes; flash is code and parameters; both of the network alone. ``mobile`` is a network of
depthwise and pointwise convolutions with a million products. ``demo`` is the ResNet-50 inside the package.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import radixpoint
from radixpoint.accelerator.cost import cost
from radixpoint.demo import demo_images, demo_network
from radixpoint.export.cortex_m import EMULATOR, LINKER, MACHINE, VECTORS
from radixpoint.ir.graph import Graph

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import networks

COMPILER = "arm-none-eabi-gcc"
MAIN = """
#include <stdio.h>
#include "network.h"
#define TICKS (*(volatile uint32_t *)0xE000E018) /* SysTick's value: counts down at 25 MHz, 24 bits */
static uint32_t wraps;
void ticked(void) { ++wraps; }
static radixpoint_image_t image[RADIXPOINT_IMAGE_VALUES];
static radixpoint_logit_t logits[RADIXPOINT_LOGITS];
static struct radixpoint_buffer buffer;
int main(void) {
  int i;
  for (i = 0; i < RADIXPOINT_IMAGE_VALUES; ++i) image[i] = (radixpoint_image_t)((i * 37) % 64);
  *(volatile uint32_t *)0xE000E014 = 0xFFFFFF;
  *(volatile uint32_t *)0xE000E018 = 0;
  *(volatile uint32_t *)0xE000E010 = 7;
  while (TICKS == 0) {}
  {
    const uint32_t first = TICKS, before = wraps;
    radixpoint_run(&radixpoint_parameters, image, logits, &buffer);
    {
      const uint32_t last = TICKS, after = wraps;
      const int64_t ticks = ((int64_t)(after - before) << 24) + (int64_t)first - (int64_t)last;
      printf("%lld %u\\n", (long long)(ticks * 40), (unsigned)sizeof buffer);
    }
  }
  return 0;
}
"""


def mobile() -> Graph:
    n = networks.Net(0, (3, 32, 32))
    x = n.simple("relu", n.bn(n.conv("input", 16, 3, strides=(2, 2))))
    for outputs, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (64, 1)):
        channels = n.channels[x]
        x = n.simple("relu", n.bn(n.conv(x, channels, 3, strides=(stride, stride), groups=channels)))
        x = n.simple("relu", n.bn(n.conv(x, outputs, 1, pads=(0, 0, 0, 0))))
    x = n.simple("average_pool", x, kernel=(4, 4), strides=(1, 1), pads=(0,) * 4, count_include_pad=False)
    return n.graph(n.fc(n.simple("flatten", x), 64, 10))


def quantized(name: str, bits: int) -> radixpoint.IntGraph:
    if name == "demo":
        graph = demo_network()
        ranges = radixpoint.calibrate(graph, demo_images("calibration"))
    else:
        graph = mobile()
        ranges = networks.calibrated(graph)
    return radixpoint.quantize(graph, ranges, radixpoint.Design.separate(bits, bits, unsigned=True))


def measured(network: radixpoint.IntGraph, flags: list[str]) -> tuple[int, int, int]:
    """Instructions of one image, bytes of RAM, bytes of flash."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "c"
        radixpoint.export_network(network, "c", folder, options={"parameters": "arrays"})
        vectors = VECTORS.replace("[2]", "[16]").replace("_start,\n", "_start" + ", 0" * 13 + ", ticked\n")
        texts = {"main.c": MAIN, "vectors.c": "void ticked(void);\n" + vectors}
        for name, text in texts.items():
            (folder / name).write_text(text)
        (folder / "link.ld").write_text(LINKER)
        own = [n for n in ("network.c", "parameters.c") if (folder / n).exists()]

        def run(*command: str) -> str:
            return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout

        for source in own:
            run(COMPILER, *MACHINE, *flags, "-std=c99", "-c", source)
        objects = [name.replace(".c", ".o") for name in own]
        lines = [line.split()[:3] for line in run("arm-none-eabi-size", *objects).splitlines()[1:]]
        text, data, bss = np.array(lines, int).sum(0)
        run(
            COMPILER,
            *MACHINE,
            *flags,
            "--specs=rdimon.specs",
            "-T",
            "link.ld",
            "main.c",
            "vectors.c",
            *objects,
            "-o",
            "p.elf",
        )
        said = run("qemu-system-arm", *EMULATOR, "-icount", "shift=0", "-kernel", "p.elf")
    count, buffer = map(int, said.split())
    return count, int(data + bss) + buffer, int(text + data)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--flags", action="append", help="of the compiler; default -O2 and -O3")
    parser.add_argument("--only")
    asked = parser.parse_args()
    columns = ("network", "products", "flags", "instructions a product", "RAM, bytes", "flash, bytes")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in ("mobile", "demo"):
        if asked.only not in (None, name):
            continue
        network = quantized(name, asked.bits)
        products = cost(network).macs
        for flags in asked.flags or ["-O2", "-O3"]:
            count, ram, flash = measured(network, flags.split())
            print(
                f"| {name} | {products:,} | {flags} | {count / products:.2f} | {ram:,} | {flash:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
