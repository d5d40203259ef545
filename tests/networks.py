"""Small networks with random weights, for tests: between them every operator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from radixpoint.data import ImageSet, Preprocessing
from radixpoint.ir.graph import Graph, Layer, build_graph
from radixpoint.measure.calibrate import Ranges, calibrate
from radixpoint.measure.floating import FloatingEngine

WINDOW = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1}


class Net:
    """Builds a Graph layer by layer with seeded weights."""

    def __init__(self, seed: int, shape: tuple[int, int, int] = (3, 12, 12)) -> None:
        self.random = np.random.default_rng(seed)
        self.shape = shape
        self.layers: list[Layer] = []
        self.arrays: dict[str, NDArray[np.float32]] = {}
        self.channels = {"input": shape[0]}

    def _add(self, op: str, inputs: list[str], channels: int, attributes=None, **arrays) -> str:  # type: ignore[no-untyped-def]
        name = f"{op}{len(self.layers)}"
        keys = {}
        for role, value in arrays.items():
            keys[role] = f"{name}.{role}"
            self.arrays[keys[role]] = np.asarray(value, np.float32)
        self.layers.append(Layer(name, op, tuple(inputs), attributes or {}, keys))
        self.channels[name] = channels
        return name

    def conv(self, x: str, outputs: int, kernel: int = 3, bias: bool = False, **attributes) -> str:  # type: ignore[no-untyped-def]
        merged = {**WINDOW, **attributes}
        inputs = self.channels[x] // merged["groups"]
        arrays = {
            "weight": self.random.normal(0, (inputs * kernel**2) ** -0.5, (outputs, inputs, kernel, kernel))
        }
        if bias:
            arrays["bias"] = self.random.normal(0, 0.3, outputs)
        return self._add("conv", [x], outputs, merged, **arrays)

    def bn(self, x: str) -> str:
        c = self.channels[x]
        r = self.random
        return self._add(
            "batch_norm",
            [x],
            c,
            {"epsilon": 1e-5},
            gamma=r.normal(0.8, 0.4, c),
            beta=r.normal(0, 0.3, c),
            mean=r.normal(0, 0.3, c),
            variance=r.uniform(0.2, 2.0, c),
        )

    def simple(self, op: str, x: str, **attributes) -> str:  # type: ignore[no-untyped-def]
        return self._add(op, [x], self.channels[x], attributes)

    def add(self, a: str, b: str) -> str:
        return self._add("add", [a, b], self.channels[a])

    def concat(self, *xs: str) -> str:
        return self._add("concat", list(xs), sum(self.channels[x] for x in xs), {"count": len(xs)})

    def fc(self, x: str, features: int, classes: int, bias: bool = True) -> str:
        arrays = {"weight": self.random.normal(0, features**-0.5, (classes, features))}
        if bias:
            arrays["bias"] = self.random.normal(0, 0.3, classes)
        return self._add("fc", [x], classes, {}, **arrays)

    def by_channel(self, op: str, x: str, **arrays) -> str:  # type: ignore[no-untyped-def]
        return self._add(op, [x], self.channels[x], {}, **arrays)

    def function(self, x: str, name: str, *numbers: float) -> str:
        return self.simple("function", x, function=name, numbers=tuple(numbers))

    def graph(self, output: str) -> Graph:
        return build_graph("test", "input", self.shape, self.layers, output, self.arrays)


def residual(seed: int = 0) -> Graph:
    """A bottleneck with a strided shortcut, max pooling, 4x4 average pooling."""
    n = Net(seed)
    x = n.simple("relu", n.bn(n.conv("input", 8)))
    x = n.simple("max_pool", x, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = n.simple("relu", n.bn(n.conv(x, 4, 1, pads=(0, 0, 0, 0))))
    y = n.bn(n.conv(y, 16, 3, strides=(2, 2)))
    x = n.simple("relu", n.add(y, n.bn(n.conv(x, 16, 1, strides=(2, 2), pads=(0, 0, 0, 0)))))
    x = n.simple("average_pool", x, kernel=(3, 3), strides=(1, 1), pads=(0,) * 4, count_include_pad=False)
    return n.graph(n.fc(n.simple("flatten", x), 16, 10))


def mixed(seed: int = 0) -> Graph:
    """Groups, depthwise, dilation, biases, ReLU6, concat, padded average pooling, uneven padding."""
    n = Net(seed)
    a = n.simple("clip", n.conv("input", 6, 3, bias=True), low=0.0, high=6.0)
    b = n.simple("relu", n.bn(n.conv(a, 6, 3, groups=6)))
    c = n.conv(a, 4, 3, groups=2, dilations=(2, 2), pads=(2, 2, 2, 2), bias=True)
    x = n.concat(a, b, c)
    x = n.simple("average_pool", x, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), count_include_pad=False)
    x = n.bn(n.conv(x, 8, 3, pads=(0, 1, 2, 1), strides=(2, 1)))
    return n.graph(n.fc(n.simple("flatten", n.simple("relu", x)), 8 * 3 * 6, 7, bias=False))


def varied(seed: int = 0) -> Graph:
    """Functions, gates, sums and differences of tensors, channels moved about, interpolation."""
    n = Net(seed)
    a = n.function(n.bn(n.conv("input", 8)), "silu")
    squeezed = n.simple(
        "average_pool", a, kernel=(12, 12), strides=(1, 1), pads=(0,) * 4, count_include_pad=False
    )
    gate = n.function(n.conv(squeezed, 8, 1, pads=(0,) * 4, bias=True), "sigmoid")
    a = n._add("multiply", [a, gate], 8)
    b = n.by_channel("prelu", n.conv(a, 8, bias=True), slope=n.random.uniform(0, 0.5, 8))
    b = n.by_channel("affine", b, scale=n.random.normal(1, 0.2, 8), offset=n.random.normal(0, 0.2, 8))
    c = n._add("subtract", [a, b], 8)
    c = n._add("maximum", [c, n._add("minimum", [a, b], 8)], 8)
    norm = n.function(n.simple("square_sum", c, size=5), "power", 0.2, 1.0, -0.75)
    c = n._add("multiply", [c, norm], 8)
    c = n.simple("select", c, channels=(), rows=(-1, *range(12)), columns=tuple(range(0, 12, 2)), fill=0.0)
    c = n._add("rearrange", [c], 4, {"split": (2, 4, 13, 6), "order": (1, 0, 2, 3), "shape": (4, 26, 6)})
    halves = tuple((i // 2, min(i // 2 + i % 2, 5), i % 2) for i in range(12))
    c = n.simple("interpolate", c, rows=tuple((i, i, 0) for i in range(0, 26, 5)), columns=halves, places=1)
    return n.graph(n.fc(n.simple("flatten", c), 4 * 6 * 12, 7))


def images(
    count: int = 96, seed: int = 0, shape: tuple[int, ...] = (3, 12, 12), classes: int = 7
) -> ImageSet:
    random = np.random.default_rng(seed)
    channels = {"mean": (0.5,) * shape[0], "std": (0.25,) * shape[0]}
    order = "RGB" if shape[0] == 3 else "L"
    coarse = random.integers(0, 256, (count, shape[0], -(-shape[1] // 4), -(-shape[2] // 4)))
    pixels = np.kron(coarse, np.ones((1, 1, 4, 4)))[:, :, : shape[1], : shape[2]].astype(np.uint8)
    return ImageSet(
        "random",
        pixels,
        random.integers(0, classes, count),
        tuple(str(i) for i in range(classes)),
        Preprocessing(channel_order=order, **channels),
    )


def calibrated(graph: Graph) -> Ranges:
    return calibrate(graph, images(shape=graph.shapes["input"]))


def balanced() -> Graph:
    """The residual network with its mean logits taken out, so that it names many classes."""
    graph = residual()
    inputs = images(200, 9, graph.shapes["input"]).inputs(0, 200)
    logits = FloatingEngine(graph).run(inputs)[graph.output]
    key = f"{graph.output}.bias"
    bias = graph.parameters[key] - logits.mean(0)
    return replace(graph, parameters={**graph.parameters, key: bias})


def labelled(graph: Graph, count: int, seed: int) -> ImageSet:
    """Images labelled by the network itself, so that its accuracy starts at 100 %."""
    plain = images(count, seed, graph.shapes["input"], classes=10)
    labels = FloatingEngine(graph).run(plain.inputs(0, count))[graph.output].argmax(1)
    return ImageSet("random", plain.pixels, labels, plain.classes, plain.preprocessing)
