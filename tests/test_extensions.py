"""Everything that is meant to be added from outside the package, added from outside the package.

Each test is the example that CONTRIBUTING.md points to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import networks
from fast import agree
from radixpoint.engines import Engine, ReferenceEngine, blas, reference, usable_engines
from radixpoint.errors import DesignError, EngineError, ExportError
from radixpoint.export import TARGETS, example_images, export_network, verify_export
from radixpoint.export.target import EVERY
from radixpoint.ir.network import IntGraph
from radixpoint.ir.ops import LAYERS, STEPS, LayerOp, LayerView, Lowering, Place, StepOp
from radixpoint.ir.storage import load_network
from radixpoint.measure import float_model
from radixpoint.measure.evaluate import Evaluation
from radixpoint.quantization import codes, design
from radixpoint.quantization.codes import CODES, Grid, add_code, mirrored
from radixpoint.quantization.design import Code, Design
from radixpoint.quantization.quantize import quantize
from radixpoint.quantization.rules import RULES, add_rule
from radixpoint.quantization.rules.question import Need, Question
from radixpoint.quantization.sites import Formats, largest_fractions
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.judge import Judge
from radixpoint.searching.result import PolicyResult, Trial
from radixpoint.searching.strategies import STRATEGIES, Answer, Rank, Space
from radixpoint.searching.task import search

GRAPH = networks.residual()


class Headroom:
    """A rule: the largest value seen, and one bit to spare."""

    scopes = frozenset({"tensor"})

    def needs(self, shared: bool) -> frozenset[Need]:
        return frozenset()

    def choose(self, question: Question) -> Formats:
        def fraction(site: Any) -> int:
            seen = site.statistics.pooled
            return int(largest_fractions(seen.low, seen.high, site.levels)[0]) - 1

        return {site.key: site.format((fraction(site),)) for site in question.sites}


@pytest.fixture
def headroom() -> Iterator[None]:
    add_rule("headroom", Headroom())
    yield
    del RULES["headroom"], design.RULE_SCOPES["headroom"]


def test_a_rule(headroom: None, tmp_path: Path) -> None:
    asked = Design.joint(9, binary_point={"rule": "headroom"})
    (tmp_path / "d.json").write_bytes(asked.to_json())
    assert Design.load(tmp_path / "d.json") == asked
    ranges = networks.calibrated(GRAPH)
    spared, plain = quantize(GRAPH, ranges, asked), quantize(GRAPH, ranges, Design.joint(9))
    for name, tensor in plain.tensors.items():
        if name.endswith("cast") or name == plain.input:
            assert spared.tensors[name].format.fraction_lengths[0] < tensor.format.fraction_lengths[0]
    agree(spared, example_images(spared, 2))
    with pytest.raises(DesignError, match="rule headroom with scope network: expected scope tensor"):
        Design.joint(9, binary_point={"rule": "headroom", "scope": "network"})
    with pytest.raises(DesignError, match="expected a name that no rule has yet"):
        add_rule("max", Headroom())


def negate(to: Lowering, layer: LayerView) -> str:
    """An operator: -x. Its layer is lowered to a step of the same name, and a cast."""
    return to.cast(to.step("negate", [to.input()]), "result")


NEGATE_STEP = StepOp(
    name="negate",
    family="elementwise",
    shape=lambda attributes, inputs, parameters: inputs[0],
    bounds=lambda attributes, inputs, parameters, alignment: (-inputs[0][1], -inputs[0][0]),
)
NEGATE_LAYER = LayerOp(
    name="negate",
    family="elementwise",
    shape=lambda attributes, inputs, parameters: inputs[0],
    layer_class="add",
    lower=negate,
    places=lambda form: (Place("result", "activations", "add", "result"),),
)


def test_an_operator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A layer and a step, in float, on every engine, and in one export."""
    monkeypatch.setitem(STEPS, "negate", NEGATE_STEP)
    monkeypatch.setitem(LAYERS, "negate", NEGATE_LAYER)
    monkeypatch.setitem(float_model._EMIT, "negate", float_model._bare("Neg"))
    n = networks.Net(0)
    graph = n.graph(n.fc(n.simple("flatten", n.simple("negate", n.conv("input", 4))), 4 * 12 * 12, 7))
    network = quantize(graph, networks.calibrated(graph), Design.joint(8))
    with pytest.raises(EngineError, match=r"engine reference: step .* is a negate: expected add, "):
        ReferenceEngine(network)
    monkeypatch.setitem(reference._EXACT, "negate", lambda step, inputs, arrays: -inputs[0])
    with pytest.raises(EngineError, match=r"engine blas: step .* is a negate"):
        blas.BlasEngine(network)
    monkeypatch.setattr(
        blas._Compiler, "_negate", lambda self, step: lambda inputs: -inputs[0], raising=False
    )
    if "torch" in usable_engines():
        from radixpoint.engines import tensors

        with pytest.raises(EngineError, match=r"engine torch: step .* is a negate"):
            tensors.TorchEngine(network)
        monkeypatch.setattr(
            tensors._Compiler,
            "_negate",
            lambda self, step: lambda inputs: -inputs[0].to(tensors._carrier(self._result(step))),
            raising=False,
        )
    agree(network, example_images(network, 2))
    with pytest.raises(ExportError, match=r"vectors: layer .* is a negate: expected add, "):
        export_network(network, "vectors", tmp_path / "x")
    monkeypatch.setattr(type(TARGETS["vectors"]), "steps", EVERY | {"negate"})
    export_network(network, "vectors", tmp_path / "x")
    assert verify_export(tmp_path / "x").mismatch is None


def ternary(code: Code, word_length: int, signed: bool) -> Grid:
    """A code: -1, 0 and 1."""
    return mirrored([0, 1], [0.5], 1.5, signed)


@pytest.fixture
def three_values() -> Iterator[None]:
    add_code("ternary", ternary)
    yield
    del CODES["ternary"]
    design.CODE_KINDS.remove("ternary")
    codes.grid.cache_clear()


def test_a_code(three_values: None) -> None:
    coded = Design.separate(2, 12, codes={"weights": {"kind": "ternary"}})
    network = quantize(GRAPH, networks.calibrated(GRAPH), coded)
    weights = [network.arrays(step)["weight"] for step in network.steps if step.family == "product"]
    assert {int(v) for weight in weights for v in np.unique(weight)} == {-1, 0, 1}
    agree(network, example_images(network, 2))
    with pytest.raises(DesignError, match="expected one of codebook, float, log2, log_sqrt2, ternary"):
        Code("octal")


@dataclass(frozen=True)
class Longest:
    """A strategy: the longest word length, if it holds."""

    space: Space
    name: str = "longest"

    def check(self) -> None: ...

    def evaluations(self) -> int:
        return 1

    def run(self, judge: Judge, error: float | None) -> Answer:
        word = self.space.lengths[-1]
        evaluation, verdict = judge.judge(self.name, Design.joint(word), whole=True, error=error)
        fields = ("score", "top1", "top5", "drop", "drop_interval", "drop_bound", "agreement")
        trial = Trial(
            **{name: getattr(evaluation, name) for name in evaluation.__struct_fields__},
            word_length=word,
            verdict=verdict,
        )
        holds = verdict == "holds"
        accuracy: dict[str, Any] = {name: getattr(evaluation, name) if holds else None for name in fields}
        found = PolicyResult(**accuracy, word_length=word if holds else None, monotone=True, tried=[trial])
        return Answer(found, Design.joint(word) if holds else None, (word,) if holds else None)

    def admitted(self, judge: Judge) -> Iterator[tuple[Rank, Design]]:
        return iter(())

    def adopted(self, answer: Answer, rank: Rank, design: Design, evaluation: Evaluation) -> Answer:
        raise AssertionError("it admits none")


def test_a_strategy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(STRATEGIES, "longest", Longest)
    graph = networks.balanced()
    images, calibration = networks.labelled(graph, 300, 1), networks.images(64, 2, graph.shapes["input"])
    asked: dict[str, Any] = {"policies": ["joint", "longest"], "word_lengths": (8, 12)}
    result = search(graph, images, calibration, tmp_path, Criterion(limit=5.0), **asked)
    assert result.policies["longest"].word_length == 12
    assert (tmp_path / "longest" / "network.safetensors").exists()
    assert result.policies["longest"].relative_cost is not None


class Spoken:
    """A target: a sentence a step. What runs it is the reference engine, on the network in the folder."""

    name = "spoken"
    summary = "a sentence a step"
    options: tuple[str, ...] = ()
    steps = EVERY

    def files(self, network: IntGraph, images: Any, options: Mapping[str, str]) -> dict[str, bytes]:
        lines = (
            f"Then {step.op} makes {step.name} of {' and '.join(step.inputs)}." for step in network.steps
        )
        return {"spoken.txt": "\n".join(lines).encode()}

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, Engine]:
        return {"reference": ReferenceEngine(load_network(folder / "network.safetensors"))}


def test_a_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(TARGETS, "spoken", Spoken())
    network = quantize(GRAPH, networks.calibrated(GRAPH), Design.joint(8))
    export_network(network, "spoken", tmp_path / "x")
    assert "Then max_pool makes" in (tmp_path / "x" / "spoken.txt").read_text()
    assert verify_export(tmp_path / "x").mismatch is None
