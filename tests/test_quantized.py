"""Networks that were trained quantized: exact against the executors of QONNX and onnxruntime, or refused."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.infer_shapes import InferShapes

import exports
import networks
from radixpoint.cli.main import main
from radixpoint.engines import ReferenceEngine, quantize_images
from radixpoint.errors import DataError, FormatError, ModelError, UnsupportedError
from radixpoint.export import export_network, verify_export
from radixpoint.importers import load
from radixpoint.importers.quantized import load_quantized
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network, save_network
from radixpoint.measure.evaluate import accuracy
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from test_cli import run

DOMAIN = "qonnx.custom_op.general"


class Model:
    """A QONNX or QDQ model under construction."""

    def __init__(self, seed: int = 0, shape: tuple[int, ...] = (3, 8, 8)) -> None:
        self.random, self.shape = np.random.default_rng(seed), shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.last = "x"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        self.last = f"t{len(self.nodes)}"
        made = helper.make_node(
            op, inputs, [self.last], f"n{len(self.nodes)}_{op}", domain=domain, **attributes
        )
        self.nodes.append(made)
        return self.last

    def quant(self, x: str, scale: Any, bits: int, **attributes: Any) -> str:
        numbers = (self.constant(scale), self.constant(0.0), self.constant(float(bits)))
        own = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | attributes
        return self.node("Quant", x, *numbers, domain=DOMAIN, **own)

    def qdq(self, x: str, scale: float, kind: Any = np.int8) -> str:
        numbers = (self.constant(scale), self.constant(0, kind))
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *numbers), *numbers)

    def normal(self, *shape: int) -> str:
        return self.constant(self.random.normal(0, 0.4, shape))

    def bn(self, x: str, channels: int) -> str:
        r = self.random
        values = (r.normal(1, 0.3, channels), r.normal(0, 0.3, channels), r.normal(0, 0.3, channels))
        own = [self.constant(v) for v in (*values, r.uniform(0.5, 2, channels))]
        return self.node("BatchNormalization", x, *own, epsilon=1e-5)

    def save(self, path: Path, *outputs: str) -> Path:
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, *self.shape))
        results = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs or (self.last,)]
        stored = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "test", [image], results, stored)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 2)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
        return path


def network_of(kind: str) -> Model:
    """Networks as quantization-aware trainers write them."""
    m = Model(shape=(3, 8, 8))
    x = m.quant("x", 2**-7, 8)
    if kind == "plain":
        w = m.quant(m.normal(8, 3, 3, 3), 2**-3, 4, narrow=1)
        x = m.node("Conv", x, w, pads=[1, 1, 1, 1], strides=[2, 2])
        x = m.quant(m.node("Relu", m.bn(x, 8)), 2**-2, 4, signed=0)
        w = m.quant(m.normal(8, 1, 3, 3), np.exp2(-m.random.integers(2, 5, (8, 1, 1, 1))), 5)
        x = m.bn(m.node("Conv", x, w, pads=[1, 1, 1, 1], group=8), 8)
        x = m.node(
            "MaxPool", m.quant(x, 2**-3, 6, rounding_mode="FLOOR"), kernel_shape=[2, 2], strides=[2, 2]
        )
        x = m.node("Flatten", x)
        m.node("Gemm", x, m.quant(m.normal(5, 32), 2**-4, 4), m.quant(m.normal(5), 2**-8, 16), transB=1)
    elif kind == "residual":
        x = m.quant(m.node("Conv", x, m.quant(m.normal(6, 3, 1, 1), 2**-3, 4)), 2**-4, 6)
        y = m.node("Conv", x, m.quant(m.normal(6, 6, 3, 3), 2**-4, 5), pads=[1, 1, 1, 1])
        y = m.quant(m.node("Relu", m.bn(y, 6)), 2**-3, 5, signed=0)
        x = m.quant(m.node("Add", x, y), 2**-3, 6, rounding_mode="HALF_UP")
        x = m.node("Concat", x, m.node("Clip", y, m.constant(0.25), m.constant(1.5)), axis=1)
        x = m.node("GlobalAveragePool", x)
        x = m.quant(x, 2**-6, 9)
        x = m.node("Reshape", x, m.constant([1, 12], np.int64))
        x = m.node("MatMul", x, m.quant(m.normal(12, 4), np.exp2(-m.random.integers(3, 6, (1, 4))), 6))
        m.node("Softmax", m.node("Add", x, m.constant([0.25, -0.5, 1.0, 0.125])))
    else:  # signs for weights, a scale and an offset beside, averages of windows, and two results
        w = m.node("BipolarQuant", m.normal(4, 3, 3, 3), m.constant(2**-2), domain=DOMAIN)
        x = m.node("Conv", x, w)
        x = m.node("Mul", x, m.constant(m.random.uniform(0.5, 2, (1, 4, 1, 1))))
        x = m.node("Sub", x, m.constant(0.3))
        first = m.quant(x, 2**-3, 5, rounding_mode="DOWN")
        m.node("AveragePool", first, kernel_shape=[2, 2], strides=[2, 2])
        m.quant(m.last, 2**-5, 8, rounding_mode="HALF_DOWN")
    return m


def theirs(path: Path, images: np.ndarray) -> list[np.ndarray]:
    """Every tensor that the executor of the qonnx package computes, image by image."""
    model = ModelWrapper(onnx.load(path)).transform(InferShapes())
    return [execute_onnx(model, {"x": image[None]}, return_full_exec_context=True) for image in images]


def real(network: IntGraph, name: str, stored: np.ndarray) -> np.ndarray:
    return stored * np.exp2(-network.tensors[name].format.fractions(stored.ndim).astype(np.float64))


@pytest.mark.parametrize("kind", ["plain", "residual", "signs"])
def test_exact_against_the_executor_of_qonnx(kind: str, tmp_path: Path) -> None:
    """Every quantized tensor of 12 images whose pixels are bytes over 256, so that ties are common."""
    path = network_of(kind).save(tmp_path / "m.onnx")
    network = load_quantized(path, image="ufix8_En8")
    images = np.random.default_rng(1).integers(0, 256, (12, 3, 8, 8)).astype(np.float32) / 256
    found = ReferenceEngine(network).run(quantize_images(network, images), list(network.tensors))
    last = {step.name.rsplit("/", 1)[0]: step.name for step in network.steps}
    compared = 0
    for number, expected in enumerate(theirs(path, images)):
        for proto in onnx.load(path).graph.node:
            if proto.op_type == "Quant" and proto.name in last:
                ours = real(network, last[proto.name], found[last[proto.name]][number])
                assert np.array_equal(ours, expected[proto.output[0]][0]), (number, proto.name)
                compared += 1
    assert compared >= 12 * 2
    result = real(network, network.output, found[network.output])
    scores = {"residual": -2}.get(kind, -1)  # before the Softmax that is left out
    name = onnx.load(path).graph.node[scores].output[0]
    assert all(np.array_equal(r, e[name][0]) for r, e in zip(result, theirs(path, images), strict=True))


@pytest.mark.slow("it compiles")
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_what_enters_leaves_verified(kind: str, tmp_path: Path) -> None:
    network = load_quantized(network_of(kind).save(tmp_path / "m.onnx"))
    for target in ("c", "verilog", "onnx"):
        export_network(
            network, target, tmp_path / target, options={"lanes": "4"} if target == "verilog" else {}
        )
        assert verify_export(tmp_path / target).mismatch is None, target


def test_qdq_is_exact_against_onnxruntime(tmp_path: Path) -> None:
    m = Model(shape=(2, 6, 6))
    x = m.qdq("x", 2**-7)
    kernel = m.constant(m.random.integers(-127, 128, (4, 2, 3, 3)), np.int8)
    w = m.node(
        "DequantizeLinear",
        kernel,
        m.constant(np.exp2([-8, -7, -9, -8])),
        m.constant([0] * 4, np.int8),
        axis=0,
    )
    bias = m.node(
        "DequantizeLinear", m.constant([5, -9, 30, 0], np.int32), m.constant(2**-12), m.constant(0, np.int32)
    )
    x = m.qdq(m.node("Relu", m.node("Conv", x, w, bias, pads=[1, 1, 1, 1])), 2**-6, np.uint8)
    x = m.qdq(m.node("Add", x, m.qdq(m.node("Conv", x, m.qdq(m.normal(4, 4, 1, 1), 2**-7)), 2**-5)), 2**-5)
    path = m.save(tmp_path / "m.onnx")
    network = load_quantized(path)
    images = np.random.default_rng(2).normal(0, 0.5, (40, 2, 6, 6)).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ours = real(network, network.output, network.run(quantize_images(network, images))[network.output])
    for image, result in zip(images, ours, strict=True):
        assert np.array_equal(session.run(None, {"x": image[None]})[0][0], result)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"binary_point": {"scope": "channel"}},
        {"rounding": "RND_CONV", "overflow": "SAT_SYM"},
        {"batch_norm": "staged"},
        {"batch_norm": "folded", "unsigned": True},
    ],
)
def test_our_own_qonnx_comes_back(options: dict[str, Any], tmp_path: Path) -> None:
    """What 'export --to qonnx' wrote is read as a network of the same results."""
    n = networks.Net(5, (3, 9, 9))
    x = n.simple("relu", n.bn(n.conv("input", 6)))
    x = n.simple("max_pool", x, kernel=(3, 3), strides=(3, 3), pads=(0, 0, 0, 0))
    x = n.simple("relu", n.add(n.bn(n.conv(x, 6)), n.conv(x, 6, 1, pads=(0, 0, 0, 0), bias=True)))
    network = exports.quantized(n.graph(n.fc(n.simple("flatten", x), 54, 5)), conv=7, bn=9, **options)
    export_network(network, "qonnx", tmp_path / "q")
    (path,) = (tmp_path / "q").glob("*.onnx")
    back = load_quantized(path)
    assert back.tensors[back.input].format == network.tensors[network.input].format
    images = exports.example_images(network, 8)
    ours, theirs = (real(one, one.output, one.run(images)[one.output]) for one in (network, back))
    assert np.array_equal(ours, theirs)


def test_refusals_name_every_node_and_say_why(tmp_path: Path) -> None:
    m = Model()
    x = m.quant("x", 2**-7, 8)
    a = m.node("Conv", x, m.quant(m.normal(4, 3, 1, 1), 0.3, 4))
    m.node("Sigmoid", x)
    b = m.node("Conv", x, m.normal(4, 3, 1, 1))
    c = m.quant(x, 2**-3, 6, rounding_mode="CEIL")
    d = m.quant(x, 2**-3, 6, signed=0, narrow=1)
    path = m.save(tmp_path / "m.onnx", a, b, c, d, m.last)
    with pytest.raises(UnsupportedError) as error:
        load_quantized(path)
    said = str(error.value)
    for text in (
        "scale 0.300000012: expected a power of two",
        "Sigmoid at node",
        "weights that no Quant node made",
        "rounding mode CEIL",
        "narrow without a sign",
    ):
        assert text in said, said
    assert len(error.value.operators) == 5


def _model(change: str) -> Model:
    m = Model()
    if change == "zero point":
        numbers = (m.constant(2**-3), m.constant(1.0), m.constant(4.0))
        m.node("Quant", "x", *numbers, domain=DOMAIN, signed=1, narrow=0)
    elif change == "no quantizer":
        m.node("Relu", "x")
    elif change == "average":
        m.node("GlobalAveragePool", m.quant("x", 2**-7, 8))
        m.node("Relu", m.last)
    elif change == "bits":
        m.quant("x", 2**-7, 40)
    elif change == "image by channel":
        m.quant("x", np.exp2([-7, -6, -5]).reshape(1, 3, 1, 1), 8)
    elif change == "two formats":
        m.node("Add", m.quant("x", 2**-7, 8), m.quant("x", 2**-6, 8))
    elif change == "other scale":
        q = m.node("QuantizeLinear", "x", m.constant(2**-6), m.constant(0, np.int8))
        m.node("DequantizeLinear", q, m.constant(2**-5), m.constant(0, np.int8))
    elif change == "rows":
        m.node("Reshape", m.quant("x", 2**-7, 8), m.constant([8, 24], np.int64))
    elif change == "the image":
        m.constants["w"] = np.zeros(1, np.float32)
        m.last = "x"
    elif change == "softmax":
        m.quant(m.node("Softmax", m.quant("x", 2**-7, 8)), 2**-6, 8)
    elif change == "thirds":
        m.node("Div", m.quant("x", 2**-7, 8), m.constant(3.0))
    elif change == "last axis":
        m.quant(m.quant("x", 2**-7, 8), np.exp2([-7.0] * 4 + [-6] * 4), 6)
    elif change == "integers":
        m.node("Add", *[m.node("QuantizeLinear", "x", m.constant(2**-6), m.constant(0, np.int8))] * 2)
    elif change == "training":
        m.bn(m.quant("x", 2**-7, 8), 3)
        m.nodes[-1].attribute.append(helper.make_attribute("training_mode", 1))
    elif change == "infinite":
        m.node("Add", m.quant("x", 2**-7, 8), m.constant(np.inf))
    elif change == "domain":
        m.node("Relu", m.quant("x", 2**-7, 8), domain="qonnx.custom_op.channels_last")
    elif change == "no input":
        m.nodes.append(helper.make_node("Relu", [], ["t0"], "bare"))
        m.last = "t0"
    elif change == "ceil":
        m.node("MaxPool", m.quant("x", 2**-7, 8), kernel_shape=[3, 3], ceil_mode=1)
    return m


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("zero point", "zero point 1: expected 0"),
        ("no quantizer", "before any Quant node"),
        ("average", "an average that no Quant node has rounded"),
        ("bits", "40 bits: expected 2..32"),
        ("image by channel", "an image with a scale a channel"),
        ("ceil", "ceil_mode or dilations"),
        ("two formats", "quantizes the image to sfix8_En6, and another node to sfix8_En7"),
        ("other scale", "scales of (5,) fraction bits, of integers with (6,)"),
        ("rows", "to [8, 24]: expected (images, 192)"),
        ("the image", "nothing quantizes the image 'x'"),
        ("softmax", "before other nodes: expected it at the end"),
        ("thirds", "no power of two"),
        ("last axis", "scales along axis 3: expected one, or one a channel"),
        ("integers", "reads integers: expected a DequantizeLinear"),
        ("training", "in training"),
        ("infinite", "no finite number"),
        ("domain", "no quantized meaning is known"),
        ("no input", "without a result or an input"),
    ],
)
def test_what_has_no_meaning_is_refused(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        load_quantized(_model(change).save(tmp_path / "m.onnx"))
    assert message in str(error.value)


def check_last(m: Model, images: np.ndarray, folder: Path) -> None:
    """The network gives what qonnx's executor gives for the last node, by ==."""
    path = m.save(folder / "m.onnx")
    network = load_quantized(path)
    ours = real(network, network.output, network.run(quantize_images(network, images))[network.output])
    assert all(np.array_equal(o, t[m.last][0]) for o, t in zip(ours, theirs(path, images), strict=True))


def test_constants_that_are_quantized_twice(tmp_path: Path) -> None:
    """The second Quant node sees what the first made; so do limits, and the signs of BipolarQuant."""
    m = Model(shape=(4, 4, 4))
    x = m.quant("x", 2**-5, 8)
    w = m.quant(
        m.quant(m.normal(4, 4, 1, 1), 2**-4, 6, rounding_mode="HALF_UP"), 2**-2, 4, rounding_mode="FLOOR"
    )
    x = m.node(
        "Clip", m.node("Conv", x, w), m.quant(m.constant(-1.0), 0.25, 3), m.quant(m.constant(2.0), 0.25, 3)
    )
    signs = m.node("BipolarQuant", m.quant(m.normal(4, 4, 1, 1), 0.25, 3), m.constant(0.5), domain=DOMAIN)
    m.node("Conv", m.quant(x, 2**-3, 6), signs)
    images = np.random.default_rng(4).integers(-128, 128, (6, 4, 4, 4)).astype(np.float32) / 32
    check_last(m, images, tmp_path)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1, 1), (1, 3, 1, 1)])
def test_scales_stand_beside_tensors_as_numpy_has_them(shape: tuple[int, ...], tmp_path: Path) -> None:
    m = Model()
    scale = np.exp2(-m.random.integers(2, 5, shape))
    m.quant(m.quant("x", 2**-7, 8), scale, 6)
    images = np.random.default_rng(5).integers(-128, 128, (4, 3, 8, 8)).astype(np.float32) / 128
    check_last(m, images, tmp_path)


def test_an_average_that_is_flattened_first(tmp_path: Path) -> None:
    m = Model()
    m.quant(m.node("Flatten", m.node("GlobalAveragePool", m.quant("x", 2**-7, 8))), 2**-6, 9)
    images = np.random.default_rng(6).integers(-128, 128, (9, 3, 8, 8)).astype(np.float32) / 128
    check_last(m, images, tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """400 files with a few bytes changed: a network, or one clear error."""
    whole = network_of("residual").save(tmp_path / "m.onnx").read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), random.integers(1, 5)):
            damaged[place] = random.integers(0, 256)
        (tmp_path / "d.onnx").write_bytes(damaged)
        try:
            load_quantized(tmp_path / "d.onnx")
        except (ModelError, FormatError):
            refused += 1
    assert refused > 100


def test_two_quantizers_of_an_image_that_has_a_format(tmp_path: Path) -> None:
    """Each is a cast of the image, and not of what the other made of it."""
    path = _model("two formats").save(tmp_path / "m.onnx")
    network = load_quantized(path, image="sfix12_En9")
    images = np.random.default_rng(3).integers(-600, 600, (4, 3, 8, 8)).astype(np.float32) / 512
    ours = real(network, network.output, network.run(quantize_images(network, images))[network.output])
    name = onnx.load(path).graph.output[0].name
    assert all(np.array_equal(o, t[name][0]) for o, t in zip(ours, theirs(path, images), strict=True))


def test_nodes_that_share_a_name(tmp_path: Path) -> None:
    path = network_of("plain").save(tmp_path / "m.onnx")
    model = onnx.load(path)
    for proto in model.graph.node:
        proto.name = "same"
    onnx.save(model, tmp_path / "n.onnx")
    first, second = load_quantized(path), load_quantized(tmp_path / "n.onnx")
    images = exports.example_images(first, 4)
    assert np.array_equal(first.run(images)[first.output], second.run(images)[second.output])


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        load_quantized(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"\x00garbage")
    with pytest.raises(ModelError, match=r"not an ONNX model|inputs"):
        load_quantized(tmp_path / "bad.onnx")
    with pytest.raises(FormatError, match="'u8' is not a format"):
        load_quantized(network_of("plain").save(tmp_path / "m.onnx"), image="u8")


def test_the_importer_of_float_networks_names_the_command(tmp_path: Path) -> None:
    for path in (
        network_of("plain").save(tmp_path / "m.onnx"),
        _model("other scale").save(tmp_path / "n.onnx"),
    ):
        with pytest.raises(
            ModelError, match="trained quantized: expected a float network here; 'radixpoint convert'"
        ):
            load(path)


@pytest.mark.slow("it starts processes")
def test_command_line(tmp_path: Path) -> None:
    path = network_of("plain").save(tmp_path / "m.onnx")
    said = run("convert", path, "-o", tmp_path / "n.safetensors", "--image-format", "ufix8_En8").stdout
    assert "IntGraph: 3x8x8 of ufix8_En8" in said
    assert load_network(tmp_path / "n.safetensors").digest == load_quantized(path, "ufix8_En8").digest
    refused = run("convert", path, "-o", tmp_path / "m.safetensors", "--image-format", "byte", status=2)
    assert "'byte' is not a format" in refused.stderr
    assert not (tmp_path / "m.safetensors").exists()
    run("export", tmp_path / "n.safetensors", "--to", "c", "-o", tmp_path / "c")


def test_an_offset_finer_than_the_sums_decides_ties(tmp_path: Path) -> None:
    """y = s x + t of every byte against rational numbers: t far below the last place of s x, and above."""
    m = Model(shape=(6, 16, 16))
    factors = np.array([1, 1, 0.5, 1, 0.3, 1], np.float32)
    offsets = np.array([2.0**-30, -(2.0**-30), 0.25 + 2.0**-22, 0, 2.0**-19, 2.0**-11 + 2.0**-27], np.float32)
    zeros, ones = m.constant(np.zeros(6)), m.constant(np.ones(6))
    x = m.node(
        "BatchNormalization",
        *(m.quant("x", 2**-7, 8), m.constant(factors), m.constant(offsets), zeros, ones),
        epsilon=0.0,
    )
    m.quant(x, 2**-3, 7)
    network = load_quantized(m.save(tmp_path / "m.onnx"))
    stored = np.tile(np.arange(-128, 128).reshape(1, 1, 16, 16), (1, 6, 1, 1))
    ours = network.run(stored)[network.output][0].reshape(6, 256)
    for channel, (s, t) in enumerate(zip(factors.tolist(), offsets.tolist(), strict=True)):
        exact = [round((Fraction(s) * n / 128 + Fraction(t)) * 8) for n in range(-128, 128)]
        assert ours[channel].tolist() == exact, channel


@pytest.mark.parametrize(("op", "limit"), [("Max", 0.5), ("Max", 0.25), ("Min", -8.5), ("Min", -8.25)])
def test_limits_between_units_at_the_ends_are_refused(op: str, limit: float, tmp_path: Path) -> None:
    """Of integers -8..0, a limit just beyond an end would be the whole result, and is none of them."""
    m = Model()
    m.node(op, m.node("Min", m.quant("x", 1, 4), m.constant(0.0)), m.constant(limit))
    with pytest.raises(ModelError, match="expected a multiple of the operand's unit"):
        load_quantized(m.save(tmp_path / "m.onnx"))


@pytest.mark.parametrize("op", ["Add", "Mul"])
def test_sums_of_another_number_of_tensors_are_refused(op: str, tmp_path: Path) -> None:
    for count in (1, 3):
        m = Model()
        m.node(op, *[m.quant("x", 1, 4), m.constant(1.0), "x"][-count:])
        m.nodes[-1].input[0] = m.nodes[-1].input[0] if count > 1 else "k3"
        with pytest.raises(ModelError, match=f"of {count} tensors: expected two"):
            load_quantized(m.save(tmp_path / "m.onnx"))


def test_accuracy_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that stands for no other is judged by labels; the same numbers by hand."""
    graph = networks.residual()
    images = networks.labelled(graph, 200, 3)
    network = quantize(graph, networks.calibrated(graph), Design.separate(4, 10))
    network = dataclasses.replace(network, metadata={})
    found = accuracy(network, images)
    scores = ReferenceEngine(network).run(quantize_images(network, images.inputs(0, 200)))[network.output]
    better = (scores > np.take_along_axis(scores, images.labels[:, None], 1)).sum(1)
    level = (scores == np.take_along_axis(scores, images.labels[:, None], 1)).sum(1) == 1
    assert 100 * np.mean((better == 0) & level) <= found.top1 <= 100 * np.mean(better == 0)
    assert found.top5 is not None
    assert found.top1 <= found.top5 <= 100 * np.mean(better < 5)
    low, high = found.top1_interval
    for end in (low, high):  # Wilson's interval: where the share is 1.96 deviations off
        p = end / 100
        assert abs(found.top1 / 100 - p) == pytest.approx(1.959964 * np.sqrt(p * (1 - p) / 200), rel=1e-6)
    assert low < found.top1 < high
    assert f"top-1 {found.top1:.2f} %" in found.summary()

    file, data = tmp_path / "n.safetensors", tmp_path / "images.npz"
    save_network(network, file)
    np.savez(data, images=images.pixels, labels=images.labels)

    def command(*more: str) -> int:
        monkeypatch.setattr("sys.argv", ["radixpoint", "evaluate", "-n", str(file), "-i", str(data), *more])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert command("--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 200
    assert command() == 0
    assert "Accuracy on 200 images: top-1" in capsys.readouterr().out
    for wrong in (("--layers",), ("--metric", "top5"), ("--confidence", "0.9"), ("--input-shape", "3,8,8")):
        assert command(*wrong) == 2
        assert f"{wrong[0]} without MODEL: expected the float network" in capsys.readouterr().err
    with pytest.raises(DataError, match="without labels"):
        accuracy(network, dataclasses.replace(images, targets=None))
