"""Workers of a Ray cluster (extra ``ray``): on a laptop, on many machines, or under ``ray job submit``.

One actor a node keeps engines warm. A shard's pixels are put into the object store when it is first needed, a
network once; a unit carries references. A unit whose actor dies, with its node or alone, is given to another,
and nodes that join get an actor.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.engines import quantize_images
from radixpoint.errors import RunError
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import encoded_network, load_network
from radixpoint.measure.evaluate import outcomes_of
from radixpoint.measure.metrics import BATCH, Metric
from radixpoint.measure.outcomes import Outcomes
from radixpoint.searching.executors import Job, Unit, Warm

EACH = 2
"""Units of an actor at a time: one runs, one waits."""
LOOK = 2.0
"""Seconds between two looks at the cluster's nodes."""
WAIT = 60.0
"""Seconds without any node before the search gives up."""
_WARM = 64
"""References to networks that are kept."""


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise RunError("executor ray: Ray is missing: pip install 'radixpoint[ray]'") from None
    return ray


class Actor:
    """What runs on a node."""

    def __init__(self, engine: str, threads: int) -> None:
        self._warm = Warm(engine, threads)

    def run(
        self,
        key: str,
        network: NDArray[np.uint8],
        inputs: NDArray[np.float32],
        targets: Any,
        metric: Metric,
    ) -> bytes:
        """Outcomes of a network, as a file of it, on some images' inputs."""

        def read() -> IntGraph:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "network.safetensors"
                path.write_bytes(network.tobytes())
                return load_network(path)

        own, engine = self._warm.get(key, read)
        return outcomes_of(own, engine, quantize_images(own, inputs), targets, metric).encoded()


class OnRay:
    """Gives units to actors, one on each node.

    Args:
        address: of a cluster, as ``ray.init`` takes it; None for the one that this process is in, or else a
            new one of this machine.
    """

    speculates = True

    def __init__(self, address: str | None = None) -> None:
        self._address = address
        self._actors: dict[str, Any] = {}  # by node
        self._flying: dict[Any, tuple[Unit, str]] = {}  # by reference: the unit, and its node
        self._waiting: deque[Unit] = deque()
        self._networks: dict[str, Any] = {}
        self._shards: dict[tuple[str, int], tuple[Any, Any]] = {}
        self._looked = 0.0
        self._started = False
        self.moved = 0

    def open(self, job: Job) -> None:
        ray = _ray()
        self._ray, self._job = ray, job
        if not ray.is_initialized():
            try:
                ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
            except Exception as error:  # a cluster that cannot be reached ends in many ways
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise RunError(f"executor ray, address {self._address}: {reason}") from None
            self._started = True
        self._metric = ray.put(job.metric)
        self._look(now=True)

    def _look(self, now: bool = False) -> None:
        """An actor on every node that is there; none on those that are gone."""
        if not now and time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        alive = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        for node in [actor for actor in self._actors if actor not in alive]:
            self._lost(node)
        for node, about in alive.items():
            cores = float(about["Resources"].get("CPU", 0))
            if node in self._actors or cores <= 0:
                continue
            place = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            kind = self._ray.remote(Actor).options(num_cpus=cores, scheduling_strategy=place, max_restarts=0)
            threads = self._job.threads or max(int(cores), 1)
            self._actors[node] = kind.remote(self._job.engine, threads)

    def _lost(self, node: str) -> None:
        """Give up an actor; what it had is to be done again."""
        actor = self._actors.pop(node, None)
        for reference in [r for r, (_, where) in self._flying.items() if where == node]:
            unit, _ = self._flying.pop(reference)
            self._waiting.appendleft(unit)
        if actor is not None:
            try:
                self._ray.kill(actor)
            except Exception:  # it is gone, whatever the reason
                return

    @property
    def room(self) -> int:
        return EACH * max(len(self._actors), 1) + 1 - len(self._flying) - len(self._waiting)

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        if unit.network not in self._networks:
            used = {queued.network for queued in self._waiting} | {
                queued.network for queued, _ in self._flying.values()
            }
            for key in [key for key in self._networks if key not in used][: len(self._networks) - _WARM + 1]:
                del self._networks[key]
            data = np.frombuffer(encoded_network(network()), np.uint8)
            self._networks[unit.network] = self._ray.put(data)
            self.moved += data.nbytes
        self._waiting.append(unit)
        self._deal()

    def _deal(self) -> None:
        """Waiting units to the actors that have the fewest."""
        load = dict.fromkeys(self._actors, 0)
        for _, node in self._flying.values():
            load[node] = load.get(node, 0) + 1
        while self._waiting and load:
            node = min(load, key=lambda name: load[name])
            if load[node] >= EACH:
                return
            unit = self._waiting.popleft()
            inputs, targets = self._shard(unit)
            arguments = (unit.network, self._networks[unit.network], inputs, targets, self._metric)
            self._flying[self._actors[node].run.remote(*arguments)] = unit, node
            load[node] += 1

    def _shard(self, unit: Unit) -> tuple[Any, Any]:
        key = (unit.images, unit.start)
        if key not in self._shards:
            images = self._job.images[unit.images]
            stop = min(unit.start + BATCH, len(images))
            inputs = images.inputs(unit.start, stop)
            self._shards[key] = self._ray.put(inputs), self._ray.put(images.target(unit.start, stop))
            self.moved += inputs.nbytes
        return self._shards[key]

    def result(self) -> tuple[Unit, Outcomes]:
        alone = time.monotonic()
        while True:
            self._look()
            self._deal()
            if self._actors:
                alone = time.monotonic()
            elif time.monotonic() - alone > WAIT:
                raise RunError(
                    f"executor ray: no node for {WAIT:.0f} seconds: expected at least one with a processor"
                )
            if not self._flying:
                time.sleep(0.05)
                continue
            done, _ = self._ray.wait(list(self._flying), timeout=1.0)
            for reference in done:
                unit, node = self._flying[reference]
                try:
                    outcomes = Outcomes.decoded(self._ray.get(reference))
                except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError):
                    self._lost(node)  # the node may live on: it gets a new actor
                    self._look(now=True)
                    break
                except self._ray.exceptions.RayTaskError as error:
                    cause = error.cause if isinstance(getattr(error, "cause", None), Exception) else error
                    raise cause from None
                del self._flying[reference]
                return unit, outcomes

    def withdraw(self, wanted: Callable[[Unit], bool]) -> list[Unit]:
        gone = [unit for unit in self._waiting if not wanted(unit)]
        self._waiting = deque(unit for unit in self._waiting if wanted(unit))
        return gone

    def close(self) -> None:
        for node in list(self._actors):
            self._lost(node)
        self._waiting.clear()
        self._networks.clear()
        self._shards.clear()
        if self._started:
            self._ray.shutdown()
            self._started = False
