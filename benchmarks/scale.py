"""Searches by many workers: what a unit costs beside its work, and where scaling ends.

    python benchmarks/scale.py measure  [--images 1500]
    python benchmarks/scale.py unit
    python benchmarks/scale.py simulate --unit SECONDS --quantize SECONDS

``measure`` searches the demo network here, by workers on a shared folder and by Ray, on this machine, and
prints seconds, units, seconds a unit and bytes moved; every result is compared with ==. ``unit`` prints what
a unit of ResNet-50 at 224 x 224 takes on this machine (conv 12, bn 16 bits), and making its network.
``simulate`` runs the search itself on 50,000 images with an executor whose clock is virtual: a unit takes
``--unit`` seconds, one in fifty of them five times that, one in five hundred is lost and given up after 30
seconds; the driver takes ``--quantize`` seconds to make each network.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import radixpoint
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import quantize_images
from radixpoint.ir.network import IntGraph
from radixpoint.measure.evaluate import outcomes_of
from radixpoint.measure.metrics import BATCH, Agreement
from radixpoint.measure.outcomes import Outcomes
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.executor_names import make_executor
from radixpoint.searching.executors import Executor, Job, Unit, Warm
from radixpoint.searching.on_ray import OnRay

LENGTHS = range(4, 13)
GRID = (4, 6, 8, 10, 12)


class Counted:
    """An executor, how often it was asked, and for how long: networks are made before the clock runs."""

    def __init__(self, inner: Executor) -> None:
        self.inner, self.units, self.seconds = inner, 0, 0.0
        self._made: dict[str, IntGraph] = {}

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        if unit.network not in self._made:
            self._made[unit.network] = network()
        started = time.perf_counter()
        self.units += 1
        self.inner.submit(unit, lambda: self._made[unit.network])
        self.seconds += time.perf_counter() - started

    def result(self) -> tuple[Unit, Outcomes]:
        started = time.perf_counter()
        found = self.inner.result()
        self.seconds += time.perf_counter() - started
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def searched(
    folder: Path, executor: Executor, images: radixpoint.ImageSet, ranges: Any, **more: Any
) -> bytes:
    calibration = demo_images("calibration")
    radixpoint.search(demo_network(), images, calibration, folder, executor=executor, ranges=ranges,
                      word_lengths=LENGTHS, **more)  # fmt: skip
    return (folder / "result.json").read_bytes()


def measure(count: int) -> None:
    images = demo_images("test").first(count)
    ranges = radixpoint.calibrate(demo_network(), demo_images("calibration"), judged=[images])
    results = {}
    print(f"{count:,} images of the demo network, {os.cpu_count()} cores")
    print("| who | seconds of evaluation | units | seconds a unit | MB moved |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        for name in ("here", "folder, 1 worker", "folder, 2 workers", "ray"):
            folder = root / name.replace(", ", "-").replace(" ", "-")
            inner = make_executor(name.partition(",")[0], folder)
            workers = []
            if name.startswith("folder"):
                number = int(name.split()[1])
                threads = str(max((os.cpu_count() or 1) // number, 1))
                command = [sys.executable, "-m", "radixpoint", "worker", str(folder), "--threads", threads]
                workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(number)]
                time.sleep(8)  # they are ready when the search begins
            executor = Counted(inner)
            if isinstance(inner, OnRay):
                import ray

                ray.init(include_dashboard=False, log_to_driver=False)
            results[name] = searched(folder, executor, images, ranges)
            seconds = executor.seconds
            moved = getattr(inner, "moved", 0) / 1e6
            if workers:
                moved = sum(f.stat().st_size for f in (folder / "work").rglob("*") if f.is_file()) / 1e6
            for one in workers:
                one.wait()
            print(
                f"| {name} | {seconds:.1f} | {executor.units} | {seconds / executor.units:.3f} | {moved:.1f} "
                "|"
            )
    print("all equal" if len(set(results.values())) == 1 else "DIFFERENT")


def one_unit() -> None:
    """What the simulation takes for given, measured: random weights and images, since only time counts."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    import zoo

    graph = radixpoint.load(zoo.made("ResNet-50"), (3, 224, 224))
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 3, 224, 224)).astype(np.uint8)
    images = radixpoint.ImageSet("noise", pixels, None, (), radixpoint.Preprocessing())
    quantizer = Quantizer(graph, radixpoint.calibrate(graph, images.first(8)))
    quantizer.quantize(radixpoint.Design.separate(8, 16))  # what designs have in common is known later too
    started = time.perf_counter()
    network = quantizer.quantize(radixpoint.Design.separate(12, 16))
    made = time.perf_counter()
    engine = radixpoint.make_engine(network)
    ready = time.perf_counter()
    outcomes_of(network, engine, quantize_images(network, images.inputs(0, BATCH)), None, Agreement())
    print(
        f"a unit: {time.perf_counter() - ready:.1f} s, {os.cpu_count()} cores; making a network: "
        f"{made - started:.1f} s"
    )


class Simulated:
    """Workers with a virtual clock; what they answer is computed here, in no time."""

    speculates = True

    def __init__(self, workers: int, unit: float, quantize: float) -> None:
        self.workers, self.unit, self.quantize = workers, unit, quantize
        self.clock = 0.0
        self.busy = 0.0
        self.units = 0
        self._random = np.random.default_rng(workers)
        self._free = [0.0] * workers
        self._flying: list[tuple[float, int, Unit]] = []
        self._made: dict[str, IntGraph] = {}

    def open(self, job: Job) -> None:
        self._job, self._warm = job, Warm(job.engine, 1)

    @property
    def room(self) -> int:
        return 2 * self.workers - len(self._flying)

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        if unit.network not in self._made:
            self._made[unit.network] = network()
            self.clock += self.quantize
        seconds = self.unit * float(self._random.normal(1, 0.05))
        if self._random.random() < 1 / 50:
            seconds *= 5
        if self._random.random() < 1 / 500:
            seconds += 30
        begun = max(heapq.heappop(self._free), self.clock)
        heapq.heappush(self._free, begun + seconds)
        self.busy += seconds
        self.units += 1
        heapq.heappush(self._flying, (begun + seconds, self.units, unit))

    def result(self) -> tuple[Unit, Outcomes]:
        done, _, unit = heapq.heappop(self._flying)
        self.clock = max(self.clock, done)
        return unit, ANSWERS[unit.record] if unit.record in ANSWERS else self._answer(unit)

    def _answer(self, unit: Unit) -> Outcomes:
        """As if the network lost what its noise says: cheap, and the same whoever asks."""
        labels = self._job.images[unit.images].labels[unit.start : unit.start + 250]
        wide = _least_bits(self._made[unit.network])
        lost = min(0.5, 4.0 * 2.0 ** -((wide - 1.5) ** 1.05))
        random = np.random.default_rng(abs(hash((unit.start, wide))) % (1 << 32))
        right = random.random(len(labels)) >= 0.3 + lost
        answers = np.where(right, labels, (labels + 1) % 10)
        ANSWERS[unit.record] = Outcomes.of(np.stack([np.where(right, 0, 1), answers], 1))
        return ANSWERS[unit.record]

    def withdraw(self, wanted: Callable[[Unit], bool]) -> list[Unit]:
        """What no worker has begun at this time is given up."""
        gone = [item for item in self._flying if item[0] - self.unit > self.clock and not wanted(item[2])]
        for item in gone:
            self._flying.remove(item)
        heapq.heapify(self._flying)
        if gone:  # workers that would have done it are free sooner
            ends = sorted(item[0] for item in self._flying)[-self.workers :]
            self._free = [self.clock] * (self.workers - len(ends)) + ends
            heapq.heapify(self._free)
        return [unit for _, _, unit in gone]

    def close(self) -> None:
        self._flying.clear()


ANSWERS: dict[str, Outcomes] = {}


def _least_bits(network: IntGraph) -> int:
    """Of any operand of a product."""
    return min(network.tensors[name].format.word_length for step in network.steps if step.family == "product"
               for name in step.inputs)  # fmt: skip


def simulate(unit: float, quantize: float) -> None:
    graph = demo_network()
    base = demo_images("test")
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 50000)
    images = radixpoint.ImageSet("simulated", np.zeros((50000, 1, 28, 28), np.uint8), labels, base.classes,
                                 base.preprocessing)  # fmt: skip
    right = random.random(50000) >= 0.3
    reference = Outcomes.of(np.stack([np.where(right, 0, 1), np.where(right, labels, (labels + 1) % 10)], 1))
    ranges = radixpoint.calibrate(graph, demo_images("calibration").first(64))
    ranges = dataclasses.replace(ranges, outcomes={f"{images.digest} classes": reference})
    calibration = demo_images("calibration").first(64)
    print(f"50,000 images: joint, separate, and a grid of 25 designs; a unit takes {unit:g} s")
    print("| workers | hours | times as fast as one | workers busy, % | units |")
    print("|---|---|---|---|---|")
    alone = None
    for workers in (1, 4, 16, 64, 128, 256, 512, 1024):
        ANSWERS.clear()
        executor = Simulated(workers, unit, quantize)
        with tempfile.TemporaryDirectory() as place:
            radixpoint.search(
                *(graph, images, calibration, Path(place) / "run"),
                executor=executor,
                ranges=ranges,
                word_lengths=GRID,
                grid=True,
                at_chance=True,
            )
        alone = alone or executor.clock
        share = 100 * executor.busy / (executor.clock * workers)
        hours = executor.clock / 3600
        print(
            f"| {workers} | {hours:.2f} | {alone / executor.clock:.1f} | {min(share, 100):.0f} | "
            f"{executor.units} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["measure", "unit", "simulate"])
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--unit", type=float, help="seconds of a unit, as 'unit' prints them")
    parser.add_argument("--quantize", type=float, help="seconds of making a network, likewise")
    asked = parser.parse_args()
    if asked.what == "simulate" and (asked.unit is None or asked.quantize is None):
        parser.error("simulate takes --unit and --quantize, as 'unit' prints them")
    if asked.what == "measure":
        measure(asked.images)
    elif asked.what == "unit":
        one_unit()
    else:
        simulate(asked.unit, asked.quantize)


if __name__ == "__main__":
    main()
