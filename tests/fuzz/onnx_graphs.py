"""Random ONNX models of every operator that is imported: onnxruntime's float, and every engine's integers.

``python tests/fuzz/onnx_graphs.py FIRST LAST [EXPORTED [TARGET]]`` runs seeds FIRST..LAST-1. Importing
compares with onnxruntime; the engines are compared tensor by tensor; the first EXPORTED networks are exported
to every target, and verified or refused by name. With TARGET they are exported to that one alone, and the
engines are not compared; Verilog is then simulated by Icarus Verilog.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from verilog_networks import icarus

import fast
import radixpoint
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.engines import quantize_images
from radixpoint.errors import DesignError, ExportError, ModelError
from radixpoint.export import TARGETS, export_network, verify_export, verilog
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import Ranges, calibrate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

Shape = tuple[int, ...]


class Model:
    """A random model under construction: nodes, constants, and the shapes of its tensors, batch left out."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        r = self.random
        self.shape: Shape = (int(r.integers(1, 5)), int(r.integers(4, 11)), int(r.integers(4, 11)))
        self.one_row = bool(r.random() < 0.1)
        if self.one_row:
            self.shape = (self.shape[0], 1, int(r.integers(8, 20)))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.tensors: dict[str, Shape] = {"x": self.shape}
        self.last = "x"
        if self.one_row:
            self.tensors["x"] = (self.shape[0], self.shape[2])

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, inputs: list[str], shape: Shape, outputs: int = 1, **attributes: Any) -> str:
        names = [f"t{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        self.tensors.update(dict.fromkeys(names, shape))
        self.last = names[0]
        return names[0]

    def normal(self, *shape: int) -> str:
        fan = max(int(np.prod(shape[1:])), 1)
        return self.constant(self.random.normal(0, fan**-0.5, shape))

    def choose(self, *options: Any) -> Any:
        return options[self.random.integers(len(options))]


def _spatial(m: Model, x: str) -> int:
    return len(m.tensors[x]) - 1


def conv(m: Model, x: str) -> None:
    c, *sizes = m.tensors[x]
    axes = len(sizes)
    groups = m.choose(1, 1, c) if c > 1 else 1
    outputs = groups * int(m.random.integers(1, 4))
    kernel = [int(m.random.integers(1, min(size, 3) + 1)) for size in sizes]
    strides = [int(m.random.integers(1, 3)) for _ in sizes]
    pads = [int(m.random.integers(0, k)) for k in kernel * 2]
    shape = [(s + pads[i] + pads[i + axes] - kernel[i]) // strides[i] + 1 for i, s in enumerate(sizes)]
    inputs = [x, m.normal(outputs, c // groups, *kernel)]
    if m.random.random() < 0.5:
        inputs.append(m.constant(m.random.normal(0, 0.3, outputs)))
    m.node("Conv", inputs, (outputs, *shape), pads=pads, strides=strides, group=groups)


def transposed(m: Model, x: str) -> None:
    c, *sizes = m.tensors[x]
    axes, outputs = len(sizes), int(m.random.integers(1, 4))
    kernel = [int(m.random.integers(1, 4)) for _ in sizes]
    strides = [int(m.random.integers(1, 3)) for _ in sizes]
    more = [int(m.random.integers(0, s)) for s in strides]
    pads = [int(m.random.integers(0, k)) for k in kernel * 2]
    shape = [
        (s - 1) * strides[i] + kernel[i] + more[i] - pads[i] - pads[i + axes] for i, s in enumerate(sizes)
    ]
    if min(shape) < 1:
        return
    m.node("ConvTranspose", [x, m.normal(c, outputs, *kernel)], (outputs, *shape), pads=pads,
           strides=strides, output_padding=more)  # fmt: skip


def pool(m: Model, x: str) -> None:
    c, *sizes = m.tensors[x]
    axes = len(sizes)
    kernel = [int(m.random.integers(1, min(s, 3) + 1)) for s in sizes]
    strides = [
        int(m.random.integers(1, min(k, 2) + 1)) for k in kernel
    ]  # else onnxruntime disagrees with itself
    half = [int(m.random.integers(0, k // 2 + 1)) for k in kernel]
    ceil = int(m.random.integers(2))
    shape = []
    for i, s in enumerate(sizes):
        span = s + 2 * half[i] - kernel[i]
        count = (-(-span // strides[i]) if ceil else span // strides[i]) + 1
        if ceil and (count - 1) * strides[i] >= s + half[i]:
            count -= 1
        shape.append(count)
    extra = {} if (op := m.choose("MaxPool", "AveragePool")) == "MaxPool" else {
        "count_include_pad": int(m.random.integers(2)) if not ceil else 0}  # fmt: skip
    m.node(op, [x], (c, *shape), kernel_shape=kernel, strides=strides, pads=half * 2, ceil_mode=ceil, **extra)
    assert axes


def unary(m: Model, x: str) -> None:
    op, attributes = m.choose(
        ("Relu", {}), ("Sigmoid", {}), ("Tanh", {}), ("Abs", {}), ("Erf", {}), ("Softplus", {}),
        ("Softsign", {}), ("Elu", {"alpha": 0.7}), ("Celu", {"alpha": 1.3}), ("Selu", {}), ("HardSwish", {}),
        ("HardSigmoid", {}), ("LeakyRelu", {"alpha": 0.1}), ("Neg", {}), ("Identity", {}), ("Dropout", {}),
        ("Mish", {}),
    )  # fmt: skip
    m.node(op, [x], m.tensors[x], **attributes)


def swish(m: Model, x: str) -> None:
    m.node("Mul", [x, m.node("Sigmoid", [x], m.tensors[x])], m.tensors[x])


def root(m: Model, x: str) -> None:
    shape = m.tensors[x]
    positive = m.node("Add", [m.node("Abs", [x], shape), m.constant(1.0)], shape)
    if (op := m.choose("Sqrt", "Log", "Reciprocal", "Pow", "Exp")) == "Pow":
        m.node("Pow", [positive, m.constant(m.choose(0.5, -0.75, 2.0))], shape)
    else:
        m.node(op, [positive], shape)


def limits(m: Model, x: str) -> None:
    m.node("Clip", [x, m.constant(-0.5), m.constant(1.25)], m.tensors[x])


def normalized(m: Model, x: str) -> None:
    c, r = m.tensors[x][0], m.random
    roles = [r.normal(1, 0.3, c), r.normal(0, 0.3, c), r.normal(0, 0.3, c), r.uniform(0.3, 2, c)]
    m.node("BatchNormalization", [x, *map(m.constant, roles)], m.tensors[x])


def slopes(m: Model, x: str) -> None:
    shape = m.tensors[x]
    m.node("PRelu", [x, m.constant(m.random.uniform(0, 0.5, (shape[0], *[1] * (len(shape) - 1))))], shape)


def by_constant(m: Model, x: str) -> None:
    shape = m.tensors[x]
    axis = int(m.random.integers(len(shape)))
    own = m.choose((), tuple(size if i == axis else 1 for i, size in enumerate(shape)))
    value = m.constant(m.random.uniform(0.5, 1.5, own) * m.random.choice([-1, 1]))
    op = m.choose("Add", "Sub", "Mul", "Div")
    inputs = [x, value]
    if op in ("Sub", "Add", "Mul") and m.random.random() < 0.5:
        inputs = [value, x]
    m.node(op, inputs, shape)


def of_two(m: Model, x: str) -> None:
    shape = m.tensors[x]
    same = [name for name, own in m.tensors.items() if own == shape]
    other = same[m.random.integers(len(same))]
    m.node(m.choose("Add", "Sub", "Mul", "Max", "Min", "Sum"), [x, other], shape)


def gate(m: Model, x: str) -> None:
    shape = m.tensors[x]
    mean = m.node("GlobalAveragePool", [x], (shape[0], *[1] * (len(shape) - 1)))
    m.node("Mul", [x, m.node("Sigmoid", [mean], m.tensors[mean])], shape)


def joined(m: Model, x: str) -> None:
    shape = m.tensors[x]
    fits = [name for name, own in m.tensors.items() if len(own) == len(shape) and own[1:] == shape[1:]]
    other = fits[m.random.integers(len(fits))]
    m.node("Concat", [x, other], (shape[0] + m.tensors[other][0], *shape[1:]), axis=1)


def joined_rows(m: Model, x: str) -> None:
    shape = m.tensors[x]
    m.node("Concat", [x, x], (*shape[:-1], 2 * shape[-1]), axis=len(shape))


def padded(m: Model, x: str) -> None:
    shape = m.tensors[x]
    mode = m.choose("constant", "reflect", "edge")
    pads = [0, 0, *(int(m.random.integers(0, min(s, 3))) for s in shape[1:])]
    pads += [0, 0, *(int(m.random.integers(0, min(s, 3))) for s in shape[1:])]
    if mode == "constant":
        pads[1] = int(m.random.integers(2))
    rank = len(shape) + 1
    result = tuple(s + pads[i + 1] + pads[i + 1 + rank] for i, s in enumerate(shape))
    inputs = [x, m.constant(pads, np.int64)]
    if mode == "constant":
        inputs.append(m.constant(m.choose(0.0, -0.5)))
    m.node("Pad", inputs, result, mode=mode)


def sliced(m: Model, x: str) -> None:
    shape = m.tensors[x]
    axis = int(m.random.integers(len(shape)))
    start, step = int(m.random.integers(0, shape[axis])), m.choose(1, 2, -1)
    end = -10000 if step < 0 else 10000
    size = len(range(shape[axis])[start : None if step < 0 else end : step])
    ends = [m.constant([v], np.int64) for v in (start, end, axis + 1, step)]
    m.node("Slice", [x, *ends], tuple(size if i == axis else s for i, s in enumerate(shape)))


def split(m: Model, x: str) -> None:
    shape = m.tensors[x]
    if shape[0] < 2:
        return
    first = int(m.random.integers(1, shape[0]))
    m.node("Split", [x, m.constant([first, shape[0] - first], np.int64)], shape, 2, axis=1)
    names = m.nodes[-1].output
    m.tensors[names[0]], m.tensors[names[1]] = (first, *shape[1:]), (shape[0] - first, *shape[1:])
    m.last = names[int(m.random.integers(2))]


def turned(m: Model, x: str) -> None:
    """There, something on the way, and back."""
    shape = m.tensors[x]
    order = [0, *(m.random.permutation(len(shape)) + 1).tolist()]
    moved = m.node("Transpose", [x], tuple(shape[i - 1] for i in order[1:]), perm=order)
    m.choose(unary, by_constant, sliced)(m, moved)
    if len(m.tensors[m.last]) == len(shape) and m.random.random() < 0.7:
        back = np.argsort(order).tolist()
        m.node("Transpose", [m.last], tuple(m.tensors[m.last][i - 1] for i in back[1:]), perm=back)


def shuffled(m: Model, x: str) -> None:
    c, *sizes = m.tensors[x]
    groups = next((g for g in (2, 3) if c % g == 0), 1)
    cut = m.node("Reshape", [x, m.constant([0, groups, c // groups, *sizes], np.int64)], ())
    order = [0, 2, 1, *range(3, 3 + len(sizes))]
    swapped = m.node("Transpose", [cut], (), perm=order)
    m.node("Reshape", [swapped, m.constant([0, c, *sizes], np.int64)], (c, *sizes))
    del m.tensors[cut], m.tensors[swapped]


def blocks(m: Model, x: str) -> None:
    if len(m.tensors[x]) != 3:
        return
    c, h, w = m.tensors[x]
    if c % 4 == 0:
        m.node("DepthToSpace", [x], (c // 4, 2 * h, 2 * w), blocksize=2, mode=m.choose("DCR", "CRD"))
    elif h % 2 == 0 and w % 2 == 0:
        m.node("SpaceToDepth", [x], (4 * c, h // 2, w // 2), blocksize=2)


def resized(m: Model, x: str) -> None:
    if len(m.tensors[x]) != 3:
        return
    c, h, w = m.tensors[x]
    mode = m.choose("nearest", "linear")
    scales = m.constant([1, 1, 2, 2])
    coordinates = m.choose("half_pixel", "asymmetric")
    extra = {"nearest_mode": m.choose("floor", "round_prefer_floor")} if mode == "nearest" else {}
    m.node("Resize", [x, "", scales], (c, 2 * h, 2 * w), mode=mode,
           coordinate_transformation_mode=coordinates, **extra)  # fmt: skip


def reduced(m: Model, x: str) -> None:
    shape = m.tensors[x]
    axes = sorted(m.random.permutation(len(shape))[: int(m.random.integers(1, len(shape)))].tolist())
    keep = m.choose(1, 0)
    kept = [1 if i in axes else s for i, s in enumerate(shape) if keep or i not in axes]
    if len(kept) < 2:
        return
    inputs = [x, m.constant([a + 1 for a in axes], np.int64)]
    m.node(m.choose("ReduceMean", "ReduceMax"), inputs, tuple(kept), keepdims=keep)


def squeezed(m: Model, x: str) -> None:
    shape = m.tensors[x]
    wide = m.node("Unsqueeze", [x, m.constant([2], np.int64)], (shape[0], 1, *shape[1:]))
    m.node("Squeeze", [wide, m.constant([2], np.int64)], shape)
    del m.tensors[wide]


def response(m: Model, x: str) -> None:
    if len(m.tensors[x]) == 3:
        m.node("LRN", [x], m.tensors[x], size=m.choose(3, 5), alpha=0.5, beta=0.75, bias=1.0)


def matrix(m: Model, x: str) -> None:
    """A product over the last axis of each place."""
    shape = m.tensors[x]
    outputs = int(m.random.integers(1, 5))
    m.node("MatMul", [x, m.normal(shape[-1], outputs)], (*shape[:-1], outputs))


OPERATORS = [conv, conv, conv, transposed, pool, unary, unary, unary, swish, root, limits, normalized, slopes,
             by_constant, of_two, of_two, gate, joined, joined_rows, padded, sliced, split, turned, shuffled,
             blocks, resized, reduced, squeezed, response, matrix]  # fmt: skip


def random_model(seed: int) -> tuple[onnx.ModelProto, Counter[str]]:
    """A model, and how often each operator stands in it."""
    m = Model(seed)
    conv(m, "x")
    for _ in range(int(m.random.integers(3, 10))):
        x = m.last if m.random.random() < 0.8 else m.choose(*[t for t in m.tensors if t != "x"])
        if len(m.tensors[x]) >= 2 and np.prod(m.tensors[x]) < 4000:
            OPERATORS[m.random.integers(len(OPERATORS))](m, x)
    outputs = [m.last]
    if m.random.random() < 0.6:
        size = int(np.prod(m.tensors[m.last]))
        flat = m.node("Flatten", [m.last], (size,), axis=1)
        outputs = [m.node("Gemm", [flat, m.normal(7, size)], (7,), transB=1)]
    elif m.random.random() < 0.5:
        outputs += [t for t in (m.choose(*m.tensors),) if t not in (m.last, "x")]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", *m.tensors[n]]) for n in outputs]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *m.tensors["x"]])
    constants = [numpy_helper.from_array(v, k) for k, v in m.constants.items()]
    graph = helper.make_graph(m.nodes, "g", [image], ends, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model, Counter(n.op_type for n in m.nodes)


def random_design(seed: int) -> Design:
    random = np.random.default_rng(seed)
    options: dict[str, Any] = {
        "batch_norm": str(random.choice(["affine", "staged", "folded"])),
        "binary_point": {
            "scope": str(random.choice(["tensor", "channel"])), "rule": str(random.choice(["max", "mse"])),
        },
        "rounding": str(random.choice(["RND", "RND_CONV", "TRN", "RND_ZERO"])),
        "unsigned": bool(random.integers(2)),
        "overflow": str(random.choice(["SAT", "SAT_SYM"])),
    }  # fmt: skip
    return Design.separate(int(random.integers(3, 13)), int(random.integers(6, 17)), **options)


def ranges(graph: Graph, inputs: np.ndarray) -> Ranges:
    """Of these inputs: an image set whose pixels are the numbers themselves."""
    channels = len(inputs[0])
    plain = Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels, channel_order="stored", rescale=1.0)
    pixels = np.clip(np.rint(inputs * 40 + 128), 0, 255).astype(np.uint8)
    scaled = replace(plain, mean=(3.2,) * channels, rescale=1 / 40)
    labels = np.zeros(len(inputs), np.int64)
    return calibrate(graph, ImageSet("random", pixels, labels, ("0",), scaled))


def check(
    seed: int, folder: Path, exported: bool = False, only: str = ""
) -> tuple[Counter[str], dict[str, str]]:
    """Import, quantize, run on every engine; export if asked for, to every target or to one alone.

    Returns:
        Operators of the model, and what became of each export.

    Raises:
        AssertionError: two engines differ, or an export.
    """
    model, counts = random_model(seed)
    path = folder / "m.onnx"
    onnx.save(model, path)
    try:
        graph: Graph = radixpoint.load(path)
    except ModelError as error:  # e.g. of the root of a negative number
        if "finite" in str(error):
            return Counter({"not finite": 1}), {}
        if "Dimension mismatch" in str(
            error
        ):  # two parts of onnxruntime count the windows of a pooling otherwise
            return Counter({"not run by onnxruntime": 1}), {}
        raise
    shape = graph.shapes[graph.input]
    inputs = np.random.default_rng(seed).normal(0, 1, (11, *shape)).astype(np.float32)
    try:
        network = quantize(graph, ranges(graph, inputs[:8]), random_design(seed))
    except DesignError as error:
        if "64 bits" in str(error) or "places" in str(error):
            return Counter({"beyond 64 bits": 1}), {}
        raise
    stored = quantize_images(network, inputs[8:])
    if not only:
        fast.agree(network, stored)
    results: dict[str, str] = {}
    for target in TARGETS if exported else ():
        if only not in ("", target):
            continue
        place = Path(tempfile.mkdtemp(dir=folder)) / target
        try:
            export_network(network, target, place)
        except ExportError as error:
            results[target] = f"refused: {error}"
            continue
        if target == "hls4ml":  # a configuration, which computes nothing
            results[target] = "written"
            continue
        found = verify_export(place).mismatch
        assert found is None, (seed, target, found)
        results[target] = "equal"
    return counts, results


def main(first: int, last: int, exported: int = 0, only: str = "") -> None:
    if only == "verilog":  # most models are refused: a simulator that compiles in a second
        verilog.verilate = icarus
    counts: Counter[str] = Counter()
    exports: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(first, last):
            try:
                more, results = check(seed, Path(scratch), seed - first < exported, only)
            except Exception as error:
                print(f"seed {seed}: {type(error).__name__}: {str(error)[:1000]}", flush=True)
                counts["FAILED"] += 1
                continue
            counts += Counter(dict.fromkeys(more, 1))
            exports += Counter((t, r if r in ("equal", "written") else "refused") for t, r in results.items())
    print(f"{last - first} models;", ", ".join(f"{n} {op}" for op, n in counts.most_common()))
    for (target, result), n in sorted(exports.items()):
        print(f"{target}: {n} {result}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *sys.argv[4:5])
