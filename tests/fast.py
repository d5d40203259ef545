"""Engines that have to equal the reference, by name: blas, native with every instruction set here, torch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from radixpoint.engines import (
    BlasEngine,
    Engine,
    NativeEngine,
    ReferenceEngine,
    instruction_sets,
    make_engine,
    usable_engines,
)
from radixpoint.engines.native.isa import native
from radixpoint.engines.native.planner import Planner
from radixpoint.ir.network import IntGraph
from radixpoint.measure.evaluate import first_mismatch

USABLE = [name for name, usable in instruction_sets().items() if usable]
DEVICES: list[str] = []
"""Names of the engine on tensors for each device here."""
if "torch" in usable_engines():
    import torch

    DEVICES += ["torch", *(["torch:cuda"] if torch.cuda.is_available() else [])]


def fewer_products(graph: IntGraph, name: str) -> list[str]:
    """Steps that an instruction set can compute both ways."""
    isa = next(isa for isa in native.instruction_sets() if isa.name == name)
    planner = Planner(graph, set(), isa.byte_dot, isa.saturates)
    return [step.name for step in graph.steps if isa.winograd and planner.squares_fit(step)]


def fast_engines(graph: IntGraph, threads: int = 0) -> Iterator[tuple[str, Engine]]:
    yield "blas", BlasEngine(graph, threads)
    for name in USABLE:
        yield name, NativeEngine(graph, threads, name, winograd=False)
        if fewer_products(graph, name):
            yield f"{name}, Winograd", NativeEngine(graph, threads, name, winograd=True)
    for device in DEVICES:
        yield device, make_engine(graph, device, threads or 1)  # its threads spin while they wait


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
