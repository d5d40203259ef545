"""Policies: which designs a search tries. Each makes a design of two word lengths, those of the two classes.

All stand on the same footing: the same network, images, limit and search. ``docs/representations.md`` says
what each is, what its hardware does, and where it comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from radixpoint.arithmetic.formats import MAX_STORED, Rounding
from radixpoint.errors import DesignError
from radixpoint.ir.domains import MAX_TABLE
from radixpoint.ir.graph import Graph
from radixpoint.quantization.codes import operand_grid, weight_grid
from radixpoint.quantization.design import Design, Widths
from radixpoint.searching.allocate import product_layers

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
    most = max(own.weights for own in layers.values())
    return {
        name: min(
            MAX_STORED, word_length + math.floor(10 * math.log10(most / own.weights) / DECIBELS_A_BIT + 0.5)
        )
        for name, own in layers.items()
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


def _uniform(conv: int, bn: int, options: Options, graph: Graph) -> Design:
    """Shared binary points; by least loss unless the user has chosen a rule that scopes may share."""
    given = dict(msgspec.to_builtins(options.get("binary_point", {})))
    if given.get("rule", "sqnr") == "sqnr":
        given["rule"] = "loss"
    return Design.separate(conv, bn, **{**options, "binary_point": {**given, "scope": "class"}})


def _sqnr(conv: int, bn: int, options: Options, graph: Graph) -> Design:
    lengths = sqnr_lengths(graph, conv)
    layers = {name: {"weights": w, "activations": w} for name, w in lengths.items()}
    return Design.separate(conv, bn, **{**options, "layers": layers})


def _memory(conv: int, bn: int, options: Options, graph: Graph) -> Design:
    """Short where a number lies in memory: weights, operands, sums of branches, pooled tensors."""
    cut = {"rounding": Rounding.TRN, "parameter_rounding": Rounding.TRN}
    design = Design.separate(conv, bn, **{**options, **cut})
    return replace(
        design, classes={**design.classes, **dict.fromkeys(("add", "pool"), Widths(activations=conv))}
    )


def _coded(kind: str) -> dict[str, Any]:
    return {"codes": {"weights": {"kind": kind}, "activations": {"kind": kind}}}


POLICIES: Mapping[str, Policy] = {
    "joint": Policy("one word length everywhere", _joint),
    "separate": Policy("convolutions and batch normalization apart (Kang 2018)", _separate),
    "uniform": Policy(
        "separate, with one binary point for all tensors of a class (default rule: loss)", _uniform
    ),
    "dynamic": Policy(
        "separate, with a binary point for each layer's weights, operand and result "
        "(Courbariaux et al. 2015; Ristretto)",
        _with(binary_point={"scope": "tensor"}),
    ),
    "sqnr": Policy("word lengths from the layers' sizes, at equal SQNR (Lin et al. 2016)", _sqnr),
    "stochastic": Policy(
        "separate, with stochastic rounding (Gupta et al. 2015)",
        _with(rounding="STOCHASTIC", parameter_rounding="STOCHASTIC", average_pool="reciprocal"),
    ),
    "memory": Policy("cut where it is stored, wide where it is computed (Deng et al. 2015)", _memory),
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
"""By name. ``greedy`` and ``per-layer`` are searched otherwise, see ``radixpoint.searching``."""


def check_policy(policy: str, lengths: Sequence[int], bn: int, options: Options, graph: Graph) -> None:
    """See that a policy has a design at both ends of the word lengths.

    Those by layer (``radixpoint.searching.allocate``) start from the designs of ``separate``.

    Raises:
        DesignError: it has none there.
    """
    for word_length in (min(lengths), max(lengths)):
        try:
            design = POLICIES.get(policy, POLICIES["separate"]).design(word_length, bn, options, graph)
            for layer in graph.layers:
                if layer.family == "product":
                    weight_grid(design, layer.name, layer.op)
                    for signed in (True, False):
                        operand_grid(design, layer.name, layer.op, signed)
            if design.codes.activations is not None and 1 << bn > MAX_TABLE:
                raise DesignError(
                    f"batch normalization of {bn} bits: expected at most {MAX_TABLE.bit_length() - 1}, since "
                    "coded activations are looked up from its results"
                )
        except DesignError as error:
            raise DesignError(
                f"policy {policy} at {word_length} bits, batch normalization at {bn}: {error}"
            ) from None
