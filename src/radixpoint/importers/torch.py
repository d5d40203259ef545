"""``torch.nn.Module`` -> Graph, and files of weights -> arrays. torch is imported only when used."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import ModelError, UnsupportedError
from radixpoint.ir import Graph, Layer, build_graph
from radixpoint.ops import LAYERS, Shape


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Arrays by name from ``.safetensors``, or from ``.pt`` / ``.pth`` loaded weights-only.

    Raises:
        ModelError: the file cannot be read, holds a pickled object, or something that is no float array.
    """
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    torch = _torch(f"reading {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path}: cannot be loaded weights-only ({str(error).splitlines()[0]}): a pickled module can run "
            "any code when it is opened and is refused; save model.state_dict() instead"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path}: expected a state_dict: a dict of tensors by name")
    return {name: value.to(torch.float32).numpy() for name, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError, KeyError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from None
    return {
        name: value.astype(np.float32)
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def _torch(purpose: str) -> Any:
    try:
        import torch
    except ImportError:
        raise ModelError(
            f"{purpose} needs torch, which is not installed: pip install 'radixpoint[torch]'"
        ) from None
    return torch


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _pads(value: int | tuple[int, ...]) -> tuple[int, int, int, int]:
    y, x = _pair(value)
    return (y, x, y, x)


def _array(value: Any) -> NDArray[np.float32]:
    return np.array(value.detach().cpu().float().numpy(), np.float32)


class _Refused(Exception):
    """Why one node of a module cannot become a layer."""


_New = tuple[str, dict[str, Any], dict[str, NDArray[np.float32]]]


def _conv(module: Any, shape: Shape) -> _New:
    if module.padding_mode != "zeros":
        raise _Refused(f"padding mode {module.padding_mode!r}: only zeros")
    kernel, dilation = _pair(module.kernel_size), _pair(module.dilation)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        pads = (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    else:
        pads = (0, 0, 0, 0) if module.padding == "valid" else _pads(module.padding)
    return (
        "conv",
        {"strides": _pair(module.stride), "pads": pads, "dilations": dilation, "groups": module.groups},
        _weight_and_bias(module),
    )


def _weight_and_bias(module: Any) -> dict[str, NDArray[np.float32]]:
    arrays = {"weight": _array(module.weight)}
    if module.bias is not None:
        arrays["bias"] = _array(module.bias)
    return arrays


def _batch_norm(module: Any, shape: Shape) -> _New:
    if module.running_mean is None or module.running_var is None:
        raise _Refused("it keeps no running statistics")
    channels = module.num_features
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    return (
        "batch_norm",
        {"epsilon": float(module.eps)},
        {
            "gamma": ones if module.weight is None else _array(module.weight),
            "beta": zeros if module.bias is None else _array(module.bias),
            "mean": _array(module.running_mean),
            "variance": _array(module.running_var),
        },
    )


def _max_pool(module: Any, shape: Shape) -> _New:
    if _pair(module.dilation) != (1, 1) or module.ceil_mode:
        raise _Refused("dilation or ceil_mode")
    kernel = _pair(module.kernel_size)
    stride = kernel if module.stride is None else _pair(module.stride)
    return "max_pool", {"kernel": kernel, "strides": stride, "pads": _pads(module.padding)}, {}


def _average_pool(module: Any, shape: Shape) -> _New:
    if module.ceil_mode or module.divisor_override:
        raise _Refused("ceil_mode or divisor_override")
    kernel = _pair(module.kernel_size)
    stride = kernel if module.stride is None else _pair(module.stride)
    attributes = {
        "kernel": kernel,
        "strides": stride,
        "pads": _pads(module.padding),
        "count_include_pad": bool(module.count_include_pad),
    }
    return "average_pool", attributes, {}


def _adaptive_average_pool(module: Any, shape: Shape) -> _New:
    return _adaptive(module.output_size, shape)


def _adaptive(size: Any, shape: Shape) -> _New:
    height, width = _pair(size) if size is not None else shape[1:]
    if shape[1] % height or shape[2] % width:
        raise _Refused(f"adaptive pooling of {shape[1:]} to {(height, width)}: sizes must divide")
    kernel = (shape[1] // height, shape[2] // width)
    attributes = {"kernel": kernel, "strides": kernel, "pads": (0,) * 4, "count_include_pad": False}
    return "average_pool", attributes, {}


def _flatten_module(module: Any, shape: Shape) -> _New:
    if module.start_dim != 1 or module.end_dim not in (-1, len(shape)):
        raise _Refused("only flattening to two dimensions")
    return "flatten", {}, {}


def _hardtanh(module: Any, shape: Shape) -> _New:
    return "clip", {"low": float(module.min_val), "high": float(module.max_val)}, {}


_MODULES: Mapping[str, Callable[[Any, Shape], _New]] = {
    "Conv2d": _conv,
    "BatchNorm2d": _batch_norm,
    "ReLU": lambda module, shape: ("relu", {}, {}),
    "ReLU6": _hardtanh,
    "Hardtanh": _hardtanh,
    "MaxPool2d": _max_pool,
    "AvgPool2d": _average_pool,
    "AdaptiveAvgPool2d": _adaptive_average_pool,
    "Linear": lambda module, shape: ("fc", {}, _weight_and_bias(module)),
    "Flatten": _flatten_module,
}
_IDENTITIES = ("Identity", "Dropout", "Dropout2d")


def import_module(module: Any, input_shape: tuple[int, ...] | None) -> Graph:
    """Trace a ``torch.nn.Module`` symbolically (torch.fx) and import it.

    The module must be in evaluation mode. Names of layers are its modules' names.

    Raises:
        ModelError: no module, in training mode, no input shape, or it cannot be traced.
        UnsupportedError: operations that are not supported, all of them named.
    """
    torch = _torch("importing a module")
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{type(module).__name__}: expected a path or a torch.nn.Module")
    source = type(module).__name__
    if module.training:
        raise ModelError(f"{source}: is in training mode: call .eval() first")
    if input_shape is None:
        raise ModelError(f"{source}: a module does not say how large an image is: give input_shape")
    try:
        traced = torch.fx.symbolic_trace(module)
    except Exception as error:
        raise ModelError(f"{source}: cannot be traced symbolically: {error}") from None
    return _Tracer(source, module, traced.graph, input_shape).run()


class _Tracer:
    """Walks an fx graph once; layers that are identities become names for their input."""

    def __init__(self, source: str, module: Any, graph: Any, input_shape: Shape) -> None:
        self.source, self.modules, self.graph = source, dict(module.named_modules()), graph
        self.names: dict[Any, str] = {}
        self.shapes: dict[str, Shape] = {"input": input_shape}
        self.layers: list[Layer] = []
        self.parameters: dict[str, NDArray[np.float32]] = {}
        self.refused: list[tuple[str, str, str]] = []

    def run(self) -> Graph:
        output = "input"
        for node in self.graph.nodes:
            if node.op == "placeholder":
                if "input" in self.names.values():
                    raise ModelError(f"{self.source}: takes several inputs: expected one image")
                self.names[node] = "input"
            elif node.op == "output":
                if node.args[0] not in self.names:
                    raise UnsupportedError(
                        self.source, self.refused or [("output", node.name, "not one tensor")]
                    )
                output = self.names[node.args[0]]
            else:
                self.visit(node)
        if self.refused:
            raise UnsupportedError(self.source, self.refused)
        return build_graph(self.source, "input", self.shapes["input"], self.layers, output, self.parameters)

    def visit(self, node: Any) -> None:
        label = str(node.target) if node.op == "call_module" else node.name
        operation = (
            type(self.modules[node.target]).__name__
            if node.op == "call_module"
            else getattr(node.target, "__name__", str(node.target))
        )
        if operation in ("size", "getattr", "getitem"):
            return  # sizes, such as the batch in view(batch, -1), are no tensors
        inputs = [self.names[a] for a in node.all_input_nodes if a in self.names]
        try:
            known = [self.shapes[name] for name in inputs]
            new = self.translate(node, operation, known)
            if new is None:
                self.names[node] = inputs[0]
                return
            self.append(self.unique(label), inputs, *new)
            self.names[node] = self.layers[-1].name
        except _Refused as refused:
            self.refused.append((operation, label, str(refused)))
            if inputs:  # so that what follows is looked at too
                self.names[node] = inputs[0]

    def unique(self, name: str) -> str:
        taken, count, result = set(self.shapes), 1, name
        while result in taken:
            count += 1
            result = f"{name}_{count}"
        return result

    def append(
        self,
        name: str,
        inputs: list[str],
        op: str,
        attributes: dict[str, Any],
        arrays: dict[str, NDArray[np.float32]],
    ) -> None:
        keys = {role: f"{name}.{role}" for role in arrays}
        if op in ("add", "concat"):
            attributes = {"count": len(inputs)} if op == "concat" else {}
        elif len(inputs) != 1:
            raise _Refused(f"{len(inputs)} inputs")
        try:
            shape = LAYERS[op].shape(attributes, [self.shapes[i] for i in inputs], arrays)
        except Exception as error:
            raise ModelError(f"{self.source}: layer {name!r}: {error}") from None
        self.layers.append(Layer(name, op, tuple(inputs), attributes, keys))
        self.parameters.update({keys[role]: value for role, value in arrays.items()})
        self.shapes[name] = shape

    def translate(self, node: Any, operation: str, shapes: list[Shape]) -> _New | None:
        """The layer that a node becomes, or None for an identity."""
        if node.op == "call_module":
            if operation in _IDENTITIES:
                return None
            if operation not in _MODULES:
                raise _Refused("no layer of that kind")
            return _MODULES[operation](self.modules[node.target], shapes[0])
        arguments, keywords = node.args, node.kwargs
        if node.target in (operator.add, operator.iadd) or operation == "add":
            if len(node.all_input_nodes) != 2 or keywords.get("alpha", 1) != 1:
                raise _Refused("only the sum of two tensors")
            return "add", {}, {}
        if operation in ("relu", "relu_"):
            return "relu", {}, {}
        if operation == "relu6":
            return "clip", {"low": 0.0, "high": 6.0}, {}
        if operation == "flatten":
            start = arguments[1] if len(arguments) > 1 else keywords.get("start_dim", 0)
            if start != 1 or len(arguments) > 2 or keywords.get("end_dim", -1) != -1:
                raise _Refused("only flattening to two dimensions")
            return "flatten", {}, {}
        if operation in ("view", "reshape"):
            target = arguments[1] if isinstance(arguments[1], tuple | list) else arguments[1:]
            if len(target) != 2 or target[1] != -1:
                raise _Refused("only reshaping to (batch, -1)")
            return "flatten", {}, {}
        if operation in ("cat", "concat"):
            dim = arguments[1] if len(arguments) > 1 else keywords.get("dim", 0)
            if dim != 1:
                raise _Refused(f"dimension {dim}: only channels (1)")
            return "concat", {}, {}
        if operation == "adaptive_avg_pool2d":
            return _adaptive(arguments[1] if len(arguments) > 1 else keywords["output_size"], shapes[0])
        if operation == "mean":
            dims = arguments[1] if len(arguments) > 1 else keywords.get("dim")
            if sorted(d % 4 for d in dims or ()) == [2, 3]:
                keep = arguments[2] if len(arguments) > 2 else keywords.get("keepdim", False)
                if not keep:
                    raise _Refused("mean over height and width without keepdim")
                return _adaptive((1, 1), shapes[0])
            raise _Refused("only the mean over height and width")
        if operation in ("dropout", "contiguous"):
            return None
        raise _Refused("no layer of that kind")
