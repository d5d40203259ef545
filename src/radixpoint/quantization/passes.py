"""Formats are settled where they have to be; then the network is lowered in them."""

from __future__ import annotations

from collections.abc import Mapping

from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.quantization.design import Design
from radixpoint.quantization.lower import ParameterCache, lower
from radixpoint.quantization.settle import settled
from radixpoint.quantization.sites import Formats, Key, Stored


def settle_and_lower(
    graph: Graph,
    formats: Formats,
    stored: Mapping[Key, Stored],
    design: Design,
    cache: ParameterCache | None = None,
) -> IntGraph:
    """The network in these formats, or where one of its sums does not fit 64 bits, in settled ones.

    The arguments are those of ``radixpoint.quantization.lower.lower``. Settled formats are reckoned from word
    lengths, lowering from the integers that are stored: most networks fit as they are and keep their formats.

    Raises:
        DesignError: an exact result would need more than 64 bits, or a layer cannot take its formats.
    """
    cache = cache or ParameterCache()
    try:
        return lower(graph, formats, stored, design, cache)
    except DesignError:
        moved = settled(graph, formats, stored, design)
        if moved == formats:
            raise
        return lower(graph, moved, stored, design, cache)
