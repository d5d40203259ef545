"""Compares the native engine with the reference, on every instruction set here, over so many outputs.

    python benchmarks/exactness.py [--outputs 1e9] [--seed 0]

Convolutions of random shape, word lengths 2 to 16, operands random or all at an end, each with a cast, a
scale, an offset, a cast, a ReLU and a cast behind it. Counts every integer of the sums and of the result that
was compared; stops with exit status 1 at the first that differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.engines import NativeEngine, ReferenceEngine, instruction_sets
from radixpoint.ir.network import IntGraph, IntParameter, verify

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from test_steps import Chain

SHAPES = (  # kernel, strides, pads, groups
    ((1, 1), (1, 1), (0, 0, 0, 0), 1),
    ((1, 1), (2, 2), (0, 0, 0, 0), 1),
    ((3, 3), (1, 1), (1, 1, 1, 1), 1),
    ((3, 3), (2, 2), (1, 1, 1, 1), 1),
    ((7, 7), (2, 2), (3, 3, 3, 3), 1),
    ((3, 3), (1, 1), (1, 1, 1, 1), 4),
    ((3, 3), (1, 1), (1, 1, 1, 1), 0),  # depthwise
)


def some(random: np.random.Generator, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    match random.integers(6):
        case 0:
            return np.full(shape, low)
        case 1:
            return np.full(shape, high)
        case 2:
            return random.choice([low, high], shape)
        case _:
            return random.integers(low, high + 1, shape)


def network(random: np.random.Generator) -> tuple[IntGraph, np.ndarray, str]:
    """A network, its images, and the name of its sums."""
    kernel, strides, pads, groups = SHAPES[random.integers(len(SHAPES))]
    channels = 3 if kernel == (7, 7) else 4 * int(random.integers(1, 24))
    outputs = channels if groups == 0 else 4 * int(random.integers(1, 40))
    groups = groups or channels
    size = (64, 63) if channels * kernel[0] < 64 else (33, 30)
    x_bits, w_bits, bn = (int(b) for b in random.integers(2, 17, 3))
    chain = Chain(x_bits, 3, (channels, *size))
    weight = some(random, w_bits, (outputs, channels // groups, *kernel))
    chain.step(
        "conv",
        {"strides": strides, "pads": pads, "dilations": (1, 1), "groups": groups},
        weight=IntParameter(weight, TensorFormat(True, w_bits, (4,))),
    )
    sums, places = chain.last, chain.tensors[chain.last].format.word_length
    chain.cast(TensorFormat(True, bn, (7 - max(0, places - bn - 4),)))
    for op, role in (("scale", "factor"), ("offset", "value")):
        values = some(random, bn, (outputs, 1, 1))
        chain.step(op, **{role: IntParameter(values, TensorFormat(True, bn, (bn - 2,)))})
    chain.cast(TensorFormat(True, bn, (chain.tensors[chain.last].format.fraction_lengths[0] - bn,)))
    chain.step("clamp", {"low": 0, "high": (1 << (bn - 1)) - 1})
    chain.cast(TensorFormat(True, x_bits, (chain.tensors[chain.last].format.fraction_lengths[0] - 1,)))
    graph = IntGraph("x", chain.tensors, tuple(chain.steps), chain.last, chain.parameters, {})
    verify(graph)
    return graph, np.stack([some(random, x_bits, (channels, *size)) for _ in range(4)]), sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--outputs", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    usable = [name for name, here in instruction_sets().items() if here]
    seen: Counter[str] = Counter()
    networks, started = 0, time.time()
    while seen.total() < arguments.outputs:
        graph, images, sums = network(random)
        expected = ReferenceEngine(graph).run(images, [sums, graph.output])
        for name in usable:
            engine = NativeEngine(graph, instruction_set=name)
            kept = engine.run(images, [sums])
            for tensor, value in ((sums, kept[sums]), (graph.output, engine.run(images)[graph.output])):
                if not np.array_equal(value, expected[tensor]):
                    wrong = int(np.count_nonzero(value != expected[tensor]))
                    print(f"{name}: {wrong} integers of {tensor} differ, network {networks}", flush=True)
                    sys.exit(1)
                seen[name] += value.size
        networks += 1
        if networks % 100 == 0:
            print(
                f"{networks} networks, {seen.total():.3g} outputs, {time.time() - started:.0f} s", flush=True
            )
    print(f"{seen.total():,} outputs of {networks} networks compared, none differs: {dict(seen)}")


if __name__ == "__main__":
    main()
