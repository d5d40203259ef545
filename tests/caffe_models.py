"""Random weights for Caffe descriptions: shapes are worked out here, apart from the importer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from radixpoint.data.caffe_schema import _messages, active, kind_of, parse_text


def _sizes(parameter: Any, name: str, short: str, default: int) -> tuple[int, int]:
    if getattr(parameter, f"{short}_h") or getattr(parameter, f"{short}_w"):
        return getattr(parameter, f"{short}_h"), getattr(parameter, f"{short}_w")
    values = list(getattr(parameter, name)) or [default]
    return values[0], values[-1]


def _add(made: Any, values: np.ndarray) -> None:
    blob = made.blobs.add()
    blob.shape.dim.extend(values.shape)
    blob.data.extend(values.astype(np.float32).ravel().tolist())


def random_weights(description: Path | str, seed: int = 0, shape: tuple[int, ...] = (3, 224, 224)) -> bytes:
    """A ``.caffemodel`` for a description, given as a file or as text."""
    text = description.read_text() if isinstance(description, Path) else description
    net, random = parse_text("Net", text), np.random.default_rng(seed)
    result = _messages()["Net"]()
    if len(net.input_dim) >= 4:
        shape = tuple(net.input_dim[1:4])
    shapes = {name: shape for name in net.input}
    for layer in active(net):
        kind = kind_of(layer)
        if kind in ("Input", "Data"):
            if kind == "Input":
                shape = tuple(layer.input_param.shape[0].dim[1:])
            elif layer.transform_param.crop_size:
                shape = (3, layer.transform_param.crop_size, layer.transform_param.crop_size)
            shapes[layer.top[0]] = shape
            continue
        if kind in ("Accuracy", "SoftmaxWithLoss"):
            continue
        own = [shapes[name] for name in layer.bottom]
        made = result.layer.add(name=layer.name, type=kind)
        c, *rest = own[0]
        out: tuple[int, ...] = own[0]
        match kind:
            case "Convolution" | "Deconvolution":
                p = layer.convolution_param
                kernel, stride = _sizes(p, "kernel_size", "kernel", 0), _sizes(p, "stride", "stride", 1)
                pad, dilation = _sizes(p, "pad", "pad", 0), (list(p.dilation) or [1])[0]
                fan = c // p.group * math.prod(kernel)
                first = (
                    (p.num_output, c // p.group) if kind == "Convolution" else (c, p.num_output // p.group)
                )
                _add(made, random.normal(0, (2 / fan) ** 0.5, (*first, *kernel)))
                if p.bias_term:
                    _add(made, random.normal(0, 0.1, p.num_output))
                places = zip(rest, kernel, stride, pad, strict=True)
                if kind == "Convolution":
                    sizes = [(s + 2 * d - dilation * (k - 1) - 1) // t + 1 for s, k, t, d in places]
                else:
                    sizes = [(s - 1) * t + k - 2 * d for s, k, t, d in places]
                out = (p.num_output, *sizes)
            case "InnerProduct":
                p, features = layer.inner_product_param, math.prod(own[0])
                _add(made, random.normal(0, features**-0.5, (p.num_output, features)))
                if p.bias_term:
                    _add(made, random.normal(0, 0.1, p.num_output))
                out = (p.num_output,)
            case "BatchNorm":
                factor = 2.0  # statistics are sums that this divides
                _add(made, factor * random.normal(0, 0.2, c))
                _add(made, factor * random.uniform(0.5, 2, c))
                _add(made, np.array([factor]))
            case "Scale" if len(own) == 1:
                _add(made, random.uniform(0.5, 1.2, c))
                if layer.scale_param.bias_term:
                    _add(made, random.normal(0, 0.2, c))
            case "PReLU":
                _add(made, random.uniform(0, 0.4, 1 if layer.prelu_param.channel_shared else c))
            case "Pooling":
                p = layer.pooling_param
                if p.global_pooling:
                    out = (c, 1, 1)
                else:
                    sizes = []
                    axes = (_sizes(p, "kernel_size", "kernel", 0), _sizes(p, "stride", "stride", 1),
                            _sizes(p, "pad", "pad", 0))  # fmt: skip
                    for s, k, t, d in zip(rest, *axes, strict=True):
                        count = math.ceil((s + 2 * d - k) / t) + 1
                        sizes.append(count - (d > 0 and (count - 1) * t >= s + d))
                    out = (c, *sizes)
            case "Concat":
                out = (sum(s[0] for s in own), *rest)
            case "Slice":
                points = [0, *layer.slice_param.slice_point, c]
                shapes |= {t: (b - a, *rest) for t, a, b in zip(layer.top, points, points[1:], strict=False)}
                continue
            case "Flatten" | "Reshape":
                out = (math.prod(own[0]),)
        shapes |= dict.fromkeys(layer.top, out)
    return bytes(result.SerializeToString())
