"""The ResNet-50 that the benchmarks measure on, and what was found out about it before.

A folder of data holds the network of full width (``resnet50-tiny-imagenet.safetensors``, torchvision's
names), ``images-search.tar``, ``images-calibration.tar`` and ``wnids.txt``; ``demo`` in its place is the
network of quarter width inside the package. A folder of runs keeps every result.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import radixpoint
from radixpoint.demo import demo_images, demo_network
from radixpoint.searching.judge import Judge
from radixpoint.searching.result import FILE, PolicyResult, Result
from radixpoint.searching.task import open_judges
from radixpoint.searching.watcher import Watcher


class Log(Watcher):
    """One line an evaluation, with the time."""

    def judged(self, text: str, evaluation: Any, verdict: str, cached: bool) -> None:
        low, high = evaluation.drop_interval
        print(
            f"  {time.strftime('%H:%M:%S')} {text}: {evaluation.drop:+.2f} [{low:+.2f}, {high:+.2f}] on "
            f"{evaluation.images}: {verdict}{' (known)' if cached else ''}",
            flush=True,
        )


class Data:
    """The network and its images; ``images`` of them to judge on, default all."""

    def __init__(self, folder: Path, images: int | None) -> None:
        if folder == Path("demo"):
            self.graph = demo_network()
            self.images, self.calibration = demo_images("test"), demo_images("calibration")
        else:
            classes = radixpoint.read_classes(folder / "wnids.txt")
            self.graph = radixpoint.load(folder / "resnet50-tiny-imagenet.safetensors", (3, 64, 64))
            self.images = radixpoint.load_images(folder / "images-search.tar", classes=classes)
            self.calibration = radixpoint.load_images(folder / "images-calibration.tar", classes=classes)
        if images is not None:
            self.images = self.images.first(images)

    def judge(self, runs: Path, images: radixpoint.ImageSet | None = None) -> Judge:
        """Of designs on these images, default all; what it finds out is kept."""
        judged = self.images if images is None else images
        (judge,) = open_judges(self.graph, [judged], self.calibration, runs / "judged", runs / "cache", Log())
        return judge

    def search(self, runs: Path, name: str, metric: str, limit: float, **options: Any) -> Result:
        """Run a search, or read what it found."""
        started = time.time()
        finished = runs / name / FILE
        if not finished.exists():
            print(f"{name}:", flush=True)
            radixpoint.search(
                self.graph,
                self.images,
                self.calibration,
                runs / name,
                radixpoint.Criterion(metric, limit),
                watcher=Log(),
                cache=runs / "cache",
                **options,
            )
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            print(f"  {time.time() - started:.0f} s, peak memory so far {memory:.2f} GiB", flush=True)
        return Result.load(finished)


def interval(policy: PolicyResult) -> str:
    """A drop with its 95 % interval."""
    if policy.drop is None:
        return "none holds"
    low, high = policy.drop_interval
    return f"{policy.drop:+.2f} [{low:+.2f}, {high:+.2f}]"
