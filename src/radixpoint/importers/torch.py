"""``torch.nn.Module`` or ``torch.export`` program -> Graph, and files of weights -> arrays.

torch is imported only when used. A module is exported by ``torch.export``, which records ATen operations;
each must be a row of the table in ``torch_rules``. What comes out is compared with the module on random
images.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import GraphError, ModelError
from radixpoint.importers.builder import Builder, Refused, View, whole
from radixpoint.importers.compare import check_imported, random_images
from radixpoint.importers.torch_rules import FINAL, PASSES_FINAL, RULES, Call
from radixpoint.ir.graph import Graph
from radixpoint.ir.ops import Shape

BATCH = 2
"""Images that a module is exported with: one alone, torch treats as a special case."""
_PARTS = ("chunk", "split", "slice", "select", "view", "reshape", "permute", "transpose", "squeeze", "t",
          "unsqueeze", "expand", "flatten", "narrow", "unbind", "getitem")  # fmt: skip
"""Operations whose result shares elements with what they read, but may be of another shape."""
_SAME = ("detach", "alias", "to", "dropout", "feature_dropout", "alpha_dropout", "contiguous")
"""Operations whose result may be what they read."""
_MALFORMED = (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError)


def read_weights(path: Path) -> dict[str, NDArray[np.float32]]:
    """Arrays by name from ``.safetensors``, or from ``.pt`` / ``.pth`` loaded weights-only.

    Raises:
        ModelError: the file cannot be read, holds a pickled object, or something that is no float array.
    """
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    torch = require_torch(f"reading {path}")
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


def read_state(path: Path) -> dict[str, Any]:
    """A ``state_dict``: tensors by name, weights-only.

    Raises:
        ModelError: the file cannot be read, or holds something else.
    """
    torch = require_torch(f"reading {path}")
    if path.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except Exception as error:  # of many kinds
            raise ModelError(f"{path}: not a readable safetensors file: {error}") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path}: cannot be loaded weights-only: {_first_line(error)}") from None
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ModelError(f"{path}: expected a state_dict: a dict of tensors by name")
    return state


def require_torch(purpose: str) -> Any:
    """torch, if it is installed.

    Raises:
        ModelError: it is not.
    """
    try:
        import torch
    except ImportError:
        raise ModelError(
            f"{purpose} needs torch, which is not installed: pip install 'radixpoint[torch]'"
        ) from None
    return torch


def import_module(module: Any, input_shape: tuple[int, ...] | None) -> Graph:
    """Export a ``torch.nn.Module``, import it, and compare the two on random images.

    The module must be in evaluation mode; a ``torch.export.ExportedProgram`` is taken as it is. Names of
    layers are its modules' names.

    Raises:
        ModelError: no module, in training mode, no input shape, it cannot be run or exported, or it computes
            something else than what was exported.
        UnsupportedError: operations that are not supported, all of them named.
    """
    torch = require_torch("importing a module")
    if isinstance(module, torch.export.ExportedProgram):
        return _import_program(torch, module, input_shape)
    if not isinstance(module, torch.nn.Module):
        raise ModelError(
            f"{type(module).__name__}: expected a path, a torch.nn.Module or a torch.export.ExportedProgram"
        )
    source = type(module).__name__
    if module.training:
        raise ModelError(f"{source}: is in training mode: call .eval() first")
    trained = next((name for name, part in module.named_modules() if part.training), None)
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
    for name, part in module.named_modules():
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        own = [hook for hook in hooks if not type(hook).__module__.startswith("torch.nn.utils")]
        if own:
            raise ModelError(
                f"{source}: module {name!r} has hooks, which tracing does not see, so they would be "
                "left out: remove them, or put what they compute into a module"
            )


def read_program(path: Path) -> Any:
    """A program that ``torch.export.save`` wrote.

    Raises:
        ModelError: it cannot be read.
    """
    torch = require_torch(f"reading {path}")
    try:
        return torch.export.load(path)
    except Exception as error:  # of many kinds
        raise ModelError(f"{path}: not a program of torch.export: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _imported(torch: Any, source: str, module: Any, input_shape: Shape) -> Graph:
    original = _Original(torch, source, module, input_shape)
    images = random_images(input_shape)[:BATCH]
    original(images)  # what makes weights on the fly makes them when it is called
    log = logging.getLogger("torch.export")
    level = log.level
    try:
        log.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(module, (original.as_input(images),), strict=False)
            if _shares(program):
                program = program.run_decompositions({})
    except Exception as error:  # of many kinds
        raise ModelError(f"{source}: cannot be exported by torch.export: {_first_line(error)}") from None
    finally:
        log.setLevel(level)
    importer = _Importer(torch, source, program, input_shape)
    graph = importer.run()
    if importer.final:
        original.end_at(program, importer.ends, importer.batch)
    check_imported(graph, lambda images: original.values(images, importer, graph))
    return graph


def _import_program(torch: Any, program: Any, input_shape: Shape | None) -> Graph:
    source = "program"
    names = program.graph_signature.user_inputs
    values = [n.meta.get("val") for n in program.graph.nodes if n.name in names]
    if len(values) != 1 or not isinstance(values[0], torch.Tensor):
        raise ModelError(f"{source}: takes {len(names)} inputs: expected one image")
    sizes = tuple(values[0].shape)
    if any(not isinstance(size, int) for size in sizes[1:]) or len(sizes) not in (3, 4):
        raise ModelError(f"{source}: takes {sizes}: expected images of a fixed size")
    shape = tuple(int(s) for s in sizes[1:]) if len(sizes) == 4 else (int(sizes[1]), 1, int(sizes[2]))
    if input_shape is not None and input_shape != shape:
        raise ModelError(f"{source}: takes images of {shape}, but {input_shape} was given")
    original = _Original(torch, source, program.module(), shape, len(sizes) == 3)
    if _shares(program):
        program = program.run_decompositions({})
    batch = sizes[0] if isinstance(sizes[0], int) else None
    importer = _Importer(torch, source, program, shape, batch)
    graph = importer.run()
    if importer.final:
        original.end_at(program, importer.ends, importer.batch)
    check_imported(graph, lambda images: original.in_batches(images, importer, graph))
    return graph


def _operation(node: Any) -> str:
    """Name of what a node computes, without its overload."""
    return str(getattr(node.target, "_opname", getattr(node.target, "__name__", node.target)))


def _in_place(operation: str) -> bool:
    return operation.endswith("_") and not operation.startswith("__")


def _shares(program: Any) -> bool:
    """Whether an operation in place changes something of which parts are seen by another name."""
    for node in program.graph.nodes:
        if node.op != "call_function" or not _in_place(_operation(node)) or not node.args:
            continue
        base = node.args[0]
        while base.op == "call_function" and _operation(base) in _SAME:
            base = base.args[0]
        users = [user for user in base.users if user.op == "call_function"]
        if base.op == "call_function" and _operation(base) in _PARTS:
            return True
        if any(_operation(user) in _PARTS for user in users):
            return True
    return False


class _Original:
    """Runs a module, and notes what its own modules give."""

    def __init__(self, torch: Any, source: str, module: Any, shape: Shape, one_row: bool = False) -> None:
        self.torch, self.source, self.module, self.shape, self.one_row = torch, source, module, shape, one_row
        self._end: Any = None
        self._size = 1

    def as_input(self, images: NDArray[np.float32]) -> Any:
        """Images where the module is, and of its type; without rows where it takes one-dimensional ones."""
        parameter = next(self.module.parameters(), None)
        x = self.torch.from_numpy((images[:, :, 0] if self.one_row else images).copy())
        if parameter is not None:
            x = x.to(parameter.device, parameter.dtype if parameter.is_floating_point() else None)
        return x

    def __call__(self, images: NDArray[np.float32]) -> Any:
        try:
            return self._run(images)
        except Exception as error:
            if self.shape[1] == 1 and not self.one_row:  # a network of one-dimensional images takes no rows
                self.one_row = True
                try:
                    return self._run(images)
                except Exception:
                    self.one_row = False
            raise ModelError(
                f"{self.source}: cannot be run on images of {images.shape[1:]} (channels, height, width): "
                f"{_first_line(error)}"
            ) from None

    def _run(self, images: NDArray[np.float32]) -> Any:
        with self.torch.no_grad():
            result = self.module(self.as_input(images))
            if self._end is None:
                return result
            parts = [
                self._end(self.as_input(images[i : i + self._size]))
                for i in range(0, len(images), self._size)
            ]
            return [self.torch.cat(same) for same in zip(*parts, strict=True)]

    def _results(self, result: Any) -> list[Any]:
        leaves = self.torch.utils._pytree.tree_leaves(result)
        strange = next((x for x in leaves if not isinstance(x, self.torch.Tensor)), None)
        if strange is not None or not leaves:
            raise ModelError(f"{self.source}: returns {type(strange).__name__}: expected tensors")
        return [leaf.detach().cpu().float().numpy() for leaf in leaves]

    def in_batches(
        self, images: NDArray[np.float32], importer: _Importer, graph: Graph
    ) -> dict[str, NDArray[np.floating]]:
        """Results of a program that may take a fixed number of images."""
        size = importer.batch
        filled = np.resize(images, (-(-len(images) // size) * size, *images.shape[1:]))
        parts = [self._results(self(filled[i : i + size])) for i in range(0, len(filled), size)]
        whole_results = [np.concatenate(same)[: len(images)] for same in zip(*parts, strict=True)]
        return self._named(whole_results, importer, graph)

    def _named(
        self, results: Sequence[NDArray[Any]], importer: _Importer, graph: Graph
    ) -> dict[str, NDArray[np.floating]]:
        return {
            view.name: view.ours(values, graph.shapes[view.name])
            for values, view in zip(results, importer.results, strict=True)
        }

    def end_at(self, program: Any, nodes: Sequence[Any], size: int) -> None:
        """Take results from the program, before what is left out at its end; it takes ``size`` images."""
        module = program.module()
        named = {node.name: node for node in module.graph.nodes}
        output = next(node for node in module.graph.nodes if node.op == "output")
        output.args = (tuple(named[node.name] for node in nodes),)
        module.graph.set_codegen(self.torch.fx.CodeGen())
        module.recompile()
        self._end, self._size = module, size

    def values(
        self, images: NDArray[np.float32], importer: _Importer, graph: Graph
    ) -> dict[str, NDArray[np.floating]]:
        """Results of modules, by the names of the layers that give them, and of all."""
        seen: dict[str, NDArray[np.floating]] = {}
        handles = []
        for target, views in importer.calls.items():
            left = iter(views)

            def note(module: Any, inputs: Any, result: Any, left: Any = left) -> None:
                view = next(left, None)
                if view is None or not isinstance(result, self.torch.Tensor) or view.name not in graph.shapes:
                    return
                values = result.detach().cpu().float().numpy().copy()
                if values.size == len(values) * int(np.prod(graph.shapes[view.name])):
                    seen[view.name] = view.ours(values, graph.shapes[view.name])

            handles.append(self.module.get_submodule(target).register_forward_hook(note))
        try:
            result = self(images)
        finally:
            for handle in handles:
                handle.remove()
        return {**seen, **self._named(self._results(result), importer, graph)}


class _Importer:
    """Walks an exported program once.

    Attributes:
        batch: images that it was exported with.
        calls: what each module gives, call by call.
        results: how results are seen.
        ends: the nodes that compute them.
    """

    def __init__(
        self, torch: Any, source: str, program: Any, input_shape: Shape, batch: int | None = BATCH
    ) -> None:
        self.torch, self.program, self.batch = torch, program, batch or 1
        self.build = Builder(source, input_shape)
        self.values: dict[Any, Any] = {}  # node -> view, array or list
        self.lost: set[Any] = set()
        self.final: set[Any] = set()
        self.before: dict[Any, Any] = {}  # what is left out at the end -> what it reads
        self.results: list[View] = []
        self.ends: list[Any] = []
        self._calls: dict[str, View] = {}  # by path and number of the call, the last operation's

    @property
    def calls(self) -> dict[str, list[View]]:
        found: dict[str, list[View]] = {}
        for path, view in self._calls.items():
            found.setdefault(path.split("@")[0], []).append(view)
        return found

    def run(self) -> Graph:
        signature = self.program.graph_signature
        state, constants = dict(self.program.state_dict), dict(self.program.constants)
        state |= {name: value for name, value in self.program.named_buffers()}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        names |= signature.inputs_to_lifted_tensor_constants
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                if node.name in names:
                    name = names[node.name]
                    self.values[node] = state[name] if name in state else constants[name]
                elif node.name in signature.user_inputs:
                    self.values[node] = self._image(node)
            elif node.op == "get_attr":
                self.values[node] = getattr(self.program.graph_module, node.target)
            elif node.op == "output":
                return self._finished(node, signature.user_outputs)
            else:
                self.visit(node)
        raise ModelError(f"{self.build.source}: has no output")

    def _image(self, node: Any) -> View:
        if any(isinstance(v, View) for v in self.values.values()):
            raise ModelError(f"{self.build.source}: takes several inputs: expected one image")
        seen = whole("input", self.build.shapes["input"])
        if len(node.meta["val"].shape) == 3:  # one row, without an axis of its own
            return View("input", seen.factors, (seen.axes[0], seen.axes[2]))
        return seen

    def _finished(self, output: Any, wanted: Sequence[str]) -> Graph:
        nodes = {node.name: node for node in self.program.graph.nodes}
        for name in wanted:
            node = nodes.get(name)
            value = self.values.get(node)
            if node in self.lost:
                continue
            if not isinstance(value, View):
                raise ModelError(f"{self.build.source}: result {name!r} does not depend on the image")
            self.results.append(self.build.output(value))
            while node in self.before:
                node = self.before[node]
            self.ends.append(node)
        return self.build.graph(self.results)

    def _argument(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [self._argument(v) for v in value]
        if hasattr(value, "all_input_nodes"):
            found = self.values[value]
            return found.detach().cpu().numpy() if isinstance(found, self.torch.Tensor) else found
        return value

    def visit(self, node: Any) -> None:
        operation = _operation(node).rstrip("_") if _in_place(_operation(node)) else _operation(node)
        inputs = node.all_input_nodes
        self.build.label = self._label(node)
        if operation.startswith("_assert") or operation in ("sym_size", "sym_constrain_range_for_size"):
            return
        if self.lost.intersection(inputs):
            self.lost.add(node)
            if operation not in RULES:
                self.refuse(node, operation, "no layer of that kind")
            return
        try:
            self.values[node] = self._computed(node, operation)
        except (Refused, GraphError) as refused:
            self.refuse(node, operation, str(refused))
        except _MALFORMED as error:
            self.refuse(node, operation, f"called in another way than is known: {error}")

    def _computed(self, node: Any, operation: str) -> Any:
        if operation == "getitem":
            values, index = self.values[node.args[0]], node.args[1]
            if not isinstance(values, list):
                raise Refused("part of a tensor")
            return values[index] if index < len(values) else None  # such as indices, which may not be read
        if any(self.values[i] is None for i in node.all_input_nodes):
            raise Refused("it reads a result that is not computed, such as indices")
        if not any(self._of_image(i) for i in node.all_input_nodes):
            return self._constant(node)
        if self.final.intersection(node.all_input_nodes) and operation not in PASSES_FINAL:
            raise Refused("it reads what a softmax makes, which is left out and may only end a network")
        if operation not in RULES:
            raise Refused("no layer of that kind")
        arguments = {}
        schema = node.target._schema.arguments
        for i, own in enumerate(schema):
            if i < len(node.args):
                arguments[own.name] = self._argument(node.args[i])
            elif own.name in node.kwargs:
                arguments[own.name] = self._argument(node.kwargs[own.name])
            elif own.has_default_value():
                arguments[own.name] = own.default_value
        result = RULES[operation](Call(self.build, self.batch, arguments))
        if operation in FINAL or self.final.intersection(node.all_input_nodes):
            self.final.add(node)
            self.before[node] = node.all_input_nodes[0]
        elif isinstance(result, View):
            path = self._module(node)
            if path is not None:
                self._calls[path] = result
            if _in_place(_operation(node)):  # whoever reads the operand from here on reads the result
                before = self.values[node.args[0]]
                self.values.update({other: result for other, v in self.values.items() if v is before})
        return result

    def _of_image(self, node: Any) -> bool:
        value = self.values.get(node)
        return isinstance(value, View | list)

    def _constant(self, node: Any) -> Any:
        """What depends on weights alone."""

        def real(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return [real(v) for v in value]
            return self.values[value] if hasattr(value, "all_input_nodes") else value

        with self.torch.no_grad():
            return node.target(
                *[real(a) for a in node.args], **{name: real(value) for name, value in node.kwargs.items()}
            )

    def _module(self, node: Any) -> str | None:
        """Path of the module of torch.nn that a node is in, with the number of its call."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        if not stack or not stack[-1][0] or "torch.nn.modules" not in str(stack[-1][1]):
            return None
        return str(stack[-1][0])

    def _label(self, node: Any) -> str:
        path = self._module(node)
        return str(node.name) if path is None else path.split("@")[0]

    def refuse(self, node: Any, operation: str, why: str) -> None:
        self.build.refused.append((operation, self.build.label, why))
        value = node.meta.get("val")
        shape = getattr(value, "shape", None)
        if shape is None or len(shape) not in (2, 4):
            self.lost.add(node)
            return
        name = f"refused {node.name}"  # what reads it is looked at as if it were there
        self.build.shapes[name] = tuple(int(s) for s in shape[1:])
        self.values[node] = whole(name, self.build.shapes[name])
