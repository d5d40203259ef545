"""Is what was imported the network that was given? Both are run on the same random images.

A tracer and a table of operators see what they look for; hooks, weights made on the fly, operations in place
and options that nobody thought of they do not see. Their results differ, so results are what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import ModelError
from radixpoint.ir.graph import Graph
from radixpoint.ir.ops import Shape
from radixpoint.measure.floating import FloatingEngine

Reals = NDArray[np.floating]
Original = Callable[[NDArray[np.float32]], Mapping[str, Reals]]
"""From images to the original's values of tensors, by our names of them; the output is among them."""

SIZES = (1.0, 4.0, 32.0, 1024.0)
"""Standard deviations of the random images; two more are spread over 0..1 and over 0..255."""
IMAGES = len(SIZES) + 2
_SHARE = 1e-4
"""Of a value and of the middle one of its tensor: binary32 sums of a deep network differ by less."""
_WOBBLE = 64.0
"""Times what a change of the image in its last bits changes."""
_LAST_BITS = 2.0**-21
_FLOOR = 2.0**-22
"""What a function of binary32 may be off where it is near 0, as a sigmoid that is computed as 1 - 1; times
the largest value that it may be multiplied by."""
_LESS = np.float32(32)
"""By which images are smaller for networks with a local response normalization."""


def random_images(shape: Shape) -> NDArray[np.float32]:
    """Images of several sizes of values, so that limits such as ReLU6's are reached and not reached."""
    random = np.random.default_rng(0)
    images = random.normal(size=(IMAGES, *shape)) * np.array([*SIZES, 0, 0]).reshape(-1, *[1] * len(shape))
    images[-2:] = random.random((2, *shape)) * np.array([1, 255]).reshape(-1, *[1] * len(shape))
    return np.asarray(images, np.float32)


def check_imported(graph: Graph, original: Original) -> None:
    """Compare an imported network with its original, and layer by layer where they differ.

    Args:
        graph: what was imported.
        original: runs what it was imported from.

    Raises:
        ModelError: they differ by more than float32's errors; it names the first layer that does.
    """
    images = random_images(graph.shapes[graph.input])
    if any(layer.op == "square_sum" for layer in graph.layers):
        # onnxruntime's LRN subtracts from its sum what leaves the window: large values leave an error behind
        images /= _LESS
    random = np.random.default_rng(1)
    moved = images * (1 + _LAST_BITS * random.choice([-1.0, 1.0], images.shape).astype(np.float32))
    theirs, wobbled = original(images), original(moved.astype(np.float32))
    there = np.all([np.isfinite(theirs[name].reshape(IMAGES, -1)).all(1) for name in graph.outputs], 0)
    if there.sum() < IMAGES - 2:
        raise ModelError(
            f"{graph.source}: its results are finite for {there.sum()} of {IMAGES} random images: expected "
            "weights whose sums of products stay within float32"
        )
    again = original(images)
    if any(_far(name, again, theirs, theirs) is not None for name in graph.outputs):
        raise ModelError(
            f"{graph.source}: gives another result each time it is run: expected a network without chance"
        )
    floor: NDArray[np.float64] | float = 0.0
    if any(layer.op == "function" for layer in graph.layers):
        floor = _FLOOR * np.maximum(1.0, np.max([_largest(x) for x in theirs.values()], 0))
    ours, alone = _twice(FloatingEngine(graph, plain=True), images)
    if all(_far(name, ours, theirs, wobbled, alone, floor) is None for name in graph.outputs):
        return
    names = [layer.name for layer in graph.layers if layer.name in theirs]
    every, alone = _twice(FloatingEngine(graph, names, plain=True), images)
    pairs = ((name, _far(name, every, theirs, wobbled, alone, floor)) for name in names)
    found = [(name, far) for name, far in pairs if far is not None]
    name, far = found[0] if found else (graph.output, "differs")
    raise ModelError(
        f"{graph.source}: what was imported is not the network that was given: layer {name!r} {far} "
        "on random images"
    )


def _largest(x: Reals) -> NDArray[np.float64]:
    """Magnitude of each image's largest finite value."""
    rows = np.abs(x.reshape(len(x), -1).astype(np.float64))
    return np.asarray(np.where(np.isfinite(rows), rows, 0).max(1))


def _twice(
    engine: FloatingEngine, images: NDArray[np.float32]
) -> tuple[Mapping[str, Reals], Mapping[str, Reals]]:
    """All images at once, and each alone: where it lies in memory may change a value's last bits."""
    parts = [engine.run(images[i : i + 1]) for i in range(len(images))]
    return engine.run(images), {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _far(
    name: str,
    ours: Mapping[str, Reals],
    theirs: Mapping[str, Reals],
    wobbled: Mapping[str, Reals],
    alone: Mapping[str, Reals] | None = None,
    floor: NDArray[np.float64] | float = 0.0,
) -> str | None:
    """How a tensor differs, or None if it does not."""
    a, b, c = ours[name], theirs[name], wobbled[name]
    if a.size != b.size or len(a) != len(b):
        return f"has shape {a.shape} and not {b.shape}"
    a, b, c = (x.reshape(len(b), -1).astype(np.float64) for x in (a, b, c))
    finite = np.isfinite(b).all(1) & np.isfinite(c).all(1)  # an overflow says nothing of what follows
    if not finite.any():
        return "has no finite value to compare with"
    a, b, c = a[finite], b[finite], c[finite]
    floor = floor if isinstance(floor, float) else floor[finite][:, None]
    if not np.isfinite(a).all():
        return "is not finite"
    off, moved = np.abs(a - b), np.abs(b - c)
    if alone is not None:
        again = alone[name].reshape(len(ours[name]), -1)[finite].astype(np.float64)
        moved = np.maximum(moved, np.abs(a - again))
    # value by value: one that is huge must not excuse the others
    allowed = _SHARE * (np.abs(b) + _middle(b)) + _WOBBLE * (moved + _middle(moved)) + floor
    place = np.unravel_index(np.argmax(off - allowed), off.shape)
    if off[place] <= allowed[place]:
        return None
    return f"is off by {off[place]:.3g} where it is {b[place]:.3g}"


def _middle(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of the magnitudes of each row that are not zero, (rows, 1)."""
    rows = (np.abs(row[row != 0]) for row in x)
    return np.array([np.median(row) if row.size else 0.0 for row in rows])[:, None]


def in_batches(
    run: Callable[[NDArray[np.float32]], Sequence[Reals]], images: NDArray[np.float32], size: int
) -> list[Reals]:
    """Results of a model that takes ``size`` images at a time; the last batch is filled up."""
    count = -(-len(images) // size) * size
    filled = np.resize(images, (count, *images.shape[1:]))
    parts = [run(filled[i : i + size]) for i in range(0, count, size)]
    return [np.concatenate(same)[: len(images)] for same in zip(*parts, strict=True)]
