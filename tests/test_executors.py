"""Searches by workers give the same bytes, whoever computes, and whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
from radixpoint.errors import RunError
from radixpoint.ir.network import IntGraph
from radixpoint.measure.evaluate import Evaluation
from radixpoint.measure.metrics import Score
from radixpoint.searching import shared_folder
from radixpoint.searching.criterion import Criterion, Verdict
from radixpoint.searching.executor_names import make_executor
from radixpoint.searching.executors import Here, Unit
from radixpoint.searching.result import Result
from radixpoint.searching.shared_folder import SharedFolder, Worker
from radixpoint.searching.task import search
from radixpoint.searching.watcher import Watcher

pytestmark = pytest.mark.slow("it searches, and starts clusters")

GRAPH = networks.balanced()
IMAGES = networks.labelled(GRAPH, 1500, 3)
CALIBRATION = networks.images(64, 5, GRAPH.shapes["input"])
HELD_OUT = networks.labelled(GRAPH, 300, 8)
ASKED: dict[str, Any] = {
    "word_lengths": range(5, 14),
    "policies": ("joint", "separate"),
    "held_out": HELD_OUT,
}


def run(folder: Path, **more: Any) -> bytes:
    search(GRAPH, IMAGES, CALIBRATION, folder, Criterion(limit=2.0), **{**ASKED, **more})
    return (folder / "result.json").read_bytes()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("here") / "run"
    found = run(folder)
    policies = Result.load(folder / "result.json").policies
    assert all(one.holds and len(one.tried) > 3 for one in policies.values())
    return found


class At(Watcher):
    """Does something when so many designs have been judged."""

    def __init__(self, events: dict[int, Callable[[], object]]) -> None:
        self.events, self.count = events, 0

    def judged(self, text: str, evaluation: Evaluation, verdict: Verdict, cached: bool) -> None:
        self.count += 1
        if self.count in self.events:
            self.events.pop(self.count)()

    def warned(self, text: str) -> None:
        """Is no test of warnings."""


# ------------------------------------------------------------------------------------- any order


class Shuffled(Here):
    """Answers in an order of its own, does too much, and tells of units that nobody asks for any more."""

    speculates = True

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = np.random.default_rng(seed)
        self.taken = 0

    @property
    def room(self) -> int:
        return 7 - len(self._waiting)

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        self.taken += 1
        super().submit(unit, network)

    def result(self) -> Any:
        place = int(self._random.integers(len(self._waiting)))
        self._waiting.rotate(-place)
        found = super().result()
        self._waiting.rotate(place)
        return found

    def withdraw(self, wanted: Callable[[Unit], bool]) -> list[Unit]:
        return []  # everything has begun already


class Counted(Here):
    """Counts what it is given."""

    taken = 0

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        self.taken += 1
        super().submit(unit, network)


@pytest.mark.parametrize("seed", range(2))
def test_any_order_of_answers(seed: int, expected: bytes, tmp_path: Path) -> None:
    executor = Shuffled(seed)
    assert run(tmp_path / "run", executor=executor) == expected
    here = Counted()
    run(tmp_path / "here", executor=here)
    assert executor.taken > here.taken  # more than was needed


def test_frontiers_and_grids_at_once(tmp_path: Path) -> None:
    asked = {"word_lengths": (6, 8, 10), "policies": ("per-layer",), "grid": True}
    results = [
        run(tmp_path / name, executor=one, **asked) for name, one in (("a", Here()), ("b", Shuffled(3)))
    ]
    assert results[0] == results[1]


def test_what_workers_found_is_known_to_the_next_search(expected: bytes, tmp_path: Path) -> None:
    run(tmp_path / "a", cache=tmp_path / "cache", executor=Shuffled(5))

    class Idle(Here):
        def result(self) -> Any:
            pytest.fail("evaluated again")

    assert run(tmp_path / "b", cache=tmp_path / "cache", executor=Idle()) == expected


def test_unknown_executors(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="executor 'slurm': expected here, ray, ray:ADDRESS, or folder"):
        make_executor("slurm", tmp_path)
    with pytest.raises(RunError, match=r"executor 'slurm'"):
        run(tmp_path / "run", executor="slurm")


# ---------------------------------------------------------------------------------- shared folder

WORKER = """
import sys, time
from radixpoint.searching import shared_folder
shared_folder.BEAT, pause = 0.2, float(sys.argv[2])
usual = shared_folder.outcomes_of
def slow(*arguments):
    time.sleep(pause)
    return usual(*arguments)
shared_folder.outcomes_of = slow
from radixpoint.cli.main import main
sys.argv = ["radixpoint", "worker", sys.argv[1], "--wait", "60", "--threads", "1"]
main()
"""


def worker(folder: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(pause)], stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "LOST", 1.5)


def test_workers_on_a_shared_folder_are_killed(expected: bytes, tmp_path: Path, impatient: None) -> None:
    """Two workers, started before the search; the slow one is killed in a unit, and another one comes."""
    folder = tmp_path / "run"
    workers = [worker(folder, 2.0), worker(folder, 0.0)]
    killed: list[int] = []

    def kill() -> None:
        limit, slow = time.monotonic() + 60, False
        while time.monotonic() < limit and not slow:
            time.sleep(0.02)
            with suppress(OSError):
                taken = [
                    p for p in (folder / "work" / "units").iterdir() if p.suffix not in (".todo", ".partial")
                ]
                slow = any(time.time() - p.stat().st_ctime > 0.15 for p in taken)
        workers[0].send_signal(signal.SIGKILL)
        killed.append(workers[0].wait())
        workers.append(worker(folder, 0.0))

    killer = threading.Thread(target=kill)
    killer.start()
    assert run(folder, executor="folder", grid=True) == run(tmp_path / "here", grid=True)
    killer.join()
    assert killed == [-signal.SIGKILL]
    told = [one.communicate(timeout=90) for one in workers[1:]]
    assert [one.returncode for one in workers[1:]] == [0, 0], told
    assert all("the search has ended" in errors for _, errors in told)
    assert not list((folder / "work" / "units").iterdir())


def test_a_search_without_workers_ends_too(expected: bytes, tmp_path: Path) -> None:
    assert run(tmp_path / "run", executor="folder") == expected


def test_a_search_that_is_killed_goes_on(expected: bytes, tmp_path: Path, impatient: None) -> None:
    """The search itself dies; what its workers found is known to the next one."""

    class Killed(Exception):
        pass

    def die() -> None:
        raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "run", executor="folder", watcher=At({4: die}))
    before = len(list((tmp_path / "run" / "cache").glob("design-*")))
    assert before > 0
    assert run(tmp_path / "run", executor="folder") == expected


def test_records_that_are_damaged_are_made_again(expected: bytes, tmp_path: Path, impatient: None) -> None:
    """Cut short behind the search's back, before it has seen them."""
    folder = tmp_path / "run"

    class Cutting(SharedFolder):
        cut = 0

        def result(self) -> Any:
            for record in (folder / "cache").glob("design-*"):
                if self.cut < 3 and record.name in self._flying:
                    record.write_bytes(record.read_bytes()[:-1])
                    self.cut += 1
            return super().result()

        def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
            super().submit(unit, network)
            if self.cut < 3:
                self._own.work_once()  # there already, when its result is asked for

    executor = Cutting(folder)
    assert run(folder, executor=executor) == expected
    assert executor.cut == 3


def test_what_workers_cannot_have(tmp_path: Path) -> None:
    own = Score(lambda results, targets: results[:, 0] > 0, label="mine")
    with pytest.raises(RunError, match="workers on a shared folder find a metric by its name"):
        run(tmp_path / "a", executor="folder", metric=own)
    targets = IMAGES.with_targets([{"boxes": i} for i in range(len(IMAGES))])
    with pytest.raises(RunError, match="targets that are no arrays"):
        search(GRAPH, targets, CALIBRATION, tmp_path / "b", Criterion("agreement"), executor="folder")


def test_a_worker_of_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(GRAPH, IMAGES, CALIBRATION, tmp_path / "run", policies=("joint",), executor="folder")
    monkeypatch.setattr(shared_folder, "version", lambda name: "9.9")
    with pytest.raises(RunError, match=r"a search of radixpoint .*: this is 9\.9"):
        Worker(tmp_path / "run").work_once()


def test_two_searches_in_one_folder(expected: bytes, tmp_path: Path, impatient: None) -> None:
    """The first says that its folder was taken, and ends; nothing is done under the other's job."""
    folder = tmp_path / "run"

    def take() -> None:
        run(folder, executor="folder", replaces=True, metric="cross-entropy", policies=("joint",))

    with pytest.raises(RunError, match="another search has begun in this folder"):
        run(folder, executor="folder", watcher=At({2: take}))
    assert run(folder, executor="folder", replaces=True) == expected


def test_masks_of_many_shapes_reach_the_workers(tmp_path: Path) -> None:
    """Targets that are arrays of different shapes."""
    own = IMAGES.with_targets([np.arange(i % 3) for i in range(len(IMAGES))])
    asked: dict[str, Any] = {
        "policies": ("joint",),
        "word_lengths": (6, 8),
        "metric": "test_executors:lengths",
    }
    results = [
        search(
            GRAPH,
            own,
            CALIBRATION,
            tmp_path / name,
            Criterion(limit=1e9, metric="x:y"),
            executor=name,
            **asked,
        )
        for name in ("here", "folder")
    ]
    assert results[0].encoded() == results[1].encoded()
    assert results[0].floating.score == pytest.approx(np.mean([i % 3 for i in range(len(IMAGES))]))


def lengths(results: Any, targets: Any) -> np.ndarray:
    """A metric of nothing but targets."""
    return np.array([float(len(one)) for one in targets])


# ---------------------------------------------------------------------------------------------- Ray


@pytest.fixture
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_cluster_loses_an_actor_and_a_node_and_gains_one(
    cluster: Any, expected: bytes, tmp_path: Path
) -> None:
    """A real cluster of several nodes: the same bytes."""
    from radixpoint.searching import on_ray

    executor = on_ray.OnRay()
    ray = pytest.importorskip("ray")
    second = next(iter(cluster.worker_nodes))
    happened: list[str] = []

    def lose_an_actor() -> None:
        ray.kill(next(iter(executor._actors.values())))
        happened.append("actor")

    def lose_a_node() -> None:
        cluster.remove_node(second, allow_graceful=False)
        happened.append("node")

    def gain_a_node() -> None:
        cluster.add_node(num_cpus=1)
        happened.append("new")

    events: dict[int, Callable[[], object]] = {2: lose_an_actor, 4: lose_a_node, 6: gain_a_node}
    assert run(tmp_path / "run", executor=executor, watcher=At(events)) == expected
    assert happened == ["actor", "node", "new"]
    assert run(tmp_path / "again", executor="ray") == expected


def test_errors_of_workers_reach_the_user(cluster: Any, tmp_path: Path) -> None:
    def fails(results: Any, targets: Any) -> Any:
        if "pytest" in sys.modules:  # the float network is judged here
            return np.zeros(len(results))
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        search(
            *(GRAPH, IMAGES, CALIBRATION, tmp_path / "run"), policies=("joint",), executor="ray", metric=fails
        )
