"""What is imported is what was given, or it is refused; and no model makes the machine work before it is
read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import networks
import radixpoint
from radixpoint.errors import ModelError, UnsupportedError
from radixpoint.importers import compare
from radixpoint.importers.torch_rules import Call
from radixpoint.measure.float_model import to_onnx
from radixpoint.measure.floating import FloatingEngine

SHAPE = (3, 8, 8)


def convolution(outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(3, outputs, 3, padding=1)


def whole(*first: nn.Module, features: int = 256) -> nn.Sequential:
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(features, 5)).eval()


def same(module: nn.Module) -> radixpoint.Graph:
    """Import it; the float network computes what the module does."""
    graph = radixpoint.load(module, SHAPE)
    x = torch.randn(2, *SHAPE)
    with torch.no_grad():
        expected = module(x).numpy()
    got = FloatingEngine(graph).run(x.numpy())[graph.output]
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    return graph


def of_convolution(then: Callable) -> Callable:  # type: ignore[type-arg]
    """A forward that hands the convolution's result to ``then``, flattens and multiplies what that gives."""
    return lambda s, x: s.fc(then(s, s.conv(x)).flatten(1))


class Net(nn.Module):
    """A module with a forward method of its own."""

    def __init__(self, how: Callable, features: int = 256, **more: nn.Module) -> None:  # type: ignore[type-arg]
        super().__init__()
        self.conv, self.fc, self.how = convolution(), nn.Linear(features, 5), how
        for name, module in more.items():
            setattr(self, name, module)
        self.eval()

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.how(self, x)


# ------------------------------------------------------------------------------ what tracing does not see


def renewed(make: Callable[[], nn.Module]) -> nn.Module:
    """With weights that are loaded and have not been used yet."""
    module = make()
    module.load_state_dict({k: torch.randn_like(v) for k, v in module.state_dict().items()})
    return module.eval()


@pytest.mark.filterwarnings("ignore")
def test_weights_that_are_made_when_they_are_used() -> None:
    torch.manual_seed(0)
    for wrap in (torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm):
        same(renewed(lambda wrap=wrap: whole(wrap(convolution()))))
    same(whole(torch.nn.utils.parametrizations.weight_norm(convolution())))
    same(whole(torch.nn.utils.parametrizations.orthogonal(convolution())))


@pytest.mark.parametrize(
    "hook",
    [
        lambda m: m[0].register_forward_hook(lambda mod, inputs, result: result * 2),
        lambda m: m[0].register_forward_hook(lambda mod, inputs, result: result + 1e-2),
        lambda m: m[0].register_forward_pre_hook(lambda mod, inputs: (inputs[0] + 1,)),
        lambda m: m[2].register_forward_hook(lambda mod, inputs, result: result.flip(1)),
    ],
)
def test_hooks(hook: Callable[[nn.Module], object]) -> None:
    module = whole(convolution(), nn.ReLU(), nn.BatchNorm2d(4))
    hook(module)
    named = "2" if module[2]._forward_hooks else "0"
    with pytest.raises(ModelError, match=rf"module '{named}' has hooks, which tracing does not see"):
        radixpoint.load(module, SHAPE)


def test_hooks_of_all_modules() -> None:
    handle = torch.nn.modules.module.register_module_forward_hook(lambda mod, inputs, result: None)
    try:
        with pytest.raises(ModelError, match="hooks of all modules"):
            radixpoint.load(whole(convolution()), SHAPE)
    finally:
        handle.remove()


class Altered(nn.Conv2d):
    """A layer of torch whose forward is another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).clamp(-140, 140)


class Counting(nn.Module):
    """Notes in a buffer how often it was called, and computes something else from the third time on."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.conv = convolution()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.conv(x)


def test_a_layer_of_torch_that_does_more() -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Altered(3, 4, 3, padding=1)
            self.fc = nn.Linear(256, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).flatten(1))

    assert [x.op for x in same(Inside().eval()).layers] == ["conv", "clip", "flatten", "fc"]


def test_one_huge_value_excuses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class that is masked by a bias of -1e9 beside one that differs."""
    from radixpoint.importers import torch as importer

    module = whole(convolution(), nn.ReLU6())
    module[-1].bias.data[4] = -1e9
    same_module = radixpoint.load(module, SHAPE)
    assert same_module.layers[-1].op == "fc"
    read = dict(importer.RULES)
    plain = {"hardtanh": lambda call: call.build.unary(call.view, "relu")}
    monkeypatch.setattr(importer, "RULES", read | plain)
    with pytest.raises(ModelError, match="not the network that was given: layer '1'"):
        radixpoint.load(module, SHAPE)
    masked = Net(lambda s, x: s.fc(F.dropout(s.conv(x), 0.5).flatten(1)))
    masked.fc.bias.data[0] = -1e9
    with pytest.raises(ModelError, match="another result each time"):
        radixpoint.load(masked, SHAPE)


def test_an_original_that_gives_no_numbers() -> None:
    module = whole(convolution())
    module[-1].weight.data[:] = 3e38
    with pytest.raises(ModelError, match="finite for 0 of 6 random images"):
        radixpoint.load(module, SHAPE)


def test_looking_at_a_module_leaves_it_as_it_was() -> None:
    module = nn.Sequential(Counting(), nn.Flatten(), nn.Linear(256, 5)).eval()
    assert [x.op for x in radixpoint.load(module, SHAPE).layers] == ["conv", "flatten", "fc"]
    assert module[0].calls == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.half(), r"'0.weight' is torch.float16: expected float32: call .float"),
        (lambda m: m.bfloat16(), "bfloat16"),
        (lambda m: m.to("meta"), "meta device"),
    ],
)
def test_modules_of_another_precision(change: Callable[[nn.Module], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        radixpoint.load(change(whole(convolution())), SHAPE)
    same(whole(convolution()))


def test_one_module_in_training_mode() -> None:
    module = whole(convolution(), nn.BatchNorm2d(4))
    before = module[1].running_mean.clone()
    module[1].train()
    with pytest.raises(ModelError, match="module '1' is in training mode"):
        radixpoint.load(module, SHAPE)
    assert torch.equal(module[1].running_mean, before), "looking at it changed it"


def test_dropout_that_is_always_on() -> None:
    with pytest.raises(ModelError, match="another result each time"):
        radixpoint.load(Net(lambda s, x: s.fc(F.dropout(s.conv(x), 0.5).flatten(1))), SHAPE)


@pytest.mark.parametrize(
    "how",
    [
        of_convolution(lambda s, y: F.relu_(y) + y),
        of_convolution(lambda s, y: F.relu(y, inplace=True) + y),
        of_convolution(lambda s, y: s.act(y) + y),
        of_convolution(lambda s, y: s.act(s.drop(y)) + y),
    ],
)
def test_in_place_operations_whose_input_is_read_again(how: Callable) -> None:  # type: ignore[type-arg]
    same(Net(how, act=nn.ReLU(inplace=True), drop=nn.Dropout()))


def test_a_sum_in_place() -> None:
    """``y += z`` changes every ``y``, also one that is seen through a slice."""
    same(Net(of_convolution(lambda s, y: operator.iadd(y, F.relu(y)))))
    same(Net(of_convolution(lambda s, y: operator.iadd(y, F.relu(y)) + y)))
    same(Net(of_convolution(lambda s, y: torch.cat([F.relu_(y[:, :2]), y[:, 2:] + y[:, :2]], 1))))


def test_a_tensor_given_twice_is_there_twice() -> None:
    assert [x.op for x in same(Net(of_convolution(lambda s, y: y + y))).layers][1] == "add"
    graph = same(Net(of_convolution(lambda s, y: torch.cat([y, y], 1)), 512))
    assert graph.layers[1].attributes["count"] == 2


def test_a_module_called_twice() -> None:
    module = Net(lambda s, x: s.fc(s.again(F.relu(s.again(s.conv(x)))).flatten(1)), again=nn.Conv2d(4, 4, 1))
    assert [x.name for x in same(module).layers][:4] == ["conv", "again", "relu", "again_2"]


def test_a_difference_is_found_where_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: an importer that reads another epsilon, a stride, a limit."""
    from radixpoint.importers import torch as importer

    module = whole(convolution(), nn.BatchNorm2d(4), nn.ReLU6(), nn.MaxPool2d(2), features=64)
    module[1].running_var.fill_(1e-4)
    read = dict(importer.RULES)
    plain = radixpoint.load(module, SHAPE)
    for kind, layer, name, value in (
        ("batch_norm", "1", "eps", 1e-3),
        ("hardtanh", "2", "max_val", 6.5),
        ("max_pool2d", "3", "padding", [0, 0]),
    ):

        def wrong(call: Call, kind: str = kind, name: str = name, value: object = value) -> object:
            return read[kind](replace(call, arguments={**call.arguments, name: value}))

        monkeypatch.setattr(importer, "RULES", read | {kind: wrong})
        if kind == "max_pool2d":
            assert radixpoint.load(module, SHAPE).digest == plain.digest  # these pads are the module's
            continue
        with pytest.raises(ModelError, match=rf"layer '{layer}' is off by"):
            radixpoint.load(module, SHAPE)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("how", "names"),
    [
        (lambda s, x: s.fc(torch.fft.fft(s.conv(x)).real.flatten(1)), ["fft"]),
        (lambda s, x: s.fc(s.conv(x).view(-1, 16)), ["view"]),
        (
            lambda s, x: s.fc(F.layer_norm(torch.cumsum(s.conv(x), 2), (8, 8)).flatten(1)),
            ["layer_norm", "cumsum"],
        ),
        (lambda s, x: s.fc(torch.sort(s.conv(x), 1)[0].mean(0, keepdim=True).flatten(1)), ["sort"]),
        (lambda s, x: s.fc(F.instance_norm(s.conv(x).cos()).flatten(1)), ["instance_norm", "cos"]),
        (lambda s, x: s.fc(F.softmax(s.conv(x), 1).flatten(1)), ["linear"]),
    ],
)
def test_refusals_name_every_operation(how: Callable, names: list[str]) -> None:  # type: ignore[type-arg]
    with pytest.raises(ModelError) as caught:
        radixpoint.load(Net(how), SHAPE)
    if isinstance(caught.value, UnsupportedError):
        said = " ".join(operator for operator, _, _ in caught.value.operators)
        assert [n for n in names if n not in said] == []


PAD = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")


@pytest.mark.parametrize(
    "how",
    [
        lambda s, x: s.conv(x).mean(3).mean(2),
        lambda s, x: s.conv(x)[:, :2].flatten(1),
        lambda s, x: torch.sigmoid(s.conv(x)[:, :, ::2, ::2]).flatten(1),
        lambda s, x: F.silu(torch.tanh(s.conv(x)).chunk(2, 1)[0]).flatten(1),
        lambda s, x: F.max_pool2d(s.conv(x), 2).flatten(1),
        lambda s, x: (s.conv(x) + 1).flatten(1),
        lambda s, x: (s.conv(x) * s.fc.weight[0, 0]).flatten(1),
        lambda s, x: s.conv(x).permute(0, 2, 3, 1).flatten(1),
        lambda s, x: s.pad(torch.tanh(F.max_pool2d(torch.sigmoid(s.conv(x)), 2, ceil_mode=True))).flatten(1),
        lambda s, x: F.local_response_norm(s.conv(x), 3, 0.1).flatten(1),
        lambda s, x: F.interpolate(s.conv(x), scale_factor=2, mode="bilinear").flatten(1),
        lambda s, x: F.interpolate(s.conv(x), size=(4, 4)).flatten(1),
        lambda s, x: F.pixel_shuffle(s.conv(x), 2).flatten(1),
        lambda s, x: F.channel_shuffle(s.conv(x), 2).flatten(1),
        lambda s, x: F.adaptive_max_pool2d(s.conv(x), 2).flatten(1),
        lambda s, x: F.hardswish(s.conv(x)) * F.hardsigmoid(s.conv(x).mean((2, 3), keepdim=True)),
        lambda s, x: F.conv_transpose2d(
            s.conv(x), s.conv.weight.transpose(0, 1)[:, :4].repeat(2, 1, 1, 1)[:4], stride=2
        ),
        lambda s, x: torch.maximum(F.gelu(s.conv(x)), F.mish(s.conv(x))).roll(1, 2).flip(3),
        lambda s, x: 1 / (1 + s.conv(x) ** 2) - F.softplus(s.conv(x)).rsqrt(),
        lambda s, x: F.elu(s.conv(x)).transpose(1, 3).reshape(x.shape[0], 32, 8).amax(1),
        lambda s, x: F.avg_pool2d(s.conv(x), 3, 2, 1, ceil_mode=True, count_include_pad=True),
        lambda s, x: F.softmax(s.conv(x).flatten(1), 1),
        lambda s, x: torch.stack([s.conv(x)[:, 0], s.conv(x)[:, 1]], 1).unflatten(2, (2, 4)).sum(3),
    ],
)
def test_what_a_module_may_do(how: Callable) -> None:  # type: ignore[type-arg]
    """Importing compares with the module."""
    torch.manual_seed(0)
    graph = radixpoint.load(Net(how, pad=PAD), SHAPE)
    assert "conv" in {layer.op for layer in graph.layers}


def test_several_results() -> None:
    module = Net(lambda s, x: {"a": s.fc(s.conv(x).flatten(1)), "b": [F.relu(s.conv(x))]})
    graph = radixpoint.load(module, SHAPE)
    assert [graph.shapes[name] for name in graph.outputs] == [(5,), (4, 8, 8)]
    with pytest.raises(ModelError, match="expected one vector of class scores"):
        graph.classes  # noqa: B018
    program = torch.export.export(module, (torch.zeros(2, *SHAPE),))
    assert radixpoint.load(program).outputs == graph.outputs


def test_a_module_that_cannot_be_run() -> None:
    with pytest.raises(ModelError, match=r"cannot be run on images of \(4, 8, 8\)"):
        radixpoint.load(whole(convolution()), (4, 8, 8))


# -------------------------------------------------------------------------------------------------- ONNX

W = {
    "w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
    "fw": np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32),
    "fb": np.ones(5, np.float32),
}


def model(path: Path, nodes: list[onnx.NodeProto], more: dict[str, np.ndarray] | None = None, opset: int = 17,
          tail: str = "c") -> Path:  # fmt: skip
    """A convolution, ``nodes``, and a head that reads ``tail``."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        *nodes,
        node("GlobalAveragePool", [tail], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "fw", "fb"], ["y"], transB=1, name="fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(v, k) for k, v in (W | (more or {})).items()],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset > 12 else 4
    )
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17, 20])
def test_constants_are_those_of_their_opset(tmp_path: Path, opset: int) -> None:
    """As older exporters write ``x.view(x.size(0), -1)``: axes are an attribute until opset 12."""
    node = helper.make_node
    more = {"i0": np.array(0), "m1": np.array([-1]), "ax": np.array([0])}
    axes = ([], {"axes": [0]}) if opset < 13 else (["ax"], {})
    nodes = [
        node("Shape", ["c"], ["s"]),
        node("Gather", ["s", "i0"], ["g"], axis=0),
        node("Unsqueeze", ["g", *axes[0]], ["u"], **axes[1]),
        node("Concat", ["u", "m1"], ["t"], axis=0),
        node("GlobalAveragePool", ["c"], ["q"]),
        node("Reshape", ["q", "t"], ["r"]),
        node("Gemm", ["r", "fw", "fb"], ["z"], transB=1),
    ]
    path = model(tmp_path / "m.onnx", nodes, more, opset)
    loaded = onnx.load(path)
    loaded.graph.output[0].name = "z"
    onnx.save(loaded, path)
    assert [x.op for x in radixpoint.load(path).layers] == ["conv", "average_pool", "flatten", "fc"]


def test_what_onnxruntime_computes_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a rule that forgets the pads."""
    from radixpoint.importers import onnx as importer

    path = model(tmp_path / "m.onnx", [helper.make_node("Relu", ["c"], ["r"], name="act")], tail="r")
    radixpoint.load(path)
    rules = dict(importer.RULES)
    clipped = {"low": 0.0, "high": 6.0}
    monkeypatch.setattr(
        importer, "RULES", rules | {"Relu": lambda to, node: [to.build.unary(to.view(node), "clip", clipped)]}
    )
    with pytest.raises(ModelError, match=r"not the network that was given: layer 'act' is off by"):
        radixpoint.load(path)


def test_branches_that_nothing_reads(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", [helper.make_node("Sigmoid", ["c"], ["unused"])])
    assert len(radixpoint.load(path).layers) == 4


@pytest.mark.parametrize(
    ("nodes", "more"),
    [
        ([helper.make_node("ConstantOfShape", ["s"], ["k"])], {"s": np.array([1 << 30])}),
        ([helper.make_node("Expand", ["fb", "s"], ["k"])], {"s": np.array([1 << 20, 1 << 20, 5])}),
        ([helper.make_node("Tile", ["fb", "s"], ["k"])], {"s": np.array([1 << 40])}),
        ([helper.make_node("Range", ["a", "b", "d"], ["k"])],
         {"a": np.array(0), "b": np.array(1 << 40), "d": np.array(1)}),
        ([helper.make_node("Pad", ["fb", "s"], ["k"])], {"s": np.array([0, 1 << 34])}),
        ([helper.make_node("RandomNormal", [], ["k"], shape=[4, 3, 3, 3])], {}),
        ([helper.make_node("Bernoulli", ["fb"], ["k"])], {}),
    ],
)  # fmt: skip
def test_constants_have_a_bound(tmp_path: Path, nodes: list, more: dict) -> None:  # type: ignore[type-arg]
    """Known before anything is computed, whether or not anything reads them; random numbers are none."""
    for read in (True, False):
        if nodes[0].op_type in ("RandomNormal", "Bernoulli") and not read:
            continue  # what nothing reads is not drawn
        whole = [*nodes, *([helper.make_node("Conv", ["x", "k"], ["kc"])] if read else [])]
        with pytest.raises(UnsupportedError) as caught:
            radixpoint.load(model(tmp_path / "m.onnx", whole, more, tail="kc" if read else "c"))
        assert caught.value.operators[0][0] == nodes[0].op_type


def test_loops_are_not_run(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond"], ["cond_out"]),
            helper.make_node("Identity", ["v"], ["v_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [4, 3, 3, 3]),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, [4, 3, 3, 3]),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["many", "yes", "w"], ["k"], body=body),
        helper.make_node("Conv", ["x", "k"], ["kc"]),
    ]
    more = {"many": np.array(1 << 60), "yes": np.array(True)}
    with pytest.raises(UnsupportedError, match=r"Loop.*computed beforehand"):
        radixpoint.load(model(tmp_path / "m.onnx", nodes, more, tail="kc"))


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [0, 0]},
        {"strides": [1]},
        {"strides": [1, 1, 1]},
        {"pads": [-1, -1, -1, -1]},
        {"pads": [0, 0]},
        {"dilations": [0, 1]},
        {"group": 0},
        {"group": 2},
        {"group": -1},
        {"kernel_shape": [5, 5]},
        {"auto_pad": "SAME"},
        {"pads": [1 << 40, 0, 0, 0]},
        {"strides": [1 << 40, 1 << 40], "pads": [0, 0, 1 << 45, 0]},
    ],
)
def test_attributes_outside_their_domain(tmp_path: Path, attributes: dict[str, object]) -> None:
    path = model(
        tmp_path / "m.onnx", [helper.make_node("Conv", ["x", "w"], ["d"], name="odd", **attributes)], tail="d"
    )
    with pytest.raises(ModelError) as caught:
        radixpoint.load(path)
    assert "odd" in str(caught.value) or "not a readable ONNX model" in str(caught.value)


def test_several_faults_are_named_at_once(tmp_path: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["d"], name="strideless", strides=[0, 0]),
        node("Clip", ["d", "lo"], ["e"], name="clip"),
        node("Det", ["e"], ["g"], name="norm"),
        node("Clip", ["c", "two"], ["h"], name="array"),
        node("Add", ["g", "h"], ["i"], name="sum"),
    ]
    more = {"lo": np.array(0, np.float32), "two": np.zeros(2, np.float32)}
    with pytest.raises(UnsupportedError) as caught:
        radixpoint.load(model(tmp_path / "m.onnx", nodes, more, tail="i"))
    assert [name for _, name, _ in caught.value.operators] == ["strideless", "norm", "array"]


def test_variances_of_zero(tmp_path: Path) -> None:
    def normalized(variance: list[float], epsilon: float) -> Path:
        more = {"ga": np.ones(4), "be": np.zeros(4), "mu": np.zeros(4), "va": np.array(variance)}
        node = helper.make_node(
            "BatchNormalization", ["c", "ga", "be", "mu", "va"], ["b"], name="bn", epsilon=epsilon
        )
        arrays = {k: v.astype(np.float32) for k, v in more.items()}
        return model(tmp_path / "m.onnx", [node], arrays, tail="b")

    for variance in ([1, 0, 1, 1], [1, 1.9e-14, 1, 1], [1, -1e-7, 1, 1]):
        radixpoint.load(normalized(variance, 1e-5))
    with pytest.raises(ModelError, match=r"layer 'bn': variance -0.001 of channel 1 with epsilon 1e-05"):
        radixpoint.load(normalized([1, -1e-3, 1, 1], 1e-5))


def test_what_may_differ_is_what_a_last_bit_changes() -> None:
    """A network that takes differences of large numbers is no other network; one that is off by a
    thousandth is.
    """
    images = compare.random_images(SHAPE)
    assert images.shape == (6, *SHAPE)
    assert images.max() > 2000
    large = {"y": np.array([[1e7, 3.0]])}
    assert compare._far("y", {"y": np.array([[1e7, 4.0]])}, large, {"y": np.array([[1e7, 3.1]])}) is None
    assert compare._far(
        "y", {"y": np.array([[1.0, 2.001]])}, {"y": np.array([[1.0, 2.0]])}, {"y": np.array([[1.0, 2.0]])}
    )
    assert compare._far(
        "y", {"y": np.array([[1.0]])}, {"y": np.array([[1.0, 2.0]])}, {"y": np.array([[1.0, 2.0]])}
    )


def test_a_network_without_a_finite_result(tmp_path: Path) -> None:
    """Weights that are finite, and sums of products that are not, for every image."""
    n = networks.Net(0)
    graph = n.graph(n.fc(n.simple("flatten", n.conv(n.conv("input", 4), 4)), 4 * 12 * 12, 7))
    for key in ("conv0.weight", "conv1.weight"):
        n.arrays[key] = np.full(graph.parameters[key].shape, 1e30, np.float32)
    large = n.graph(graph.output)
    onnx.save(to_onnx(large, [large.output]), tmp_path / "m.onnx")
    with pytest.raises(
        ModelError, match="its results are finite for 0 of 6 random images: expected weights whose sums"
    ):
        radixpoint.load(tmp_path / "m.onnx")
