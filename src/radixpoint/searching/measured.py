"""What a search knows of the float network: from a file, the run folder, the cache, or by running it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from radixpoint.data import ImageSet
from radixpoint.errors import DataError
from radixpoint.files import write_whole
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import Ranges, calibrate, float_outcomes, judged_as
from radixpoint.measure.metrics import Metric
from radixpoint.measure.outcomes import Outcomes
from radixpoint.searching.cache import Cache
from radixpoint.searching.run_folder import RANGES
from radixpoint.searching.watcher import Watcher


class FloatNetwork:
    """What is measured of the float network, from where it is known, and kept in the run folder."""

    def __init__(
        self,
        graph: Graph,
        calibration: ImageSet,
        run: Path,
        cache: Cache,
        watcher: Watcher,
        metric: Metric,
    ) -> None:
        self.graph, self.calibration, self.run = graph, calibration, run
        self.cache, self.watcher, self.metric = cache, watcher, metric

    def ranges(self, given: Ranges | None, judged: Sequence[ImageSet]) -> Ranges:
        """Ranges with the outcomes of ``judged``: those given, or of the run folder, or measured."""
        known = given or self._kept() or self._measured()
        for images in judged:
            key = judged_as(images, self.metric)
            if key in known.outcomes:
                if len(known.outcomes[key]) != len(images):
                    raise DataError(
                        f"ranges with outcomes of {len(known.outcomes[key])} images: expected those of "
                        f"{len(images)}"
                    )
                continue
            if given is not None:
                self.watcher.warned(
                    f"the ranges hold no outcomes of {images.source}: the float network runs on this "
                    "machine, and another one might see some images otherwise"
                )
            known = replace(known, outcomes={**known.outcomes, key: self._outcomes(images)})
        wanted = {judged_as(images, self.metric) for images in judged}
        known = replace(known, outcomes={d: o for d, o in known.outcomes.items() if d in wanted})
        encoded = known.encoded()
        if not (self.run / RANGES).is_file() or (self.run / RANGES).read_bytes() != encoded:
            write_whole(self.run / RANGES, encoded)
        return known

    def _kept(self) -> Ranges | None:
        if not (self.run / RANGES).exists():
            return None
        try:
            found = Ranges.load(self.run / RANGES)
            found.check(self.graph, self.calibration)
        except DataError as error:
            self.watcher.warned(f"{self.run / RANGES}: not used: {error}")
            return None
        return found

    def _key(self, images: ImageSet) -> tuple[str, str, str]:
        return version("radixpoint"), self.graph.digest, images.digest

    def _measured(self) -> Ranges:
        path = self.cache.path("ranges", *self._key(self.calibration))
        known: Ranges | None = self.cache.read(path, Ranges.decoded)
        if known is None:
            self.watcher.stage("calibration", len(self.calibration), 0)
            known = calibrate(self.graph, self.calibration, lambda done, _: self.watcher.progress(done))
            self.cache.write(path, known.encoded())
        return known

    def _outcomes(self, images: ImageSet) -> Outcomes:
        path = self.cache.path("float", *self._key(images), self.metric.kept)
        known = self.cache.outcomes(path)
        if known is None or len(known) != len(images):
            self.watcher.stage("float network", len(images), 0)
            known = float_outcomes(
                self.graph, images, self.metric, lambda done, _: self.watcher.progress(done)
            )
            self.cache.keep_outcomes(path, known)
        return known
