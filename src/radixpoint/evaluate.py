"""Accuracy of a quantized network against the float network on the same images, with paired intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixpoint.arith import dequantize
from radixpoint.data import ImageSet
from radixpoint.engines import Engine, make_engine, quantize_images
from radixpoint.engines.floating import FloatingEngine
from radixpoint.ir import Graph, IntGraph
from radixpoint.sites import seen_by_reader

Metric = Literal["top1", "top5"]
Prepared = TypeVar("Prepared")
Bits = NDArray[np.bool_]

BATCH = 250
"""Images between two looks at the interval."""
Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a network makes of each image, in the images' order.

    Attributes:
        top1, top5: whether the label is among the best one, five.
        prediction: index of the best class.
    """

    top1: Bits
    top5: Bits
    prediction: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.top1)

    def first(self, count: int) -> Outcomes:
        return Outcomes(self.top1[:count], self.top5[:count], self.prediction[:count])

    def joined(self, more: Outcomes) -> Outcomes:
        return Outcomes(
            np.concatenate([self.top1, more.top1]),
            np.concatenate([self.top5, more.top5]),
            np.concatenate([self.prediction, more.prediction]),
        )

    def hits(self, metric: Metric) -> Bits:
        return self.top1 if metric == "top1" else self.top5


NO_OUTCOMES = Outcomes(np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, np.int64))


def outcomes(logits: NDArray[Any], labels: NDArray[np.int64]) -> Outcomes:
    """Judge logits (images, classes). Among equal logits the lower class index ranks first."""
    own = np.take_along_axis(logits, labels[:, None], 1)
    earlier = np.arange(logits.shape[1])[None] < labels[:, None]
    rank = (logits > own).sum(1) + ((logits == own) & earlier).sum(1)
    return Outcomes(rank < 1, rank < 5, logits.argmax(1).astype(np.int64))


def drop_interval(reference: Bits, candidate: Bits, z: float = Z95) -> tuple[float, float]:
    """Interval of the accuracy drop of two networks that saw the same images, in percentage points.

    Only images on which the two differ carry information. The adjusted Wald interval for a difference of
    paired proportions (Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data", J. Educ. Behav. Stat. 37(4), 2012, equation 9 there: one image is
    added to each kind of disagreement).

    Args:
        reference, candidate: whether each network is right about each image; same length, at least 1.
        z: normal quantile; 1.96 gives 95 %.
    """
    n = len(reference)
    lost = (int(np.count_nonzero(reference & ~candidate)) + 1) / (n + 2)
    gained = (int(np.count_nonzero(candidate & ~reference)) + 1) / (n + 2)
    middle = lost - gained
    half = z * math.sqrt(max(lost + gained - middle**2, 0.0) / (n + 2))
    return 100 * max(middle - half, -1.0), 100 * min(middle + half, 1.0)


def drop(reference: Bits, candidate: Bits) -> float:
    """Accuracy of ``reference`` minus that of ``candidate``, in percentage points."""
    difference = int(np.count_nonzero(reference)) - int(np.count_nonzero(candidate))
    return 100 * difference / len(reference)


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Accuracy of a quantized network, all in percent or percentage points.

    Attributes:
        images: how many it was evaluated on.
        top1, top5: its accuracy.
        float_top1, float_top5: the float network's, on the same images.
        metric: what ``drop`` is a drop of.
        drop: float minus quantized.
        drop_interval: paired 95 % interval of the drop.
        agreement: share of images on which both networks name the same best class.
    """

    images: int
    top1: float
    top5: float
    float_top1: float
    float_top5: float
    metric: Metric
    drop: float
    drop_interval: tuple[float, float]
    agreement: float


def _percent(bits: Bits) -> float:
    return 100 * int(np.count_nonzero(bits)) / len(bits)


def summarize(reference: Outcomes, candidate: Outcomes, metric: Metric = "top1") -> Evaluation:
    """Compare outcomes on the same images; ``reference`` may have seen more, its first ones count."""
    reference = reference.first(len(candidate))
    before, after = reference.hits(metric), candidate.hits(metric)
    return Evaluation(
        len(candidate),
        _percent(candidate.top1),
        _percent(candidate.top5),
        _percent(reference.top1),
        _percent(reference.top5),
        metric,
        drop(before, after),
        drop_interval(before, after),
        _percent(reference.prediction == candidate.prediction),
    )


def _ahead(
    images: ImageSet, start: int, prepare: Callable[[NDArray[np.float32]], Prepared]
) -> Iterator[tuple[Prepared, NDArray[np.int64]]]:
    """Prepared batches and their labels from image ``start`` on; one batch is decoded ahead of its use."""

    def batch(begin: int) -> Prepared:
        return prepare(images.inputs(begin, min(begin + BATCH, len(images))))

    begins = range(start, len(images), BATCH)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(batch, start) if begins else None
        for begin in begins:
            assert following is not None
            ready = following.result()
            following = pool.submit(batch, begin + BATCH) if begin + BATCH < len(images) else None
            yield ready, images.labels[begin : begin + BATCH]


def float_outcomes(
    graph: Graph, images: ImageSet, progress: Callable[[int, int], None] | None = None
) -> Outcomes:
    """Outcomes of the float network on all images."""
    engine, result = FloatingEngine(graph), NO_OUTCOMES
    for inputs, labels in _ahead(images, 0, lambda inputs: inputs):
        result = result.joined(outcomes(engine.run(inputs)[graph.output], labels))
        if progress is not None:
            progress(len(result), len(images))
    return result


def integer_outcomes(graph: IntGraph, engine: Engine, images: ImageSet, start: int = 0) -> Iterator[Outcomes]:
    """Outcomes of a quantized network, batch by batch, from image ``start`` on."""
    for stored, labels in _ahead(images, start, lambda inputs: quantize_images(graph, inputs)):
        yield outcomes(engine.run(stored)[graph.output], labels)


def evaluate(
    graph: Graph,
    quantized: IntGraph,
    images: ImageSet,
    metric: Metric = "top1",
    engine: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    threads: int = 0,
) -> Evaluation:
    """Evaluate a quantized network against the float network it stands for, on all images.

    Raises:
        DataError: the images do not fit the network.
        EngineError: there is no such engine.
    """
    images.check(graph.shapes[graph.input], graph.shapes[graph.output][0])
    runner = make_engine(quantized, engine, threads)
    result = NO_OUTCOMES
    for more in integer_outcomes(quantized, runner, images):
        result = result.joined(more)
        if progress is not None:
            progress(len(result), len(images))
    return summarize(float_outcomes(graph, images), result, metric)


def layer_sqnr(graph: Graph, quantized: IntGraph, inputs: NDArray[np.float32]) -> dict[str, float]:
    """Signal to quantization-noise ratio of every layer's result, in dB.

    10 log10 of the power of the float tensor over the power of its difference from the quantized one, over
    all ``inputs`` (float32, batch first). Left out: a layer that only a ReLU reads (what it cuts off has
    no room in its format, so its own noise means nothing), and one without a quantized counterpart.
    """
    pairs = {t.value: name for name, t in quantized.tensors.items() if t.value not in (None, graph.input)}
    layers = [
        layer.name
        for layer in graph.layers
        if layer.name in pairs and seen_by_reader(graph, layer.name) == layer.name
    ]
    real = FloatingEngine(graph, layers).run(inputs)
    stored = make_engine(quantized).run(quantize_images(quantized, inputs), [pairs[name] for name in layers])
    result = {}
    for name in layers:
        tensor = quantized.tensors[pairs[name]]
        values = dequantize(stored[pairs[name]], tensor.format.fractions(len(tensor.shape)))
        signal = float(np.sum(real[name].astype(np.float64) ** 2))
        noise = float(np.sum((values - real[name]) ** 2))
        result[name] = math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal else -math.inf
    return result


@dataclass(frozen=True)
class Mismatch:
    """The first place where two engines differ."""

    tensor: str
    index: tuple[int, ...]
    expected: int | str
    got: int | str


def first_mismatch(
    graph: IntGraph, expected: Engine, got: Engine, images: NDArray[np.int64]
) -> Mismatch | None:
    """Compare two engines on every tensor with ==; ``images`` are stored integers, batch first.

    Returns:
        The first difference in execution order, or None if there is none.
    """
    names = [graph.input, *(step.name for step in graph.steps)]
    a, b = expected.run(images, names), got.run(images, names)
    for name in names:
        if a[name].shape != b[name].shape:
            return Mismatch(name, (), a[name].size, b[name].size)
        differing = np.argwhere(a[name] != b[name])
        if len(differing):
            index = tuple(int(i) for i in differing[0])
            return Mismatch(name, index, int(a[name][index]), int(b[name][index]))
    return None
