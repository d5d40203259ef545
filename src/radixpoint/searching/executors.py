"""Who evaluates: this process, workers of a Ray cluster, or workers that share a folder.

The unit of work is a quantized network on a shard of images; what comes back is what a metric keeps of them.
An executor takes units and gives results as they come, in any order. It decides nothing: a search looks only
at the results of the first shards, in their order, so its outcome does not depend on who computed what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radixpoint.data import ImageSet
from radixpoint.engines import Engine, make_engine, quantize_images
from radixpoint.ir.network import IntGraph
from radixpoint.measure.evaluate import outcomes_of
from radixpoint.measure.metrics import BATCH, Metric
from radixpoint.measure.outcomes import Outcomes

WARM = 2
"""Engines that a worker keeps."""


@dataclass(frozen=True)
class Unit:
    """A network on a shard of images.

    Attributes:
        network: tells networks apart: SHA-256 of the design and of all that it is made from.
        images: digest of the set of images.
        start: of the shard's ``radixpoint.measure.metrics.BATCH`` images.
        record: name of the record in the cache that will hold the result.
    """

    network: str
    images: str
    start: int
    record: str


@dataclass(frozen=True, eq=False)
class Job:
    """What all units of a search have in common.

    Attributes:
        images: sets of images by their digests.
        metric: what is kept of them.
        engine: see ``radixpoint.make_engine``.
        threads: of an engine; 0 takes all cores.
        cache: folder of the records.
    """

    images: dict[str, ImageSet]
    metric: Metric
    engine: str
    threads: int
    cache: str


class Executor(Protocol):
    """Takes units, gives results as they come."""

    def open(self, job: Job) -> None:
        """Begin with a search.

        Raises:
            RunError: workers cannot be had.
        """
        ...

    @property
    def speculates(self) -> bool:
        """Whether units that may turn out useless are welcome where there is room."""
        ...

    @property
    def room(self) -> int:
        """How many more units could be used now."""
        ...

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        """Take a unit; ``network`` makes the one that it names, and is asked if that is not known yet."""
        ...

    def result(self) -> tuple[Unit, Outcomes]:
        """The next unit that is done; waits for it.

        Raises:
            RunError: no worker is left that could do it.
        """
        ...

    def withdraw(self, wanted: Callable[[Unit], bool]) -> list[Unit]:
        """Give up what has not begun and is not wanted; those units are forgotten."""
        ...

    def close(self) -> None:
        """The search is over."""
        ...


class Warm:
    """Engines of the networks that were run last.

    Args:
        engine: see ``radixpoint.make_engine``.
        threads: of an engine.
    """

    def __init__(self, engine: str, threads: int) -> None:
        self._how = engine, threads
        self._engines: dict[str, tuple[IntGraph, Engine]] = {}

    def get(self, key: str, network: Callable[[], IntGraph]) -> tuple[IntGraph, Engine]:
        """The network of a key, and its engine."""
        if key not in self._engines:
            while len(self._engines) >= WARM:
                del self._engines[next(iter(self._engines))]
            made = network()
            self._engines[key] = made, make_engine(made, *self._how)
        return self._engines[key]


class Here:
    """Units one after the other in this process; the engine's threads share the work in one."""

    speculates = False

    def __init__(self) -> None:
        self._waiting: deque[tuple[Unit, tuple[IntGraph, Engine], Future[NDArray[np.int64]]]] = deque()
        self._pool: ThreadPoolExecutor | None = None

    def open(self, job: Job) -> None:
        self._job, self._warm = job, Warm(job.engine, job.threads)
        self._pool = ThreadPoolExecutor(1)

    @property
    def room(self) -> int:
        return 2 - len(self._waiting)  # one is prepared while the other runs

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        assert self._pool is not None
        images, start = self._job.images[unit.images], unit.start
        own = self._warm.get(unit.network, network)

        def prepare() -> NDArray[np.int64]:
            return quantize_images(own[0], images.inputs(start, min(start + BATCH, len(images))))

        self._waiting.append((unit, own, self._pool.submit(prepare)))

    def result(self) -> tuple[Unit, Outcomes]:
        unit, (network, engine), prepared = self._waiting.popleft()
        images = self._job.images[unit.images]
        stored = prepared.result()
        targets = images.target(unit.start, unit.start + len(stored))
        return unit, outcomes_of(network, engine, stored, targets, self._job.metric)

    def withdraw(self, wanted: Callable[[Unit], bool]) -> list[Unit]:
        gone = [item for item in self._waiting if not wanted(item[0])]
        for item in gone:
            item[2].cancel()
            self._waiting.remove(item)
        return [unit for unit, _, _ in gone]

    def close(self) -> None:
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
