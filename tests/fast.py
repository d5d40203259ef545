"""The engines that have to equal the reference, by name: BLAS, and native with every instruction set here."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from radixpoint.engines import BlasEngine, Engine, NativeEngine, ReferenceEngine, instruction_sets
from radixpoint.ir.network import IntGraph
from radixpoint.measure.evaluate import first_mismatch

USABLE = [name for name, usable in instruction_sets().items() if usable]


def fast_engines(graph: IntGraph, threads: int = 0) -> Iterator[tuple[str, Engine]]:
    yield "blas", BlasEngine(graph, threads)
    for name in USABLE:
        yield name, NativeEngine(graph, threads, name)


def agree(graph: IntGraph, stored: np.ndarray) -> None:
    """Every engine == the reference: on every tensor, all kept; on the output alone, all fused; on a few."""
    reference = ReferenceEngine(graph)
    expected = reference.run(stored, list(graph.tensors))
    some = [name for i, name in enumerate(graph.tensors) if i % 7 == 3]
    for name, engine in fast_engines(graph):
        assert first_mismatch(graph, reference, engine, stored) is None, name
        assert np.array_equal(engine.run(stored)[graph.output], expected[graph.output]), name
        for kept, value in engine.run(stored, some).items():
            assert np.array_equal(value, expected[kept]), (name, kept)
