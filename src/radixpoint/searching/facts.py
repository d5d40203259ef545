"""What is worth knowing of a search's answer, layer by layer and image by image: ``facts.json`` beside it.

A report is made from it, without the model and without the images. Shares are in percent. Unlike the other
files of a run folder it holds what floating point measured, so its last digits may differ from one processor
to another.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radixpoint.accelerator.cost import LayerCost, layer_costs
from radixpoint.arithmetic.formats import Overflow, TensorFormat
from radixpoint.data import ImageSet
from radixpoint.engines import make_engine, quantize_images
from radixpoint.files import Document
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph, Step
from radixpoint.measure.calibrate import OCTAVES, PER_OCTAVE, Statistics
from radixpoint.measure.evaluate import layer_sqnr
from radixpoint.measure.metrics import Metric, TopK
from radixpoint.measure.outcomes import Outcomes
from radixpoint.quantization.design import Codes, Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.quantization.sites import Site

FILE = "facts.json"
IMAGES = 8
"""Of the calibration sample, on which integers and errors of layers are measured."""
BINS_PER_OCTAVE = 2
"""Of the histograms."""
MOST_CHANGED, MOST_SHOWN, SIDE = 200, 24, 96
"""Images that changed class that are listed; shown as a picture; pixels of its longer side."""
_Share = float


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A quantized place of a layer.

    Attributes:
        role: what is stored there: ``operand``, ``weight``, ``bias``, ``scale``, ``offset``, ``result`` ...
        format: as it is printed.
        word_length: in bits.
        signed: whether it has a sign bit.
        fractions: smallest and largest fraction length of its channels.
        octave: binary logarithm of the magnitude at which the histogram begins.
        histogram: share of the values in each half octave of magnitudes from there on.
        to_zero: share of the values that are rounded to zero, zeros left out; as far as the histogram tells.
        saturated: share of the values beyond the format's range; None where it is not measured.
    """

    role: str
    format: str
    word_length: int
    signed: bool
    fractions: tuple[int, int]
    octave: float
    histogram: list[_Share]
    to_zero: _Share
    saturated: _Share | None


class LayerFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A layer of the network.

    Attributes:
        name, op: as in the ``Graph``.
        inputs: names of what it reads.
        shape: of its result.
        places: where it is quantized.
        sqnr: signal to quantization noise of its result, in dB; None where that means nothing.
        accumulator: bits of its sum of products: proven, and used by the images looked at.
        cost: what it costs; None where operands are coded.
    """

    name: str
    op: str
    inputs: list[str]
    shape: list[int]
    places: list[Place]
    sqnr: float | None
    accumulator: tuple[int, int] | None
    cost: LayerCost | None

    def place(self, role: str) -> Place | None:
        """Its place of that role."""
        return next((place for place in self.places if place.role == role), None)


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image whose best class changed.

    Attributes:
        image: its number, from 0.
        label, before, after: class of its label, of the float network's and of the quantized network's
            answer.
        rank_before, rank_after: how many classes score higher than the label's.
        picture: a PNG file in base64, of some.
    """

    image: int
    label: str
    before: str
    after: str
    rank_before: int
    rank_after: int
    picture: str | None


class Facts(Document, frozen=True, forbid_unknown_fields=True):
    """Of one answer.

    Attributes:
        layers: in execution order.
        input: name of the network's input.
        input_place: how it is stored.
        changed: images whose best class changed, the worst first; None where the metric names none.
        changed_count: of those, all of them.
    """

    what = "the facts of a run"

    layers: list[LayerFacts]
    input: str
    input_place: Place
    changed: list[Changed] | None
    changed_count: int


def facts_of(
    quantizer: Quantizer,
    design: Design,
    images: ImageSet | None = None,
    outcomes: tuple[Outcomes, Outcomes] | None = None,
    metric: Metric | None = None,
) -> Facts:
    """Measure an answer on the first images of the calibration sample.

    Args:
        quantizer: of the network.
        design: the answer.
        images: on which it was judged.
        outcomes: image by image, of the float network and of the answer.
        metric: that it was judged by.
    """
    graph, network, ranges = quantizer.graph, quantizer.quantize(design), quantizer.ranges
    inputs = ranges.sample[:IMAGES]
    noise = {} if design.equalize else layer_sqnr(graph, network, inputs)
    saturated, used = _measured(graph, network, inputs)
    costs: Mapping[str, LayerCost] = layer_costs(network) if design.codes == Codes() else {}
    places: dict[str, list[Place]] = {}
    for site, form in quantizer.places(design):
        places.setdefault(site.key[0], []).append(_place(site, form, saturated))
    proven = {
        network.tensors[step.name].layer: network.tensors[step.name].format.word_length
        for step in network.steps
        if step.family == "product"
    }
    layers = [
        LayerFacts(
            layer.name,
            layer.op,
            list(layer.inputs),
            list(graph.shapes[layer.name]),
            places.get(layer.name, []),
            _finite(noise.get(layer.name)),
            (proven[layer.name], used[layer.name]) if layer.name in proven else None,
            costs.get(layer.name),
        )
        for layer in graph.layers
    ]
    changed, count = None, 0
    if images is not None and outcomes is not None and isinstance(metric, TopK):
        changed, count = _changed(images, *outcomes)
    return Facts(layers, graph.input, places[graph.input][0], changed, count)


def _finite(number: float | None) -> float | None:
    return None if number is None or not math.isfinite(number) else round(number, 2)


def _place(site: Site, form: TensorFormat, saturated: Mapping[tuple[str, str], float]) -> Place:
    octave, shares = histogram(site.statistics)
    zeros, beyond = 0.0, saturated.get(site.key)
    if site.grid is None:
        zeros = _below(site.statistics, form)
        if beyond is None and site.kind != "activations":
            beyond = _beyond(site.statistics, form)
    fractions = (min(form.fraction_lengths), max(form.fraction_lengths))
    return Place(
        site.key[1], str(form), form.word_length, form.signed, fractions, octave, shares, zeros, beyond
    )


def _magnitudes(statistics: Statistics) -> NDArray[np.int64]:
    """Counts (channels, bins of magnitude); the first bin is zero and what is too small to tell from it."""
    channels = len(statistics.low)
    return np.asarray(statistics.counts.reshape(channels, 2, -1).astype(np.int64).sum(1))


def histogram(statistics: Statistics) -> tuple[float, list[float]]:
    """Share of the values by magnitude, in percent, and where its first half octave begins (log2)."""
    counts = _magnitudes(statistics).sum(0)
    width = PER_OCTAVE // BINS_PER_OCTAVE
    shares = np.append(0, counts[1:]).reshape(-1, width).sum(1) / counts.sum() * 100
    present = np.flatnonzero(shares)
    if not len(present):
        return 0.0, []
    first, last = int(present[0]), int(present[-1]) + 1
    begin = OCTAVES[0] + statistics.unit + first / BINS_PER_OCTAVE
    return begin, [float(f"{share:.4g}") for share in shares[first:last]]


def _share_of(statistics: Statistics, log2_limits: NDArray[np.float64], above: bool) -> float:
    """Share of the values that are not zero above or below a magnitude, channel by channel."""
    counts = _magnitudes(statistics)[:, 1:]
    middles = OCTAVES[0] + statistics.unit + np.log2(_bin_middles(counts.shape[1]))
    limits = np.broadcast_to(log2_limits, (len(counts),))[:, None]
    chosen = middles > limits if above else middles < limits
    seen = counts.sum()
    return float(f"{100 * counts[chosen].sum() / seen:.4g}") if seen else 0.0


def _bin_middles(count: int) -> NDArray[np.float64]:
    """Middles of the bins from the second on, in units of the first octave."""
    octave, part = np.divmod(np.arange(1, count + 1), PER_OCTAVE)
    return np.asarray(np.ldexp(1 + (part + 0.5) / PER_OCTAVE, octave), np.float64)


def _below(statistics: Statistics, form: TensorFormat) -> float:
    """Share that is less than half of the unit in the last place."""
    return _share_of(statistics, -np.array(form.fraction_lengths, np.float64) - 1, False)


def _beyond(statistics: Statistics, form: TensorFormat) -> float:
    """Share of parameters beyond the format's range: none if the extremes are within."""
    fractions = np.array(form.fraction_lengths)
    scaled = np.ldexp(np.stack([statistics.low, statistics.high]), fractions)
    if scaled.max() < form.max + 0.5 and scaled.min() >= form.min - 0.5:
        return 0.0
    return _share_of(statistics, np.log2(form.max + 0.5) - fractions, True)


def _measured(
    graph: Graph, network: IntGraph, inputs: NDArray[np.float32]
) -> tuple[dict[tuple[str, str], float], dict[str, int]]:
    """Share of casts' results that saturate, by layer and role; bits that sums of products use, by layer.

    Of a result that only a ReLU reads, what is below the range does not count: the ReLU cuts it off.
    """
    engine, stored = make_engine(network), quantize_images(network, inputs)
    casts = {
        step.name: step
        for step in network.steps
        if step.op == "cast" and step.attributes["overflow"] != Overflow.WRAP.value
    }
    sums = {step.name for step in network.steps if step.family == "product"}
    names = sums | {step.inputs[0] for step in casts.values()}
    beyond = dict.fromkeys(casts, 0)
    low = dict.fromkeys(sums, 0)
    high = dict.fromkeys(sums, 0)
    for number in range(len(stored)):
        found = engine.run(stored[number : number + 1], names)
        for name, step in casts.items():
            beyond[name] += _saturating(graph, network, step, found[step.inputs[0]])
        for name in sums:
            low[name] = min(low[name], int(found[name].min()))
            high[name] = max(high[name], int(found[name].max()))
    shares: dict[tuple[str, str], float] = {}
    for name in casts:
        tensor = network.tensors[name]
        key = (tensor.layer, "operand" if tensor.value is None else "result")
        share = float(f"{100 * beyond[name] / len(stored) / math.prod(tensor.shape):.4g}")
        shares[key] = max(share, shares.get(key, 0.0))
    used: dict[str, int] = {}
    for name in sums:
        layer = network.tensors[name].layer
        bits = max((-low[name] - 1).bit_length(), high[name].bit_length()) + 1
        used[layer] = max(bits, used.get(layer, 0))
    return shares, used


def _saturating(graph: Graph, network: IntGraph, step: Step, source: NDArray[np.int64]) -> int:
    """How many values of a cast's source are beyond its result's range by half a unit or more."""
    result = network.tensors[step.name]
    shift = network.shift(step).reshape(1, -1, *[1] * (source.ndim - 2))
    values = np.ldexp(source.astype(np.float64), -shift)
    over = int((values >= result.format.max + 0.5).sum())
    cut = result.value is not None and graph.seen_by_reader(result.value) != result.value
    return over if cut else over + int((values < result.format.min - 0.5).sum())


def _changed(images: ImageSet, before: Outcomes, after: Outcomes) -> tuple[list[Changed], int]:
    """Images whose best class changed, those first whose label fell farthest."""
    old, new = before.table.astype(np.int64), after.table.astype(np.int64)
    places = np.flatnonzero(old[:, 1] != new[:, 1])
    order = places[np.argsort(old[places, 0] - new[places, 0], kind="stable")]
    labels = images.labels

    def named(index: int) -> str:
        return images.classes[index] if index < len(images.classes) else str(index)

    found = [
        Changed(
            image=image,
            label=named(int(labels[image])),
            before=named(int(old[image, 1])),
            after=named(int(new[image, 1])),
            rank_before=int(old[image, 0]),
            rank_after=int(new[image, 0]),
            picture=_picture(images, image) if number < MOST_SHOWN else None,
        )
        for number, image in enumerate(order[:MOST_CHANGED].tolist())
    ]
    return found, len(places)


def _picture(images: ImageSet, number: int) -> str | None:
    """An image as a small PNG, where its pixels are gray or colours of 8 bits."""
    pixels = np.asarray(images.pixels[number])
    if pixels.dtype != np.uint8 or len(pixels) not in (1, 3):
        return None
    if len(pixels) == 3 and images.preprocessing is not None and images.preprocessing.channel_order == "BGR":
        pixels = pixels[::-1]
    shown = Image.fromarray(
        pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    )
    shown.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    shown.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
