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
from radixpoint.data.caffe_images import caffe_preprocessing
from radixpoint.data.caffe_schema import _messages, active, kind_of, parse_text
from radixpoint.engines import quantize_images
from radixpoint.errors import DataError, ModelError, UnsupportedError
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


def data_layer(more: str, phase: str = "TEST") -> str:
    return layer(
        "Data", "data", [], ["data", "label"], f"include {{ phase: {phase} }} transform_param {{ {more} }}"
    )


def mean_file(path: Path, image: np.ndarray) -> Path:
    blob = _messages()["Blob"](num=1, channels=image.shape[0], height=image.shape[1], width=image.shape[2])
    blob.data.extend(image.ravel().tolist())
    path.write_bytes(blob.SerializeToString())
    return path


@pytest.mark.parametrize("resized", [False, True])
def test_images_are_prepared_as_opencv_does(resized: bool, tmp_path: Path) -> None:
    """(pixel - mean) * scale, blue first, the middle."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "images" / "a" / "0.png")
    text = "crop_size: 16 scale: 0.5 mean_value: 104 mean_value: 117 mean_value: 123"
    (tmp_path / "net.prototxt").write_text(data_layer("crop_size: 8", "TRAIN") + data_layer(text))
    found = caffe_preprocessing(tmp_path / "net.prototxt")
    got = radixpoint.load_images(tmp_path / "images", found, ["a"]).inputs(0, 1)
    middle = pixels[4:20, 4:20]
    blob = cv2.dnn.blobFromImage(middle, 0.5, (16, 16), (104, 117, 123), swapRB=True)
    assert np.array_equal(got, blob)
    if resized:  # a mean image as large as the images it was made of
        image = np.arange(3)[:, None, None] + np.linspace(90, 110, 20 * 20).reshape(20, 20)
        (tmp_path / "net.prototxt").write_text(
            data_layer('crop_size: 16 mean_file: "far/away/m.binaryproto"')
        )
        mean_file(tmp_path / "m.binaryproto", image)
        found = caffe_preprocessing(tmp_path / "net.prototxt")
        assert (found.resize_size, found.crop_size, found.channel_order) == (20, 16, "BGR")
        np.testing.assert_allclose(found.mean, (100, 101, 102), rtol=1e-6)
        assert found.std == (1.0, 1.0, 1.0)
        inputs = found.normalize(np.zeros((1, 3, 16, 16), np.uint8))
        np.testing.assert_allclose(inputs[0], -image[:, 2:18, 2:18], rtol=1e-6)
        mean_file(tmp_path / "m.binaryproto", image[:, :12, :12])
        with pytest.raises(DataError, match="a mean image of 12x12 is smaller than the crop of 16"):
            caffe_preprocessing(tmp_path / "net.prototxt")


def test_images_of_one_channel(tmp_path: Path) -> None:
    text = 'input: "data" input_dim: 1 input_dim: 1 input_dim: 28 input_dim: 28'
    (tmp_path / "net.prototxt").write_text(text)
    found = caffe_preprocessing(
        tmp_path / "net.prototxt", mean_file(tmp_path / "m", np.full((1, 28, 28), 33.0))
    )
    assert (found.channel_order, found.mean, found.crop_size) == ("L", (33.0,), 28)
    (tmp_path / "net.prototxt").write_text(data_layer("scale: 0.00390625 force_gray: true crop_size: 28"))
    found = caffe_preprocessing(tmp_path / "net.prototxt")
    assert (found.channel_order, found.mean, found.std) == ("L", (0.0,), (256.0,))


@pytest.mark.parametrize(
    ("text", "mean", "message"),
    [
        (HEAD, None, "does not say how images are prepared"),
        ("layer {", None, "not a Caffe description"),
        (data_layer('mean_file: "gone"'), None, "'gone' is not there"),
        (data_layer("mean_value: 1 mean_value: 2"), None, "2 mean values: expected one, or 3"),
        (data_layer("scale: -1"), None, "scale -1"),
        (HEAD, b"\xff\xff", "not a mean file"),
        (HEAD, b"", "0 numbers"),
    ],
)
def test_what_does_not_say_it_is_refused(text: str, mean: bytes | None, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(text)
    (tmp_path / "m").write_bytes(mean or b"")
    with pytest.raises(DataError, match=message):
        caffe_preprocessing(tmp_path / "net.prototxt", None if mean is None else tmp_path / "m")
    with pytest.raises(DataError, match="No such file"):
        caffe_preprocessing(tmp_path / "none.prototxt")


def test_original_descriptions_say_how() -> None:
    if not SHARED.exists():
        pytest.skip(f"no {SHARED}: the original descriptions are not here")
    found = caffe_preprocessing(SHARED / "bvlc_googlenet-train_val.prototxt")
    assert (found.mean, found.crop_size, found.resize_size) == ((104.0, 117.0, 123.0), 224, None)
    found = caffe_preprocessing(SHARED / "ResNet-50-deploy.prototxt", SHARED / "ResNet_mean.binaryproto")
    np.testing.assert_allclose(found.mean, (103.06, 115.90, 123.15), atol=0.01)
    assert (found.crop_size, found.resize_size, found.channel_order) == (224, 224, "BGR")
    with pytest.raises(DataError, match=r"imagenet_mean\.binaryproto' is not there"):
        caffe_preprocessing(SHARED / "bvlc_alexnet-train_val.prototxt")
