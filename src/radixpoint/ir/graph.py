"""A trained network in real values: ``Graph``.

Shapes never include the batch axis. Axis 0 of a tensor is its channel; axis 0 of weights the output channel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import GraphError, ModelError
from radixpoint.ir.domains import MAX_STEPS, check_attributes, check_shape
from radixpoint.ir.ops import LAYERS, Attributes, Family, LayerOp, Shape
from radixpoint.tables import Chart, Row, Tabular

MALFORMED = (ValueError, TypeError, KeyError, IndexError, OverflowError)
"""What a shape rule may end in on operands that it does not expect."""


def freeze(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view of ``array``."""
    view = array.view()
    view.flags.writeable = False
    return view


def _frozen_arrays(arrays: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    return MappingProxyType({name: freeze(value) for name, value in arrays.items()})


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a network: ``op`` is a row of ``radixpoint.ir.ops.LAYERS``.

    ``parameters`` maps each role (``weight``, ``gamma``, ...) to a key of ``Graph.parameters``. The name of
    the result is the name of the layer.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Attributes
    parameters: Mapping[str, str]

    @property
    def row(self) -> LayerOp:
        """Its row of the table."""
        return LAYERS[self.op]

    @property
    def family(self) -> Family:
        """What it does to elements."""
        return LAYERS[self.op].family


@dataclass(frozen=True, slots=True, repr=False)
class Graph(Tabular):
    """A trained network with real-valued parameters (float32), one image in.

    Attributes:
        source: what it was read from, for messages only.
        input: name of the input tensor.
        shapes: shape of every tensor, without the batch axis.
        layers: in execution order.
        output: name of the result; of a classifier, the class scores.
        parameters: float32 arrays.
        other_outputs: names of further results, as of a detector.
        notes: what a user should know of the import; takes no part in anything.
    """

    source: str
    input: str
    shapes: Mapping[str, Shape]
    layers: tuple[Layer, ...]
    output: str
    parameters: Mapping[str, NDArray[np.float32]]
    other_outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", _frozen_arrays(self.parameters))
        object.__setattr__(self, "shapes", MappingProxyType(dict(self.shapes)))

    def __reduce__(self) -> tuple[Any, ...]:
        own = (self.source, self.input, dict(self.shapes), self.layers, self.output, dict(self.parameters))
        return Graph, (*own, self.other_outputs, self.notes)

    def __repr__(self) -> str:
        return f"<{self.summary()}>"

    def summary(self) -> str:
        """It in a line."""
        numbers = sum(p.size for p in self.parameters.values())
        shape = "x".join(map(str, self.shapes[self.input]))
        return f"Graph of {self.source}: {shape}, {len(self.layers)} layers, {numbers:,} parameters"

    def rows(self) -> list[Row]:
        """A row for each layer."""
        return [
            {
                "layer": layer.name,
                "operator": layer.op,
                "class": layer.row.layer_class,
                "reads": ", ".join(layer.inputs),
                "result": "x".join(map(str, self.shapes[layer.name])),
                "parameters": sum(self.parameters[key].size for key in layer.parameters.values()),
            }
            for layer in self.layers
        ]

    def chart(self) -> Chart:
        """Parameters by layer."""
        own = [row for row in self.rows() if row["parameters"]]
        counts: Any = [row["parameters"] for row in own]
        names = [str(row["layer"]) for row in own]
        return Chart(names, {"parameters": counts}, ("layer", "parameters"))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all results."""
        return (self.output, *self.other_outputs)

    @property
    def classes(self) -> int:
        """How many classes it scores.

        Raises:
            ModelError: its result is no vector of class scores.
        """
        if not self.names_classes:
            results = ", ".join(f"{name!r} {self.shapes[name]}" for name in self.outputs)
            raise ModelError(
                f"{self.source}: its results are {results}: expected one vector of class scores, which top-1 "
                "and top-5 are judged by"
            )
        return self.shapes[self.output][0]

    @property
    def names_classes(self) -> bool:
        """Whether its result is one vector, of class scores."""
        return len(self.shapes[self.output]) == 1 and not self.other_outputs

    def parameter(self, layer: Layer, role: str) -> NDArray[np.float32]:
        """The layer's parameter of that role."""
        return self.parameters[layer.parameters[role]]

    def consumers(self, tensor: str) -> tuple[Layer, ...]:
        """The layers that read ``tensor``, in execution order."""
        return tuple(layer for layer in self.layers if tensor in layer.inputs)

    def seen_by_reader(self, tensor: str) -> str:
        """``tensor``, or the ReLU that alone reads it: what a ReLU cuts off needs no range."""
        consumers = self.consumers(tensor)
        if len(consumers) == 1 and consumers[0].row.limits and tensor not in self.outputs:
            return consumers[0].name
        return tensor

    @property
    def nothing_to_separate(self) -> bool:
        """Whether it has convolutions, but no batch normalization: an exporter may have folded it."""
        ops = {layer.op for layer in self.layers}
        return "conv" in ops and "batch_norm" not in ops

    @property
    def digest(self) -> str:
        """SHA-256 of everything that determines the network's results; names of layers included."""
        content = hashlib.sha256()
        structure = [
            self.input,
            self.output,
            self.shapes[self.input],
            [[x.name, x.op, x.inputs, dict(x.attributes), dict(x.parameters)] for x in self.layers],
            *([self.other_outputs] if self.other_outputs else []),
        ]
        content.update(json.dumps(structure, sort_keys=True).encode())
        for name in sorted(self.parameters):
            value = np.ascontiguousarray(self.parameters[name])
            content.update(f"{name} {value.dtype} {value.shape}".encode())
            content.update(value.tobytes())
        return content.hexdigest()


def build_graph(
    source: str,
    input_name: str,
    input_shape: Shape,
    layers: Sequence[Layer],
    output: str,
    parameters: Mapping[str, NDArray[np.float32]],
    other_outputs: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Graph:
    """Infer every shape, assemble a ``Graph`` and verify it.

    Raises:
        ModelError: the layers do not fit together, or a parameter holds a value no network should hold.
    """
    shapes: dict[str, Shape] = {input_name: tuple(input_shape)}
    try:
        check_shape(shapes[input_name])
    except GraphError as error:
        raise ModelError(f"{source}: its input is {error}") from None
    for layer in layers:
        row = LAYERS[layer.op]
        arrays = {role: parameters[key] for role, key in layer.parameters.items()}
        try:
            check_attributes(layer.attributes, row.attributes, stored=False)
            shapes[layer.name] = row.shape(layer.attributes, [shapes[i] for i in layer.inputs], arrays)
        except GraphError as error:
            raise ModelError(f"{source}: layer {layer.name!r}: {error}") from None
        except MALFORMED as error:
            raise ModelError(f"{source}: layer {layer.name!r}: malformed: {error}") from None
    used = {key for layer in layers for key in layer.parameters.values()}
    graph = Graph(
        source,
        input_name,
        shapes,
        tuple(layers),
        output,
        {key: np.asarray(parameters[key], np.float32) for key in sorted(used)},
        tuple(other_outputs),
        tuple(notes),
    )
    verify_graph(graph)
    return graph


def verify_graph(graph: Graph) -> None:
    """Check a ``Graph``'s structure and values.

    Raises:
        GraphError: broken structure (a bug in whoever made it).
        ModelError: NaN or infinite parameters, or a variance that is not positive with its epsilon.
    """
    known = {graph.input}
    if graph.input not in graph.shapes:
        raise GraphError(f"input {graph.input!r} has no shape")
    check_shape(graph.shapes[graph.input])
    if len(graph.layers) > MAX_STEPS:
        raise GraphError(f"{len(graph.layers)} layers: expected at most {MAX_STEPS}")
    for layer in graph.layers:
        where = f"layer {layer.name!r}"
        if layer.op not in LAYERS:
            raise GraphError(f"{where}: unknown operator {layer.op!r}")
        row = LAYERS[layer.op]
        if layer.name in known or not layer.name:
            raise GraphError(f"{where}: expected a name that no other tensor has")
        try:
            check_attributes(layer.attributes, row.attributes, stored=False)
        except GraphError as error:
            raise GraphError(f"{where}: {error}") from None
        missing = set(row.parameters) - set(row.optional) - set(layer.parameters)
        unknown = set(layer.parameters) - set(row.parameters)
        if missing or unknown:
            raise GraphError(f"{where}: missing parameters {missing}, unknown parameters {unknown}")
        check_inputs(where, row.arity, layer.inputs, known)
        arrays = {role: graph.parameter(layer, role) for role in layer.parameters}
        inputs = [graph.shapes[i] for i in layer.inputs]
        if layer.name in known or not layer.name:
            raise GraphError(f"{where}: expected a name that no other tensor has")
        if row.shape(layer.attributes, inputs, arrays) != graph.shapes.get(layer.name):
            raise GraphError(f"{where}: recorded shape {graph.shapes.get(layer.name)} is not its shape")
        check_shape(graph.shapes[layer.name])
        if "bias" in arrays and arrays["bias"].shape != graph.shapes[layer.name][:1]:
            raise GraphError(f"{where}: bias of shape {arrays['bias'].shape}")
        for role, value in arrays.items():
            bad = int(np.count_nonzero(~np.isfinite(value)))
            if bad:
                raise ModelError(
                    f"{graph.source}: {where}: {bad} of {value.size} values of {role} are NaN or infinite"
                )
        if "variance" in arrays:
            # as the float network has it, in binary32
            power = arrays["variance"] + np.float32(layer.attributes["epsilon"])
            if not np.all(power > 0):
                channel = int(np.flatnonzero(~(power > 0))[0])
                raise ModelError(
                    f"{graph.source}: {where}: variance {arrays['variance'][channel]:g} of channel {channel} "
                    f"with epsilon {layer.attributes['epsilon']:g}: expected a positive sum"
                )
        known.add(layer.name)
    check_outputs(graph.outputs, known)


def check_outputs(outputs: Sequence[str], known: set[str]) -> None:
    """See that results are tensors, each named once."""
    for name in outputs:
        if name not in known:
            raise GraphError(f"output {name!r} is not computed")
    if len(set(outputs)) != len(outputs):
        raise GraphError(f"outputs {', '.join(map(repr, outputs))}: expected each once")


def check_inputs(where: str, arity: int | None, inputs: Sequence[str], known: set[str]) -> None:
    if not inputs or (arity is not None and len(inputs) != arity):
        raise GraphError(f"{where}: {len(inputs)} input(s), expected {arity or 'at least one'}")
    for name in inputs:
        if name not in known:
            raise GraphError(f"{where}: input {name!r} is not computed before it is used")
