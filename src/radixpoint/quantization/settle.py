"""Terms of a sum that are too far apart for it: the finer one gives up bits that count for nothing.

An exact sum has the binary point of its finer term. Where training has all but switched a channel off, a
factor of 1e-20 beside an offset of 1 makes a sum of 100 bits. Stored with fewer fraction bits, in the end as
zero, such a term changes the sum by less than 2**-20 of the coarser term's last place (words of 16 bits), and
the sum stays within ``radixpoint.arithmetic.formats.MAX_ACCUMULATOR`` bits.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import MAX_ACCUMULATOR, MAX_DIVIDE_SHIFT, MAX_DIVIDEND
from radixpoint.ir.graph import Graph, Layer
from radixpoint.quantization.design import Design
from radixpoint.quantization.sites import Formats, Key, Stored, folded_batch_norm


@dataclass(frozen=True, eq=False)
class _Term:
    """One of two terms of a sum.

    Attributes:
        place: whose binary points may move.
        beside: fraction lengths of what the place is multiplied by; of one channel or of each.
        bits: no stored integer of the term exceeds 2**bits.
        zero: where the term is 0, whatever its binary point; of one channel or of each.
    """

    place: Key
    beside: NDArray[np.int64]
    bits: int
    zero: NDArray[np.bool_]


class _Settler:
    def __init__(self, graph: Graph, formats: Formats, stored: Mapping[Key, Stored], design: Design) -> None:
        self.graph, self.stored, self.design = graph, stored, design
        self.formats, self.first = dict(formats), True
        self.places: dict[str, Key] = {graph.input: (graph.input, "result")}  # of tensors that are stored

    def _fractions(self, place: Key) -> NDArray[np.int64]:
        return np.array(self.formats[place].fraction_lengths, np.int64)

    def _bits(self, place: Key) -> int:
        form = self.formats[place]
        return form.word_length - form.signed

    def _value(self, place: Key) -> _Term:
        """A stored tensor by itself."""
        return _Term(place, np.zeros(1, np.int64), self._bits(place), np.zeros(1, bool))

    def _parameter(self, place: Key, times: Key | None = None, terms: int = 1) -> _Term:
        """A stored parameter, or the sum of ``terms`` of its products with another place."""
        values = self.stored[place].held
        rows = values.reshape(len(self._fractions(place)), -1)  # one, or one a channel
        zero = ~np.asarray(rows.any(1))
        beside, bits = np.zeros(1, np.int64), self._bits(place)
        if times is not None:
            beside, bits = self._fractions(times), bits + self._bits(times) + math.ceil(math.log2(terms))
        return _Term(place, beside, bits, zero)

    def _lower(self, term: _Term, other: _Term, most: int) -> None:
        """Give the term at most so many fraction bits more than the other."""
        self._move(term, np.minimum(self._fractions(term.place), self._beyond(term, other) + most))

    def _raise(self, term: _Term, other: _Term, most: int) -> None:
        """Give the term at most so many fraction bits fewer than the other, where it is zero."""
        own = self._fractions(term.place)
        self._move(term, np.where(term.zero, np.maximum(own, self._beyond(term, other) - most), own))

    def _beyond(self, term: _Term, other: _Term) -> NDArray[np.int64]:
        """Fraction lengths of the term's place with which it has as many fraction bits as the other."""
        return self._fractions(other.place) + other.beside - term.beside

    def _move(self, term: _Term, moved: NDArray[np.int64]) -> None:
        own = self._fractions(term.place)
        if len(own) == 1:
            moved = moved.min(keepdims=True)
        if not np.array_equal(moved, own):
            self.formats[term.place] = dataclasses.replace(
                self.formats[term.place], fraction_lengths=tuple(moved.tolist())
            )

    def _meet(self, first: _Term, second: _Term, bits: int = MAX_ACCUMULATOR) -> None:
        rooms = [max(bits - 2 - term.bits, 0) for term in (first, second)]  # each may be aligned by so much
        if self.first:  # what costs nothing comes first, and but once
            self._raise(first, second, rooms[0])
            self._raise(second, first, rooms[1])
        self._lower(first, second, rooms[1])
        self._lower(second, first, rooms[0])

    def _divide(self, layer: Layer) -> None:
        """The place of a sum and that of its quotient."""
        terms = math.prod(layer.attributes["kernel"])
        source, result = self._value(self.places[layer.inputs[0]]), self._value((layer.name, "result"))
        up = MAX_DIVIDEND - 1 - source.bits - math.ceil(math.log2(terms))
        self._lower(source, result, MAX_DIVIDE_SHIFT)
        self._lower(result, source, min(MAX_DIVIDE_SHIFT, up))

    def _linear(self, layer: Layer) -> None:
        if (layer.name, "bias") in self.stored:
            terms = math.prod(self.graph.parameter(layer, "weight").shape[1:])
            products = self._parameter((layer.name, "weight"), (layer.name, "operand"), terms)
            self._meet(products, self._parameter((layer.name, "bias")))

    def _batch_norm(self, layer: Layer) -> None:
        name, x = layer.name, self.places[layer.inputs[0]]
        if self.design.batch_norm == "staged":  # the first stage's sum is multiplied
            room = MAX_ACCUMULATOR - self.formats[name, "reciprocal_deviation"].word_length
            self._meet(self._value(x), self._parameter((name, "negative_mean")), room)
            self._meet(
                self._parameter((name, "gamma"), (name, "normalized")), self._parameter((name, "beta"))
            )
        else:
            self._meet(self._parameter((name, "scale"), x), self._parameter((name, "offset")))

    def _affine(self, layer: Layer) -> None:
        name, x = layer.name, self.places[layer.inputs[0]]
        if "offset" not in layer.parameters:
            return
        scaled = self._parameter((name, "scale"), x) if "scale" in layer.parameters else self._value(x)
        self._meet(scaled, self._parameter((name, "offset")))

    def run(self) -> Formats:
        before = None
        while before != self.formats:  # what a layer moves may be another's too
            before = dict(self.formats)
            self._once()
            self.first = False
        return self.formats

    def _once(self) -> None:
        folded = set()
        for layer in self.graph.layers:
            if layer.name in folded:
                continue
            if layer.family == "product":
                self._linear(layer)
            elif layer.op == "batch_norm":
                self._batch_norm(layer)
            elif layer.op == "affine":
                self._affine(layer)
            elif layer.op == "prelu":
                x = self.places[layer.inputs[0]]
                self._meet(self._value(x), self._parameter((layer.name, "slope"), x))
            elif layer.op in ("add", "subtract", "maximum", "minimum"):
                first, second = (self.places[name] for name in layer.inputs)
                self._meet(self._value(first), self._value(second))
            elif layer.op == "average_pool" and self.design.average_pool == "division":
                self._divide(layer)
            own = (layer.name, "result")
            self.places[layer.name] = own if own in self.formats else self.places[layer.inputs[0]]
            bn = folded_batch_norm(self.graph, layer, self.design)
            if bn is not None:
                folded.add(bn.name)
                self.places[bn.name] = own


def settled(graph: Graph, formats: Formats, stored: Mapping[Key, Stored], design: Design) -> Formats:
    """Formats in which no sum of two terms has more than 64 bits because they are far apart.

    A place of which a term is made loses fraction bits where need be, channel by channel if it has a binary
    point for each, also if it shared them with others; a channel of zeros takes whatever its neighbour needs.
    Reckoned from word lengths, not from stored integers: for networks that need it.

    Args:
        graph: the network.
        formats: of every quantized place.
        stored: the parameters under the design's form of batch normalization.
        design: the form.
    """
    return _Settler(graph, formats, stored, design).run()
