"""A quantized network against the float network on the same images, by any metric, with paired intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import dequantize
from radixpoint.data import ImageSet
from radixpoint.engines import Engine, make_engine, quantize_images
from radixpoint.errors import DesignError, ModelError
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.measure.calibrate import float_outcomes
from radixpoint.measure.floating import FloatingEngine
from radixpoint.measure.intervals import Z95
from radixpoint.measure.metrics import Agreement, Metric, TopK, ahead, find_metric
from radixpoint.measure.outcomes import NO_OUTCOMES, Outcomes
from radixpoint.measure.pairs import check_resamples
from radixpoint.tables import Chart, Row, Tabular, ends


class Evaluation(Tabular, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantized network against the float network. Shares are in percent, their drops in percentage points.

    Attributes:
        images: how many it was evaluated on.
        metric: what it was judged by.
        score: its score.
        float_score: the float network's, on the same images.
        drop: how much worse the quantized network is.
        drop_interval: paired 95 % interval of the drop.
        drop_bound: the drop is at most this, but for the error that was asked for; None if none was.
        agreement: share of images on which both networks name the same best class; None where none is named.
        top1, top5: accuracy, where the metric is one of a label's rank.
        float_top1, float_top5: the float network's.
    """

    images: int
    metric: str
    score: float
    float_score: float
    drop: float
    drop_interval: tuple[float, float]
    drop_bound: float | None = None
    agreement: float | None = None
    top1: float | UnsetType = UNSET
    top5: float | UnsetType = UNSET
    float_top1: float | UnsetType = UNSET
    float_top5: float | UnsetType = UNSET

    def summary(self) -> str:
        """It in a line."""
        low, high = self.drop_interval
        return (
            f"Evaluation on {self.images:,} images: {self.metric} drop {self.drop:+.4g} "
            f"[{low:+.4g}, {high:+.4g}]"
        )

    def rows(self) -> list[Row]:
        """One row, of what is known."""
        known = {name: getattr(self, name) for name in Evaluation.__struct_fields__}
        interval = ends("drop", known.pop("drop_interval"))
        row = {"metric": self.metric, **known, **interval}
        return [{name: value for name, value in row.items() if value is not UNSET}]

    def chart(self) -> Chart:
        """The score of both networks."""
        return Chart(["float", "quantized"], {self.metric: [self.float_score, self.score]}, ("", self.metric))


class Accuracy(Tabular, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantized network by itself, in percent of the images.

    Attributes:
        images: how many it was judged on.
        top1: share whose best class is the label.
        top1_interval: 95 % interval of that share (Wilson, "Probable Inference, the Law of Succession, and
            Statistical Inference", 1927).
        top5: share whose label is among the best five; None of a network of five outputs or fewer.
    """

    images: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None

    def summary(self) -> str:
        """It in a line."""
        low, high = self.top1_interval
        return f"Accuracy on {self.images:,} images: top-1 {self.top1:.2f} % [{low:.2f}, {high:.2f}]"

    def rows(self) -> list[Row]:
        """One row."""
        return [
            {"images": self.images, "top1": self.top1, **ends("top1", self.top1_interval), "top5": self.top5}
        ]

    def chart(self) -> Chart:
        """Its top-1 accuracy."""
        return Chart(["quantized"], {"top1": [self.top1]}, ("", "top1"))


def check_confidence(confidence: float) -> float:
    """A probability of at least one half.

    Raises:
        DesignError: it is none.
    """
    if not 0.5 <= confidence < 1:
        raise DesignError(
            f"a confidence of {confidence}: expected at least 0.5 and less than 1, such as 0.95"
        )
    return confidence


def summarize(
    reference: Outcomes, candidate: Outcomes, metric: Metric, error: float | None = None
) -> Evaluation:
    """Compare outcomes on the same images; ``reference`` may have seen more, its first ones count.

    Args:
        error: probability with which ``drop_bound`` may be too low; None leaves it out.
    """
    reference = reference.first(len(candidate))
    pair = metric.pair(reference, candidate)
    more: dict[str, Any] = {}
    if isinstance(metric, TopK):
        for name, k in (("top1", 1), ("top5", 5)):
            own = TopK(k).pair(reference, candidate)
            more |= {name: own.after, f"float_{name}": own.before}
        more["agreement"] = 100 * float((reference.table[:, 1] == candidate.table[:, 1]).mean())
    elif isinstance(metric, Agreement):
        more["agreement"] = pair.after
    return Evaluation(
        *(len(candidate), metric.name, pair.after, pair.before, pair.drop, pair.interval()),
        drop_bound=None if error is None else pair.bound(error),
        **more,
    )


def real_results(network: IntGraph, engine: Engine, stored: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """The values that a network's results stand for, on stored integers (batch first)."""
    results = engine.run(stored, network.outputs)
    formats = [(name, network.tensors[name]) for name in network.outputs]
    return [dequantize(results[name], t.format.fractions(len(t.shape))) for name, t in formats]


def check_origin(graph: Graph, digest: str) -> None:
    """See that what was quantized from the network with this digest was quantized from this one.

    Raises:
        ModelError: it was not.
    """
    if digest != graph.digest:
        raise ModelError(f"the quantized network was not quantized from {graph.source}: their digests differ")


def outcomes_of(
    network: IntGraph, engine: Engine, stored: NDArray[np.int64], targets: Any, metric: Metric
) -> Outcomes:
    """What a metric keeps of a network on stored integers (batch first) with these targets."""
    return metric.outcomes(real_results(network, engine, stored), targets)


def network_outcomes(
    network: IntGraph,
    engine: Engine,
    images: ImageSet,
    metric: Metric,
    progress: Callable[[int, int], None] | None = None,
) -> Outcomes:
    """What a metric keeps of a network on all images."""
    result = NO_OUTCOMES
    for stored, targets in ahead(images, lambda inputs: quantize_images(network, inputs)):
        result = result.joined(outcomes_of(network, engine, stored, targets, metric))
        if progress is not None:
            progress(len(result), len(images))
    return result


def evaluate(
    graph: Graph,
    quantized: IntGraph,
    images: ImageSet,
    metric: Any = "top1",
    engine: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    threads: int = 0,
    confidence: float | None = None,
) -> Evaluation:
    """Evaluate a quantized network against the float network it stands for, on all images.

    Args:
        metric: what it is judged by, as ``radixpoint.measure.metrics.find_metric`` takes it.
        confidence: of the ``drop_bound`` that is reported; None reports none.

    Raises:
        DataError: the images do not fit the network, or the metric.
        DesignError: an unknown metric, or a confidence that is no probability.
        EngineError: there is no such engine.
        ModelError: the quantized network is of another float network.
    """
    chosen = find_metric(metric)
    error = None if confidence is None else 1 - check_confidence(confidence)
    if error is not None and getattr(chosen, "total", False):
        check_resamples(error)
    check_origin(graph, quantized.metadata.get("network", graph.digest))
    pairs = [(graph.input, quantized.input), *zip(graph.outputs, quantized.outputs, strict=False)]
    for ours, theirs in pairs:
        if graph.shapes[ours] != quantized.tensors[theirs].shape:
            raise ModelError(
                f"{graph.source}: its {ours!r} has shape {graph.shapes[ours]}, but the quantized network "
                f"takes {quantized.tensors[theirs].shape} there: expected the float network it was quantized "
                "from"
            )
    chosen.check(graph, images)
    runner = make_engine(quantized, engine, threads)
    result = network_outcomes(quantized, runner, images, chosen, progress)
    return summarize(float_outcomes(graph, images, chosen), result, chosen, error)


def accuracy(
    quantized: IntGraph,
    images: ImageSet,
    engine: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    threads: int = 0,
) -> Accuracy:
    """Judge a quantized classifier by itself, as one that was trained quantized and stands for no other.

    Args:
        quantized: with one vector of class scores.
        images: with labels.
        engine: what runs it, as ``radixpoint.make_engine`` takes it.
        progress: called with images done and images in all.
        threads: of the engine; 0 takes all cores.

    Raises:
        DataError: the images do not fit the network, or have no labels.
        DesignError: it has one output.
        EngineError: there is no such engine.
        ModelError: it is no classifier.
    """
    shapes = [quantized.tensors[name].shape for name in quantized.outputs]
    if len(shapes) > 1 or len(shapes[0]) != 1:
        raise ModelError(f"the network's results are {shapes}: expected one vector of class scores")
    (outputs,) = shapes[0]
    if outputs == 1:
        raise DesignError("accuracy of a network with one output: every answer would be right")
    images.check(quantized.tensors[quantized.input].shape, outputs)
    found = network_outcomes(quantized, make_engine(quantized, engine, threads), images, TopK(1), progress)
    hits, count = TopK(1).hits(found), len(found)
    share, z2 = float(hits.mean()), Z95**2 / len(found)
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    top5 = 100 * float(TopK(5).hits(found).mean()) if outputs > 5 else None
    return Accuracy(count, 100 * share, (100 * (middle - half), 100 * (middle + half)), top5)


class _Recorded(msgspec.Struct, frozen=True):
    """What matters here of the design that a network says it was made by."""

    equalize: bool = False


def check_comparable(quantized: IntGraph) -> None:
    """See that tensors of a quantized network stand for those of its float network.

    Raises:
        DesignError: powers of two were moved between its channels first, or its record says nothing readable.
    """
    try:
        recorded = msgspec.json.decode(quantized.metadata.get("design", "{}"), type=_Recorded)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise DesignError(f"the network's record of its design: {error}") from None
    if recorded.equalize:
        raise DesignError(
            "the design of the network moves powers of two between channels, so its tensors are not those of "
            "the float network: expected a design without equalize"
        )


def layer_sqnr(graph: Graph, quantized: IntGraph, inputs: NDArray[np.float32]) -> dict[str, float]:
    """Signal to quantization-noise ratio of every layer's result, in dB.

    10 log10 of the power of the float tensor over the power of its difference from the quantized one, over
    all ``inputs`` (float32, batch first). Left out: a layer that only a ReLU reads (what it cuts off has
    no room in its format, so its own noise means nothing), and one without a quantized counterpart.

    Raises:
        DesignError: as ``check_comparable``.
    """
    check_comparable(quantized)
    pairs = {t.value: name for name, t in quantized.tensors.items() if t.value not in (None, graph.input)}
    layers = [
        layer.name
        for layer in graph.layers
        if layer.name in pairs and graph.seen_by_reader(layer.name) == layer.name
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
    network: IntGraph, expected: Engine, got: Engine, images: NDArray[np.int64]
) -> Mismatch | None:
    """Compare two engines on every tensor with ==; ``images`` are stored integers, batch first.

    Returns:
        The first difference in execution order, or None if there is none.
    """
    names = [network.input, *(step.name for step in network.steps)]
    a, b = expected.run(images, names), got.run(images, names)
    for name in names:
        if a[name].shape != b[name].shape:
            return Mismatch(name, (), a[name].size, b[name].size)
        differing = np.argwhere(a[name] != b[name])
        if len(differing):
            index = tuple(int(i) for i in differing[0])
            return Mismatch(name, index, int(a[name][index]), int(b[name][index]))
    return None
