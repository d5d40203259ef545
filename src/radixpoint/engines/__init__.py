"""Engines: what runs a network.

``floating`` runs a ``Graph`` in float32 (the accuracy baseline). The others run an ``IntGraph`` and give the
same integers, always: ``reference`` is the definition, ``blas`` is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radixpoint.arith import quantize
from radixpoint.engines.blas import BlasEngine
from radixpoint.engines.reference import ReferenceEngine
from radixpoint.ir import IntGraph


class Engine(Protocol):
    """Runs one IntGraph. ``images`` are stored integers (int64, batch first) in the input's format."""

    def run(
        self, images: NDArray[np.int64], keep: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Stored integers of the tensors in ``keep`` (default: the output), int64, batch first."""
        ...


ENGINES: Mapping[str, Callable[[IntGraph], Engine]] = {
    "reference": ReferenceEngine,
    "blas": BlasEngine,
}


def quantize_images(graph: IntGraph, inputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Network input (real values, batch first) to stored integers of the input's format (RND, SAT)."""
    return quantize(inputs, graph.tensors[graph.input].format.channel(0))


__all__ = ["ENGINES", "BlasEngine", "Engine", "ReferenceEngine", "quantize_images"]
