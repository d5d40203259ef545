"""What a convolution or fully connected layer multiplies with its weights: patches of its input."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.ir.graph import Graph

Patches = Mapping[str, NDArray[np.float32]]
"""By layer: (groups, patches, inputs of a group * kernel)."""
_BATCH = 8


def patches(
    x: NDArray[np.float32], attributes: Mapping[str, Any], kernel: tuple[int, ...]
) -> NDArray[np.float32]:
    """(groups, patches, inputs of a group * kernel) of a batch (N, C, H, W) or (N, C).

    Args:
        x: the layer's input.
        attributes: of the convolution.
        kernel: its height and width; () for a fully connected layer.
    """
    if x.ndim == 2:
        return x[None]
    groups = attributes["groups"]
    top, left, bottom, right = attributes["pads"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    dy, dx = attributes["dilations"]
    span = ((kernel[0] - 1) * dy + 1, (kernel[1] - 1) * dx + 1)
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    sy, sx = attributes["strides"]
    seen = view[:, :, ::sy, ::sx, ::dy, ::dx]
    n, c, h, w, kh, kw = seen.shape
    parted = seen.reshape(n, groups, c // groups, h, w, kh, kw).transpose(1, 0, 3, 4, 2, 5, 6)
    return parted.reshape(groups, n * h * w, -1)


def sampled_patches(
    graph: Graph,
    images: NDArray[np.float32],
    operands: Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]],
    count: int = 1024,
) -> Patches:
    """Random patches of every convolution and fully connected layer of the float network.

    Args:
        graph: the network.
        images: network input (N, C, H, W); each has the same share.
        operands: what each layer multiplies, of images.
        count: patches of a layer, at most.
    """
    random = np.random.default_rng(0)
    layers = [layer for layer in graph.layers if layer.family == "product"]
    found: dict[str, list[NDArray[np.float32]]] = {layer.name: [] for layer in layers}
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        multiplied = operands(batch)
        share = math.ceil(count * len(batch) / len(images))
        for layer in layers:
            kernel = graph.parameter(layer, "weight").shape[2:]
            seen = patches(multiplied[layer.name], layer.attributes, kernel)
            chosen = np.sort(random.permutation(seen.shape[1])[:share])
            found[layer.name].append(seen[:, chosen])
    return {name: np.concatenate(parts, 1) for name, parts in found.items()}
