"""What every engine checks before it runs: the network, and what it is given to run on."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radixpoint.errors import EngineError
from radixpoint.ir.network import IntGraph

MAX_THREADS = 1024
"""Of an engine; more are a mistake."""


def check_threads(threads: int) -> int:
    """The number of threads asked for.

    Raises:
        EngineError: fewer than 0 (all cores) or more than ``MAX_THREADS``.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise EngineError(f"{threads} threads: expected 0 (all cores) to {MAX_THREADS}")
    return threads


def check_steps(engine: str, network: IntGraph, steps: Collection[str]) -> None:
    """Refuse a network with steps that an engine does not take, before any work.

    Args:
        engine: its name.
        network: what is to run.
        steps: names of those that it takes.

    Raises:
        EngineError: one that it does not take, and those that are expected.
    """
    for step in network.steps:
        if step.op not in steps:
            raise EngineError(
                f"engine {engine}: step {step.name!r} is a {step.op}: expected {', '.join(sorted(steps))}"
            )


def check_run(
    network: IntGraph, images: ArrayLike, keep: Collection[str] | None
) -> tuple[NDArray[np.int64], set[str]]:
    """Stored integers to run on, as int64, and the tensors to keep.

    Args:
        network: what runs.
        images: stored integers of its input, batch first.
        keep: names of tensors, or None for the output.

    Raises:
        EngineError: another type or shape, integers outside the input's range, or a name of no tensor.
    """
    given = np.asarray(images)
    tensor = network.tensors[network.input]
    if given.dtype.kind not in "iu":
        raise EngineError(f"images are {given.dtype}: expected stored integers")
    if given.ndim != len(tensor.shape) + 1 or given.shape[1:] != tensor.shape or not len(given):
        raise EngineError(
            f"images of shape {given.shape}: expected at least one of {tensor.shape}, batch first"
        )
    low, high = int(given.min()), int(given.max())
    if low < tensor.low or high > tensor.high:
        raise EngineError(f"stored integers {low}..{high}: expected {tensor.low}..{tensor.high}")
    if isinstance(keep, str):
        raise EngineError(f"tensors to keep: {keep!r}: expected a collection of names")
    wanted = set(network.outputs) if keep is None else set(keep)
    if unknown := wanted - set(network.tensors):
        raise EngineError(f"tensor {min(map(str, unknown))!r}: expected names of the network's tensors")
    return given.astype(np.int64, copy=False), wanted
