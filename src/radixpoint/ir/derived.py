"""Networks made of a network: with other parameters or formats, or a part of one. Ranges are proven again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, derived_tensor


def with_parameters(
    network: IntGraph,
    parameters: Mapping[str, IntParameter],
    formats: Mapping[str, TensorFormat] | None = None,
) -> IntGraph:
    """The network with other parameters, and other results of its casts: all ranges are derived again.

    Not verified.

    Args:
        network: whose steps stay.
        parameters: in place of its own, by name.
        formats: of results of steps that round, by step.

    Raises:
        GraphError: the operands of a step do not fit.
        FormatError: an exact result would need more than 64 bits.
    """
    merged = {**network.parameters, **parameters}
    tensors: dict[str, IntTensor] = {network.input: network.tensors[network.input]}
    for step in network.steps:
        old = network.tensors[step.name]
        inputs = [tensors[name] for name in step.inputs]
        own = {role: merged[key] for role, key in step.parameters.items()}
        to = (formats or {}).get(step.name, old.format) if step.row.rounds else None
        tensors[step.name] = derived_tensor(step.op, step.attributes, inputs, own, old.layer, old.value, to)
    return replace(network, tensors=tensors, parameters=merged)


def part(network: IntGraph, start: str, ends: Collection[str]) -> IntGraph:
    """The steps that lead from one tensor to others, as a network of their own.

    It takes any stored integer of the format of ``start``, so its accumulators may be wider than the whole
    network's. Not verified: its result need not be a vector.

    Args:
        network: the whole.
        start: name of the tensor that comes in; nothing before it is needed.
        ends: names of those that come out.
    """
    needed, steps = set(ends), []
    for step in reversed(network.steps):
        if step.name in needed and step.name != start:
            needed.update(step.inputs)
            steps.append(step)
    steps.reverse()
    first = network.tensors[start]
    first = replace(first, low=first.format.min, high=first.format.max)
    tensors = {start: first, **{step.name: network.tensors[step.name] for step in steps}}
    keys = {key for step in steps for key in step.parameters.values()}
    parameters = {key: network.parameters[key] for key in keys}
    result, *others = ends
    return with_parameters(IntGraph(start, tensors, tuple(steps), result, parameters, {}, tuple(others)), {})
