"""The weights of a torchvision ResNet (He et al. 2016; stride in the 3x3) -> Graph.

A file of weights holds no topology; torchvision's names (``layer3.5.conv2.weight``) tell it: how many
stages and blocks there are, whether blocks are basic or bottleneck, and all widths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import ModelError
from radixpoint.ir.graph import Graph, Layer, build_graph

EPSILON = 1e-5
"""torch.nn.BatchNorm2d's default, which torchvision keeps."""

_BN_ROLES = {
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}


class _Builder:
    def __init__(self, source: str, state: Mapping[str, NDArray[np.float32]]) -> None:
        self.source, self.state = source, state
        self.layers: list[Layer] = []
        self.used: set[str] = set()

    def array(self, name: str, rank: int) -> str:
        if name not in self.state:
            raise ModelError(f"{self.source}: no {name!r}: expected the names of a torchvision ResNet")
        if self.state[name].ndim != rank:
            raise ModelError(
                f"{self.source}: {name!r} has shape {self.state[name].shape}: expected {rank} axes"
            )
        self.used.add(name)
        return name

    def add(
        self,
        name: str,
        op: str,
        inputs: tuple[str, ...],
        attributes: dict[str, Any],
        parameters: dict[str, str],
    ) -> str:
        self.layers.append(Layer(name, op, inputs, attributes, parameters))
        return name

    def conv_bn(self, x: str, conv: str, bn: str, stride: int, kernel: int) -> str:
        weight = self.array(f"{conv}.weight", 4)
        if self.state[weight].shape[2:] != (kernel, kernel):
            raise ModelError(
                f"{self.source}: {weight!r} has a window of {self.state[weight].shape[2:]}: expected "
                f"{kernel} x "
                f"{kernel}, as torchvision's ResNets have it; another network may be loaded from ONNX or a "
                f"module"
            )
        pad = kernel // 2
        y = self.add(
            conv,
            "conv",
            (x,),
            {"strides": (stride, stride), "pads": (pad,) * 4, "dilations": (1, 1), "groups": 1},
            {"weight": weight},
        )
        roles = {role: self.array(f"{bn}.{name}", 1) for role, name in _BN_ROLES.items()}
        return self.add(bn, "batch_norm", (y,), {"epsilon": EPSILON}, roles)

    def block(self, x: str, prefix: str, stride: int) -> str:
        convs = 3 if f"{prefix}.conv3.weight" in self.state else 2
        strided = 2 if convs == 3 else 1
        y = x
        for index in range(1, convs + 1):
            if index > 1:
                y = self.add(f"{prefix}.relu{index - 1}", "relu", (y,), {}, {})
            y = self.conv_bn(
                *(y, f"{prefix}.conv{index}", f"{prefix}.bn{index}"),
                *(stride if index == strided else 1, 3 if convs == 2 or index == 2 else 1),
            )
        if f"{prefix}.downsample.0.weight" in self.state:
            x = self.conv_bn(x, f"{prefix}.downsample.0", f"{prefix}.downsample.1", stride, 1)
        y = self.add(f"{prefix}.add", "add", (y, x), {}, {})
        return self.add(f"{prefix}.relu", "relu", (y,), {}, {})


def import_resnet(
    source: str, state: Mapping[str, NDArray[np.float32]], input_shape: tuple[int, ...] | None
) -> Graph:
    """Build the network that torchvision-named weights belong to.

    Args:
        source: name for messages.
        state: parameters by torchvision's names, any float type.
        input_shape: (channels, height, width) of an image.

    Raises:
        ModelError: names or shapes that are not a torchvision ResNet's, no input shape, or bad values.
    """
    if input_shape is None:
        raise ModelError(f"{source}: a file of weights does not say how large an image is: give its shape")
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    blocks: dict[int, set[int]] = {}
    for name in state:
        if match := re.match(r"layer(\d+)\.(\d+)\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    if not blocks:
        raise ModelError(
            f"{source}: no 'layer1.0.conv1.weight' among {len(state)} arrays: "
            "expected the names of a torchvision ResNet"
        )
    if set(blocks) != set(range(1, len(blocks) + 1)):
        raise ModelError(f"{source}: stages {sorted(blocks)}: expected layer1, layer2, ..., none missing")
    for stage, found in blocks.items():
        if found != set(range(len(found))):
            raise ModelError(f"{source}: layer{stage} has blocks {sorted(found)}: some are missing")

    to = _Builder(source, state)
    x = to.conv_bn("input", "conv1", "bn1", 2, 7)
    x = to.add("relu", "relu", (x,), {}, {})
    x = to.add("maxpool", "max_pool", (x,), {"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}, {})
    for stage in sorted(blocks):
        for index in sorted(blocks[stage]):
            x = to.block(x, f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1)
    strides = 2 ** (1 + len(blocks))
    extent = tuple(-(-size // strides) for size in input_shape[1:])
    x = to.add(
        "avgpool",
        "average_pool",
        (x,),
        {"kernel": extent, "strides": (1, 1), "pads": (0, 0, 0, 0), "count_include_pad": False},
        {},
    )
    x = to.add("flatten", "flatten", (x,), {}, {})
    roles = {"weight": to.array("fc.weight", 2)}
    if "fc.bias" in state:
        roles["bias"] = to.array("fc.bias", 1)
    x = to.add("fc", "fc", (x,), {}, roles)
    unused = sorted(set(state) - to.used)
    if unused:
        raise ModelError(
            f"{source}: {len(unused)} arrays that no torchvision ResNet has, such as {unused[0]!r}"
        )
    return build_graph(source, "input", input_shape, to.layers, x, dict(state))
