"""Whether a design holds: judged on images, at once remembered, stopped early where the verdict is
certain.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from radixpoint.accelerator.cost import multiplier_cost
from radixpoint.accelerator.target import HardwareTarget
from radixpoint.data import ImageSet
from radixpoint.errors import DesignError
from radixpoint.files import write_whole
from radixpoint.ir.graph import Graph
from radixpoint.ir.storage import save_network
from radixpoint.measure.calibrate import Ranges, judged_as
from radixpoint.measure.evaluate import Evaluation, summarize
from radixpoint.measure.metrics import BATCH, Metric, TopK
from radixpoint.measure.outcomes import NO_OUTCOMES, Outcomes
from radixpoint.measure.pairs import Pair
from radixpoint.quantization.design import BinaryPoint, Codes, Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching.allocate import Losses
from radixpoint.searching.cache import Cache
from radixpoint.searching.criterion import Criterion, Verdict
from radixpoint.searching.executors import Executor, Here, Unit
from radixpoint.searching.watcher import Watcher

FEWEST = 500
"""An evaluation is not stopped before this many images."""
_TEXTS = 256
"""Designs whose text is kept."""
Z_STOP = 3.2905267314919255
"""Normal quantile of a 99.9 % interval: looking again and again asks for more than 95 %."""


@dataclass(frozen=True)
class Held:
    """A design that was seen to hold.

    Attributes:
        design: the design.
        error: of the test that it passed; None without confidence.
        order: when it was first judged, counted from 0.
    """

    design: Design
    error: float | None
    order: int


@dataclass(eq=False)
class Judge:
    """Judges designs of one network on one set of images.

    Args:
        graph: the network.
        images: to judge on.
        ranges: of the network, with the float network's outcomes on the images.
        quantizer: of the network.
        cache: where everything that is found out is kept.
        watcher: told how it goes.
        criterion: what must not be lost.
        metric: the criterion's.
        executor: who evaluates them, open.
        target: hardware that designs must run on, or None.
    """

    graph: Graph
    images: ImageSet
    ranges: Ranges
    quantizer: Quantizer
    cache: Cache
    watcher: Watcher = field(default_factory=Watcher)
    criterion: Criterion = field(default_factory=Criterion)
    metric: Metric = field(default_factory=lambda: TopK(1))
    executor: Executor = field(default_factory=Here)
    target: HardwareTarget | None = None
    images_left: int = 0
    held: dict[bytes, Held] = field(default_factory=dict)
    _flying: dict[Unit, Design] = field(default_factory=dict)
    _coming: list[Design] = field(default_factory=list)
    _offered: list[tuple[Design, deque[int]]] = field(default_factory=list)
    _limits: dict[float | None, float] = field(default_factory=dict)
    _texts: dict[int, tuple[Design, str]] = field(default_factory=dict)
    _prices: dict[bytes, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reference = self.ranges.outcomes[judged_as(self.images, self.metric)]
        self._key = (version("radixpoint"), self.graph.digest, self.ranges.content)

    @property
    def float_evaluation(self) -> Evaluation:
        """The float network against itself: its accuracy, no drop."""
        return summarize(self._reference, self._reference, self.metric)

    def _decided(self, seen: Outcomes, error: float | None, after: int) -> tuple[int, Verdict] | None:
        """After how many of the images seen the verdict is certain, and which; None if it is not.

        Looks at the same places whatever is already known, so that an interrupted search and an undisturbed
        one decide alike. With confidence only a failure comes early: to hold, a design needs every image.
        A score of all images together says nothing early. ``after``: so many images did not decide.
        """
        first = max(-(-FEWEST // BATCH), after // BATCH + 1) * BATCH
        for count in range(first, min(len(seen), len(self.images) - 1) + 1, BATCH):
            pair = self._pair(seen.first(count))
            if not pair.early:
                break
            low, high = pair.interval(Z_STOP)
            limit = self._allowed(None)
            if low > limit:
                return count, "fails"
            if high < limit and error is None:
                return count, "holds"
        return self._final(seen, error, after)

    def _pair(self, seen: Outcomes) -> Pair:
        return self.metric.pair(self._reference.first(len(seen)), seen)

    def _allowed(self, error: float | None) -> float:
        """The drop that is allowed; of a relative limit it depends on how sure that has to be."""
        if error not in self._limits:
            floating = self.metric.pair(self._reference, self._reference)
            self._limits[error] = self.criterion.allowed(floating, error)
        return self._limits[error]

    def _final(self, seen: Outcomes, error: float | None, after: int) -> tuple[int, Verdict] | None:
        """The verdict of all images, once all are seen."""
        if len(seen) < len(self.images):
            return None
        pair = self._pair(seen)
        if error is None:
            holds = pair.drop <= self._allowed(None)
        elif self.criterion.relative:  # half of the error for the float network's own score
            holds = pair.within(self._allowed(error / 2), error / 2)
        else:
            holds = pair.within(self._allowed(None), error)
        return len(seen), "holds" if holds else "fails"

    def _path(self, design: Design, shard: int) -> Path:
        about = (self.images.digest, self.metric.kept, self._text(design), str(shard))
        return self.cache.path("design", *self._key, *about)

    def _text(self, design: Design) -> str:
        """The design as JSON; asked for again and again while it is judged."""
        known = self._texts.get(id(design))
        if known is None or known[0] is not design:
            if len(self._texts) >= _TEXTS:
                self._texts.clear()
            known = self._texts[id(design)] = design, design.to_json().decode()
        return known[1]

    def _known(self, design: Design) -> Outcomes:
        """Outcomes of the first images, as far as every shard before is known."""
        seen = NO_OUTCOMES
        for shard in self._shards:
            more = self._kept(design, shard)
            if more is None:
                break
            seen = seen.joined(more)
        return seen

    @property
    def _shards(self) -> range:
        """First image of each."""
        return range(0, len(self.images), BATCH)

    def _kept(self, design: Design, shard: int) -> Outcomes | None:
        found = self.cache.outcomes(self._path(design, shard))
        return found if found is not None and len(found) == min(BATCH, len(self.images) - shard) else None

    def ruled_out(self, design: Design) -> str:
        """Why the target cannot run the network that the design makes: a line a problem; empty if it can."""
        target = self.target
        if target is None:
            return ""
        path = self.cache.path("target", *self._key, target.content, self._text(design))
        known = self.cache.read(path, lambda data: msgspec.json.decode(data, type=str))
        if known is None:
            known = "\n".join(map(str, target.problems(self.quantizer.quantize(design))))
            self.cache.write(path, msgspec.json.encode(known))
        return str(known)

    def has_seen_hold(self, design: Design) -> bool:
        """Whether it judged so before."""
        return design.to_json() in self.held

    def price(self, design: Design) -> float:
        """What its multipliers cost, as ``radixpoint.accelerator.cost.multiplier_cost`` has it: binary points
        do not matter. 0 where what is multiplied is not fixed-point, infinite where no network comes of it.
        """
        if design.codes != Codes():
            return 0
        key = design.to_json()
        if key not in self._prices:
            simple = replace(design, binary_point=BinaryPoint(rule="max"), binary_points={}, refine=[])
            try:
                network = self.quantizer.lowered(simple, self.quantizer.formats(simple))
                self._prices[key] = multiplier_cost(network)
            except DesignError:  # as of accumulators that are too long with these binary points
                self._prices[key] = math.inf
        return self._prices[key]

    def expect(self, designs: Sequence[Design]) -> None:
        """Designs that may be judged next, the likeliest first: for workers that would have nothing to do."""
        self._coming = list(designs)
        self._offered = [(design, deque(self._shards)) for design in self._coming]

    def outcomes(self, text: str, design: Design) -> tuple[Outcomes, Outcomes]:
        """Image by image on all of them: of the float network, and of ``design``."""
        self.judge(text, design, whole=True)
        return self._reference, self._known(design)

    def judge(
        self, text: str, design: Design, whole: bool = False, error: float | None = None
    ) -> tuple[Evaluation, Verdict]:
        """Evaluate ``design`` until its verdict is certain, or on every image if ``whole``.

        ``error``: probability with which it may hold although its drop is beyond the limit on images that
        nobody looked at; None asks about these images alone.
        """
        decide = self._final if whole else self._decided
        seen = self._known(design)
        decided = decide(seen, error, 0)
        cached = decided is not None
        if not cached:
            self.watcher.stage(text, len(self.images), self.images_left)
            for more in self._evaluated(design, len(seen)):
                after, seen = len(seen), seen.joined(more)
                self.watcher.progress(len(seen))
                decided = decide(seen, error, after)
                if decided is not None:
                    break
            self._settled(design)
        assert decided is not None  # every image decides
        count, verdict = decided
        asked = error if count == len(self.images) else None
        evaluation = summarize(self._reference, seen.first(count), self.metric, asked)
        if verdict == "holds":
            self.held.setdefault(design.to_json(), Held(design, error, len(self.held)))
        self.watcher.judged(text, evaluation, verdict, cached)
        return evaluation, verdict

    def _evaluated(self, design: Design, start: int) -> Iterator[Outcomes]:
        """Outcomes of the shards from image ``start`` on, in order; each is kept as soon as it is known."""
        left = deque(shard for shard in self._shards if shard >= start)
        ready: dict[int, Outcomes] = {}
        for shard in [shard for shard in self._shards if shard >= start]:
            while shard not in ready:
                known = self._kept(design, shard) if self._unit(design, shard) not in self._flying else None
                if known is not None:
                    ready[shard] = known
                    break
                self._feed(design, left)
                unit, outcomes = self.executor.result()
                self.cache.keep_outcomes(self.cache.folder / unit.record, outcomes)
                if self._flying.pop(unit, None) == design:
                    ready[unit.start] = outcomes
            yield ready.pop(shard)

    def _feed(self, design: Design, left: deque[int]) -> None:
        """Give the executor what it has room for: this design's shards, then those of designs to come."""
        while left and (self.executor.room > 0 or not self._flying):
            self._submit(design, left.popleft())
        for coming, shards in self._offered if self.executor.speculates and not left else ():
            while shards:
                if self.executor.room <= 0:
                    return
                self._submit(coming, shards.popleft())

    def _submit(self, design: Design, shard: int) -> None:
        unit = self._unit(design, shard)
        if unit in self._flying or self._kept(design, shard) is not None:
            return
        self.executor.submit(unit, lambda: self.quantizer.quantize(design))
        self._flying[unit] = design

    def _unit(self, design: Design, shard: int) -> Unit:
        key = hashlib.sha256("\n".join([*self._key, self._text(design)]).encode()).hexdigest()[:32]
        return Unit(key, self.images.digest, shard, self._path(design, shard).name)

    def _settled(self, design: Design) -> None:
        """The verdict on a design is certain: nobody needs to begin what is left of it."""
        wanted = {self._unit(coming, shard) for coming in self._coming for shard in self._shards}
        for unit in self.executor.withdraw(lambda unit: unit in wanted):
            self._flying.pop(unit, None)

    def measured(
        self, what: str, design: Design, lengths: Sequence[int], kind: Any, make: Any, about: str = ""
    ) -> Any:
        """What ``make`` measures of the network under ``design``, of type ``kind``, kept as a record.

        ``about``: what else the measurement depends on.
        """
        path = self.cache.path(what, *self._key, design.to_json().decode(), str(list(lengths)), about)
        known = self.cache.read(path, lambda data: msgspec.json.decode(data, type=kind))
        if known is not None:
            return known
        total = 0

        def progress(done: int, everything: int) -> None:
            nonlocal total
            if total != everything:
                total = everything
                self.watcher.stage(what, everything, self.images_left)
            self.watcher.progress(done)

        encoded = msgspec.json.encode(make(Losses(self.quantizer, design, lengths), progress))
        self.cache.write(path, encoded)
        return msgspec.json.decode(encoded, type=kind)

    def save(self, design: Design, folder: Path) -> int | None:
        """Write ``design.json`` and ``network.safetensors``.

        Returns:
            The multiplier cost, or None where what is multiplied is not fixed-point.
        """
        folder.mkdir(parents=True, exist_ok=True)
        quantized = self.quantizer.quantize(design)
        write_whole(folder / "design.json", design.to_json())
        save_network(quantized, folder / "network.safetensors")
        return multiplier_cost(quantized) if design.codes == Codes() else None
