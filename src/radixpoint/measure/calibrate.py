"""Graph + images -> Ranges: all that is measured of the float network, once.

Floats are added in another order on another processor, and their last bits differ. So what is measured is
kept (``Ranges.save``), and from it every machine gets the same formats, networks and verdicts.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixpoint.data import ImageSet
from radixpoint.errors import DataError, ModelError
from radixpoint.files import read_regular, write_whole
from radixpoint.ir.graph import Graph
from radixpoint.measure.floating import FloatingEngine
from radixpoint.measure.metrics import Metric, ahead, find_metric
from radixpoint.measure.outcomes import NO_OUTCOMES, Outcomes

OCTAVES = (-22, 18)
"""Magnitudes 2**-22 .. 2**18 times a tensor's unit are told apart; smaller ones count as zero."""
_USUAL = (-14, 18)
"""Octaves of the largest magnitude for which the unit is 1."""
_SMALLEST = -126 - OCTAVES[0]
"""Exponent of the smallest unit, where all that is told apart is a normal number of binary32."""
_LARGEST = 128 - OCTAVES[1]
"""Exponent of the largest unit: of the largest number of binary32."""
PER_OCTAVE = 8
_SIDE = (OCTAVES[1] - OCTAVES[0]) * PER_OCTAVE
BINS = 2 * _SIDE
"""Bins: negative magnitudes ascending, then positive magnitudes ascending."""
_SHIFT = 20  # a float32 shifted right by this is its sign, its exponent and PER_OCTAVE of significand
_BASE = (127 + OCTAVES[0]) * PER_OCTAVE
SAMPLES = 64
"""Calibration images kept with their logits, for choices by what the network loses."""
_BATCH, _BATCH_BYTES = 32, 1 << 27
"""Images that are measured at a time, and bytes of their tensors: at most so many, at least one image."""
_MOST_BYTES = 1 << 31
"""Of a file of ranges."""


def bin_values(points: int = 4) -> NDArray[np.float64]:
    """``points`` values spread over each bin, shape (BINS, points); the first bin of a sign is zero."""
    exponent, part = np.divmod(np.arange(_SIDE), PER_OCTAVE)
    inside = (np.arange(points) + 0.5) / points
    side = np.ldexp(1 + (part[:, None] + inside) / PER_OCTAVE, (exponent + OCTAVES[0])[:, None])
    side[0] = 0
    return np.concatenate([-side, side])


@dataclass(frozen=True, eq=False)
class Statistics:
    """Values of one tensor, channel by channel.

    Attributes:
        low, high: float64 (channels,), the exact extremes.
        counts: unsigned integers (channels, BINS), a histogram over magnitudes with eight bins an octave.
        unit: magnitudes of the bins are in units of two to this power.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    counts: NDArray[np.unsignedinteger]
    unit: int = 0

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Statistics:
        """Of an array whose axis 0 is the channel."""
        rows = np.ascontiguousarray(values, np.float32).reshape(len(values), -1)
        low, high = rows.min(1).astype(np.float64), rows.max(1).astype(np.float64)
        unit = _unit(max(-low.min(), high.max()))
        bits = rows.view(np.uint32)
        index = ((bits & 0x7FFFFFFF) >> _SHIFT).astype(np.int32)
        np.clip(index - _BASE - unit * PER_OCTAVE, 0, _SIDE - 1, out=index)
        index += np.where(bits >> 31, 0, _SIDE).astype(np.int32)
        index += np.arange(len(rows), dtype=np.int32)[:, None] * BINS
        counts = np.bincount(index.ravel(), minlength=len(rows) * BINS).reshape(len(rows), BINS)
        return cls(low, high, counts.astype(np.uint32), unit)

    def joined(self, other: Statistics) -> Statistics:
        """Of the values of both, which have the same channels."""
        unit = max(self.unit, other.unit)
        return Statistics(
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self._in(unit) + other._in(unit),
            unit,
        )

    def _in(self, unit: int) -> NDArray[np.unsignedinteger]:
        """The counts in a larger unit: what is too small for it counts as zero."""
        places = min((unit - self.unit) * PER_OCTAVE, _SIDE - 1)
        if places == 0:
            return self.counts
        sides = self.counts.reshape(-1, 2, _SIDE)
        moved = np.zeros_like(sides)
        moved[..., : _SIDE - places] = sides[..., places:]
        moved[..., 0] += sides[..., :places].sum(-1, dtype=sides.dtype)
        return moved.reshape(self.counts.shape)

    def scaled(self, exponents: NDArray[np.int32]) -> Statistics:
        """Of the values of each channel times two to its own power."""
        low, high = np.ldexp(self.low, exponents), np.ldexp(self.high, exponents)
        unit = _unit(max(-low.min(), high.max()))
        sides, moved = self.counts.reshape(-1, 2, _SIDE), np.zeros((len(low), 2, _SIDE), self.counts.dtype)
        for exponent in np.unique(exponents):
            rows = np.flatnonzero(exponents == exponent)
            places = np.arange(_SIDE) + (int(exponent) + self.unit - unit) * PER_OCTAVE
            places = np.clip(places, 0, _SIDE - 1)
            places[0] = 0  # zeros stay zeros
            for bin_ in range(_SIDE):
                moved[rows, :, places[bin_]] += sides[rows, :, bin_]
        return Statistics(low, high, moved.reshape(self.counts.shape), unit)

    def is_sane(self) -> bool:
        """Whether the arrays are what ``of`` gives."""
        channels = len(self.low)
        kinds = self.low.dtype == self.high.dtype == np.float64 and self.counts.dtype.kind == "u"
        shapes = self.low.shape == self.high.shape == (channels,) and self.counts.shape == (channels, BINS)
        if not (kinds and shapes and channels and np.isfinite([self.low, self.high]).all()):
            return False
        seen = self.counts.sum(1, dtype=np.uint64)
        largest = max(-self.low.min(), self.high.max())
        return bool(
            (self.low <= self.high).all() and (seen > 0).all() and _unit(largest) <= self.unit <= _LARGEST
        )

    @cached_property
    def pooled(self) -> Statistics:
        """All channels as one."""
        return Statistics(
            self.low.min(keepdims=True),
            self.high.max(keepdims=True),
            self.counts.sum(0, keepdims=True, dtype=np.uint64),
            self.unit,
        )


def _unit(largest: float) -> int:
    """Exponent of the unit in which a tensor with this largest magnitude is looked at.

    It is 0 for the magnitudes that networks have; beyond, it follows the largest one, so that this is told
    apart from others. It never falls as values are added.
    """
    if largest == 0:
        return _SMALLEST
    octave = int(np.frexp(largest)[1])
    return 0 if _USUAL[0] <= octave <= _USUAL[1] else max(octave - OCTAVES[1], _SMALLEST)


class _About(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the arrays of a file of ranges are."""

    radixpoint_ranges: Literal[2]
    network: str
    images: str
    tensors: list[str]
    normalized: list[str]
    units: list[int]
    judged: list[str]
    preprocessing: str


@dataclass(frozen=True, eq=False)
class Ranges:
    """What was measured of a float network.

    Attributes:
        tensors: statistics by tensor name.
        normalized: of the value between the two stages of each batch normalization, by its layer.
        sample: float32 network input of a few calibration images.
        logits: the float network's logits for them.
        network: digest of the network.
        images: digest of the calibration images.
        outcomes: what a metric keeps of the float network on sets of images, by ``judged_as``.
        preprocessing: of the calibration images, as JSON.
    """

    tensors: Mapping[str, Statistics]
    normalized: Mapping[str, Statistics]
    sample: NDArray[np.float32]
    logits: NDArray[np.float32]
    network: str
    images: str
    outcomes: Mapping[str, Outcomes]
    preprocessing: str = "null"

    @property
    def digest(self) -> str:
        """Of the network and the calibration images."""
        return f"{self.network} {self.images}"

    @cached_property
    def content(self) -> str:
        """SHA-256 of all that binary points depend on: every statistic, the sample and its logits."""
        content = hashlib.sha256(self.digest.encode())
        for name, statistics in (*sorted(self.tensors.items()), *sorted(self.normalized.items())):
            content.update(f"{name} {statistics.unit}".encode())
            content.update(statistics.low.tobytes() + statistics.high.tobytes())
            content.update(statistics.counts.astype(np.uint64).tobytes())
        content.update(self.sample.tobytes() + self.logits.tobytes())
        return content.hexdigest()

    def check(self, graph: Graph, calibration: ImageSet | None = None) -> None:
        """See that this was measured of that network, and on those images.

        Raises:
            DataError: it was not.
        """
        for what, own, other in (
            ("network", self.network, graph.digest),
            ("calibration images", self.images, self.images if calibration is None else calibration.digest),
        ):
            if own != other:
                raise DataError(f"ranges of another {what}: digest {own[:12]}, expected {other[:12]}")
        channels = {name: shape[0] for name, shape in graph.shapes.items()}
        normalized = {x.name: channels[x.name] for x in graph.layers if x.op == "batch_norm"}
        for kept, expected in ((self.tensors, channels), (self.normalized, normalized)):
            if {name: len(s.low) for name, s in kept.items()} != expected:
                raise DataError("ranges of other tensors than the network has")
        shapes = (self.sample.shape[1:], self.logits.shape)
        if shapes != (graph.shapes[graph.input], (len(self.sample), *graph.shapes[graph.output])) or not len(
            self.sample
        ):
            raise DataError(f"a sample of {self.sample.shape} with logits of {self.logits.shape}")

    def encoded(self) -> bytes:
        """The file that ``save`` writes: the same measurements give the same bytes."""
        everything = [*self.tensors.values(), *self.normalized.values()]
        about = _About(
            *(2, self.network, self.images, list(self.tensors), list(self.normalized)),
            [s.unit for s in everything],
            list(self.outcomes),
            self.preprocessing,
        )
        arrays: dict[str, NDArray[Any]] = {"sample": self.sample, "logits": self.logits}
        for number, s in enumerate(everything):
            arrays |= {f"low{number}": s.low, f"high{number}": s.high, f"counts{number}": s.counts}
        for number, o in enumerate(self.outcomes.values()):
            arrays |= {f"outcomes{number}": o.values, f"ends{number}": o.ends}
        arrays["about"] = np.frombuffer(msgspec.json.encode(about), np.uint8)
        archive = io.BytesIO()
        np.savez_compressed(archive, allow_pickle=False, **arrays)
        return archive.getvalue()

    def save(self, path: str | Path) -> None:
        """Write to an ``.npz``, whole or not at all.

        Raises:
            RunError: the folder cannot be written.
        """
        write_whole(Path(path), self.encoded())

    @classmethod
    def decoded(cls, data: bytes) -> Ranges:
        """What ``encoded`` gave; the archive's checksums tell damage.

        Raises:
            DataError: not ranges, or damaged.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                about = msgspec.json.decode(archive["about"].tobytes(), type=_About)
                found = [
                    Statistics(archive[f"low{i}"], archive[f"high{i}"], archive[f"counts{i}"], unit)
                    for i, unit in enumerate(about.units)
                ]
                names = [*about.tensors, *about.normalized]
                if len(names) != len(found) or not all(map(Statistics.is_sane, found)):
                    raise ValueError("statistics that do not fit together")
                outcomes = {
                    judged: Outcomes(archive[f"outcomes{i}"], archive[f"ends{i}"]).checked()
                    for i, judged in enumerate(about.judged)
                }
                count = len(about.tensors)
                result = cls(
                    dict(zip(names[:count], found[:count], strict=True)),
                    dict(zip(names[count:], found[count:], strict=True)),
                    *(archive["sample"], archive["logits"], about.network, about.images, outcomes),
                    preprocessing=about.preprocessing,
                )
            numbers = (result.sample, result.logits)
            if any(x.dtype != np.float32 or not np.isfinite(x).all() for x in numbers):
                raise ValueError("a sample that is no finite float32")
            return result
        except Exception as error:  # zip files, array headers and JSON go wrong in many ways
            raise DataError(f"not readable ranges: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Ranges:
        """Read what ``save`` wrote.

        Raises:
            DataError: no such file, not ranges, or damaged.
        """
        try:
            return cls.decoded(read_regular(path, _MOST_BYTES))
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def judged_as(images: ImageSet, metric: Metric) -> str:
    """What tells outcomes apart: the images, and what the metric keeps of them."""
    return f"{images.digest} {metric.kept}"


def float_outcomes(
    graph: Graph, images: ImageSet, metric: Metric, progress: Callable[[int, int], None] | None = None
) -> Outcomes:
    """What a metric keeps of the float network on all images.

    Raises:
        DataError: the images do not fit the network, or the metric.
        ModelError: the network computes NaN.
    """
    metric.check(graph, images)
    engine, result = FloatingEngine(graph, graph.outputs), NO_OUTCOMES
    for inputs, targets in ahead(images, lambda inputs: inputs):
        results = engine.run(inputs)
        outputs = [results[name].astype(np.float64) for name in graph.outputs]
        if any(np.isnan(output).any() for output in outputs):
            raise ModelError(f"{graph.source}: the float network computes NaN for some of {images.source}")
        result = result.joined(metric.outcomes(outputs, targets))
        if progress is not None:
            progress(len(result), len(images))
    return result


def calibrate(
    graph: Graph,
    images: ImageSet,
    progress: Callable[[int, int], None] | None = None,
    judged: Sequence[ImageSet] = (),
    metric: Any = "top1",
) -> Ranges:
    """Run the float network over ``images`` and note the range and histogram of every tensor.

    Args:
        graph: the network.
        images: calibration images; their labels are not used.
        progress: called with images done and images in all.
        judged: further images, with targets, whose outcomes are kept too: what a search compares with.
        metric: what those are judged by, as ``radixpoint.measure.metrics.find_metric`` takes it.

    Raises:
        DataError: the images do not fit the network.
        ModelError: the network computes NaN or infinity.
    """
    images.check_shape(graph.shapes[graph.input])
    chosen = find_metric(metric)
    for image_set in judged:
        chosen.check(graph, image_set)
    names = [layer.name for layer in graph.layers]
    engine = FloatingEngine(graph, names)
    tensors: dict[str, Statistics] = {}
    normalized: dict[str, Statistics] = {}

    def note(seen: dict[str, Statistics], name: str, values: NDArray[np.float32]) -> None:
        more = Statistics.of(np.moveaxis(values, 1, 0))
        if not (np.isfinite(more.low).all() and np.isfinite(more.high).all()):
            raise ModelError(f"{graph.source}: tensor {name!r} is NaN or infinite for calibration images")
        seen[name] = seen[name].joined(more) if name in seen else more

    done, total = 0, len(images) + sum(map(len, judged))
    image_bytes = 4 * sum(math.prod(graph.shapes[name]) for name in names)
    for batch in images.batches(min(_BATCH, max(1, _BATCH_BYTES // image_bytes))):
        results = engine.run(batch)
        note(tensors, graph.input, batch)
        for layer in graph.layers:
            note(tensors, layer.name, results[layer.name])
            if layer.op == "batch_norm":
                x = results.get(layer.inputs[0], batch)
                mean, variance = (graph.parameter(layer, role) for role in ("mean", "variance"))
                deviation = np.sqrt(variance + np.float32(layer.attributes["epsilon"]))
                shape = (-1, *[1] * (x.ndim - 2))
                note(normalized, layer.name, (x - mean.reshape(shape)) / deviation.reshape(shape))
        done += len(batch)
        if progress is not None:
            progress(done, total)
    del engine, results  # another comes
    sample = images.first(SAMPLES).inputs(0, SAMPLES)
    logits = FloatingEngine(graph).run(sample)[graph.output]
    found = {}
    for image_set in judged:

        def note_progress(images_done: int, _: int, before: int = done) -> None:
            if progress is not None:
                progress(before + images_done, total)

        found[judged_as(image_set, chosen)] = float_outcomes(graph, image_set, chosen, note_progress)
        done += len(image_set)
    prepared = msgspec.json.encode(images.preprocessing).decode()
    return Ranges(tensors, normalized, sample, logits, graph.digest, images.digest, found, prepared)
