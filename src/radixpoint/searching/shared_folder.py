"""Workers that share a folder: any number, on any machine that sees it, started and killed at any time.

Below the run folder::

    work/job                     what all units have in common (a record)
    work/pixels-KEY.*            a set of images, as in a pixel store; targets-KEY.npz, what belongs to them
    work/network-KEY.safetensors
    work/units/*.todo            units that nobody has begun; *.PROCESS is one that a worker has
    work/clock                   touched to read the folder's own time
    work/over                    the search has ended

A worker takes a unit by renaming it, which only one can do, and touches it while it works. One that is not
touched for ``LOST`` seconds is put back. Results are records in the cache; whoever writes one again writes
the same.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from radixpoint.data import ImageSet, Preprocessing
from radixpoint.data.store import Store
from radixpoint.engines import quantize_images
from radixpoint.errors import RunError
from radixpoint.files import read_record, write_record, write_whole
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network, save_network
from radixpoint.measure.evaluate import outcomes_of
from radixpoint.measure.metrics import BATCH, Metric, find_metric
from radixpoint.measure.outcomes import Outcomes
from radixpoint.searching.executors import Job, Unit, Warm

LOST = 30.0
"""Seconds without a sign of life after which a unit is somebody else's."""
BEAT = 3.0
"""Seconds between two signs of life."""
POLL = 0.05
_FLYING = 4096
"""Units that are offered at a time."""


class _Set(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set of images in the folder."""

    store: str
    kind: Literal["none", "array", "arrays"]
    preprocessing: Preprocessing | None


class _Version(msgspec.Struct, frozen=True):
    """What every version's job says."""

    version: str


class _Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file ``job``."""

    radixpoint_job: Literal[1]
    version: str
    metric: str
    images: dict[str, _Set]
    cache: str


class _Offered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A unit in the folder, and the SHA-256 of the job that it is of."""

    unit: Unit
    job: str


class SharedFolder:
    """Offers units in a run folder to whoever takes them; works itself while nobody else does.

    Args:
        run: the run folder.
    """

    speculates = True

    def __init__(self, run: Path) -> None:
        self.folder = run / "work"
        self._units = self.folder / "units"
        self._flying: dict[str, Unit] = {}
        self._known: set[str] = set()
        self._looked = 0.0
        self._mark = ""

    def open(self, job: Job) -> None:
        if ":" in job.metric.name and not _can_be_found(job.metric):
            raise RunError(
                f"metric {job.metric.name}: workers on a shared folder find a metric by its name: expected a "
                "built-in one, or package.module:name"
            )
        self._job = job
        self._units.mkdir(parents=True, exist_ok=True)
        for left in self._units.iterdir():  # of a search that was interrupted
            left.unlink(missing_ok=True)
        (self.folder / "over").unlink(missing_ok=True)
        sets = {digest: self._share(digest, images) for digest, images in job.images.items()}
        cache = os.path.relpath(job.cache, self.folder)
        about = _Job(1, version("radixpoint"), job.metric.name, sets, cache)
        encoded = msgspec.json.encode(about)
        self._mark = hashlib.sha256(encoded).hexdigest()
        write_record(self.folder / "job", encoded)
        self._own = Worker(self.folder.parent, job.engine, job.threads)

    def _share(self, digest: str, images: ImageSet) -> _Set:
        store = Store(self.folder)
        key = digest[:32]
        if store.known(key) is None:
            store.make(key, enumerate(images.pixels), [])
        own = images.targets
        kind: Literal["none", "array", "arrays"] = "none"
        path = self.folder / f"targets-{key}.npz"
        if isinstance(own, np.ndarray):
            kind = "array"
            arrays = {"all": own}
        elif own is not None:
            try:
                arrays = {f"t{i}": np.asarray(values) for i, values in enumerate(own)}
            except ValueError:  # rows of different lengths
                arrays = {"t": np.array(None)}
            kind = "arrays"
            if any(a.dtype.kind not in "biuf" for a in arrays.values()):
                raise RunError(
                    f"{images.source}: targets that are no arrays: expected arrays for workers on a shared "
                    "folder"
                )
        if kind != "none":
            write_whole(path, _packed(arrays))
        return _Set(key, kind, images.preprocessing)

    @property
    def room(self) -> int:
        return _FLYING - len(self._flying)

    def submit(self, unit: Unit, network: Callable[[], IntGraph]) -> None:
        path = self.folder / f"network-{unit.network}.safetensors"
        if unit.network not in self._known and not path.exists():
            save_network(network(), path)
        self._known.add(unit.network)
        self._offer(unit)

    def _offer(self, unit: Unit) -> None:
        name = f"{time.time_ns():020}-{unit.record}"  # the first offered is the first taken
        write_whole(self._units / f"{name}.todo", msgspec.json.encode(_Offered(unit, self._mark)))
        self._flying[unit.record] = unit

    def result(self) -> tuple[Unit, Outcomes]:
        cache = Path(self._job.cache)
        while True:
            for name, unit in self._flying.items():
                found = _outcomes(cache / name) if (cache / name).exists() else None
                if found is not None:
                    del self._flying[name]
                    return unit, found
                with suppress(OSError):  # one that is damaged would never be written again
                    if (cache / name).exists() and _outcomes(cache / name) is None:
                        (cache / name).unlink()
            self._put_back()
            if self._busy() or not self._own.work_once():
                time.sleep(POLL)

    def _busy(self) -> bool:
        """Whether other workers are at work."""
        return any(not path.name.endswith(".todo") for path in self._units.iterdir())

    def _ours(self) -> bool:
        """Whether the folder is still this search's."""
        try:
            data = read_record(self.folder / "job")
        except OSError:
            return False
        return data is not None and hashlib.sha256(data).hexdigest() == self._mark

    def _put_back(self) -> None:
        """Units of workers that give no sign of life are offered again.

        Raises:
            RunError: another search has taken the folder.
        """
        if not self._ours():
            raise RunError(
                f"{self.folder.parent}: another search has begun in this folder: expected a folder for each"
            )
        beat = self.folder / "clock"
        beat.touch()  # the folder's clock, whatever this machine's says
        now = beat.stat().st_mtime
        for path in self._units.iterdir():
            with suppress(FileNotFoundError):
                if path.suffix != ".todo" and now - path.stat().st_mtime > LOST:
                    path.replace(path.with_suffix(".todo"))
        if now - self._looked > LOST:  # units that are gone, whoever took them away, are offered again
            self._looked = now
            there = {path.name.partition("-")[2].rpartition(".")[0] for path in self._units.iterdir()}
            for record, unit in self._flying.items():
                if record not in there and not (Path(self._job.cache) / record).exists():
                    self._offer(unit)

    def withdraw(self, wanted: Callable[[Unit], bool]) -> list[Unit]:
        gone = []
        for path in self._units.glob("*.todo"):
            record = path.name.partition("-")[2].removesuffix(".todo")
            unit = self._flying.get(record)
            if unit is not None and not wanted(unit):
                try:
                    path.unlink()
                except FileNotFoundError:
                    continue  # somebody has just begun
                del self._flying[record]
                gone.append(unit)
        return gone

    def close(self) -> None:
        if not self._units.is_dir() or not self._ours():  # it was never open, or is another search's now
            return
        with suppress(OSError, RunError):
            write_whole(self.folder / "over", b"")
            for left in self._units.iterdir():
                left.unlink(missing_ok=True)


def _can_be_found(metric: Metric) -> bool:
    """Whether a worker that looks for its name finds the same metric."""
    try:
        return find_metric(metric.name).kept == metric.kept
    except Exception:  # it is somebody's code
        return False


def _packed(arrays: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def _outcomes(path: Path) -> Outcomes | None:
    """A record of the cache that is there and whole."""
    try:
        data = read_record(path)
        return None if data is None else Outcomes.decoded(data)
    except Exception:  # not there yet, or damaged: whoever works on it writes it again
        return None


class Worker:
    """Takes units of a run folder and does them.

    Args:
        run: the run folder.
        engine, threads: as for ``radixpoint.make_engine``.
    """

    def __init__(self, run: Path, engine: str = "auto", threads: int = 0) -> None:
        self.folder = run / "work"
        self._warm = Warm(engine, threads)
        self._name = f"{uuid.uuid4().hex[:12]}"
        self._about: _Job | None = None
        self._sets: dict[str, ImageSet] = {}
        self.done = 0

    @property
    def over(self) -> bool:
        """Whether the search has ended."""
        return (self.folder / "over").exists()

    def _ready(self) -> tuple[_Job, str] | None:
        """The job and its mark, once there is one.

        Raises:
            RunError: it is of another version of radixpoint.
        """
        try:
            data = read_record(self.folder / "job")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{self.folder}: {error.strerror}: expected the run folder of a search") from None
        if data is None:
            return None
        ours = version("radixpoint")
        try:
            theirs = msgspec.json.decode(data, type=_Version).version
            about = msgspec.json.decode(data, type=_Job) if theirs == ours else None
        except msgspec.MsgspecError as error:
            raise RunError(f"{self.folder / 'job'}: not a search of this version: {error}") from None
        if about is None:
            raise RunError(
                f"{self.folder}: a search of radixpoint {theirs}: this is {ours}: expected the same"
            )
        if about != self._about:
            self._about, self._sets = about, {}
        return about, hashlib.sha256(data).hexdigest()

    def _images(self, digest: str, about: _Job) -> ImageSet:
        if digest not in self._sets:
            own = about.images[digest]
            pixels = Store(self.folder).known(own.store)
            if pixels is None:
                raise RunError(
                    f"{self.folder}: images {own.store} are damaged: expected what the search wrote"
                )
            targets: Any = None
            if own.kind != "none":
                with np.load(self.folder / f"targets-{own.store}.npz", allow_pickle=False) as arrays:
                    if own.kind == "array":
                        targets = arrays["all"]
                    else:
                        targets = tuple(arrays[f"t{i}"] for i in range(len(arrays.files)))
            self._sets[digest] = ImageSet(str(self.folder), pixels, targets, (), own.preprocessing)
        return self._sets[digest]

    def work_once(self) -> bool:
        """Take a unit and do it; False if there was none."""
        if self._ready() is None:
            return False
        taken = self._taken()
        if taken is None:
            return False
        path, offered = taken
        ready = self._ready()  # another search may have begun meanwhile
        if ready is None or ready[1] != offered.job:
            path.unlink(missing_ok=True)  # of a search that is over
            return False
        about, unit = ready[0], offered.unit
        stop = threading.Event()
        alive = threading.Thread(target=_beat, args=(path, stop), daemon=True)
        alive.start()
        try:
            outcomes = self._evaluated(unit, about)
            write_record((self.folder / about.cache).resolve() / unit.record, outcomes.encoded())
            self.done += 1
        except BaseException:
            with suppress(OSError):
                path.replace(path.with_suffix(".todo"))  # somebody else may have more luck
            raise
        finally:
            stop.set()
            alive.join()
        path.unlink(missing_ok=True)
        return True

    def _taken(self) -> tuple[Path, _Offered] | None:
        try:
            offered = sorted((self.folder / "units").glob("*.todo"))
        except OSError:
            return None
        for path in offered:
            own = path.with_suffix(f".{self._name}")
            try:
                path.rename(own)
                os.utime(own)
                return own, msgspec.json.decode(own.read_bytes(), type=_Offered)
            except FileNotFoundError:
                continue  # another was faster, or it was withdrawn
            except msgspec.MsgspecError:
                own.unlink(missing_ok=True)  # damaged: it is offered again
        return None

    def _evaluated(self, unit: Unit, about: _Job) -> Outcomes:
        images = self._images(unit.images, about)
        path = self.folder / f"network-{unit.network}.safetensors"
        network, engine = self._warm.get(unit.network, lambda: load_network(path))
        stop = min(unit.start + BATCH, len(images))
        stored = quantize_images(network, images.inputs(unit.start, stop))
        targets = images.target(unit.start, stop)
        return outcomes_of(network, engine, stored, targets, find_metric(about.metric))


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
