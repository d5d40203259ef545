"""The table of operators x engines x targets: each row works everywhere, or is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
from radixpoint.arithmetic.cast import dequantize
from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.engines import quantize_images
from radixpoint.errors import ExportError
from radixpoint.export import TARGETS, export_network
from radixpoint.ir.graph import freeze
from radixpoint.ir.network import IntGraph, IntParameter
from radixpoint.ir.ops import LAYERS, STEPS
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from test_steps import Chain, extremes

PAGE = (Path(__file__).parents[1] / "docs" / "ops.md").read_text()
WORD, SHAPE = 8, (4, 6, 5)
WINDOW: dict[str, Any] = {"strides": (2, 1), "pads": (1, 0, 1, 1)}
CONVERSION = {"rounding": "RND", "overflow": "SAT"}


def parameter(values: np.ndarray, word: int = 8) -> IntParameter:
    return IntParameter(freeze(values.astype(np.int64)), TensorFormat(True, word, (3,)))


def stored(*shape: int) -> IntParameter:
    return parameter(np.random.default_rng(0).integers(-128, 128, shape))


def in_range(word: int = WORD) -> np.ndarray:
    return np.arange(1 << word)


STEPS_ON: dict[str, Any] = {
    "cast": lambda c: c.cast(TensorFormat(True, 5, (1,))),
    "conv": lambda c: c.step("conv", {**WINDOW, "dilations": (1, 2), "groups": 2}, weight=stored(6, 2, 3, 2)),
    "dense": lambda c: (c.step("flatten"), c.step("dense", weight=stored(7, 120))),
    "scale": lambda c: c.step("scale", factor=stored(4, 1, 1)),
    "offset": lambda c: c.step("offset", value=stored(4, 1, 1)),
    "add": lambda c: (c.step("clamp", {"low": 0, "high": 99}), c.step("add", inputs=("x", c.last))),
    "clamp": lambda c: c.step("clamp", {"low": -3, "high": 77}),
    "lookup": lambda c: c.step("lookup", {"first": -128}, table=parameter(in_range() % 100 - 50)),
    "multiply": lambda c: (
        c.step("clamp", {"low": 0, "high": 99}),
        c.step("max_pool", {"kernel": (6, 5), "strides": (1, 1), "pads": (0,) * 4}),
        c.step("multiply", inputs=("x", c.last)),
    ),
    "maximum": lambda c: (c.step("scale", factor=stored(4, 1, 1)), c.step("maximum", inputs=("x", c.last))),
    "minimum": lambda c: (c.step("scale", factor=stored(4, 1, 1)), c.step("minimum", inputs=("x", c.last))),
    "sum_channels": lambda c: c.step("sum_channels", {"size": 3}),
    "select": lambda c: c.step(
        "select", {"channels": (3, -1, 0), "rows": (), "columns": (4, 4, -1, 0), "fill": -7}
    ),
    "rearrange": lambda c: c.step(
        "rearrange", {"split": (2, 2, 6, 5), "order": (1, 3, 0, 2), "shape": (10, 2, 6)}
    ),
    "max_pool": lambda c: c.step("max_pool", {**WINDOW, "kernel": (3, 2)}),
    "sum_pool": lambda c: c.step("sum_pool", {**WINDOW, "kernel": (3, 2)}),
    "divide": lambda c: c.step(
        "divide",
        CONVERSION,
        TensorFormat(True, 8, (4,)),
        divisor=IntParameter(freeze(np.full((1, 1, 1), 3)), TensorFormat(True, 4, (0,))),
    ),
    "flatten": lambda c: c.step("flatten"),
    "concat": lambda c: (c.step("clamp", {"low": 0, "high": 99}), c.step("concat", inputs=("x", c.last))),
}


def chain(op: str) -> Chain:
    """A network in which ``op`` is the step that matters."""
    made = Chain(WORD, 3, SHAPE)
    STEPS_ON[op](made)
    return made


def vector(op: str) -> IntGraph:
    """The same with a vector as its result, as exports have them."""
    made = chain(op)
    if len(made.tensors[made.last].shape) == 3:
        if made.tensors[made.last].format.word_length > 32:
            made.cast(TensorFormat(True, 12, (2,)))
        made.step("flatten")
    return made.closed()


REFUSED = {("scale", "hls4ml"): "one multiplication a batch normalization"}
"""Steps that a target takes in some places alone."""


def test_every_step_is_here() -> None:
    assert set(STEPS_ON) == set(STEPS)


@pytest.mark.parametrize("op", STEPS)
def test_a_step_on_every_engine(op: str) -> None:
    chain(op).check(extremes(WORD, SHAPE, 0))


@pytest.mark.parametrize("op", STEPS)
def test_a_row_is_whole(op: str) -> None:
    row = STEPS[op]
    assert row.rounds == (row.bounds is None)
    assert re.search(rf"^### `{op}`", PAGE, re.M), f"docs/ops.md: no {op}"
    made = chain(op).closed()
    for step in made.steps:
        assert made.derive(step) == made.tensors[step.name]
        if row.factor is not None and step.op == op:
            assert row.factor in (*step.parameters, *range(1, len(step.inputs)))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", STEPS)
def test_a_step_in_every_target(op: str, target: str, tmp_path: Path) -> None:
    """Written, or refused before anything is; test_export.py compares what is written."""
    network = vector(op)
    if (op, target) in REFUSED:
        with pytest.raises(ExportError, match=REFUSED[op, target]):
            export_network(network, target, tmp_path / "x")
        return
    if op in TARGETS[target].steps:
        export_network(network, target, tmp_path / "x")
        assert (tmp_path / "x" / "manifest.json").exists()
        return
    with pytest.raises(ExportError, match=f"{target}: layer .*is a {op}"):
        export_network(network, target, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_target_that_lacks_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what a target does not declare is refused by name."""
    monkeypatch.setattr(type(TARGETS["c"]), "steps", TARGETS["c"].steps - {"max_pool"})
    with pytest.raises(ExportError, match="is a max_pool: expected add, cast"):
        export_network(vector("max_pool"), "c", tmp_path / "x")


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_whole(name: str) -> None:
    row = LAYERS[name]
    assert re.search(rf"^### `{name}` layer", PAGE, re.M), f"docs/ops.md: no {name}"
    assert bool(row.places("affine")) == (row.layer_class is not None)
    roles = [place.role for place in row.places("staged")]
    assert len(roles) == len(set(roles))


def test_every_layer_runs() -> None:
    """In float and quantized."""
    graphs = [networks.residual(), networks.mixed(), networks.varied()]
    assert {layer.op for graph in graphs for layer in graph.layers} == set(LAYERS)
    for graph in graphs:
        inputs = networks.images(2, 0, graph.shapes["input"]).inputs(0, 2)
        real = FloatingEngine(graph).run(inputs)[graph.output]
        network = quantize(graph, networks.calibrated(graph), Design.joint(16))
        logits = network.run(quantize_images(network, inputs))[network.output]
        assert np.abs(dequantize(logits, network.logit_fraction_length()) - real).max() < 0.1
