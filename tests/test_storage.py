"""An IntGraph survives its file; verify() rejects a broken one, wherever it is broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import networks
from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.errors import GraphError, ModelError, RunError
from radixpoint.ir.network import IntGraph, IntParameter, Step, verify
from radixpoint.ir.storage import load_network, save_network
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

GRAPH = networks.residual()
RANGES = networks.calibrated(GRAPH)
GOOD = quantize(GRAPH, RANGES, Design.separate(8, 12))


@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize("scope", ["class", "channel"])
def test_round_trip(tmp_path: Path, form: str, scope: str) -> None:
    design = Design.separate(7, 13, batch_norm=form, binary_point={"scope": scope})
    graph = quantize(GRAPH, RANGES, design)
    save_network(graph, tmp_path / "a.safetensors")
    again = load_network(tmp_path / "a.safetensors")
    assert again.digest == graph.digest
    assert again.metadata == graph.metadata
    assert again.tensors == graph.tensors
    assert all(np.array_equal(again.parameters[k].data, graph.parameters[k].data) for k in graph.parameters)
    save_network(again, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def _step(graph: IntGraph, which: str, **changes) -> IntGraph:  # type: ignore[no-untyped-def]
    index = next(i for i, s in enumerate(graph.steps) if s.op == which)
    steps = list(graph.steps)
    steps[index] = replace(steps[index], **changes)
    return replace(graph, steps=tuple(steps))


def _tensor(graph: IntGraph, op: str, **changes) -> IntGraph:  # type: ignore[no-untyped-def]
    name = next(s.name for s in graph.steps if s.op == op)
    return replace(graph, tensors={**graph.tensors, name: replace(graph.tensors[name], **changes)})


def _parameter(graph: IntGraph, op: str, change) -> IntGraph:  # type: ignore[no-untyped-def]
    step = next(s for s in graph.steps if s.op == op)
    key = next(iter(step.parameters.values()))
    old = graph.parameters[key]
    data = old.data.copy()
    return replace(graph, parameters={**graph.parameters, key: change(data, old.format)})


def _scale_up(data: np.ndarray, form: TensorFormat) -> IntParameter:
    data.flat[0] = form.max + 1
    return IntParameter(data, form)


def _one_bit_short(graph: IntGraph) -> IntGraph:
    name = next(s.name for s in graph.steps if s.op == "conv")
    form = graph.tensors[name].format
    return _tensor(graph, "conv", format=replace(form, word_length=form.word_length - 1))


BROKEN = {
    "an accumulator one bit short": (_one_bit_short, "recorded as"),
    "a range too narrow": (
        lambda g: _tensor(g, "conv", high=g.tensors[g.steps[1].name].high // 2),
        "recorded",
    ),
    "a wrong shape": (lambda g: _tensor(g, "conv", shape=(8, 5, 5)), "recorded"),
    "a weight outside its format": (lambda g: _parameter(g, "conv", _scale_up), "outside"),
    "weights that are no integers": (
        lambda g: _parameter(g, "conv", lambda d, f: IntParameter(d.astype(float), f)),
        "expected int64",
    ),
    "a weight changed after the proof": (
        lambda g: _parameter(g, "conv", lambda d, f: IntParameter(np.full_like(d, f.max), f)),
        "recorded",
    ),
    "an unknown operator": (lambda g: _step(g, "conv", op="convolve"), "unknown operator"),
    "a missing attribute": (lambda g: _step(g, "conv", attributes={}), "attributes"),
    "an unknown rounding": (
        lambda g: _step(
            g, "cast", attributes={"rounding": "NEAR", "overflow": "SAT", "stream": 0, "seed": 0}
        ),
        "NEAR",
    ),
    "an input from later": (lambda g: _step(g, "conv", inputs=(g.output,)), "before it is used"),
    "two inputs": (lambda g: _step(g, "cast", inputs=(g.input, g.input)), "2 input"),
    "a parameter missing": (
        lambda g: _step(g, "conv", parameters={"weight": "nowhere"}),
        "not in the network",
    ),
    "a tensor twice": (
        lambda g: replace(g, steps=(*g.steps, g.steps[-1])),
        "a name that no other tensor has",
    ),
    "a step lost": (lambda g: replace(g, steps=g.steps[:-1]), "not computed"),
    "a tensor that nobody computes": (
        lambda g: replace(g, tensors={**g.tensors, "ghost": g.tensors[g.input]}),
        "ghost",
    ),
    "an output that is not there": (lambda g: replace(g, output="nowhere"), "nowhere"),
    "a stored tensor of 40 bits": (
        lambda g: _tensor(g, "cast", format=TensorFormat(True, 40, (7,))),
        "at most 32",
    ),
    "binary points for other channels": (
        lambda g: _parameter(g, "conv", lambda d, f: IntParameter(d, TensorFormat(True, 8, (1, 2, 3)))),
        "3 binary points",
    ),
    "limits beyond the format": (
        lambda g: _step(g, "clamp", attributes={"low": 0, "high": 10**6}),
        "clamp to",
    ),
}


def test_the_good_one_passes() -> None:
    verify(GOOD)


@pytest.mark.parametrize("what", BROKEN)
def test_verify_rejects(what: str) -> None:
    change, message = BROKEN[what]
    with pytest.raises(GraphError, match=message):
        verify(change(GOOD))


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    save_network(_one_bit_short(GOOD), path)
    with pytest.raises(GraphError, match="recorded as"):
        load_network(path)
    save_network(GOOD, path)
    whole = path.read_bytes()
    for cut in (0, 100, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match="not a readable quantized network"):
            load_network(path)
    path.write_bytes(whole.replace(b'radixpoint_network\\":1', b'radixpoint_network\\":9'))
    with pytest.raises(ModelError, match="not a readable quantized network"):
        load_network(path)
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(ModelError, match="no quantized network"):
        load_network(path)
    with pytest.raises(ModelError):
        load_network(tmp_path / "nowhere")
    with pytest.raises(RunError, match="cannot be written"):
        save_network(GOOD, tmp_path / "no" / "folder.safetensors")


def test_a_step_is_frozen() -> None:
    with pytest.raises(AttributeError):
        GOOD.steps[0].op = "conv"  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        next(iter(GOOD.parameters.values())).data.flat[0] = 1
    assert isinstance(GOOD.steps[0], Step)
