"""What one network loses against float on some images, and formats that lose next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import msgspec
import numpy as np
from msgspec.structs import replace

from radixpoint.arithmetic.formats import MAX_FRACTION, TensorFormat
from radixpoint.data import ImageSet
from radixpoint.engines import make_engine, quantize_images
from radixpoint.errors import DesignError
from radixpoint.ir.network import IntGraph
from radixpoint.measure.evaluate import real_results
from radixpoint.measure.floating import FloatingEngine
from radixpoint.measure.metrics import Metric
from radixpoint.quantization.design import Codes, Design
from radixpoint.quantization.quantize import Quantizer, answers_apart
from radixpoint.quantization.sites import Formats, Key, Site

PRODUCTS = frozenset({"conv", "fc", "input", "table", "lrn", "mul"})
"""Layer classes whose places are freed to fewer bits: engines multiply them fast, tables stay small."""
FREE, FREER = 16, 24
"""Word lengths of freed places: what engines are fast at, and where that would be too little more."""
ENOUGH = 3
"""Bits more that leave an eighth of the error, and a sixty-fourth of its power."""


Progress = Callable[[str, int, int], None]
"""Told what is measured, how many networks were run, and how many there are."""


def quiet(what: str, done: int, total: int) -> None:
    """Nobody is told."""


class Lost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a network loses against float on the images looked at.

    Attributes:
        loss: of a classifier the mean divergence of its class probabilities, in bits (0 to 1); else the
            squared error of its first result over that result's power. Near 0 it is a square of errors, so
            losses of different layers nearly add.
        agreement: share of the images with the same best class, in percent; None if it names none.
        drop: of the metric.
    """

    loss: float
    agreement: float | None
    drop: float


def freed(form: TensorFormat, word_length: int) -> TensorFormat:
    """A format of so many bits around another: of those it gains a quarter are at the top, at most two."""
    more = word_length - form.word_length
    if more <= 0:
        return form
    top = min(2, -(-more // 4))
    fractions = tuple(min(f + more - top, MAX_FRACTION) for f in form.fraction_lengths)
    return TensorFormat(form.signed, word_length, fractions)


class Probe:
    """Runs variants of one network on the same images.

    Args:
        quantizer: of the network.
        design: whose formats the variants start from. Search of better integers (``refine``) and a narrow
            accumulator are left out: variants are rounded to nearest, with the accumulators they need.
        images: to look at; all of them are run.
        metric: that drops are measured by.

    Raises:
        DesignError: the design codes weights or activations, so its places have no formats to change.
    """

    def __init__(self, quantizer: Quantizer, design: Design, images: ImageSet, metric: Metric) -> None:
        if design.codes != Codes():
            raise DesignError("a design with coded weights or activations: expected a fixed-point one")
        self.quantizer, self.images, self.metric = quantizer, images, metric
        self.design = replace(design, refine=[], accumulator=None)
        self.places: dict[Key, tuple[Site, TensorFormat]] = {
            site.key: (site, form) for site, form in quantizer.places(self.design)
        }
        graph = quantizer.graph
        self._inputs = images.inputs(0, len(images))
        results = FloatingEngine(graph, graph.outputs).run(self._inputs)
        self._real = [results[name].astype(np.float64) for name in graph.outputs]
        self._before = metric.outcomes(self._real, images.target(0, len(images)))

    @cached_property
    def formats(self) -> Formats:
        """Of the design."""
        return {key: form for key, (_, form) in self.places.items()}

    @cached_property
    def free(self) -> Formats:
        """Of a network that loses next to nothing: every place has many more bits.

        Raises:
            DesignError: no such network has sums that fit 64 bits.
        """
        for longest in (FREER, FREE):
            formats = {}
            for key, (site, form) in self.places.items():
                little = form.word_length + ENOUGH > FREE and site.layer_class not in PRODUCTS
                # the engines' fast products take 16 bits with a sign, so 15 without
                formats[key] = freed(form, longest if little else FREE - (not form.signed))
            try:
                self.quantizer.lowered(self.design, formats)
            except DesignError as error:
                refused = error
            else:
                return formats
        raise refused

    def lost(self, formats: Formats) -> Lost:
        """What the network with these formats loses.

        Raises:
            DesignError: its sums do not fit 64 bits.
        """
        return self.lost_by(self.quantizer.lowered(self.design, formats))

    def lost_by(self, network: IntGraph) -> Lost:
        """What a network loses."""
        graph, stored = self.quantizer.graph, quantize_images(network, self._inputs)
        results = real_results(network, make_engine(network), stored)
        after = self.metric.outcomes(results, self.images.target(0, len(self.images)))
        agreement = None
        if graph.names_classes:
            agreement = 100 * float((results[0].argmax(1) == self._real[0].argmax(1)).mean())
        loss = answers_apart(graph, results[0], self._real[0])
        return Lost(loss, agreement, self.metric.pair(self._before, after).drop)
