"""Caffe's networks, against OpenCV, which reads Caffe's files itself."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

import fast
import networks
import radixpoint
from caffe_models import random_weights
from radixpoint.data.caffe_schema import parse_text
from radixpoint.engines import quantize_images
from radixpoint.errors import ModelError, UnsupportedError
from radixpoint.importers.caffe import active, kind_of
from radixpoint.ir.graph import Graph
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

SHARED = Path(__file__).parents[2] / "shared" / "data" / "caffe"


def loaded(tmp_path: Path, text: str, seed: int = 0) -> tuple[Graph, bytes]:
    weights = random_weights(text, seed)
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "net.caffemodel").write_bytes(weights)
    graph = radixpoint.load(tmp_path / "net.prototxt", weights=tmp_path / "net.caffemodel")
    return graph, weights


def same_as_opencv(graph: Graph, text: str, weights: bytes, layers: list[str], spread: float = 1.0) -> None:
    """The results of these layers; OpenCV keeps an in-place layer's result under the name of the layer."""
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(text.encode(), np.uint8), np.frombuffer(weights, np.uint8))
    x = np.random.default_rng(1).normal(0, spread, (2, *graph.shapes[graph.input])).astype(np.float32)
    net.setInput(x)
    expected = net.forward(layers)
    got = FloatingEngine(graph).run(x)
    for name, theirs in zip(graph.outputs, expected, strict=True):
        ours = got[name]
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=2e-5 * scale)


HEAD = 'name: "n" input: "data" input_dim: 1 input_dim: 3 input_dim: 17 input_dim: 14 '


def layer(kind: str, name: str, bottom: str | list[str], top: str | list[str] = "", more: str = "") -> str:
    bottoms = [bottom] if isinstance(bottom, str) else bottom
    tops = [top or name] if isinstance(top, str) else top
    ends = " ".join([*(f'bottom: "{b}"' for b in bottoms), *(f'top: "{t}"' for t in tops)])
    return f'layer {{ name: "{name}" type: "{kind}" {ends} {more} }}\n'


CONV = layer("Convolution", "c", "data", more="convolution_param { num_output: 8 kernel_size: 3 pad: 1 }")


def average(more: str) -> str:
    return layer("Pooling", "p", "c", more=f"pooling_param {{ pool: AVE {more} }}")


NORM = layer("BatchNorm", "b", "c", "c") + layer("Scale", "s", "c", "c", "scale_param { bias_term: true }")
DEPTHWISE = "num_output: 8 kernel_size: 4 stride: 2 pad: 1 group: 8 bias_term: false"
UNEVEN = "num_output: 4 kernel_h: 3 kernel_w: 1 pad_h: 2 pad_w: 0 dilation: 2 group: 2"
CASES = {
    "conv relu average_pool": layer("ReLU", "r", "c", "c") + average("kernel_size: 3 stride: 2"),
    "conv max_pool": layer("Pooling", "p", "c", more="pooling_param { kernel_size: 3 stride: 2 pad: 1 }"),
    "conv select average_pool": average("kernel_size: 5 stride: 3 pad: 2"),
    "conv batch_norm prelu": NORM + layer("ReLU", "r", "c", "c", "relu_param { negative_slope: 0.1 }"),
    "conv batch_norm affine add": layer("BatchNorm", "b", "c")
    + layer("Scale", "s", "b")
    + layer("Eltwise", "e", ["b", "s"]),
    "conv square_sum function multiply": layer(
        "LRN", "n", "c", more="lrn_param { local_size: 5 alpha: 0.5 }"
    ),
    "conv prelu select select concat": layer("PReLU", "r", "c")
    + layer("Slice", "s", "r", ["s1", "s2"], "slice_param { slice_point: 3 }")
    + layer("Concat", "k", ["s2", "s1"]),
    "conv select conv": layer("Deconvolution", "d", "c", more=f"convolution_param {{ {DEPTHWISE} }}"),
    "conv function function": layer("Power", "w", "c", more="power_param { scale: 0.5 shift: 1 power: 2 }")
    + layer("TanH", "t", "w"),
    "conv conv function function multiply": layer(
        "Convolution", "d", "c", more=f"convolution_param {{ {UNEVEN} }}"
    )
    + layer("ELU", "e", "d")
    + layer("Sigmoid", "g", "d")
    + layer("Eltwise", "m", ["e", "g"], more="eltwise_param { operation: PROD }"),
    "conv affine add": layer("Eltwise", "m", ["c", "c"], more="eltwise_param { coeff: 1 coeff: -0.5 }"),
    "conv flatten fc": layer("Flatten", "f", "c")
    + layer("InnerProduct", "i", "f", more="inner_product_param { num_output: 5 }")
    + layer("Dropout", "d", "i", "i"),
}


@pytest.mark.parametrize("ops", CASES)
def test_layers(tmp_path: Path, ops: str) -> None:
    text = HEAD + CONV + CASES[ops]
    graph, weights = loaded(tmp_path, text)
    assert " ".join(x.op for x in graph.layers) == ops
    names = [x.name for x in active(parse_text("Net", text))]
    same_as_opencv(graph, text, weights, names[-1:])


OLD = """name: "old" input: "data" input_dim: 10 input_dim: 3 input_dim: 12 input_dim: 12
layers { name: "c" type: CONVOLUTION bottom: "data" top: "c"
         convolution_param { num_output: 6 kernel_size: 3 } }
layers { name: "r" type: RELU bottom: "c" top: "c" }
layers { name: "p" type: POOLING bottom: "c" top: "p" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layers { name: "f" type: INNER_PRODUCT bottom: "p" top: "f" inner_product_param { num_output: 4 } }
layers { name: "s" type: SOFTMAX bottom: "f" top: "s" }
"""


def test_files_of_before_2014(tmp_path: Path) -> None:
    graph, weights = loaded(tmp_path, OLD)
    assert [x.op for x in graph.layers] == ["conv", "relu", "max_pool", "flatten", "fc"]
    assert "left out" in graph.notes[0]
    same_as_opencv(graph, OLD, weights, ["f"])


def test_refusals_name_every_layer(tmp_path: Path) -> None:
    text = HEAD + CONV + layer("MVN", "m", "c") + layer("SPP", "q", "m") + layer("ReLU", "r", "q")
    with pytest.raises(UnsupportedError) as caught:
        loaded(tmp_path, text)
    assert [name for _, name, _ in caught.value.operators] == ["m", "q"]


@pytest.mark.parametrize(
    ("text", "weights", "message"),
    [
        ("layer {", b"", "not readable as Caffe's files"),
        (HEAD + CONV, b"\xff\xff", "not readable as Caffe's files"),
        (HEAD + CONV, b"", "0 blobs of that name in the weights: expected 2"),
        ('layer { name: "c" type: "ReLU" bottom: "x" top: "y" }', b"", "inputs none: expected one image"),
        ('input: "a" input: "b"', b"", "inputs 'a', 'b': expected one image"),
        ('input: "a"', b"", "does not say how large an image is"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, weights: bytes, message: str) -> None:
    (tmp_path / "n.prototxt").write_text(text)
    (tmp_path / "n.caffemodel").write_bytes(weights)
    with pytest.raises(ModelError, match=message):
        radixpoint.load(tmp_path / "n.prototxt", weights=tmp_path / "n.caffemodel")
    with pytest.raises(ModelError, match=r"give its weights"):
        radixpoint.load(tmp_path / "n.prototxt")


NETWORKS = {
    "ResNet-50-deploy": "fc1000",
    "ResNet-101-deploy": "fc1000",
    "ResNet-152-deploy": "fc1000",
    "bvlc_alexnet-deploy": "fc8",
    "bvlc_reference_caffenet-deploy": "fc8",
    "bvlc_googlenet-deploy": "loss3/classifier",
}


@pytest.mark.slow("networks at full size")
@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_of_the_papers(tmp_path: Path, name: str) -> None:
    path = SHARED / f"{name}.prototxt"
    if not path.exists():
        pytest.skip(f"no {path}: the original descriptions are not here")
    text = path.read_text()
    graph, weights = loaded(tmp_path, text)
    same_as_opencv(graph, text, weights, [NETWORKS[name]])
    counts = Counter(kind_of(x) for x in active(parse_text("Net", text)))
    ops = Counter(x.op for x in graph.layers)
    assert ops["conv"] == counts["Convolution"]
    assert ops["batch_norm"] == counts["BatchNorm"] == counts["Scale"]


@pytest.mark.parametrize("form", ["staged", "affine", "folded"])
def test_the_two_layers_of_the_paper(tmp_path: Path, form: str) -> None:
    """BatchNorm and Scale are a batch normalization, staged again where a design asks for it."""
    text = HEAD + CONV + layer("BatchNorm", "b", "c", "c")
    text += layer("Scale", "s", "c", "c", "scale_param { bias_term: true }") + layer("ReLU", "r", "c", "c")
    text += layer("InnerProduct", "i", "c", more="inner_product_param { num_output: 7 }")
    graph, _ = loaded(tmp_path, text)
    ranges = networks.calibrated(graph)
    network = quantize(graph, ranges, Design.separate(8, 12, batch_norm=form))
    assert ("b/gamma" in network.parameters) == (form == "staged")
    assert ("b/scale" in network.parameters) == (form == "affine")
    inputs = networks.images(3, 1, graph.shapes[graph.input]).inputs(0, 3)
    fast.agree(network, quantize_images(network, inputs))
