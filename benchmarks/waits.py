"""Everything that a user waits for, by stage: the network in the package, or a full-width ResNet-50.

    python benchmarks/waits.py [--data DATA] [--isa avx2]

DATA is described in ``resnet50.py``. Each stage runs once, in the order of the main job, in one process; the
start of a command runs in its own. Prints a Markdown table of seconds, seconds of processor time, and the
largest memory of the process so far. ``--isa`` forces the native engine's instruction set.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import radixpoint
from radixpoint.data import ImageSet
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines.native.isa import ISA_VARIABLE
from radixpoint.ir.graph import Graph
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.task import search

T = TypeVar("T")
BINARY_POINTS = {
    "max": {"scope": "channel", "rule": "max"},
    "percentile": {"scope": "channel", "rule": "percentile"},
    "mse": {"scope": "channel", "rule": "mse"},
    "sqnr": {"scope": "channel", "rule": "sqnr"},
    "loss": {"scope": "channel", "rule": "loss"},
}


def processor() -> float:
    """Seconds of processor time, children too."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def waited(name: str, task: Callable[[], T]) -> T:
    started, used = time.perf_counter(), processor()
    result = task()
    seconds, used = time.perf_counter() - started, processor() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {name} | {seconds:.2f} | {used:.2f} | {memory:,.0f} |", flush=True)
    return result


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "radixpoint", *arguments], check=True, capture_output=True)


def inputs(data: Path | None) -> tuple[Graph, ImageSet, ImageSet]:
    """The network, images to judge on, calibration images."""
    if data is None:
        return demo_network(), demo_images("test"), demo_images("calibration")
    classes = radixpoint.read_classes(data / "wnids.txt")
    images = radixpoint.load_images(data / "images-search.tar", classes=classes)
    calibration = radixpoint.load_images(data / "images-calibration.tar", classes=classes)
    graph = radixpoint.load(data / "resnet50-tiny-imagenet.safetensors", calibration.pixels.shape[1:])
    return graph, images, calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--isa")
    arguments = parser.parse_args()
    if arguments.isa:
        os.environ[ISA_VARIABLE] = arguments.isa
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    print("| stage | seconds | processor seconds | memory, MiB |\n|---|---|---|---|")
    waited("start of a command (`--version`)", lambda: command("--version"))
    waited("start of a command (`search --help`)", lambda: command("search", "--help"))
    graph, images, calibration = waited("import, images", lambda: inputs(arguments.data))
    ranges = waited(
        f"calibrate, {len(calibration):,} images", lambda: radixpoint.calibrate(graph, calibration)
    )
    network = None
    for rule, point in BINARY_POINTS.items():
        design = radixpoint.Design.separate(8, 16, binary_point=point)
        fresh = Quantizer(graph, ranges, calibration)
        network = waited(f"quantize, rule `{rule}`", lambda q=fresh, d=design: q.quantize(d))
    assert network is not None
    design = radixpoint.Design.separate(8, 16, refine=["offsets", "columns"])
    waited("quantize, refined", lambda: Quantizer(graph, ranges, calibration).quantize(design))
    waited(
        f"evaluate, {len(images):,} images, float too", lambda: radixpoint.evaluate(graph, network, images)
    )
    waited("cost, without synthesis", lambda: radixpoint.cost(network))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        waited("export as C", lambda: radixpoint.export_network(network, "c", out / "c"))
        waited("verify it", lambda: radixpoint.verify_export(out / "c"))
        waited("export as Verilog", lambda: radixpoint.export_network(network, "verilog", out / "v"))
        waited(
            "search, both policies, rule `loss`",
            lambda: search(
                graph, images, calibration, out / "run", binary_point={"scope": "channel", "rule": "loss"}
            ),
        )
        waited("report", lambda: radixpoint.write_report(out / "run"))


if __name__ == "__main__":
    main()
