"""What ``verify`` accepts every engine computes alike; the engines' ``run``, forks and threads."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import networks
from fast import USABLE, agree, fast_engines
from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.engines import BlasEngine, NativeEngine, ReferenceEngine, make_engine
from radixpoint.errors import DesignError, EngineError, FormatError, GraphError, ModelError
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, Step, derived_tensor, verify
from radixpoint.measure.evaluate import evaluate
from radixpoint.measure.floating import FloatingEngine
from radixpoint.measure.metrics import find_metric
from radixpoint.quantization.design import BinaryPoint, Code, Design
from radixpoint.quantization.quantize import quantize

BYTES = TensorFormat(True, 8, (3,))


def network(
    op: str, attributes: dict[str, object], shape: tuple[int, ...] = (4, 6, 6), **arrays: np.ndarray
) -> IntGraph:
    """One step on an image, recorded as its operands make it, if they make anything."""
    image = IntTensor(shape, BYTES, -128, 127, "x", "x")
    parameters = {
        role: IntParameter(np.asarray(v, np.int64), TensorFormat(True, 8, (2,))) for role, v in arrays.items()
    }
    try:
        made = derived_tensor(op, attributes, [image], parameters, "y", None)
    except Exception:
        made = image
    step = Step("y", op, ("x",), attributes, {role: role for role in arrays})
    return IntGraph("x", {"x": image, "y": made}, (step,), "y", parameters, {})


CONV = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "groups": 1}
POOL = {"kernel": (2, 2), "strides": (1, 1), "pads": (0, 0, 0, 0)}
WEIGHT = np.ones((2, 4, 3, 3))


def test_the_control() -> None:
    agree(network("conv", CONV, weight=WEIGHT), np.arange(144).reshape(1, 4, 6, 6) - 70)
    agree(network("max_pool", POOL), np.arange(144).reshape(1, 4, 6, 6) - 70)


@pytest.mark.parametrize(
    ("op", "attributes", "arrays", "message"),
    [
        ("conv", {"pads": (0, -3, 0, 0)}, {"weight": WEIGHT}, "pads"),
        ("conv", {"pads": (0, 0)}, {"weight": WEIGHT}, "pads"),
        ("conv", {"pads": (0, 0, 0, 6148914691236517205)}, {"weight": WEIGHT}, "pads"),
        ("conv", {"pads": (0, 0, 1 << 23, 1 << 23)}, {"weight": WEIGHT}, "at most"),
        ("conv", {"pads": (0, 0, 0, 0.0)}, {"weight": WEIGHT}, "pads"),
        ("conv", {"strides": (0, 1)}, {"weight": WEIGHT}, "strides"),
        ("conv", {"strides": (1, True)}, {"weight": WEIGHT}, "strides"),
        ("conv", {"strides": "11"}, {"weight": WEIGHT}, "strides"),
        ("conv", {"dilations": (-1, 1)}, {"weight": WEIGHT}, "dilations"),
        ("conv", {"groups": 0}, {"weight": WEIGHT}, "groups"),
        ("conv", {"groups": -4}, {"weight": WEIGHT}, "groups"),
        ("conv", {"more": 1}, {"weight": WEIGHT}, "attributes"),
        ("conv", {}, {"weight": np.ones((2, 4, 3))}, "4-D"),
        ("conv", {}, {"weight": np.ones((2, 4, 3, 0))}, "shape"),
        ("conv", {}, {"weight": np.ones((2, 4, 9, 9))}, "does not fit"),
        ("max_pool", {"kernel": (0, 2)}, {}, "kernel"),
        ("max_pool", {"kernel": (2, 2, 2)}, {}, "kernel"),
        ("max_pool", {"pads": (2, 0, 0, 0)}, {}, "empty"),
        ("scale", {}, {"factor": np.ones(4)}, "expected the 3 axes"),
        ("scale", {}, {"factor": np.ones(6)}, "expected the 3 axes"),
        ("scale", {}, {"factor": np.ones((1, 4, 1, 1))}, "expected the 3 axes"),
        ("scale", {}, {"factor": np.ones((2, 1, 1))}, "each whole or 1"),
        ("offset", {}, {"value": np.ones(())}, "expected the 3 axes"),
        ("clamp", {"low": -1.5, "high": 3}, {}, "low"),
        ("clamp", {"low": 5, "high": 3}, {}, "interval"),
        ("clamp", {"low": 0, "high": 1 << 70}, {}, "high"),
        ("lookup", {"first": -128}, {"table": np.ones((256, 1))}, "table"),
        ("lookup", {"first": "x"}, {"table": np.ones(256)}, "first"),
        ("dense", {}, {"weight": np.ones((3, 144))}, "do not fit"),
    ],
)
def test_outside_the_domain(op: str, attributes: dict, arrays: dict, message: str) -> None:  # type: ignore[type-arg]
    whole = {"conv": CONV, "max_pool": POOL}.get(op, {}) | attributes
    bad = network(op, whole, **arrays)
    with pytest.raises(GraphError, match=message):
        verify(bad)
    for make in (ReferenceEngine, BlasEngine, NativeEngine):
        with pytest.raises(GraphError):
            make(bad)


@pytest.mark.parametrize(
    "shape", [(), (2, 3), (1, 2, 3, 4), (0, 3, 3), (3, -1, 3), (1 << 30,), (1 << 12, 1 << 12, 8), (3.0, 2, 2)]
)
def test_shapes_outside_the_domain(shape: tuple[int, ...]) -> None:
    image = IntTensor(shape, BYTES, -128, 127, "x", "x")
    bad = IntGraph("x", {"x": image}, (), "x", {}, {})
    with pytest.raises(GraphError, match="a tensor of shape"):
        verify(bad)


def test_rounding_and_overflow_are_names_that_exist() -> None:
    image = IntTensor((4,), BYTES, -128, 127, "x", "x")
    for change in ({"rounding": "RNE"}, {"overflow": 1}, {"seed": -1}, {"stream": 1 << 64}):
        attributes = {"rounding": "RND", "overflow": "SAT", "stream": 0, "seed": 0} | change
        bad = IntGraph(
            "x", {"x": image, "y": image}, (Step("y", "cast", ("x",), attributes, {}),), "y", {}, {}
        )
        with pytest.raises(GraphError, match=next(iter(change))):
            verify(bad)


def test_operands_too_far_apart() -> None:
    image = IntTensor((4,), BYTES, -128, 127, "x", "x")
    zeros = IntParameter(np.zeros(4, np.int64), TensorFormat(True, 8, (80,)))
    with pytest.raises(GraphError, match="77 places from its sum"):
        derived_tensor("offset", {}, [image], {"value": zeros}, "y", None)


def test_a_limit_beyond_the_values() -> None:
    """Found by random networks: a limit that float32 does not hold, of values that it does."""
    image = IntTensor((4,), TensorFormat(True, 32, (0,)), -(1 << 31), (1 << 31) - 1, "x", "x")
    first = derived_tensor("clamp", {"low": -5, "high": 9}, [image], {}, "y", None)
    second = derived_tensor("clamp", {"low": 16_777_217, "high": 16_777_219}, [first], {}, "z", None)
    steps = (
        Step("y", "clamp", ("x",), {"low": -5, "high": 9}, {}),
        Step("z", "clamp", ("y",), {"low": 16_777_217, "high": 16_777_219}, {}),
    )
    graph = IntGraph("x", {"x": image, "y": first, "z": second}, steps, "z", {}, {})
    agree(graph, np.array([[-100, -5, 3, 1 << 30]]))


def test_a_cast_far_to_the_left() -> None:
    image = IntTensor((3,), TensorFormat(True, 8, (-300,)), -128, 127, "x", "x")
    to = TensorFormat(True, 12, (300,))
    attributes = {"rounding": "RND", "overflow": "SAT", "stream": 0, "seed": 0}
    made = derived_tensor("cast", attributes, [image], {}, "y", None, to)
    graph = IntGraph("x", {"x": image, "y": made}, (Step("y", "cast", ("x",), attributes, {}),), "y", {}, {})
    agree(graph, np.array([[-1, 0, 1]]))
    assert ReferenceEngine(graph).run(np.array([[-1, 0, 1]]))["y"].tolist() == [[-2048, 0, 2047]]


# ------------------------------------------------------------------------------------------------- names

GRAPH = networks.mixed()


@pytest.mark.parametrize(
    "name", ["padded 1", "padded 0", "é\u202e", "conv0.weight", "input/1.cast", "low of clip1", "\0"]
)
def test_names_of_a_model_collide_with_none_of_ours(name: str) -> None:
    """A layer may have any name; ours are made so that they are no others."""
    old = GRAPH.layers[3].name

    def named(text: str) -> str:
        return name if text == old else text

    layers = tuple(replace(x, name=named(x.name), inputs=tuple(map(named, x.inputs))) for x in GRAPH.layers)
    graph = replace(GRAPH, layers=layers, shapes={named(k): v for k, v in GRAPH.shapes.items()})
    images = networks.images(4, 0, graph.shapes["input"]).inputs(0, 4)
    assert np.array_equal(
        FloatingEngine(graph).run(images)[graph.output], FloatingEngine(GRAPH).run(images)[GRAPH.output]
    )
    quantized = quantize(graph, networks.calibrated(graph), Design.separate(6, 9))
    agree(quantized, np.random.default_rng(0).integers(-32, 32, (2, *graph.shapes["input"])))


def test_a_layer_called_like_the_middle_of_a_batch_normalization() -> None:
    graph = networks.residual()
    bn = next(x.name for x in graph.layers if x.op == "batch_norm")
    old = graph.layers[-1].name
    new = f"{bn}/normalized"
    layers = (*graph.layers[:-1], replace(graph.layers[-1], name=new))
    other = replace(
        graph, layers=layers, output=new, shapes={new if k == old else k: v for k, v in graph.shapes.items()}
    )
    design = Design.separate(8, 12, batch_norm="staged")
    plain = quantize(graph, networks.calibrated(graph), design)
    renamed = quantize(other, networks.calibrated(other), design)
    key = f"{bn}/normalized"
    assert [t.format for t in renamed.tensors.values()] == [t.format for t in plain.tensors.values()], key


# --------------------------------------------------------------------------------------------------- run

QUANTIZED = quantize(GRAPH, networks.calibrated(GRAPH), Design.separate(6, 9))
LOW, HIGH = (getattr(QUANTIZED.tensors["input"], end) for end in ("low", "high"))
GOOD = np.random.default_rng(0).integers(LOW, HIGH, (3, *GRAPH.shapes["input"]), endpoint=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GOOD.astype(np.float32), "float32"),
        (GOOD[0], "shape"),
        (GOOD[:, :2], "shape"),
        (GOOD[:0], "at least one"),
        (GOOD.transpose(0, 2, 3, 1), "shape"),
        (np.full_like(GOOD, HIGH + 1), f"{HIGH + 1}"),
        (np.full_like(GOOD, LOW - 1), f"{LOW - 1}"),
        (GOOD > 0, "bool"),
        (GOOD.astype(object), "object"),
    ],
)
def test_runs_refuse_what_is_no_image(images: np.ndarray, message: str) -> None:
    for engine in (ReferenceEngine(QUANTIZED), *(e for _, e in fast_engines(QUANTIZED))):
        with pytest.raises(EngineError, match=message):
            engine.run(images)


def test_runs_take_any_integers_of_the_right_values() -> None:
    expected = ReferenceEngine(QUANTIZED).run(GOOD)[QUANTIZED.output]
    for engine in (ReferenceEngine(QUANTIZED), *(e for _, e in fast_engines(QUANTIZED))):
        for images in (GOOD.astype(np.int8), GOOD.astype(np.int32)[:, :, ::-1][:, :, ::-1], GOOD.tolist()):
            assert np.array_equal(engine.run(images)[QUANTIZED.output], expected)
        with pytest.raises(EngineError, match="'nothing'"):
            engine.run(GOOD, ["nothing"])
        with pytest.raises(EngineError, match="collection of names"):
            engine.run(GOOD, QUANTIZED.output)


def test_networks_are_immutable_and_travel() -> None:
    with pytest.raises(TypeError):
        QUANTIZED.parameters["x"] = None  # type: ignore[index]
    copy = pickle.loads(pickle.dumps(QUANTIZED))
    assert copy.digest == QUANTIZED.digest
    assert pickle.loads(pickle.dumps(GRAPH)).digest == GRAPH.digest
    verify(copy)


@pytest.mark.parametrize("op", ["add", "maximum", "minimum"])
@pytest.mark.parametrize("places", [39, 40])
def test_an_operand_that_leaves_64_bits_at_its_result(op: str, places: int) -> None:
    """Also where the result is short: the smaller of a byte and of what no engine could hold."""
    image = IntTensor((3,), TensorFormat(True, 25, (0,)), -(1 << 23), 1 << 23, "x", "x")
    fine = IntTensor((3,), TensorFormat(True, 8, (places,)), 0, 1, "y", "y")
    if places == 40:
        with pytest.raises(FormatError, match="more than 64 bits"):
            derived_tensor(op, {}, [image, fine], {}, "z", None)
    else:
        assert derived_tensor(op, {}, [image, fine], {}, "z", None).format.word_length <= 64


def test_a_changed_network_is_looked_at_again() -> None:
    tensors = dict(QUANTIZED.tensors)
    name = QUANTIZED.steps[1].name
    tensors[name] = replace(tensors[name], low=tensors[name].low + 1)
    with pytest.raises(GraphError, match="recorded as"):
        make_engine(replace(QUANTIZED, tensors=tensors))


def test_a_network_is_evaluated_against_its_own_float_network() -> None:
    with pytest.raises(ModelError, match="was not quantized from test: their digests differ"):
        evaluate(networks.residual(), QUANTIZED, networks.images(4, 0, GRAPH.shapes["input"], 10))
    unnamed = replace(QUANTIZED, metadata={})
    with pytest.raises(ModelError, match="takes"):
        evaluate(networks.residual(), unnamed, networks.images(4, 0, GRAPH.shapes["input"], 10))


# -------------------------------------------------------------------------------------------- unknown names


def test_an_unknown_metric_is_no_other() -> None:
    for name in ("top", "top0", "top03", "Top1", "top1 ", "psnr@", "map", ""):
        with pytest.raises(DesignError, match=f"metric '{name}'"):
            find_metric(name)
    with pytest.raises(DesignError, match="metric 'f1'"):
        evaluate(GRAPH, QUANTIZED, networks.images(), "f1")


def test_unknown_names_in_a_design() -> None:
    for make in (
        lambda: BinaryPoint(scope="layer"),  # type: ignore[arg-type]
        lambda: BinaryPoint(rule="best"),
        lambda: BinaryPoint(rule=""),
        lambda: Code(kind="posit"),  # type: ignore[arg-type]
        lambda: Design.joint(8, batch_norm="merged"),
        lambda: Design(classes=Design.joint(8).classes, average_pool="mean"),  # type: ignore[arg-type]
        lambda: Design(classes=Design.joint(8).classes, refine=["magic"]),  # type: ignore[list-item]
    ):
        with pytest.raises(DesignError, match=r"expected|Invalid"):
            make()


# --------------------------------------------------------------------------------------- forks and threads


def _child(engine: object, queue: object) -> None:
    queue.put(engine.run(GOOD)[QUANTIZED.output].tolist())  # type: ignore[attr-defined]


@pytest.mark.parametrize("isa", USABLE)
@pytest.mark.parametrize("threads", [1, 4])
def test_a_forked_process_computes_too(isa: str, threads: int) -> None:
    engine = NativeEngine(QUANTIZED, threads, isa)
    expected = engine.run(GOOD)[QUANTIZED.output]  # its threads are waiting now
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_child, args=(engine, queue)) for _ in range(3)]
    for child in children:
        child.start()
    results = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert results == [expected.tolist()] * 3
    assert np.array_equal(engine.run(GOOD)[QUANTIZED.output], expected)  # and so does the parent, still


def test_the_float_network_after_a_fork() -> None:
    images = networks.images(4, 0, GRAPH.shapes["input"]).inputs(0, 4)
    engine = FloatingEngine(GRAPH)
    expected = engine.run(images)[GRAPH.output]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(engine.run(images)[GRAPH.output]))
    child.start()
    assert np.array_equal(queue.get(timeout=60), expected)
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize("threads", [-1, 1025, 200_000])
def test_impossible_numbers_of_threads(threads: int) -> None:
    for make in (lambda: BlasEngine(QUANTIZED, threads), lambda: NativeEngine(QUANTIZED, threads)):
        with pytest.raises(EngineError, match=f"{threads} threads"):
            make()


def test_no_room_for_threads(tmp_path: Path) -> None:
    """As many as the system gives: here its limit on processes allows none, and results are the same."""
    program = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import test_guards_networks as t
from radixpoint.engines import BlasEngine, NativeEngine
expected = t.ReferenceEngine(t.QUANTIZED).run(t.GOOD)[t.QUANTIZED.output]
resource.setrlimit(resource.RLIMIT_AS, (resource.getrlimit(resource.RLIMIT_AS)[1],) * 2)
import threading
threading.stack_size(0)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
import os
if os.getuid() == 0:
    os.setuid(65534)
for engine in (NativeEngine(t.QUANTIZED, 64), BlasEngine(t.QUANTIZED, 64)):
    assert np.array_equal(engine.run(t.GOOD)[t.QUANTIZED.output], expected), engine
print("equal")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.stdout.strip() == "equal", done.stderr[-2000:]
