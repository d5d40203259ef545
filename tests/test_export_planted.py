"""verify is shown to fail: one planted error in each export, found in the right layer.

A weight bit, a shift amount, a rounding mode, an accumulator one bit short. The network's images bring its
first convolution to the end of its proven range, so that one bit less overflows.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import exports
import networks
from radixpoint.export import export_network, verify_export
from radixpoint.ir.network import IntGraph

pytestmark = pytest.mark.slow("it compiles")

FIRST = "conv0"
"""The layer in which every error is planted: it reads the image."""


@pytest.fixture(scope="module")
def network() -> IntGraph:
    return exports.quantized(networks.residual())


@pytest.fixture(scope="module")
def exported(network: IntGraph, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    folder = tmp_path_factory.mktemp("exports")
    images = np.concatenate([exports.extreme_image(network, FIRST), exports.example_images(network, 2)])

    def copy(target: str, to: Path) -> Path:
        if not (folder / target).exists():
            export_network(
                network, target, folder / target, images, {"memory": "hex"} if target == "vectors" else {}
            )
        shutil.copytree(folder / target, to / target)
        return to / target

    return copy


def accumulator_bits(network: IntGraph) -> int:
    (step,) = (s for s in network.steps if s.op == "conv" and network.tensors[s.name].layer == FIRST)
    return network.tensors[step.name].format.word_length


def replace_once(path: Path, pattern: str, to: Callable[[re.Match[str]], str]) -> None:
    """Change the first place that matches after the first layer's function begins."""
    text = path.read_text()
    changed, count = re.subn(pattern, to, text, count=1, flags=re.S)
    assert count == 1
    assert changed != text
    path.write_text(changed)


def is_found(folder: Path, layer: str = FIRST) -> None:
    result = verify_export(folder)
    assert result.mismatch is not None
    assert result.mismatch.expected != result.mismatch.got
    assert result.layers[-1].layer == layer
    assert result.changed


TARGETS = ["vectors", "c", "hls", "onnx", "qonnx"]


@pytest.mark.parametrize("target", TARGETS)
def test_without_an_error_nothing_is_found(
    exported: Callable[[str, Path], Path], target: str, tmp_path: Path
) -> None:
    assert verify_export(exported(target, tmp_path)).mismatch is None


def more(match: re.Match[str]) -> str:
    return f"{match[1]}{int(match[2]) ^ 1}"


# --------------------------------------------------------------------------------- C and high-level synthesis


SUM = r"(layer_000_conv0.*?v = )(sums\[c - first\]);"


def test_c_weight_bit(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("c", tmp_path)
    replace_once(folder / "parameters.c", r"(conv0_weight \*/ \{\s*)(-?\d+)", more)
    is_found(folder)


def test_c_shift(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("c", tmp_path)
    replace_once(
        folder / "network.c",
        r"(layer_000_conv0.*?rx_round32_RND\(v, )(\d+)",
        lambda m: f"{m[1]}{int(m[2]) + 1}",
    )
    is_found(folder)


def test_c_rounding(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("c", tmp_path)
    replace_once(
        folder / "network.c", r"(layer_000_conv0.*?)rx_round32_RND", lambda m: f"{m[1]}rx_round32_TRN"
    )
    is_found(folder)


def test_c_accumulator(exported: Callable[[str, Path], Path], network: IntGraph, tmp_path: Path) -> None:
    folder, bits = exported("c", tmp_path), accumulator_bits(network)
    replace_once(folder / "network.c", SUM, lambda m: f"{m[1]}rx_wrap32({m[2]}, {bits - 1}, 1);")
    is_found(folder)
    folder = exported("c", tmp_path / "again")
    replace_once(folder / "network.c", SUM, lambda m: f"{m[1]}rx_wrap32({m[2]}, {bits}, 1);")
    assert verify_export(folder).mismatch is None  # the proven width is enough


def test_c_crash_is_no_pass(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    from radixpoint.errors import ExportError

    folder = exported("c", tmp_path)
    replace_once(folder / "network.c", SUM, lambda m: f"{m[1]}{m[2]} + INT32_MAX; v += v;")
    with pytest.raises(ExportError, match="ended with status"):
        verify_export(folder)
    folder = exported("c", tmp_path / "again")
    replace_once(folder / "network.c", SUM, lambda m: f"{m[1]}summ;")
    with pytest.raises(ExportError, match="does not compile"):
        verify_export(folder)


def test_hls_weight_bit(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("hls", tmp_path)
    replace_once(folder / "parameters.h", r"(conv0_weight\[\d+\] = \{\s*)(-?\d+)", more)
    is_found(folder)


def test_hls_shift(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("hls", tmp_path)
    replace_once(folder / "formats.h", r"(RX_SFIXED\(11, )(-?\d+)(, RND, SAT\) t002_conv0_cast_t)",
                 lambda m: f"{m[1]}{int(m[2]) + 1}{m[3]}")  # fmt: skip
    is_found(folder)


def test_hls_rounding(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("hls", tmp_path)
    replace_once(folder / "formats.h", r"RND(, SAT\) t002_conv0_cast_t)", lambda m: f"TRN{m[1]}")
    is_found(folder)


def test_hls_accumulator(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("hls", tmp_path)
    replace_once(
        folder / "formats.h",
        r"RX_SFIXED\((\d+), (-?\d+)(, TRN, WRAP\) t001_conv0_conv_t)",
        lambda m: f"RX_SFIXED({int(m[1]) - 1}, {int(m[2]) - 1}{m[3]}",
    )
    is_found(folder)


# ---------------------------------------------------------------------------------------------- the two ONNX


def edited(folder: Path, edit: Callable[[onnx.ModelProto], None]) -> Path:
    (path,) = folder.glob("*.onnx")
    model = onnx.load(str(path))
    before = model.SerializeToString()
    edit(model)
    assert model.SerializeToString() != before
    onnx.save(model, str(path))
    return folder


def set_initializer(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    (place,) = (i for i, t in enumerate(model.graph.initializer) if t.name == name)
    values = numpy_helper.to_array(model.graph.initializer[place])
    model.graph.initializer[place].CopyFrom(
        numpy_helper.from_array(change(values).astype(values.dtype), name)
    )


def private_copy(model: onnx.ModelProto, node: onnx.NodeProto, place: int) -> str:
    """Constants are shared: give one input of one node its own."""
    name = node.input[place]
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    node.input[place] = f"{name}_own"
    model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor), f"{name}_own"))
    return f"{name}_own"


def before(model: onnx.ModelProto, result: str, op: str) -> onnx.NodeProto:
    """The last node of that operator up to the one that makes ``result``."""
    names = [n.output[0] for n in model.graph.node]
    return [n for n in model.graph.node[: names.index(result) + 1] if n.op_type == op][-1]


def flip_first(values: np.ndarray) -> np.ndarray:
    changed = values.copy()
    changed.flat[0] = int(changed.flat[0]) ^ 1
    return changed


def limited(network: IntGraph, unit: float, dtype: type) -> Callable[[onnx.ModelProto], None]:
    """An accumulator of one bit less, which saturates."""
    largest = ((1 << (accumulator_bits(network) - 2)) - 1) * unit

    def edit(model: onnx.ModelProto) -> None:
        name = "t001_conv0_conv"
        (place,) = (i for i, n in enumerate(model.graph.node) if n.output[0] == name)
        model.graph.node[place].output[0] = "wide"
        model.graph.initializer.append(numpy_helper.from_array(np.array(largest, dtype), "largest"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(-largest - unit, dtype), "least"))
        high = helper.make_node("Min", ["wide", "largest"], ["high"])
        low = helper.make_node("Max", ["high", "least"], [name])
        for offset, node in enumerate((high, low)):
            model.graph.node.insert(place + 1 + offset, node)

    return edit


def test_onnx_weight_bit(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        node = before(model, "t001_conv0_conv", "MatMul")
        set_initializer(model, private_copy(model, node, 0), flip_first)

    is_found(edited(exported("onnx", tmp_path), edit))


def test_onnx_shift(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        node = before(model, "t002_conv0_cast", "Div")
        set_initializer(model, private_copy(model, node, 1), lambda v: v * 2)

    is_found(edited(exported("onnx", tmp_path), edit))


def test_onnx_rounding(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        before(model, "t002_conv0_cast", "GreaterOrEqual").op_type = "Greater"

    is_found(edited(exported("onnx", tmp_path), edit))


def test_onnx_accumulator(exported: Callable[[str, Path], Path], network: IntGraph, tmp_path: Path) -> None:
    is_found(edited(exported("onnx", tmp_path), limited(network, 1, np.int64)))


def test_qonnx_weight_bit(exported: Callable[[str, Path], Path], network: IntGraph, tmp_path: Path) -> None:
    unit = 2.0 ** -network.parameters[f"{FIRST}/weight"].format.fraction_lengths[0]

    def edit(model: onnx.ModelProto) -> None:
        (name,) = (t.name for t in model.graph.initializer if t.name.endswith("conv0_weight_values"))
        set_initializer(model, name, lambda v: flip_first(v / unit) * unit)

    is_found(edited(exported("qonnx", tmp_path), edit))


def test_qonnx_shift(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        node = before(model, "t002_conv0_cast", "Quant")
        set_initializer(model, private_copy(model, node, 1), lambda v: v * 2)

    is_found(edited(exported("qonnx", tmp_path), edit))


def test_qonnx_rounding(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        node = before(model, "t002_conv0_cast", "Quant")
        (mode,) = (a for a in node.attribute if a.name == "rounding_mode")
        assert mode.s == b"FLOOR"
        mode.s = b"CEIL"

    is_found(edited(exported("qonnx", tmp_path), edit))


def test_qonnx_accumulator(exported: Callable[[str, Path], Path], network: IntGraph, tmp_path: Path) -> None:
    fraction = next(t for n, t in network.tensors.items() if n.endswith("conv") and t.layer == FIRST)
    unit = 2.0 ** -fraction.format.fraction_lengths[0]
    is_found(edited(exported("qonnx", tmp_path), limited(network, unit, np.float32)))


# --------------------------------------------------------------------------------------------- golden vectors


def test_vectors_weight_bit(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("vectors", tmp_path)
    (path,) = (folder / "parameters").glob("*conv0_weight.hex")
    replace_once(path, r"^([0-9a-f]+)", lambda m: f"{int(m[1], 16) ^ 1:02x}")
    is_found(folder)


def test_vectors_golden_bit(exported: Callable[[str, Path], Path], tmp_path: Path) -> None:
    folder = exported("vectors", tmp_path)
    (path,) = (folder / "tensors").glob("*conv0_cast.hex")
    replace_once(path, r"^([0-9a-f]+)", lambda m: f"{int(m[1], 16) ^ 1:03x}")
    is_found(folder)


def manifest_edited(folder: Path, edit: Callable[[dict], None]) -> Path:  # type: ignore[type-arg]
    document = json.loads((folder / "manifest.json").read_text())
    edit(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("what", ["shift", "rounding", "accumulator", "weight format"])
def test_manifest(exported: Callable[[str, Path], Path], target: str, what: str, tmp_path: Path) -> None:
    """What an engineer reads to build the hardware: verified like the rest."""

    def edit(document: dict) -> None:  # type: ignore[type-arg]
        tensors = {t["identifier"]: t for t in document["tensors"]}
        match what:
            case "shift":
                tensors["t002_conv0_cast"]["format"]["fraction_lengths"][0] += 1
            case "rounding":
                cast = next(s for s in document["steps"] if s["result"] == "t002_conv0_cast")
                assert cast["attributes"]["rounding"] == "RND"
                cast["attributes"]["rounding"] = "TRN"
            case "accumulator":
                tensors["t001_conv0_conv"]["format"]["word_length"] -= 1
            case _:
                weight = next(p for p in document["parameters"] if p["name"] == "conv0/weight")
                weight["format"]["fraction_lengths"][0] += 1

    result = verify_export(manifest_edited(exported(target, tmp_path), edit))
    assert result.mismatch is not None
    assert result.layers[-1].engine == "manifest"
    assert result.layers[-1].layer == FIRST
