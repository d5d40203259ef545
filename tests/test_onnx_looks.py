"""What a viewer of the exported ONNX models shows: names, formats, types; and that those are true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import exports
import networks
from radixpoint.engines import ReferenceEngine
from radixpoint.export import export_network
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Plan

CASES = [
    (networks.residual, {}),
    (networks.mixed, {"binary_point": {"scope": "channel", "rule": "max"}, "unsigned": True}),
    (networks.varied, {}),
]


def written(
    graph: Graph, options: dict[str, Any], target: str, folder: Path
) -> tuple[IntGraph, onnx.ModelProto]:
    network = exports.quantized(graph, **options)
    export_network(network, target, folder / target)
    (path,) = (folder / target).glob("*.onnx")
    return network, onnx.load(str(path))


@pytest.mark.parametrize("target", ["onnx", "qonnx"])
@pytest.mark.parametrize(("make", "options"), CASES, ids=["residual", "mixed", "varied"])
def test_nodes_are_named_after_layers(
    make: Any, options: dict[str, Any], target: str, tmp_path: Path
) -> None:
    network, model = written(make(), options, target, tmp_path)
    onnx.checker.check_model(model, full_check=target == "onnx")
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    steps = {step.name for step in network.steps}
    assert steps <= set(names)
    assert all(name in steps or name.rpartition("/")[0] in steps for name in names)
    said = {node.name: node.doc_string for node in model.graph.node if node.doc_string}
    assert set(said) == steps
    for name, text in said.items():
        tensor = network.tensors[name]
        assert text == f"layer {tensor.layer}: {tensor.format}, stored integers {tensor.low} .. {tensor.high}"
    about = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(about["formats"]) == {n: str(t.format) for n, t in network.tensors.items()}
    assert json.loads(about["design"])["classes"]["conv"]
    shapes = {
        info.name: [d.dim_value for d in info.type.tensor_type.shape.dim][1:]
        for info in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    known = Plan(network).identifiers
    assert shapes == {known[name]: list(tensor.shape) for name, tensor in network.tensors.items()}


@pytest.mark.parametrize(("make", "options"), CASES, ids=["residual", "mixed", "varied"])
def test_qonnx_knows_the_types(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Every value is one of its annotated type, and a type is no longer than it has to be."""
    wrapper = pytest.importorskip("qonnx.core.modelwrapper")
    network, model = written(make(), options, "qonnx", tmp_path)
    wrapped, known = wrapper.ModelWrapper(model), Plan(network).identifiers
    values = ReferenceEngine(network).run(exports.example_images(network, 2), list(network.tensors))
    fixed = 0
    for name, tensor in network.tensors.items():
        kind, form = wrapped.get_tensor_datatype(known[name]), tensor.format
        assert kind.bitwidth() - form.word_length in (0, 1)
        assert (kind.bitwidth() > form.word_length) <= (not form.signed)
        if kind.is_fixed_point() or kind.is_integer():
            fixed += 1
            real = np.ldexp(values[name].astype(float), -form.fraction_lengths[0])
            assert np.all(kind.allowed(real))
            assert kind.max() >= form.max * 2.0 ** -form.fraction_lengths[0]
        else:
            assert form.per_channel or form.fraction_lengths[0] < 0
    assert fixed
    for key, parameter in network.parameters.items():
        name = Plan(network).parameter_names[key]
        if any(node.output[0] == name for node in model.graph.node):
            assert wrapped.get_tensor_datatype(name).bitwidth() >= parameter.format.word_length
