"""Terms of a sum that are too far apart for it: the finer one gives up bits that count for nothing.

An exact sum has the binary point of its finer term. Where training has all but switched a channel off, a
factor of 1e-20 beside an offset of 1 makes a sum of 100 bits. Stored with fewer fraction bits, in the end as
zero, such a term changes the sum by less than 2**-30 of the coarser term's last place (words of 16 bits), and
the sum stays within :data:`radixpoint.formats.MAX_ACCUMULATOR` bits. All other formats are left as they are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radixpoint.design import Design
from radixpoint.formats import MAX_ACCUMULATOR
from radixpoint.ir import Graph, Layer
from radixpoint.sites import Formats, Key, Stored, folded_batch_norm


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
        self.formats = dict(formats)
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
        values = self.stored[place].values
        rows = values.reshape(len(self._fractions(place)), -1)  # one, or one a channel
        zero = ~np.asarray(rows.any(1))
        beside, bits = np.zeros(1, np.int64), self._bits(place)
        if times is not None:
            beside, bits = self._fractions(times), bits + self._bits(times) + math.ceil(math.log2(terms))
        return _Term(place, beside, bits, zero)

    def _move(self, term: _Term, other: _Term, bits: int, zeros: bool) -> None:
        """Move the place of ``term`` to where each of the two, aligned with the other, has ``bits`` - 1 bits.

        ``zeros``: only where the term is zero, either way; else downwards only.
        """
        own, room = self._fractions(term.place), bits - 2
        theirs = self._fractions(other.place) + other.beside - term.beside
        most = theirs + room - other.bits
        if zeros:
            moved = np.where(term.zero, np.clip(own, theirs - room + term.bits, most), own)
        else:
            moved = np.minimum(own, most)
        if len(own) == 1:
            moved = moved.min(keepdims=True)
        if not np.array_equal(moved, own):
            self.formats[term.place] = dataclasses.replace(
                self.formats[term.place], fraction_lengths=tuple(moved.tolist())
            )

    def _meet(self, first: _Term, second: _Term, bits: int = MAX_ACCUMULATOR) -> None:
        for zeros in (True, False):  # what costs nothing comes first
            self._move(first, second, bits, zeros)
            self._move(second, first, bits, zeros)

    def _linear(self, layer: Layer) -> None:
        if (layer.name, "bias") in self.stored:
            terms = math.prod(self.graph.parameter(layer, "weight").shape[1:])
            products = self._parameter((layer.name, "weight"), (layer.name, "operand"), terms)
            self._meet(products, self._parameter((layer.name, "bias")))

    def _batch_norm(self, layer: Layer) -> None:
        name, x = layer.name, self.places[layer.inputs[0]]
        if self.design.batch_norm == "affine":
            self._meet(self._parameter((name, "scale"), x), self._parameter((name, "offset")))
            return
        # the first stage's sum is multiplied
        room = MAX_ACCUMULATOR - self.formats[name, "reciprocal_deviation"].word_length
        self._meet(self._value(x), self._parameter((name, "negative_mean")), room)
        self._meet(self._parameter((name, "gamma"), (name, "normalized")), self._parameter((name, "beta")))

    def run(self) -> Formats:
        folded = set()
        for layer in self.graph.layers:
            if layer.name in folded:
                continue
            if layer.op in ("conv", "fc"):
                self._linear(layer)
            elif layer.op == "batch_norm":
                self._batch_norm(layer)
            elif layer.op == "add":
                first, second = (self.places[name] for name in layer.inputs)
                self._meet(self._value(first), self._value(second))
            own = (layer.name, "result")
            self.places[layer.name] = own if own in self.formats else self.places[layer.inputs[0]]
            bn = folded_batch_norm(self.graph, layer, self.design)
            if bn is not None:
                folded.add(bn.name)
                self.places[bn.name] = own
        return self.formats


def settled(graph: Graph, formats: Formats, stored: Mapping[Key, Stored], design: Design) -> Formats:
    """Formats in which no sum of two terms has more than 64 bits because they are far apart.

    A place of which a term is made loses fraction bits where need be, channel by channel if it has a binary
    point for each; a channel of zeros takes whatever its neighbour needs.

    Args:
        graph: the network.
        formats: of every quantized place.
        stored: the parameters under the design's form of batch normalization.
        design: the form.
    """
    return _Settler(graph, formats, stored, design).run()
