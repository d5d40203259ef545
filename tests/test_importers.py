"""Networks from ONNX, modules and files of weights; and what must be refused."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from torch import nn

import networks
from radixpoint.errors import ModelError, UnsupportedError
from radixpoint.importers import load
from radixpoint.measure.float_model import to_onnx
from radixpoint.measure.floating import FloatingEngine
from resnet import ResNet

SHAPE = (3, 32, 32)
RESNET50 = {
    "conv": 53,
    "batch_norm": 53,
    "relu": 49,
    "add": 16,
    "max_pool": 1,
    "average_pool": 1,
    "flatten": 1,
    "fc": 1,
}
EXPORTS = {
    "torchscript": {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE},
    "torchscript, dynamic batch": {
        "dynamo": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
        "input_names": ["x"],
        "dynamic_axes": {"x": {0: "n"}},
    },
    "dynamo": {"dynamo": True, "optimize": False, "verbose": False},
    "dynamo, dynamic batch": {
        "dynamo": True,
        "optimize": False,
        "verbose": False,
        "dynamic_shapes": ({0: torch.export.Dim("n")},),
    },
}


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """ResNet-50's topology, narrow, with statistics that are not all 0 and 1."""
    torch.manual_seed(0)
    model = ResNet(width=4, classes=10)
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(8, *SHAPE))
    return model.eval()


def same_as_torch(graph, model: nn.Module, shape=SHAPE) -> None:  # type: ignore[no-untyped-def]
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x).numpy()
    got = FloatingEngine(graph).run(x.numpy())[graph.output]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def export(model: nn.Module, path: Path, **arguments) -> Path:  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.randn(1, *SHAPE),), str(path), **arguments)
    return path


@pytest.mark.slow("it exports a ResNet-50")
@pytest.mark.parametrize("how", EXPORTS)
def test_resnet50_from_both_exporters(resnet: nn.Module, tmp_path: Path, how: str) -> None:
    graph = load(export(resnet, tmp_path / "m.onnx", **EXPORTS[how]))
    assert Counter(layer.op for layer in graph.layers) == RESNET50
    same_as_torch(graph, resnet)


@pytest.mark.slow("it exports a ResNet-50")
@pytest.mark.parametrize("dynamo", [False, True])
def test_both_exporters_fold_by_default(resnet: nn.Module, tmp_path: Path, dynamo: bool) -> None:
    """What docs/importing.md warns of: should torch stop folding, the page must change."""
    graph = load(export(resnet, tmp_path / "m.onnx", dynamo=dynamo, verbose=False))
    assert not any(layer.op == "batch_norm" for layer in graph.layers)
    same_as_torch(graph, resnet)


def test_resnet50_from_the_module_and_from_weights(resnet: nn.Module, tmp_path: Path) -> None:
    from_module = load(resnet, SHAPE)
    assert Counter(layer.op for layer in from_module.layers) == RESNET50
    same_as_torch(from_module, resnet)
    state = {k: v.numpy() for k, v in resnet.state_dict().items()}
    save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, tmp_path / "w.safetensors")
    torch.save(resnet.state_dict(), tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        graph = load(tmp_path / name, SHAPE)
        assert Counter(layer.op for layer in graph.layers) == RESNET50
        same_as_torch(graph, resnet)


class Mixed(nn.Module):
    """The operators that ResNet-50 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=(0, 1), stride=(2, 1), bias=True)
        self.b = nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.six = nn.ReLU6()
        self.pool = nn.AvgPool2d(3, 2, padding=1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(12 * 8 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.six(self.a(x))
        y = self.bn(self.b(x))
        z = self.pool(torch.cat([x, y], 1))
        return self.fc(self.drop(z.view(z.size(0), -1)))


@pytest.mark.parametrize("how", ["module", *EXPORTS])
def test_other_operators(tmp_path: Path, how: str) -> None:
    torch.manual_seed(2)
    model = Mixed().eval()
    graph = (
        load(model, SHAPE) if how == "module" else load(export(model, tmp_path / "m.onnx", **EXPORTS[how]))
    )
    assert Counter(layer.op for layer in graph.layers) == {
        "conv": 2,
        "clip": 1,
        "batch_norm": 1,
        "concat": 1,
        "average_pool": 1,
        "flatten": 1,
        "fc": 1,
    }
    same_as_torch(graph, model)


@pytest.mark.parametrize("make", [networks.residual, networks.mixed])
def test_round_trip_through_onnx(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    graph = make()
    model = to_onnx(graph, [graph.output])
    onnx.save(model, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    x = networks.images(3, 0, graph.shapes["input"]).inputs(0, 3)
    assert np.array_equal(
        FloatingEngine(graph).run(x)[graph.output], FloatingEngine(again).run(x)[again.output]
    )


def small_onnx(nodes, weights=None, dims=("n", 3, 8, 8)) -> onnx.ModelProto:  # type: ignore[no-untyped-def]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(dims))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "c"])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def biased_matmul(result: str) -> list[onnx.NodeProto]:
    """``m`` is the product of the image's means and ``w``, and the result ``m`` + ``b``."""
    return [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], [result]),
    ]


def test_matmul_with_bias_is_one_layer(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    nodes = biased_matmul("y")
    weights = {"w": random.normal(size=(3, 4)).astype(np.float32), "b": np.arange(4, dtype=np.float32)}
    onnx.save(small_onnx(nodes, weights), tmp_path / "m.onnx")
    graph = load(tmp_path / "m.onnx")
    assert [layer.op for layer in graph.layers] == ["average_pool", "flatten", "fc"]
    x = random.normal(size=(2, 3, 8, 8)).astype(np.float32)
    got = FloatingEngine(graph).run(x)[graph.output]
    np.testing.assert_allclose(got, x.mean((2, 3)) @ weights["w"] + weights["b"], rtol=1e-5)


@pytest.mark.parametrize("output", ["s", "m"])
def test_a_matmul_used_with_and_without_its_bias(tmp_path: Path, output: str) -> None:
    """The constant is then a layer of its own; a sum that nothing reads takes no part."""
    nodes = [
        *biased_matmul("z"),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("Add", ["m", "r"], ["s"]),
    ]
    nodes = [node for node in nodes if output == "s" or node.output[0] != "s"]
    for node in nodes:
        node.output[0] = "y" if node.output[0] == output else node.output[0]
        node.input[:] = ["y" if name == output else name for name in node.input]
    weights = {"w": np.ones((3, 4), np.float32), "b": np.arange(4, dtype=np.float32)}
    onnx.save(small_onnx(nodes, weights), tmp_path / "m.onnx")
    layers = load(tmp_path / "m.onnx").layers
    (layer,) = (x for x in layers if x.op == "fc")
    assert "bias" not in layer.parameters
    assert [x.op for x in layers if x.op == "affine"] == ["affine"] * (output == "s")


def test_the_shape_of_a_matmul_may_be_asked_for(tmp_path: Path) -> None:
    nodes = [
        *biased_matmul("z"),
        helper.make_node("Shape", ["m"], ["s"]),
        helper.make_node("Reshape", ["z", "s"], ["y"]),
    ]
    weights = {"w": np.ones((3, 4), np.float32), "b": np.arange(4, dtype=np.float32)}
    onnx.save(small_onnx(nodes, weights), tmp_path / "m.onnx")
    assert "bias" in load(tmp_path / "m.onnx").layers[-1].parameters


class Parts(nn.Module):
    """Channels in parts: cut, taken one by one from the end as well, and joined again."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([x, 2 * x], 1)
        a, b, c = x.chunk(3, 1)
        d = x.split([1, 4, 1], 1)
        first, *_, last = x.split(4, 1)
        rows = x.unbind(2)
        return torch.cat(
            [b, a, d[1], c, last, first, (rows[0] + rows[-1]).unsqueeze(2).expand(-1, -1, 32, -1)], 1
        )


@pytest.mark.parametrize("how", ["torchscript", "dynamo"])
def test_parts_of_a_tensor(tmp_path: Path, how: str) -> None:
    """torch's exporter writes sequences where nothing is optimized."""
    path = export(Parts().eval(), tmp_path / "m.onnx", **EXPORTS[how])
    if how == "dynamo":
        assert "SplitToSequence" in {node.op_type for node in onnx.load(path).graph.node}
    assert load(path).shapes[load(path).output] == (22, 32, 32)


@pytest.mark.parametrize(
    ("sizes", "position", "message"),
    [
        (np.array(2), -1, None),
        (np.array([1, 2]), 1, None),
        (None, 2, None),
        (np.array(2), 2, "position 2 of a sequence of 2"),
        (np.array(0), 0, "3 split into parts of 0"),
        (np.array([1, 1]), 0, r"3 split into \[1, 1\]"),
    ],
)
def test_sequences_of_parts(
    tmp_path: Path, sizes: np.ndarray | None, position: int, message: str | None
) -> None:
    """Sizes as a number, as a list, and not at all; a part of one channel keeps its axis, or does not."""
    nodes = [
        helper.make_node("SplitToSequence", ["x", *(["sizes"] if sizes is not None else [])], ["s"], axis=1),
        helper.make_node("SequenceAt", ["s", "at"], ["p"]),
        helper.make_node("SequenceConstruct", ["p", "x"], ["t"]),
        helper.make_node("ConcatFromSequence", ["t"], ["y"], axis=1),
    ]
    weights = {"at": np.array(position), **({"sizes": sizes} if sizes is not None else {})}
    onnx.save(small_onnx(nodes, weights), tmp_path / "m.onnx")
    if message is None:
        load(tmp_path / "m.onnx")  # compares with onnxruntime
    else:
        with pytest.raises((UnsupportedError, ModelError), match=message):
            load(tmp_path / "m.onnx")


def test_all_unsupported_operators_are_named_at_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Hardmax", ["b"], ["c"]),
        helper.make_node("NonZero", ["c"], ["y"], name="second"),
    ]
    onnx.save(small_onnx(nodes), tmp_path / "m.onnx")
    with pytest.raises(UnsupportedError) as raised:
        load(tmp_path / "m.onnx")
    assert [o[:2] for o in raised.value.operators] == [("Det", "first"), ("NonZero", "second")]

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.pad = nn.GELU(), nn.ReflectionPad2d(1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.flatten(torch.cos(self.pad(torch.sin(self.act(x)))), 1)

    with pytest.raises(UnsupportedError) as raised:
        load(Odd().eval(), SHAPE)
    assert {o[0] for o in raised.value.operators} == {"sin", "cos"}


# -- bad input


def resnet_state(change) -> dict[str, np.ndarray]:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    state = {k: v.numpy().copy() for k, v in ResNet(width=2, classes=3).state_dict().items()}
    change(state)
    return {k: np.ascontiguousarray(v) for k, v in state.items()}


def put(key: str, value: float):  # type: ignore[no-untyped-def]
    def change(state: dict[str, np.ndarray]) -> None:
        state[key].flat[0] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("conv1.weight", np.nan), r"layer 'conv1'.*1 of 294 values of weight are NaN"),
        (put("layer2.0.conv1.weight", np.inf), r"layer 'layer2.0.conv1'.*infinite"),
        (put("layer1.0.bn2.running_var", -1e-5), r"layer 'layer1.0.bn2': variance -1e-05 of channel 0"),
        (put("layer1.0.bn2.running_var", -0.5), r"variance -0.5"),
        (lambda s: s.pop("layer3.2.conv2.weight"), r"no 'layer3.2.conv2.weight'"),
        (lambda s: s.update(extra=np.zeros(3)), r"1 arrays that no torchvision ResNet has.*extra"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer")], r"names of a torchvision ResNet"),
        (lambda s: s.update({"fc.weight": s["fc.weight"][:, :5]}), r"layer 'fc'.*do not fit"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer1.1.")], r"layer1 has blocks \[0, 2\]"),
    ],
)
def test_bad_weights(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    save_file(resnet_state(change), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "w.safetensors", SHAPE)


def test_wrong_channel_count(tmp_path: Path) -> None:
    save_file(resnet_state(lambda s: None), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"conv1.*do not fit 1 input channels"):
        load(tmp_path / "w.safetensors", (1, 32, 32))
    with pytest.raises(ModelError, match="does not say how large an image is"):
        load(tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="three positive sizes"):
        load(tmp_path / "w.safetensors", (3, 32))


def test_truncated_files(resnet: nn.Module, tmp_path: Path) -> None:
    whole = export(resnet, tmp_path / "m.onnx", **EXPORTS["torchscript"]).read_bytes()
    for share in (0, 10, len(whole) // 2, len(whole) - 7):
        (tmp_path / "cut.onnx").write_bytes(whole[:share])
        with pytest.raises(ModelError, match=r"cut.onnx: "):
            load(tmp_path / "cut.onnx")
    save_file(resnet_state(lambda s: None), tmp_path / "w.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load(tmp_path / "cut.safetensors", SHAPE)


class Trap:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple:  # type: ignore[type-arg]
        return (Path.touch, (Path("sprung"),))


def test_pickles_are_refused(resnet: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(resnet, "module.pt")
    Path("trap.pt").write_bytes(pickle.dumps(Trap()))
    torch.save({"x": [1, 2]}, "list.pt")
    for name, message in (
        ("module.pt", "weights-only"),
        ("trap.pt", "weights-only"),
        ("list.pt", "state_dict"),
    ):
        with pytest.raises(ModelError, match=message):
            load(name, SHAPE)
    assert not Path("sprung").exists()


def test_dynamic_shapes(tmp_path: Path) -> None:
    nodes = [helper.make_node("GlobalAveragePool", ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    onnx.save(small_onnx(nodes, dims=("n", 3, "h", "w")), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"axis H of input 'x' is dynamic \(h\)"):
        load(tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx", (3, 9, 9)).shapes["input"] == (3, 9, 9)
    with pytest.raises(ModelError, match="axis C of input 'x' is 3, but 4 was given"):
        load(tmp_path / "m.onnx", (4, 9, 9))


def test_modules_that_cannot_be_used(resnet: nn.Module) -> None:
    with pytest.raises(ModelError, match="training mode"):
        load(ResNet(width=2), SHAPE)
    with pytest.raises(ModelError, match=r"expected a path, a torch\.nn\.Module"):
        load(object(), SHAPE)
    with pytest.raises(ModelError, match="input_shape"):
        load(resnet)
    with pytest.raises(ModelError, match="no such file"):
        load("nowhere.onnx")


# -- modules by name

FACTORY = """
from torch import nn

def small():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, 3))

def number():
    return 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_factories.py").write_text(FACTORY)
    return tmp_path


def test_a_module_by_the_name_of_its_factory(here: Path) -> None:
    torch.manual_seed(1)
    sys.path.insert(0, str(here))
    import my_factories

    module = my_factories.small().eval()
    torch.save(module.state_dict(), here / "w.pt")
    save_file({k: v.numpy() for k, v in module.state_dict().items()}, here / "w.safetensors")
    expected = load(module, SHAPE).digest
    for weights in ("w.pt", "w.safetensors"):
        assert load("torch:my_factories:small", SHAPE, here / weights).digest == expected
    assert load("torch:my_factories:small", SHAPE).digest != expected


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch:my_factories", "expected torch:package.module:factory"),
        ("torch:my_factories:large", "AttributeError"),
        ("torch:no_such_package:small", "ModuleNotFoundError"),
        ("torch:my_factories:number", "gives int: expected a torch.nn.Module"),
        ("torchvision:resnet50", "torchvision cannot be imported"),
        ("timm:resnet50", "timm cannot be imported"),
    ],
)
def test_names_that_cannot_be_used(here: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(name, SHAPE)


def test_weights_that_do_not_fit(here: Path) -> None:
    torch.save({"0.weight": torch.zeros(1)}, here / "w.pt")
    with pytest.raises(ModelError, match=r"w\.pt: does not fit torch:my_factories:small: .*Missing key"):
        load("torch:my_factories:small", SHAPE, here / "w.pt")
    with pytest.raises(ModelError, match="has its weights: expected none beside it"):
        load("m.onnx", SHAPE, here / "w.pt")


def test_channels_last_and_one_row(tmp_path: Path) -> None:
    """Both layouts go in; transposes at the ends vanish."""
    node = helper.make_node
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w"], ["c"]),
        node("Transpose", ["c"], ["y"], perm=[0, 2, 3, 1]),
    ]
    weights = {"w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)}
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 8, 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6, 6, 4])
    constants = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", [image], [result], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
              tmp_path / "m.onnx")  # fmt: skip
    loaded = load(tmp_path / "m.onnx")
    assert [x.op for x in loaded.layers] == ["conv"]
    assert loaded.shapes[loaded.output] == (4, 6, 6)
    assert "channels-last" in loaded.notes[0]
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    first, last = (FloatingEngine(loaded).run(v)[loaded.output] for v in (x.transpose(0, 3, 1, 2), x))
    assert np.array_equal(first, last)


def test_constants_before_the_channels_move_and_repeated_places(tmp_path: Path) -> None:
    """As Keras writes Rescaling and UpSampling2D: channels-last, and by Tile on an axis of size 1."""
    node = helper.make_node
    nodes = [
        node("Mul", ["x", "factor"], ["m"]),
        node("Add", ["m", "offset"], ["a"]),
        node("Transpose", ["a"], ["t"], perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w"], ["c"]),
        node("Unsqueeze", ["c", "three"], ["u"]),
        node("Tile", ["u", "times"], ["r"]),
        node("Transpose", ["r"], ["l"], perm=[0, 2, 3, 4, 1]),
        node("Reshape", ["l", "rows"], ["h"]),
        node("Unsqueeze", ["h", "three"], ["v"]),
        node("Tile", ["v", "times"], ["s"]),
        node("Reshape", ["s", "columns"], ["y"]),
    ]
    constants = {
        "factor": np.float32(0.5),
        "offset": np.float32([0.25, -1, 3]),  # one a channel: the last axis
        "w": np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32),
        "three": np.array([3]),
        "times": np.array([1, 1, 1, 2, 1]),
        "rows": np.array([-1, 12, 6, 4]),
        "columns": np.array([-1, 12, 12, 4]),
    }
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 8, 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12, 12, 4])
    stored = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [image], [result], stored)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    loaded = load(path)
    assert loaded.shapes["input"] == (3, 8, 8)
    assert [x.op for x in loaded.layers] == ["affine", "affine", "conv", "select", "select"]
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    theirs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    ours = FloatingEngine(loaded).run(x)[loaded.output]
    assert ours.shape == (2, 4, 12, 12)
    assert np.allclose(ours.transpose(0, 2, 3, 1), theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "layers"),
    [
        (lambda x: x.movedim(1, -1).moveaxis((3, 2), (1, 2)), ["rearrange"]),
        (lambda x: x.swapaxes(1, 2).mT.swapdims(-1, 1), ["rearrange"]),
        (lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, dim=1), ["select", "select"]),
        (lambda x: x.tile(2, 3), ["select", "select"]),
        (lambda x: nn.functional.glu(x, 1), ["select", "select", "function", "multiply"]),
        (nn.functional.logsigmoid, ["affine", "function", "affine"]),
    ],
)
def test_forms_of_layout_and_gates(form: Callable[[torch.Tensor], torch.Tensor], layers: list[str]) -> None:
    class Module(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return form(nn.functional.relu(x)).flatten(1)

    loaded = load(Module().eval(), (4, 6, 5))  # compares the two
    assert [x.op for x in loaded.layers] == ["relu", *layers, *["flatten"] * (layers != ["rearrange"])]
    x = torch.randn(2, 4, 6, 5)
    assert np.allclose(FloatingEngine(loaded).run(x.numpy())[loaded.output], Module()(x).numpy(), atol=1e-6)


def test_one_dimensional_signals() -> None:
    module = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ELU(), nn.MaxPool1d(2), nn.Flatten(),
                           nn.Linear(28, 5)).eval()  # fmt: skip
    loaded = load(module, (3, 1, 16))
    x = torch.randn(2, 3, 16)
    with torch.no_grad():
        expected = module(x).numpy()
    got = FloatingEngine(loaded).run(x.numpy())[loaded.output]
    np.testing.assert_allclose(got, expected, atol=1e-5)
