"""Every policy by hand: the weights 0.9, 0.3, -0.1 of a layer in 4 bits, beside a layer of up to 3.5."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import networks
from radixpoint.engines import make_engine, quantize_images
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import calibrate
from radixpoint.quantization.quantize import quantize
from radixpoint.searching.policies import POLICIES
from radixpoint.searching.strategies import LAYERED

pytestmark = pytest.mark.slow("it searches")


def network() -> Graph:
    """A 1x1 convolution of three weights, then a fully connected layer of twelve."""
    n = networks.Net(0, (3, 2, 2))
    x = n.conv("input", 1, 1, pads=(0, 0, 0, 0))
    n.arrays[f"{x}.weight"] = np.array([0.9, 0.3, -0.1], np.float32).reshape(1, 3, 1, 1)
    y = n.fc(n.simple("flatten", x), 4, 3, bias=False)
    n.arrays[f"{y}.weight"] = np.linspace(-3.5, 3.5, 12, dtype=np.float32).reshape(3, 4)
    return n.graph(y)


GRAPH = network()
RANGES = calibrate(GRAPH, networks.images(20, 0, (3, 2, 2), classes=3))


def mixed(z: int) -> int:
    """SplitMix64's output function, as docs/arithmetic.md has it."""
    m = 2**64 - 1
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & m
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & m
    return z ^ z >> 31


def drawn(element: int) -> Fraction:
    """Of the first parameter under seed 0: conversion number 2**32."""
    g, m = 0x9E3779B97F4A7C15, 2**64 - 1
    return Fraction(mixed((mixed((2**32 + 1) * g & m) + (element + 1) * g) & m), 2**64)


EXACT = [Fraction(float(np.float32(value))) for value in (0.9, 0.3, -0.1)]

# stored integers and their fraction length
BY_HAND: dict[str, tuple[list[int], int]] = {
    # 0.9 x 2^3 = 7.2 still fits -8..7: 7.2, 2.4, -0.8
    "joint": ([7, 2, -1], 3),
    "separate": ([7, 2, -1], 3),
    "dynamic": ([7, 2, -1], 3),
    "memory": ([7, 2, -1], 3),  # cut: down
    # 3.5 fits with F = 1 only, and both layers share it: 1.8, 0.6, -0.2
    "uniform": ([2, 1, 0], 1),
    # a quarter of the other layer's weights: 10 log10(4) / 6.02 = 1 bit more: 14.4, 4.8, -1.6
    "sqnr": ([14, 5, -2], 4),
    # E2M1 has 0, 1, 2, 3, 4, 6, 8, 12 halves, all below 14 goes to 12: 7.2, 2.4, -0.8
    "float-weights": ([8, 2, -1], 3),
    "minifloat": ([8, 2, -1], 3),
    # 1, 2, ... 64, up to 64 sqrt 2 = 90.5: 57.6, 19.2, -6.4; halves in the logarithm at 45.3, 22.6, 5.7
    "log2": ([64, 16, -8], 6),
    # 128, 181, 256, 362, 512, 724, 1024, up to 1218: 921.6, 307.2, -102.4; halves at 861, 304.4, 107.6
    "log-sqrt2": ([1024, 362, 0], 10),
    # sixteen clusters for three weights: each is its own mean, in 16 bits: 29491.2, 9830.4, -3276.8
    "codebook": ([29491, 9830, -3277], 15),
}


@pytest.mark.parametrize("policy", BY_HAND)
def test_weights_by_hand(policy: str) -> None:
    # a binary point a channel is asked for; a policy that has none of its own must say so
    options = {"binary_point": {"scope": "channel", "rule": "max"}}
    design = POLICIES[policy].design(4, 16, options, GRAPH)
    quantized = quantize(GRAPH, RANGES, design)
    conv, fc = (next(layer.name for layer in GRAPH.layers if layer.op == op) for op in ("conv", "fc"))
    parameter = quantized.parameters[f"{conv}/weight"]
    stored, fraction = BY_HAND[policy]
    assert parameter.data.ravel().tolist() == stored
    assert parameter.format.fraction_lengths == (fraction,)
    shared = policy in ("uniform", "dynamic")
    assert len(quantized.parameters[f"{fc}/weight"].format.fraction_lengths) == (1 if shared else 3)
    # what leaves a layer has the width of the other class, except in joint
    result = quantized.tensors[quantized.output].format
    assert result.word_length == (4 if policy == "joint" else 16)


OPERANDS: dict[str, list[int]] = {
    # 2 fits with F = 2: 4.4, -1.2, 7.6; fixed-point 2 fits with F = 1 only: 2.2, -0.6, 3.8
    "separate": [2, -1, 4],
    "float-weights": [2, -1, 4],
    "codebook": [2, -1, 4],
    # E2M1, up to 12 and all below 14: F = 2
    "minifloat": [4, -1, 8],
    # up to 64, all below 90.5: F = 5: 35.2, -9.6, 60.8; halves at 45.3, 11.3, 45.3
    "log2": [32, -8, 64],
    # up to 1024, all below 1218: F = 9: 563.2, -153.6, 972.8; halves at 609, 152.2, 861
    "log-sqrt2": [512, -181, 1024],
}


@pytest.mark.parametrize("policy", OPERANDS)
def test_operands_by_hand(policy: str) -> None:
    """Three channels of 1.1, -0.3 and 1.9, in a tensor that reaches from -2 to 2."""
    seen = replace(RANGES.tensors["input"], low=np.full(3, -2.0), high=np.full(3, 2.0))
    ranges = replace(RANGES, tensors={**RANGES.tensors, "input": seen})
    design = POLICIES[policy].design(4, 16, {"binary_point": {"scope": "tensor", "rule": "max"}}, GRAPH)
    quantized = quantize(GRAPH, ranges, design)
    image = np.broadcast_to(np.array([1.1, -0.3, 1.9], np.float32).reshape(1, 3, 1, 1), (1, 3, 2, 2))
    conv = next(step for step in quantized.steps if step.op == "conv")
    stored = quantize_images(quantized, np.ascontiguousarray(image))
    tensors = make_engine(quantized, "reference").run(stored, [step.name for step in quantized.steps])
    operand = {quantized.input: stored, **tensors}[conv.inputs[0]]
    assert operand[0, :, 0, 0].tolist() == OPERANDS[policy]
    assert (operand == operand[:, :, :1, :1]).all()


def test_stochastic_by_hand() -> None:
    """7.2, 2.4, -0.8 go up where the draw lies below what the floor leaves; 8 saturates to 7."""
    options = {"binary_point": {"scope": "tensor", "rule": "max"}}
    design = POLICIES["stochastic"].design(4, 16, options, GRAPH)
    quantized = quantize(GRAPH, RANGES, design)
    name = next(layer.name for layer in GRAPH.layers if layer.op == "conv")
    expected = []
    for element, value in enumerate(EXACT):
        floor = value * 8 // 1
        expected.append(min(int(floor) + (drawn(element) < value * 8 - floor), 7))
    assert quantized.parameters[f"{name}/weight"].data.ravel().tolist() == expected
    assert design.rounding == "STOCHASTIC"


def test_every_policy_has_its_case() -> None:
    """``greedy`` and ``per-layer`` choose word lengths alone: tests/test_allocate.py."""
    assert {*BY_HAND, "stochastic"} == set(POLICIES)
    assert set(LAYERED) == {"greedy", "per-layer"}
