"""Steps that only move elements, as runs of elements that stay side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.ops import SELECTED

Ints = NDArray[np.int64]


def moves(network: IntGraph, step: Step) -> tuple[Ints, Ints, int]:
    """Where a result's elements come from.

    Args:
        network: of the step.
        step: a flatten, a select or a rearrange.

    Returns:
        Starts (-1 for what is filled) and lengths of runs, in elements of the source, channels last, in the
        order of the result, channels last; and what fills.
    """
    source, result = (network.tensors[name].shape for name in (step.inputs[0], step.name))
    fill = 0
    numbers: NDArray[np.int64] = np.arange(int(np.prod(source)), dtype=np.int64)
    if len(source) == 3:  # in memory, channels last
        numbers = np.asarray(numbers.reshape(*source[1:], source[0]).transpose(2, 0, 1))
    if step.op == "select":
        fill = step.attributes["fill"]
        for axis, name in enumerate(SELECTED):
            indices = np.array(step.attributes[name], np.int64)
            if len(indices):
                shape = [1] * numbers.ndim
                shape[axis] = -1
                taken = np.take(numbers, np.maximum(indices, 0), axis)
                numbers = np.where((indices < 0).reshape(shape), -1, taken)
    elif step.op == "rearrange":
        split, order = step.attributes["split"], step.attributes["order"]
        numbers = numbers.reshape(split).transpose(order)
    numbers = numbers.reshape(result)
    flat = (numbers.transpose(1, 2, 0) if len(result) == 3 else numbers).reshape(-1)
    filled = flat < 0
    goes_on = np.where(filled[1:], filled[:-1], ~filled[:-1] & (flat[1:] == flat[:-1] + 1))
    begins = np.flatnonzero(np.concatenate([[True], ~goes_on]))
    lengths = np.diff(np.append(begins, len(flat)))
    return flat[begins].copy(), lengths, fill
