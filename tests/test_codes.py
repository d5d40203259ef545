"""Grids by hand, their rounding, codebooks; networks of every policy are equal on every engine."""

from __future__ import annotations

import dataclasses
import math
import sys
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fast
import networks
from radixpoint.arithmetic.cast import dequantize
from radixpoint.cli.main import main
from radixpoint.engines import ENGINES, make_engine, quantize_images
from radixpoint.errors import DesignError, ExportError, GraphError
from radixpoint.export import export_network, verify_export
from radixpoint.ir.graph import freeze
from radixpoint.ir.network import IntParameter, verify
from radixpoint.ir.storage import save_network
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.codes import codebook, grid
from radixpoint.quantization.design import Code, Codes, Design
from radixpoint.quantization.quantize import quantize
from radixpoint.searching.policies import POLICIES, exponent_bits, sqnr_lengths


def test_minifloat_by_hand() -> None:
    """E2M1, the OCP format: 0, 0.5, 1, 1.5, 2, 3, 4, 6 in halves."""
    e2m1 = grid(Code("float", 2), 4, True)
    magnitudes = [0, 1, 2, 3, 4, 6, 8, 12]
    assert e2m1.values.tolist() == [-m for m in magnitudes[:0:-1]] + magnitudes
    assert e2m1.word_length == 5
    given = np.array([0.49, 0.5, -0.5, 4.99, 5, 7, -7, -7.01, 10, 1000, -1000])
    assert e2m1.round(given).tolist() == [0, 1, 0, 4, 6, 8, -6, -8, 12, 12, -12]


def test_logarithms_by_hand() -> None:
    """Base 2: from sqrt(a b) on up. Base sqrt 2: 181/128 for the odd steps."""
    log2 = grid(Code("log2"), 3, True)
    assert log2.values.tolist() == [-4, -2, -1, 0, 1, 2, 4]
    given = np.array([0.70, 0.71, 1.41, 1.42, 2.82, 2.83, 99, -1.42])
    assert log2.round(given).tolist() == [0, 1, 1, 2, 2, 4, 4, -2]
    assert grid(Code("log2"), 3, False).values.tolist() == [0, 1, 2, 4, 8, 16, 32, 64]
    log_sqrt2 = grid(Code("log_sqrt2"), 3, False)
    assert log_sqrt2.values.tolist() == [0, 128, 181, 256, 362, 512, 724, 1024]
    assert log_sqrt2.round(np.array([107, 108, 152, 153])).tolist() == [0, 128, 128, 181]


@pytest.mark.parametrize("kind", ["float", "log2", "log_sqrt2"])
@pytest.mark.parametrize("bits", [3, 4, 5, 6, 8])
@pytest.mark.parametrize("signed", [True, False])
def test_every_value_goes_to_the_nearest(kind: str, bits: int, signed: bool) -> None:
    """Against a search over all values: by distance, or by distance of the logarithms."""
    g = grid(Code(kind, exponent_bits(bits)), bits, signed)  # type: ignore[arg-type]
    assert len(g.values) <= 1 << bits
    assert (np.diff(g.values) > 0).all()
    random = np.random.default_rng(0)
    points = np.concatenate(
        [random.uniform(0, g.reach, 200), 2 ** random.uniform(-1, math.log2(g.reach), 200)]
    )
    if signed:
        points = np.concatenate([points, -points])
    for x, got in zip(points.tolist(), g.round(points).tolist(), strict=True):
        if kind == "float":
            assert abs(Fraction(x) - got) == min(abs(Fraction(x) - v) for v in g.values.tolist())
        elif got:
            same = [v for v in g.values.tolist() if v * x > 0]
            assert abs(math.log(x / got)) <= min(abs(math.log(x / v)) for v in same) + 1e-9
    beyond = np.array([g.reach, math.nextafter(g.reach, math.inf)])
    assert g.round(beyond).tolist() == [g.values[-1]] * 2
    assert g.largest_fractions(np.array([0.0]), np.array([g.reach]))[0] == 0
    assert g.largest_fractions(np.array([0.0]), np.array([g.reach * 1.001]))[0] == -1


def test_codebook_by_hand() -> None:
    """Starts 0 and 1; then the means of the two clusters."""
    values = np.array([0.0, 0.1, 0.9, 1.0, 0.2])
    assert codebook(values, 2).tolist() == pytest.approx([0.1, 0.1, 0.95, 0.95, 0.1])
    assert np.array_equal(codebook(np.arange(4.0), 4), np.arange(4.0))
    random = np.random.default_rng(0).normal(size=(20, 5, 3, 3))
    shared = codebook(random, 8)
    assert len(np.unique(shared)) <= 8
    evenly = np.linspace(random.min(), random.max(), 8)
    nearest = evenly[np.abs(random[..., None] - evenly).argmin(-1)]
    assert ((shared - random) ** 2).sum() < ((nearest - random) ** 2).sum()


def test_sqnr_lengths_by_hand() -> None:
    """A layer with a quarter of the weights gets 10 log10(4) / 6.02 = 1 bit more."""
    net = networks.Net(0)
    x = net.conv(net.conv("input", 8, 3), 12, 3)  # 216 and 864 weights
    graph = net.graph(net.fc(net.simple("flatten", x), 12 * 144, 2, bias=False))  # 3456
    lengths = list(sqnr_lengths(graph, 5).values())
    assert lengths == [7, 6, 5]


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("network", ["residual", "mixed"])
@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "joint"])
@pytest.mark.parametrize("unsigned", [False, True])
def test_policies_on_every_engine(network: str, policy: str, unsigned: bool) -> None:
    graph = getattr(networks, network)()
    ranges = networks.calibrated(graph)
    design = POLICIES[policy].design(5, 14, {"unsigned": unsigned}, graph)
    assert design == msgspec.json.decode(design.to_json(), type=Design)
    quantized = quantize(graph, ranges, design)
    verify(quantized)
    stored = quantize_images(quantized, networks.images(6, 3, graph.shapes["input"]).inputs(0, 6))
    fast.agree(quantized, stored)
    names = [step.name for step in quantized.steps]
    expected = make_engine(quantized, "reference").run(stored, names)
    lookups = [step for step in quantized.steps if step.op == "lookup"]
    assert bool(lookups) == (design.codes.activations is not None)
    for step in lookups:
        assert len(np.unique(expected[step.name])) <= 1 << 5
    if design.codes.weights is not None:
        products = [step for step in quantized.steps if step.op in ("conv", "dense")]
        assert products
        assert all(len(np.unique(quantized.arrays(step)["weight"])) <= 1 << 5 for step in products)


@pytest.mark.parametrize("policy", ["log2", "minifloat", "log-sqrt2"])
@pytest.mark.parametrize("seed", range(3))
def test_better_offsets_before_a_lookup(policy: str, seed: int) -> None:
    """They may widen what is looked up; tables hold the whole format."""
    graph = networks.mixed(seed)
    images = networks.images(shape=graph.shapes["input"])
    design = POLICIES[policy].design(4, 14, {"refine": ["offsets"]}, graph)
    quantized = quantize(graph, networks.calibrated(graph), design, images)
    stored = quantize_images(quantized, images.inputs(0, 4))
    expected = make_engine(quantized, "reference").run(stored)[quantized.output]
    for engine in ENGINES:
        assert np.array_equal(make_engine(quantized, engine).run(stored)[quantized.output], expected)


def test_offsets_correct_what_a_codebook_loses() -> None:
    """Against the weights as they were, not as the codebook has them."""
    errors = np.zeros(2)
    for seed in range(4):
        graph = networks.residual(seed)
        images = networks.images(shape=graph.shapes["input"])
        inputs = networks.images(64, 5, graph.shapes["input"]).inputs(0, 64)
        real = FloatingEngine(graph).run(inputs)[graph.output]
        for place, refine in enumerate(([], ["offsets"])):
            design = POLICIES["codebook"].design(2, 16, {"refine": refine}, graph)
            quantized = quantize(graph, networks.calibrated(graph), design, images)
            got = make_engine(quantized).run(quantize_images(quantized, inputs))[quantized.output]
            logits = dequantize(got, quantized.logit_fraction_length())
            errors[place] += np.mean((logits - real) ** 2) / np.mean(real**2)
    assert errors[1] < 0.4 * errors[0]


def test_a_short_table_is_refused() -> None:
    graph = networks.residual()
    design = POLICIES["log2"].design(4, 10, {}, graph)
    quantized = quantize(graph, networks.calibrated(graph), design)
    key = next(step.parameters["table"] for step in quantized.steps if step.op == "lookup")
    table = quantized.parameters[key]
    short = IntParameter(freeze(table.data[:-1]), table.format)
    with pytest.raises(GraphError, match="lookup of"):
        verify(dataclasses.replace(quantized, parameters={**quantized.parameters, key: short}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: grid(Code("float", 4), 4, True), "floating point of 4 bits"),
        (lambda: Code("float", 5), "5 exponent bits"),
        (lambda: Codes(activations=Code("codebook")), "codebook for activations"),
        (
            lambda: Design.separate(5, 12, codes={"weights": {"kind": "log2"}}, refine=["columns"]),
            "are coded",
        ),
    ],
)
def test_bad_codes(change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises((DesignError, ValueError), match=message):
        change()


def test_too_many_values_to_code() -> None:
    graph = networks.residual()
    design = POLICIES["log2"].design(4, 18, {}, graph)
    with pytest.raises(DesignError, match="at most 65536 values"):
        quantize(graph, networks.calibrated(graph), design)


def test_exports_refuse_coded_activations(tmp_path: Path) -> None:
    """Where they have no table; elsewhere they compute the same, and so do decoded weights."""
    graph = networks.residual()
    ranges = networks.calibrated(graph)
    both = quantize(graph, ranges, POLICIES["minifloat"].design(5, 14, {}, graph))
    for target in ("verilog", "hls4ml"):
        with pytest.raises(ExportError, match="is a lookup: expected add"):
            export_network(both, target, tmp_path / target)
        assert not (tmp_path / target).exists()
    export_network(both, "c", tmp_path / "c")
    assert verify_export(tmp_path / "c").mismatch is None
    for policy in ("codebook", "float-weights"):
        weights = quantize(graph, ranges, POLICIES[policy].design(5, 14, {}, graph))
        export_network(weights, "c", tmp_path / policy)
        assert verify_export(tmp_path / policy).mismatch is None


def test_cost_refuses_what_it_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = networks.residual()
    design = POLICIES["codebook"].design(5, 14, {}, graph)
    save_network(quantize(graph, networks.calibrated(graph), design), tmp_path / "n.safetensors")
    monkeypatch.setattr(sys, "argv", ["radixpoint", "cost", str(tmp_path / "n.safetensors")])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "its design codes weights" in " ".join(capsys.readouterr().err.split())


def test_memory_cuts_where_a_number_is_stored() -> None:
    """Weights, operands, sums and pooled tensors have W bits and are cut; results before them have bn's."""
    graph = networks.residual()
    design = POLICIES["memory"].design(5, 14, {}, graph)
    network = quantize(graph, networks.calibrated(graph), design)
    casts = [step for step in network.steps if step.op == "cast"]
    assert {step.attributes["rounding"] for step in casts} == {"TRN"}
    for layer in graph.layers:
        width = {"add": 5, "average_pool": 5, "batch_norm": 14, "conv": 14}.get(layer.op)
        own = [t for t in network.tensors.values() if t.value == layer.name]
        assert width is None or all(t.format.word_length == width for t in own), layer.name
    weights = [network.parameters[step.parameters["weight"]] for step in network.steps if step.op == "conv"]
    assert {parameter.format.word_length for parameter in weights} == {5}
    real = graph.parameter(next(layer for layer in graph.layers if layer.op == "conv"), "weight")
    cut = weights[0].data / 2.0 ** weights[0].format.fraction_lengths[0]
    assert np.all(cut <= real.astype(np.float64))
