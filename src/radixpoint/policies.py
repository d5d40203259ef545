"""Policies: which designs a search tries. Each makes a design of two word lengths, those of the two classes.

All stand on the same footing: the same network, images, limit and search. ``docs/representations.md`` says
what each is, what its hardware does, and where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from radixpoint.allocate import product_layers
from radixpoint.design import Design
from radixpoint.errors import DesignError
from radixpoint.ir import Graph

Options = Mapping[str, Any]
DECIBELS_A_BIT = 20 * math.log10(2)
"""What one more bit adds to the SQNR of a uniform quantizer that does not saturate."""


@dataclass(frozen=True)
class Policy:
    """One representation.

    Attributes:
        about: what it is, in a line.
        design: of (convolutions' word length, batch normalization's, further fields of the design, network).
    """

    about: str
    design: Callable[[int, int, Options, Graph], Design]


def exponent_bits(word_length: int) -> int:
    """Of a short floating-point format: E2M1 at 4 bits, E3M2 at 6, E4M3 at 8.

    As in the OCP Microscaling Formats specification 1.0, section 5.3.
    """
    return max(1, min(4, word_length // 2))


def sqnr_lengths(graph: Graph, word_length: int) -> dict[str, int]:
    """Word length of each layer that minimises all weights' bits at a given SQNR of the network.

    Lin et al., "Fixed Point Quantization of Deep Convolutional Networks", 2016, equation 12: two layers'
    lengths differ by 10 log10 of the ratio of their numbers of weights, over the decibels a bit. The layer
    with most weights has ``word_length``; lengths are rounded to nearest.
    """
    layers = product_layers(graph)
    most = max(one.weights for one in layers.values())
    return {
        name: word_length + math.floor(10 * math.log10(most / one.weights) / DECIBELS_A_BIT + 0.5)
        for name, one in layers.items()
    }


def _joint(conv: int, bn: int, options: Options, graph: Graph) -> Design:
    return Design.joint(conv, **options)


def _separate(conv: int, bn: int, options: Options, graph: Graph) -> Design:
    return Design.separate(conv, bn, **options)


def _with(**changes: Any) -> Callable[[int, int, Options, Graph], Design]:
    """Separate word lengths with other fields; those of a structure are changed one by one."""

    def design(conv: int, bn: int, options: Options, graph: Graph) -> Design:
        merged = dict(options)
        for name, change in changes.items():
            value = change(conv) if callable(change) else change
            if name == "binary_point":
                value = {**msgspec.to_builtins(merged.get(name, {})), **value}
            merged[name] = value
        return Design.separate(conv, bn, **merged)

    return design


def _floating(*kinds: str) -> Callable[[int], dict[str, Any]]:
    return lambda w: {kind: {"kind": "float", "exponent_bits": exponent_bits(w)} for kind in kinds}


def _sqnr(conv: int, bn: int, options: Options, graph: Graph) -> Design:
    lengths = sqnr_lengths(graph, conv)
    layers = {name: {"weights": w, "activations": w} for name, w in lengths.items()}
    if max(lengths.values()) > bn:
        raise DesignError(
            f"policy sqnr: the smallest layer would need {max(lengths.values())} bits "
            f"when the largest has {conv}"
        )
    return Design.separate(conv, bn, **{**options, "layers": layers})


def _coded(kind: str) -> dict[str, Any]:
    return {"codes": {"weights": {"kind": kind}, "activations": {"kind": kind}}}


POLICIES: Mapping[str, Policy] = {
    "joint": Policy("one word length everywhere", _joint),
    "separate": Policy("convolutions and batch normalization apart (Kang 2018)", _separate),
    "uniform": Policy(
        "separate, with one binary point for all tensors of a class", _with(binary_point={"scope": "class"})
    ),
    "dynamic": Policy(
        "separate, with a binary point for each layer's weights, operand and result "
        "(Courbariaux et al. 2015; "
        "Ristretto)",
        _with(binary_point={"scope": "tensor"}),
    ),
    "sqnr": Policy("word lengths from the layers' sizes, at equal SQNR (Lin et al. 2016)", _sqnr),
    "stochastic": Policy(
        "separate, with stochastic rounding (Gupta et al. 2015)",
        # an exactly rounded division has nothing to draw for
        _with(rounding="STOCHASTIC", parameter_rounding="STOCHASTIC", average_pool="reciprocal"),
    ),
    "float-weights": Policy(
        "short floating-point weights, fixed-point activations (Lai et al. 2017)",
        _with(codes=_floating("weights")),
    ),
    "minifloat": Policy(
        "short floating-point weights and activations (Ristretto; Kang 2019)",
        _with(codes=_floating("weights", "activations")),
    ),
    "log2": Policy("logarithms to base 2 (Miyashita et al. 2016)", _with(**_coded("log2"))),
    "log-sqrt2": Policy("logarithms to base sqrt 2 (Miyashita et al. 2016)", _with(**_coded("log_sqrt2"))),
    "codebook": Policy(
        "weights shared by k-means, fixed-point activations (Deep Compression, 2016)",
        _with(codes={"weights": {"kind": "codebook"}}),
    ),
}
"""By name. ``greedy`` and ``per-layer`` are searched otherwise, see :mod:`radixpoint.search`."""
