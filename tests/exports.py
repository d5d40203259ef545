"""Networks, designs and images for the tests of exports."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import networks
from radixpoint.export import Verification, example_images, export_network, verify_export
from radixpoint.ir.graph import Graph, build_graph
from radixpoint.ir.network import IntGraph
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize


def random_network(seed: int) -> Graph:
    """A network of random operators, shapes and windows; between a few seeds every operator."""
    random = np.random.default_rng(seed)
    size = int(random.integers(7, 11))
    n = networks.Net(seed, (int(random.choice([1, 3])), size, size))
    x = n.conv("input", int(random.integers(2, 7)), int(random.choice([1, 3])), pads=(1, 1, 1, 1))
    for _ in range(4):
        channels = n.channels[x]
        pool = {"kernel": (2, 3), "strides": (1, 1), "pads": (1, 1, 0, 1)}
        match int(random.integers(0, 8)):
            case 0:
                x = n.bn(x)
            case 1:
                x = n.simple("relu", x)
            case 2:
                x = n.simple("clip", n.bn(x), low=-0.7, high=1.3)
            case 3:
                x = n.simple("max_pool", x, **pool)
            case 4:
                x = n.simple("average_pool", x, **pool, count_include_pad=bool(random.integers(2)))
            case 5:
                x = n.add(x, n.conv(x, channels, 3, groups=channels, bias=True))
            case 6:
                x = n.concat(x, n.bn(n.conv(x, 3, 3, dilations=(2, 1), pads=(2, 1, 2, 1))))
            case _:
                x = n.bn(n.conv(x, 4, 3, pads=(1, 2, 0, 1)))
    x = n.conv(x, 2, 3, strides=(2, 2), pads=(0, 1, 1, 0), bias=True)
    flat = n.simple("flatten", x)
    shape = build_graph("test", "input", n.shape, n.layers, flat, n.arrays).shapes[flat]
    return n.graph(n.fc(flat, shape[0], 7))


def quantized(graph: Graph, conv: int = 7, bn: int = 11, **options: Any) -> IntGraph:
    return quantize(graph, networks.calibrated(graph), Design.separate(conv=conv, bn=bn, **options))


def switched_off(scope: str) -> IntGraph:
    """Channels and a whole branch that training has all but switched off; casts by more places than bits."""
    graph = networks.residual()
    parameters = {key: value.copy() for key, value in graph.parameters.items()}
    parameters["batch_norm1.gamma"][0] *= np.float32(1e-20)
    parameters["conv0.weight"][1] *= np.float32(1e-25)
    for role in ("gamma", "beta"):
        parameters[f"batch_norm8.{role}"] *= np.float32(1e-20)
    graph = replace(graph, parameters=parameters)
    return quantized(graph, 8, 16, binary_point={"scope": scope, "rule": "max"})


def verified(network: IntGraph, target: str, folder: Path, **options: Any) -> Verification:
    """Export, verify, remove."""
    export_network(network, target, folder / "x", **options)
    result = verify_export(folder / "x")
    shutil.rmtree(folder / "x")
    return result


def extreme_image(network: IntGraph, layer: str) -> np.ndarray:
    """An image that brings a convolution which reads the image itself to the end of its proven range."""
    step = next(s for s in network.steps if s.op == "conv" and network.tensors[s.name].layer == layer)
    assert step.inputs == (network.input,)
    weight = network.arrays(step)["weight"]
    source, result = network.tensors[network.input], network.tensors[step.name]
    flat = weight.reshape(len(weight), -1)
    high = np.where(flat > 0, source.high, source.low)
    low = np.where(flat > 0, source.low, source.high)
    for pattern in (high, low):
        sums = (flat * pattern).sum(1)
        for channel in np.flatnonzero((sums == result.high) | (sums == result.low)):
            if int(sums[channel]) >= result.format.max // 2 or int(sums[channel]) < result.format.min // 2:
                image = np.zeros((1, *source.shape), np.int64)
                patch = pattern[channel].reshape(weight.shape[1:])
                image[0, :, 3 : 3 + patch.shape[1], 3 : 3 + patch.shape[2]] = patch
                return image
    raise AssertionError("no channel reaches the end of the range")


__all__ = ["example_images", "extreme_image", "networks", "quantized", "random_network", "verified"]
