"""``torch.nn.Module`` -> Graph, and files of weights -> arrays. torch is imported only when used."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import GraphError, ModelError, UnsupportedError
from radixpoint.importers.compare import check_imported, random_images
from radixpoint.ir.graph import Graph, Layer, build_graph
from radixpoint.ir.ops import LAYERS, Shape


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
    if not isinstance(state, dict) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) and v.layout == torch.strided
        for k, v in state.items()
    ):
        raise ModelError(f"{path}: expected a state_dict: a dict of dense tensors by name")
    counts = "num_batches_tracked"
    strange = next((k for k, v in state.items() if not (v.is_floating_point() or k.endswith(counts))), None)
    if strange is not None:
        raise ModelError(f"{path}: {strange!r} is {state[strange].dtype}: expected floating point")
    return {name: value.to(torch.float32).numpy() for name, value in state.items()}


def _read_safetensors(path: Path) -> dict[str, NDArray[np.float32]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from None
    strange = next(
        (n for n, v in state.items() if v.dtype.kind != "f" and not n.endswith("num_batches_tracked")), None
    )
    if strange is not None:
        raise ModelError(f"{path}: {strange!r} is {state[strange].dtype}: expected floating point")
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


_LOST = ""
"""Stands for the name of a tensor that an operation makes which is not supported."""
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


def _kind(module: Any) -> str:
    """The class of torch.nn that a module is; parametrized ones are of a class made for each."""
    for one in type(module).__mro__:
        if one.__module__.startswith("torch.nn.modules"):
            return str(one.__name__)
    return type(module).__name__


def import_module(module: Any, input_shape: tuple[int, ...] | None) -> Graph:
    """Trace a ``torch.nn.Module`` symbolically (torch.fx), import it, and compare the two on random images.

    The module must be in evaluation mode. Names of layers are its modules' names.

    Raises:
        ModelError: no module, in training mode, no input shape, it cannot be run or traced, or it computes
            something else than what tracing sees.
        UnsupportedError: operations that are not supported, all of them named.
    """
    torch = _torch("importing a module")
    if not isinstance(module, torch.nn.Module):
        raise ModelError(f"{type(module).__name__}: expected a path or a torch.nn.Module")
    source = type(module).__name__
    if module.training:
        raise ModelError(f"{source}: is in training mode: call .eval() first")
    trained = next((name for name, one in module.named_modules() if one.training), None)
    if trained is not None:
        raise ModelError(
            f"{source}: module {trained!r} is in training mode: call .eval() on the whole module"
        )
    if input_shape is None:
        raise ModelError(f"{source}: a module does not say how large an image is: give input_shape")
    _check_tensors(torch, source, module)
    _check_hooks(torch, source, module)
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    try:
        return _imported(torch, source, module, input_shape)
    finally:  # what looked at the module leaves it as it was
        with torch.no_grad():
            for name, value in module.named_buffers():
                if name in buffers and buffers[name].shape == value.shape:
                    value.copy_(buffers[name])


def _check_tensors(torch: Any, source: str, module: Any) -> None:
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.device.type == "meta":
            raise ModelError(f"{source}: {name!r} is on the meta device: it has no values")
        if value.is_floating_point() and value.dtype not in (torch.float32, torch.float64):
            raise ModelError(f"{source}: {name!r} is {value.dtype}: expected float32: call .float()")
        if value.is_complex() or value.is_quantized:
            raise ModelError(f"{source}: {name!r} is {value.dtype}: expected real numbers")


def _check_hooks(torch: Any, source: str, module: Any) -> None:
    """Refuse hooks, which tracing does not see, save those of torch that make a weight before it is used."""
    everywhere = torch.nn.modules.module
    if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
        raise ModelError(f"{source}: hooks of all modules are set, which tracing does not see: remove them")
    for name, one in module.named_modules():
        hooks = (*one._forward_hooks.values(), *one._forward_pre_hooks.values())
        own = [hook for hook in hooks if not type(hook).__module__.startswith("torch.nn.utils")]
        if own:
            raise ModelError(
                f"{source}: module {name!r} has hooks, which tracing does not see, so they would be "
                "left out: remove them, or put what they compute into a module"
            )


def _imported(torch: Any, source: str, module: Any, input_shape: tuple[int, ...]) -> Graph:
    original = _Original(torch, source, module)
    original(random_images(input_shape)[:1])  # what makes weights on the fly makes them when it is called
    try:
        traced = torch.fx.symbolic_trace(module)
    except Exception as error:
        raise ModelError(f"{source}: cannot be traced symbolically: {error}") from None
    _note_shapes(traced, original.as_input(random_images(input_shape)[:1]))
    tracer = _Tracer(source, module, traced.graph, input_shape)
    graph = tracer.run()
    check_imported(graph, lambda images: original.values(images, tracer.calls, graph.output))
    return graph


def _note_shapes(traced: Any, images: Any) -> None:
    """Let each node know the shape of its result, so that nodes behind a refused one are looked at too."""
    from torch.fx.passes.shape_prop import ShapeProp

    with suppress(Exception):  # what cannot be run so is looked at as far as it can be
        ShapeProp(traced).propagate(images)


class _Original:
    """Runs a module, and notes what its own modules give."""

    def __init__(self, torch: Any, source: str, module: Any) -> None:
        self.torch, self.source, self.module = torch, source, module

    def as_input(self, images: NDArray[np.float32]) -> Any:
        """Images where the module is, and of its type."""
        parameter = next(self.module.parameters(), None)
        x = self.torch.from_numpy(images.copy())
        if parameter is not None:
            x = x.to(parameter.device, parameter.dtype if parameter.is_floating_point() else None)
        return x

    def __call__(self, images: NDArray[np.float32]) -> Any:
        try:
            with self.torch.no_grad():
                return self.module(self.as_input(images))
        except Exception as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"{self.source}: cannot be run on images of {images.shape[1:]} (channels, height, width): "
                f"{said}"
            ) from None

    def values(
        self, images: NDArray[np.float32], calls: Mapping[str, list[str]], output: str
    ) -> dict[str, NDArray[np.floating]]:
        """Results of modules by the names of their layers (``calls``: of each module, in order), and of
        all.
        """
        seen: dict[str, NDArray[np.floating]] = {}
        handles = []
        for target, names in calls.items():
            left = iter(names)

            def note(module: Any, inputs: Any, result: Any, left: Iterator[str] = left) -> None:
                name = next(left, None)
                if name is not None and isinstance(result, self.torch.Tensor):
                    seen[name] = result.detach().cpu().float().numpy().copy()

            handles.append(self.module.get_submodule(target).register_forward_hook(note))
        try:
            result = self(images)
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(result, self.torch.Tensor):
            raise ModelError(f"{self.source}: returns {type(result).__name__}: expected one tensor")
        return {**seen, output: result.detach().cpu().float().numpy()}


class _Tracer:
    """Walks an fx graph once; layers that are identities become names for their input.

    Attributes:
        calls: names of the layers that each module became, in the order in which it is called.
    """

    def __init__(self, source: str, module: Any, graph: Any, input_shape: Shape) -> None:
        self.source, self.modules, self.graph = source, dict(module.named_modules()), graph
        self.names: dict[Any, str] = {}
        self.plain: set[Any] = set()  # nodes that are sizes, not tensors
        self.shapes: dict[str, Shape] = {"input": input_shape}
        self.layers: list[Layer] = []
        self.parameters: dict[str, NDArray[np.float32]] = {}
        self.refused: list[tuple[str, str, str]] = []
        self.calls: dict[str, list[str]] = {}

    def run(self) -> Graph:
        output = _LOST
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.placeholder(node)
            elif node.op == "output":
                result = node.args[0]
                if not hasattr(result, "op"):
                    self.refused.append(
                        ("output", node.name, f"{type(result).__name__}: expected one tensor")
                    )
                elif result in self.plain:
                    self.refused.append(("output", node.name, "a size: expected one tensor"))
                else:
                    output = self.names[result]
            else:
                self.visit(node)
        if self.refused:
            raise UnsupportedError(self.source, self.refused)
        if not self.layers:
            raise ModelError(f"{self.source}: computes nothing: expected layers")
        return build_graph(self.source, "input", self.shapes["input"], self.layers, output, self.parameters)

    def placeholder(self, node: Any) -> None:
        if "input" not in self.names.values():
            self.names[node] = "input"
        elif node.users:
            raise ModelError(f"{self.source}: takes several inputs: expected one image")

    def visit(self, node: Any) -> None:
        label = str(node.target) if node.op == "call_module" else node.name
        operation = (
            _kind(self.modules[node.target])
            if node.op == "call_module"
            else str(getattr(node.target, "__name__", node.target))
        )
        asked = node.args[1] if operation == "getattr" and len(node.args) > 1 else None
        if operation == "size" or asked == "shape":
            self.plain.add(node)  # such as the batch in view(batch, -1)
            return
        if node.op != "get_attr" and node.all_input_nodes and self.plain.issuperset(node.all_input_nodes):
            self.plain.add(node)
            return
        inputs = [self.names[a] for a in _tensors(node.args, node.kwargs) if a in self.names]
        self.names[node] = _LOST
        try:
            if _LOST in inputs:
                self.known(node, operation)
                return
            new = self.translate(node, operation, [self.shapes[name] for name in inputs])
            if new is None:
                self.names[node] = inputs[0]
                return
            self.append(self.unique(label), inputs, *new)
        except (_Refused, TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
            known = isinstance(error, _Refused)
            self.refused.append(
                (operation, label, str(error) if known else f"called in another way than is known: {error}")
            )
            shape = getattr(node.meta.get("tensor_meta"), "shape", None)
            if shape is not None:  # what reads it is looked at as if it were there
                self.names[node] = self.unique(label)
                self.shapes[self.names[node]] = tuple(shape[1:])
            return
        self.names[node] = self.layers[-1].name
        if node.op == "call_module":
            self.calls.setdefault(node.target, []).append(self.names[node])
        if self.in_place(node, operation):  # whoever reads the input from here on reads the result
            self.names.update({n: self.names[node] for n, name in self.names.items() if name == inputs[0]})

    def in_place(self, node: Any, operation: str) -> bool:
        if node.op == "call_module":
            return bool(getattr(self.modules[node.target], "inplace", False))
        return bool(
            operation.endswith("_")
            or node.target is operator.iadd
            or node.kwargs.get("inplace", False)
            or (operation in ("relu", "relu6") and len(node.args) > 1 and node.args[1])
        )

    def known(self, node: Any, operation: str) -> None:
        """Refuse an operation of no known kind, whose input is lost."""
        if operation == "getitem":
            return  # of what is lost
        if node.op == "call_module":
            if operation not in _MODULES and operation not in _IDENTITIES:
                raise _Refused("no layer of that kind")
        elif operation not in _FUNCTIONS:
            raise _Refused("no layer of that kind")

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
        except GraphError as error:
            raise _Refused(str(error)) from None
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
        if node.op == "get_attr":
            raise _Refused("a parameter or buffer that is used outside a layer")
        if operation == "getitem":
            raise _Refused("part of a tensor")
        arguments, keywords = node.args, node.kwargs
        if node.target in (operator.add, operator.iadd) or operation in ("add", "add_"):
            if len(shapes) != 2 or keywords.get("alpha", 1) != 1:
                raise _Refused("only the sum of two tensors")
            return "add", {}, {}
        if operation in ("relu", "relu_"):
            return "relu", {}, {}
        if operation == "relu6":
            return "clip", {"low": 0.0, "high": 6.0}, {}
        if operation == "flatten":
            start = arguments[1] if len(arguments) > 1 else keywords.get("start_dim", 0)
            end = arguments[2] if len(arguments) > 2 else keywords.get("end_dim", -1)
            if start != 1 or end not in (-1, len(shapes[0])):
                raise _Refused("only flattening to two dimensions")
            return "flatten", {}, {}
        if operation in ("view", "reshape"):
            self.check_reshape(
                arguments[1] if isinstance(arguments[1], tuple | list) else arguments[1:], shapes[0]
            )
            return "flatten", {}, {}
        if operation in ("cat", "concat"):
            dim = arguments[1] if len(arguments) > 1 else keywords.get("dim", 0)
            if dim not in (1, -len(shapes[0])):
                raise _Refused(f"dimension {dim}: only channels (1)")
            return "concat", {}, {}
        if operation == "adaptive_avg_pool2d":
            return _adaptive(arguments[1] if len(arguments) > 1 else keywords["output_size"], shapes[0])
        if operation == "mean":
            dims = arguments[1] if len(arguments) > 1 else keywords.get("dim")
            dims = (dims,) if isinstance(dims, int) else tuple(dims or ())
            if len(shapes[0]) != 3 or sorted(d % 4 for d in dims) != [2, 3]:
                raise _Refused("only the mean over height and width at once")
            if not (arguments[2] if len(arguments) > 2 else keywords.get("keepdim", False)):
                raise _Refused("mean over height and width without keepdim")
            return _adaptive((1, 1), shapes[0])
        if operation in ("dropout", "contiguous"):
            return None
        raise _Refused("no layer of that kind")

    def check_reshape(self, target: Any, shape: Shape) -> None:
        """Only a reshape that makes of each image a vector; the batch may be a size or left open."""
        if len(target) != 2:
            raise _Refused("only reshaping to (batch, features)")
        batch, features = target
        whole = features == -1 or features == int(np.prod(shape))
        if not whole or not (batch in self.plain or (batch == -1 and features != -1)):
            raise _Refused("only reshaping to (batch, features)")


_FUNCTIONS = (
    *("add", "add_", "iadd", "relu", "relu_", "relu6", "flatten", "view", "reshape", "cat", "concat"),
    *("adaptive_avg_pool2d", "mean", "dropout", "contiguous"),
)
"""Operations outside modules that may become layers."""


def _tensors(*arguments: Any) -> Iterator[Any]:
    """Nodes among arguments, in order, as often as they stand there."""
    for argument in arguments:
        if isinstance(argument, tuple | list):
            yield from _tensors(*argument)
        elif isinstance(argument, Mapping):
            yield from _tensors(*argument.values())
        elif hasattr(argument, "all_input_nodes"):
            yield argument
