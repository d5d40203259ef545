"""Graph + calibration images -> Ranges: what values every tensor takes, in one pass."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from radixpoint.data import ImageSet
from radixpoint.engines.floating import FloatingEngine
from radixpoint.errors import ModelError
from radixpoint.files import write_whole
from radixpoint.ir import Graph

OCTAVES = (-22, 18)
"""Magnitudes 2**-22 .. 2**18 times a tensor's unit are told apart; smaller ones count as zero."""
_USUAL = (-14, 18)
"""Octaves of the largest magnitude for which the unit is 1."""
_SMALLEST = -126 - OCTAVES[0]
"""Exponent of the smallest unit, where all that is told apart is a normal number of binary32."""
PER_OCTAVE = 8
_SIDE = (OCTAVES[1] - OCTAVES[0]) * PER_OCTAVE
BINS = 2 * _SIDE
"""Bins: negative magnitudes ascending, then positive magnitudes ascending."""
_SHIFT = 20  # a float32 shifted right by this is its sign, its exponent and PER_OCTAVE of significand
_BASE = (127 + OCTAVES[0]) * PER_OCTAVE
SAMPLES = 64
"""Calibration images kept with their logits, for choices by what the network loses."""
_BATCH = 32


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


@dataclass(frozen=True, eq=False)
class Ranges:
    """What calibration saw.

    Attributes:
        tensors: statistics by tensor name; for a batch normalization also ``NAME/normalized``.
        sample: float32 network input of a few calibration images.
        logits: the float network's logits for them.
        digest: of the network and the images.
    """

    tensors: Mapping[str, Statistics]
    sample: NDArray[np.float32]
    logits: NDArray[np.float32]
    digest: str

    def save(self, path: Path) -> None:
        """Write to an ``.npz``, whole or not at all.

        Raises:
            RunError: the folder cannot be written.
        """
        arrays = {"sample": self.sample, "logits": self.logits, "digest": np.array(self.digest)}
        for name, s in self.tensors.items():
            arrays |= {f"low:{name}": s.low, f"high:{name}": s.high, f"counts:{name}": s.counts}
            arrays[f"unit:{name}"] = np.array(s.unit)
        archive = io.BytesIO()
        np.savez_compressed(archive, allow_pickle=False, **arrays)
        write_whole(path, archive.getvalue())

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            names = [key.removeprefix("low:") for key in archive.files if key.startswith("low:")]
            tensors = {
                name: Statistics(
                    archive[f"low:{name}"],
                    archive[f"high:{name}"],
                    archive[f"counts:{name}"],
                    int(archive[f"unit:{name}"]),
                )
                for name in names
            }
            return cls(tensors, archive["sample"], archive["logits"], str(archive["digest"]))


def normalized_name(batch_norm: str) -> str:
    """Name under which the value between the two stages of a staged batch normalization is kept."""
    return f"{batch_norm}/normalized"


def calibrate(graph: Graph, images: ImageSet, progress: Callable[[int, int], None] | None = None) -> Ranges:
    """Run the float network over ``images`` and note the range and histogram of every tensor.

    Args:
        graph: the network.
        images: calibration images; their labels are not used.
        progress: called with images done and images in all.

    Raises:
        DataError: the images do not fit the network.
        ModelError: the network computes NaN or infinity.
    """
    images.check(graph.shapes[graph.input], graph.shapes[graph.output][0])
    names = [layer.name for layer in graph.layers]
    engine = FloatingEngine(graph, names)
    seen: dict[str, Statistics] = {}

    def note(name: str, values: NDArray[np.float32]) -> None:
        more = Statistics.of(np.moveaxis(values, 1, 0))
        if not (np.isfinite(more.low).all() and np.isfinite(more.high).all()):
            raise ModelError(f"{graph.source}: tensor {name!r} is NaN or infinite for calibration images")
        seen[name] = seen[name].joined(more) if name in seen else more

    done = 0
    for batch in images.batches(_BATCH):
        results = engine.run(batch)
        note(graph.input, batch)
        for layer in graph.layers:
            note(layer.name, results[layer.name])
            if layer.op == "batch_norm":
                x = results.get(layer.inputs[0], batch)
                mean, variance = (graph.parameter(layer, role) for role in ("mean", "variance"))
                deviation = np.sqrt(variance + np.float32(layer.attributes["epsilon"]))
                shape = (-1, *[1] * (x.ndim - 2))
                normalized = (x - mean.reshape(shape)) / deviation.reshape(shape)
                note(normalized_name(layer.name), normalized)
        done += len(batch)
        if progress is not None:
            progress(done, len(images))
    sample = images.first(SAMPLES).inputs(0, SAMPLES)
    logits = FloatingEngine(graph).run(sample)[graph.output]
    digest = f"{graph.digest} {images.digest}"
    return Ranges(seen, sample, logits, digest)
