"""Graph + Ranges + Design -> IntGraph: binary points are chosen, then the network is lowered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from hashlib import sha256

import numpy as np
from msgspec.structs import asdict, replace
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import dequantize
from radixpoint.arithmetic.elementary import exp, log2
from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.data import ImageSet
from radixpoint.engines import make_engine, quantize_images
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.measure.calibrate import Ranges
from radixpoint.quantization import refine
from radixpoint.quantization.design import Design, Widths
from radixpoint.quantization.equalize import equalized
from radixpoint.quantization.lower import ParameterCache
from radixpoint.quantization.passes import settle_and_lower
from radixpoint.quantization.patches import Patches, sampled_patches
from radixpoint.quantization.refine import Refiner
from radixpoint.quantization.rules import choose_formats
from radixpoint.quantization.rules.loss import beside, finer, wider
from radixpoint.quantization.rules.question import Question
from radixpoint.quantization.sites import (
    Formats,
    Key,
    Site,
    Stored,
    check_layers,
    real_weights,
    sites,
    stored_parameters,
)
from radixpoint.quantization.stand_in import StandIn

LEAST_JUDGES = 64
"""Images that judge whether refining helped, at least; fewer would decide by chance."""
MOST_JUDGES = 256
MULTIPLIED = ("conv", "fc", "input")
"""Layer classes whose activations are multiplied by weights, and the image, which is."""
LONG, SHORT = 16, 8
"""Bits at which nothing between the convolutions is lost, and at which much is."""
SHORTEST = 6
"""Bits from which on a word may take the binary points of one that is a bit shorter."""
_BATCH = 64


def at_length(design: Design, word_length: int) -> Design:
    """The design with one word length for all that is multiplied: ``conv`` and its company."""
    own = [name for name in MULTIPLIED if name in design.classes]
    return replace(design, classes={**design.classes, **dict.fromkeys(own, Widths.all(word_length))})


def to_nearest(design: Design) -> Design:
    """The design as if all rounding were to nearest: binary points should not depend on draws."""
    for field in ("rounding", "parameter_rounding"):
        if getattr(design, field) is Rounding.STOCHASTIC:
            design = replace(design, **{field: Rounding.RND})
    return design


def between(design: Design, length: Callable[[int], int]) -> Design:
    """The design with other words where nothing is multiplied by weights: of their length, if it is below
    ``LONG``, ``length`` makes the new one."""

    def other(widths: Widths) -> Widths:
        found = {kind: length(bits) for kind, bits in asdict(widths).items() if bits and bits < LONG}
        return replace(widths, **found)

    classes = {name: own if name in MULTIPLIED else other(own) for name, own in design.classes.items()}
    return replace(design, classes=classes)


def _shortest(design: Design) -> int:
    """Word length where nothing is multiplied by weights."""
    own = [asdict(widths).values() for name, widths in design.classes.items() if name not in MULTIPLIED]
    return min((bits for kinds in own for bits in kinds if bits), default=LONG)


def formats_in(network: IntGraph) -> Formats:
    """Formats of weights, of what they are multiplied by, and of results, as a network has them."""
    found: dict[Key, TensorFormat] = {
        (tensor.value, "result"): tensor.format for tensor in network.tensors.values() if tensor.value
    }
    for step in network.steps:
        if step.family == "product" and "weight" in step.parameters:
            layer = network.tensors[step.name].layer
            found[layer, "weight"] = network.parameters[step.parameters["weight"]].format
            found[layer, "operand"] = network.tensors[step.inputs[0]].format
    return found


def divergence(logits: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """How far two networks' answers are apart: what is lost when one stands for the other.

    The Jensen-Shannon divergence (Lin, "Divergence Measures Based on the Shannon Entropy", 1991, equation 4.1
    with equal weights) of the class probabilities, the softmax of (images, classes), mean over the images, in
    bits: 0 where they are the same, at most 1. Near 0 it is a square of errors, as of different layers that
    add; and no single image can outweigh the others, as one with large logits does in their squared error.
    """

    def probabilities(x: NDArray[np.floating]) -> NDArray[np.float64]:
        weights = exp((x - x.max(1, keepdims=True)).astype(np.float64))
        return np.asarray(weights / weights.sum(1, keepdims=True))

    p, q = probabilities(logits), probabilities(reference)
    middle = (p + q) / 2
    total = 0.0
    for own in (p, q):
        ratio = np.divide(own, middle, out=np.ones_like(own), where=own > 0)
        total += float((own * log2(ratio)).sum(1).mean())
    return max(total / 2, 0.0)


def answers_apart(graph: Graph, results: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """How far results are from those of float.

    Of a classifier the divergence of its class probabilities, in bits; else the squared error of its first
    result, relative to that result's power.
    """
    if graph.names_classes:
        return divergence(results, reference)
    real = reference.astype(np.float64)
    return float(((results - real) ** 2).sum() / max((real**2).sum(), np.finfo(np.float64).tiny))


class Quantizer:
    """Quantizes one calibrated network by many designs, sharing what they have in common.

    ``calibration`` (images) is needed for designs that refine.
    """

    def __init__(self, graph: Graph, ranges: Ranges, calibration: ImageSet | None = None) -> None:
        self.graph, self.ranges, self._cache = graph, ranges, ParameterCache()
        self.calibration = calibration
        self._made: object = None  # what _stored was made for
        self._stored: dict[Key, Stored] = {}
        self._best: dict[tuple[object, ...], tuple[int, tuple[int, ...]]] = {}
        self._together: dict[bytes, Formats] = {}
        self._by_loss: dict[bytes, Formats] = {}
        self._losses: dict[bytes, float] = {}
        self._last: tuple[Design, IntGraph] | None = None  # judged, reported and saved in turn

    def _parameters(self, design: Design) -> dict[Key, Stored]:
        """What is stored under the design's form of batch normalization and codebook."""
        made_for: object = design.batch_norm
        if design.codes.weights is not None and design.codes.weights.kind == "codebook":
            made_for = (design.batch_norm, design.classes, design.layers)
        if self._made != made_for:
            self._stored, self._cache = stored_parameters(self.graph, design), ParameterCache()
            self._made, self._best = made_for, {}
        return self._stored

    @cached_property
    def patches(self) -> Patches:
        """Of the float network on the calibration sample."""
        # By a stand-in of its own: it takes as much memory as two networks, and only refining needs it again.
        return sampled_patches(self.graph, self.ranges.sample, StandIn(self.graph, self.ranges).operands)

    @cached_property
    def _stand_in(self) -> StandIn:
        return StandIn(self.graph, self.ranges)

    @cached_property
    def _even(self) -> Quantizer:
        """Of the equalized network, which computes the same in float."""
        return Quantizer(*equalized(self.graph, self.ranges), self.calibration)

    def lowered(self, design: Design, formats: Formats) -> IntGraph:
        """The network in these formats, with the design's form and conversions, verified."""
        if design.equalize:
            return self._even.lowered(replace(design, equalize=False), formats)
        return settle_and_lower(self.graph, formats, self._parameters(design), design, self._cache)

    def loss(self, design: Design, formats: Formats) -> float:
        """How far the answers are from those of float on the calibration sample.

        As ``answers_apart`` has it. A rule asks for the same formats more than once.
        """
        asked = sha256(repr(sorted(formats.items())).encode())
        asked.update(design.to_json())
        key = asked.digest()
        if key not in self._losses:
            graph = self.lowered(design, formats)
            stored = make_engine(graph).run(quantize_images(graph, self.ranges.sample))[graph.output]
            logits = dequantize(stored, graph.logit_fraction_length())
            self._losses[key] = answers_apart(self.graph, logits, self.ranges.logits)
        return self._losses[key]

    def formats(self, design: Design) -> Formats:
        """The format of every quantized place.

        Raises:
            DesignError: the design does not fit the network.
        """
        if design.equalize:
            return self._even.formats(replace(design, equalize=False))
        design.check(self.graph)
        if design.binary_points:
            return self._chosen_apart(design)
        if design.layers:
            check_layers(self.graph, design, sites(self.graph, self.ranges, design, self._parameters(design)))
        point = design.binary_point
        if point.rule != "loss" or point.scope not in ("tensor", "channel"):
            return self._chosen(design)
        return self._chosen_by_loss(replace(to_nearest(design), refine=[]))

    def _chosen_apart(self, design: Design) -> Formats:
        """Layers with a rule or scope of their own have what it chooses, the others what they had."""
        plain = replace(design, binary_points={})
        formats = dict(self.formats(plain))
        for name, point in design.binary_points.items():
            own = self.formats(replace(plain, binary_point=point))
            formats |= {key: form for key, form in own.items() if key[0] == name}
        return formats

    def places(self, design: Design) -> list[tuple[Site, TensorFormat]]:
        """Every quantized place, with the values that it takes in float, and its format.

        Raises:
            DesignError: the design does not fit the network.
        """
        if design.equalize:
            return self._even.places(replace(design, equalize=False))
        formats = dict(self.formats(design))
        if "blocks" in design.refine and self.calibration is not None:
            made = formats_in(self.quantize(design))
            formats |= {place: form for place, form in made.items() if place in formats}
        found = sites(self.graph, self.ranges, design, self._parameters(design))
        return [(site, formats[site.key]) for site in found]

    def _chosen(self, design: Design) -> Formats:
        return choose_formats(self._question(to_nearest(design)))

    def _question(self, design: Design) -> Question:
        return Question(
            self.graph,
            self.ranges,
            design,
            self._parameters(design),
            lambda f: self.loss(design, f),
            lambda: self.patches,
            self._best,
        )

    def _at_once(self, design: Design) -> Formats:
        """What rule ``loss`` chooses for all places together.

        A convolution, a fully connected layer or an image with a word length of its own takes the binary
        points that it has when all of them have that length: best for one length is not for another.
        """
        own, whole = self._apart_by_layer(design)
        formats = dict(self._for_all(whole))
        for (name, role), width in own.items():
            formats[name, role] = self._for_all(at_length(whole, width))[name, role]
        return formats

    def _apart_by_layer(self, design: Design) -> tuple[dict[Key, int], Design]:
        """Word lengths that single layers have for what is multiplied, and the design without them."""
        alone = {layer.name for layer in self.graph.layers if layer.family == "product"} | {self.graph.input}
        found, others = dict[Key, int | None](), {}
        for name, widths in design.layers.items():
            if name not in alone:
                others[name] = widths
                continue
            if name == self.graph.input:
                found[name, "result"] = widths.activations
            else:
                found[name, "weight"], found[name, "operand"] = widths.weights, widths.activations
            if widths.parameters is not None:
                others[name] = Widths(parameters=widths.parameters)
        own = {place: width for place, width in found.items() if width is not None}
        return own, replace(design, layers=others)

    def _for_all(self, design: Design) -> Formats:
        """Chosen together, with one word length for all that is multiplied."""
        key = design.to_json()
        if key not in self._together:
            self._together[key] = self._chosen(design)
        return self._together[key]

    def _chosen_by_loss(self, design: Design) -> Formats:
        """All at once where words are long.

        Between shorter ones too; or what is multiplied stays as it is chosen beside long words, or beside
        short ones, and the others are chosen beside it; or all places take what they have where the others
        are a bit shorter, from ``SHORTEST`` bits on. Whichever is nearest to float. With word lengths by
        layer, which are chosen at once for each length apart, the first is left out.
        """
        if between(design, lambda bits: LONG) == design:
            return self._at_once(design)
        key = design.to_json()
        if key not in self._by_loss:
            question, candidates = self._question(design), list[Formats]()
            if not self._apart_by_layer(design)[0]:
                candidates.append(self._at_once(design))
            for other in (between(design, lambda bits: LONG), between(design, lambda bits: SHORT)):
                with suppress(DesignError):  # sums that fit short words need not fit long ones
                    candidates.append(beside(question, self._at_once(other)))
            if _shortest(design) > SHORTEST:
                with suppress(DesignError):  # nor that a bit less leaves a format for every place
                    shorter = self._chosen_by_loss(between(design, lambda bits: bits - 1))
                    candidates += [finer(question, shorter), wider(question, shorter)]
            candidates = candidates or [self._at_once(design)]
            self._by_loss[key] = min(candidates, key=lambda formats: self.loss(design, formats))
        return self._by_loss[key]

    def _integers(self, design: Design) -> IntGraph:
        """The line of passes: equalize, choose, settle and lower, refine."""
        if design.equalize:
            return self._even.quantize(replace(design, equalize=False))
        formats = self.formats(design)
        network = self.lowered(design, formats)
        return self._refined(design, network) if design.refine else network

    @cached_property
    def _parts(self) -> tuple[list[ImageSet], ImageSet]:
        """Calibration images that teach, and those that judge; all do both where fewer than
        ``LEAST_JUDGES`` would be left."""
        assert self.calibration is not None
        if len(self.calibration) < refine.IMAGES + LEAST_JUDGES:
            return [self.calibration], self.calibration
        taught, others = self.calibration.parted(refine.IMAGES)
        if len(others) <= MOST_JUDGES:
            return [taught], others
        judges, more = others.parted(MOST_JUDGES)
        return [taught, more], judges

    @cached_property
    def _real_answers(self) -> NDArray[np.float64]:
        """To those images, the same on every machine."""
        return np.concatenate([self._stand_in.answers(inputs) for inputs in self._parts[1].batches(_BATCH)])

    def _apart(self, network: IntGraph) -> float:
        """How far a network's answers to them are from those of float."""
        engine = make_engine(network)
        stored = [
            engine.run(quantize_images(network, inputs))[network.output]
            for inputs in self._parts[1].batches(_BATCH)
        ]
        answers = dequantize(np.concatenate(stored), network.logit_fraction_length())
        return answers_apart(self.graph, answers, self._real_answers)

    def _refined(self, design: Design, network: IntGraph) -> IntGraph:
        """Better integers, from the calibration images.

        The techniques that the design names, in their order, less the last ones if the network's answers are
        no nearer to float on images that took no part; then, by the same measure, its blocks.
        ``metadata["refined"]`` names what is left.
        """
        assert self.calibration is not None
        symmetric, kept = design.overflow is Overflow.SAT_SYM, []
        weights, before = real_weights(self.graph, design), self._apart(network)
        asked = [name for name in refine.TECHNIQUES if name in design.refine]
        if asked:
            refiner = Refiner(self.graph, self.calibration, self._stand_in.operands)
        for count in range(len(asked), 0, -1):
            better = refiner.refine(network, weights, asked[:count], symmetric)
            if (apart := self._apart(better)) < before:
                network, before, kept = better, apart, asked[:count]
                break
        if "blocks" in design.refine:
            from radixpoint.quantization.blocks import Reconstructor

            better = Reconstructor(
                self.graph,
                self._stand_in.network,
                self._parts[0],
                own_points=design.binary_point.scope in ("tensor", "channel"),
                symmetric=symmetric,
            ).reconstruct(network, weights)
            if self._apart(better) < before:
                network, kept = better, [*kept, "blocks"]
        return dataclasses.replace(network, metadata={"refined": "+".join(kept)})

    def estimated_again(self, network: IntGraph, design: Design) -> IntGraph:
        """A trained network's offsets of batch normalization, from the means that float has of each channel.

        As a technique of refining: the network is left as it is where its answers do not come nearer to those
        of float. Metadata ``estimated`` says which. Needs calibration images.

        Args:
            network: quantized from this float network by ``design``, and trained since.
            design: see there.
        """
        if design.equalize:
            return self._even.estimated_again(network, replace(design, equalize=False))
        assert self.calibration is not None
        refiner = Refiner(self.graph, self.calibration, self._stand_in.operands)
        symmetric = design.overflow is Overflow.SAT_SYM
        better = refiner.refine(network, real_weights(self.graph, design), ["offsets"], symmetric)
        nearer = self._apart(better) < self._apart(network)
        metadata = {**network.metadata, "estimated": "again" if nearer else "kept"}
        return dataclasses.replace(better if nearer else network, metadata=metadata)

    def quantize(self, design: Design) -> IntGraph:
        """The network in the representation that ``design`` describes, verified.

        Raises:
            DesignError: the design does not fit the network.
        """
        if self._last is not None and self._last[0] == design:
            return self._last[1]
        if design.refine and self.calibration is None:
            raise DesignError("a design that refines needs the calibration images, not only their ranges")
        result = self._integers(design)
        metadata = {
            **result.metadata,
            "design": design.to_json().decode(),
            "network": self.graph.digest,
            "ranges": self.ranges.digest,
            "preprocessing": self.ranges.preprocessing,
        }
        result = dataclasses.replace(result, metadata=metadata)
        self._last = (design, result)
        return result


def quantize(graph: Graph, ranges: Ranges, design: Design, calibration: ImageSet | None = None) -> IntGraph:
    """Quantize a network.

    Args:
        graph: the network.
        ranges: of its tensors, from ``radixpoint.calibrate``.
        design: word lengths, scopes and conversions.
        calibration: the images, for a design that refines.

    Returns:
        The network in stored integers and casts, verified.

    Raises:
        DesignError: the design does not fit the network.
    """
    return Quantizer(graph, ranges, calibration).quantize(design)
