"""Networks on the accelerator in Verilog, every tensor by ==; errors planted in what is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import exports
import networks
from radixpoint.accelerator.machine import CORE, Machine, descriptor_fields
from radixpoint.accelerator.synthesis import run_yosys
from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.data import load_images, read_classes
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import quantize_images
from radixpoint.errors import ExportError
from radixpoint.export import TARGETS, export_network, verify_export
from radixpoint.export.verilog import SOURCES, VerilatedTestbench, verilate
from radixpoint.importers import load
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.measure.calibrate import Ranges, calibrate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from test_export import HLS_CASES, check, made

pytestmark = pytest.mark.slow("it compiles")

OPTIONS = {"lanes": "4"}


@pytest.mark.parametrize(("case", "rounding", "overflow"), HLS_CASES)
def test_every_mode_form_and_scope(case: int, rounding: Rounding, overflow: Overflow, tmp_path: Path) -> None:
    """Each form with each scope, each rounding, each overflow; vectors of 1 to 5 channels."""
    network = made(case, rounding, overflow)
    assert (
        exports.verified(network, "verilog", tmp_path, options={"lanes": str(case % 5 + 1)}).mismatch is None
    )


def test_stochastic_is_refused(tmp_path: Path) -> None:
    check(made(0, Rounding.STOCHASTIC, Overflow.SAT), "verilog", tmp_path, "STOCHASTIC")


@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_unsigned_operands(scope: str, tmp_path: Path) -> None:
    point = {"scope": scope, "rule": "percentile"}
    network = exports.quantized(networks.mixed(), conv=8, unsigned=True, binary_point=point)
    assert exports.verified(network, "verilog", tmp_path, options=OPTIONS).mismatch is None


@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_what_training_switched_off(scope: str, tmp_path: Path) -> None:
    network = exports.switched_off(scope)
    assert exports.verified(network, "verilog", tmp_path, options=OPTIONS).mismatch is None


def test_narrow_accumulators_wrap(tmp_path: Path) -> None:
    network = exports.quantized(networks.mixed(), accumulator={"word_length": 12, "overflow": "WRAP"})
    assert exports.verified(network, "verilog", tmp_path, options=OPTIONS).mismatch is None


def test_operands_wider_than_the_rest(tmp_path: Path) -> None:
    network = exports.quantized(networks.mixed(), conv=13, bn=6)
    assert exports.verified(network, "verilog", tmp_path, options=OPTIONS).mismatch is None


def concatenated(parts: int) -> Graph:
    """Two concatenated parts added to a convolution of as many channels."""
    n = networks.Net(3, (3, 6, 6))
    a = n.conv("input", parts)
    x = n.concat(a, n.bn(n.conv(a, parts)))
    y = n.add(x, n.conv(x, 2 * parts))
    flat = n.simple("flatten", n.conv(y, 2, strides=(3, 3)))
    return n.graph(n.fc(flat, 8, 7))


def test_concatenation(tmp_path: Path) -> None:
    network = exports.quantized(concatenated(4))
    assert exports.verified(network, "verilog", tmp_path, options=OPTIONS).mismatch is None
    with pytest.raises(ExportError, match=r"layer 'add\d+': adds .* expected option lanes to divide"):
        export_network(exports.quantized(concatenated(3)), "verilog", tmp_path / "y", options=OPTIONS)
    assert not (tmp_path / "y").exists()


def flattened(sizes: tuple[int, int]) -> Graph:
    """Two flattened tensors, with as many rows and columns each as ``sizes`` says, side by side."""
    n = networks.Net(4, (3, 6, 6))
    parts = []
    for size in sizes:
        x = n.bn(n.conv("input", 3, strides=(6 // size, 6 // size)))
        flat = n.simple("flatten", x)
        n.channels[flat] = 3 * size**2
        parts.append(flat)
    x = n.concat(*parts)
    return n.graph(n.fc(n.add(x, x), 3 * sum(size**2 for size in sizes), 7))


def test_concatenation_of_what_is_flattened(tmp_path: Path) -> None:
    network = exports.quantized(flattened((2, 2)), binary_point={"scope": "channel"})
    assert exports.verified(network, "verilog", tmp_path, options=OPTIONS).mismatch is None
    with pytest.raises(ExportError, match=r"layer 'concat\d+': concatenates .* 2 x 2 and 3 x 3 places"):
        export_network(exports.quantized(flattened((2, 3))), "verilog", tmp_path / "y", options=OPTIONS)
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "channels", "lanes"),
    [
        (7, (2, 2), (3, 3, 3, 3), 3, 16),
        (11, (4, 4), (0, 0, 0, 0), 3, 8),
        (5, (3, 2), (2, 1, 0, 3), 1, 4),
        (3, (2, 2), (2, 0, 1, 1), 1, 5),
    ],
)
def test_rows_and_columns_of_the_image_share_a_place(
    kernel: int,
    strides: tuple[int, int],
    pads: tuple[int, int, int, int],
    channels: int,
    lanes: int,
    tmp_path: Path,
) -> None:
    """Where the first convolution strides, so that lanes are not idle: the same bits in fewer clocks."""
    n = networks.Net(kernel, (channels, 27, 19))
    x = n.simple("relu", n.bn(n.conv("input", 6, kernel, strides=strides, pads=pads)))
    x = n.simple("average_pool", x, kernel=(2, 2), strides=(1, 1), pads=(0,) * 4, count_include_pad=False)
    places = [(27, 19)[i] + pads[i] + pads[i + 2] - kernel for i in (0, 1)]
    rows, columns = (side // step for side, step in zip(places, strides, strict=True))
    network = exports.quantized(n.graph(n.fc(n.simple("flatten", x), 6 * rows * columns, 7)))
    machine = Machine(network, lanes)
    assert machine.schedule.layouts[network.input].fold == strides
    taps = machine.descriptors[0].fields["WINDOW"]
    assert taps < kernel**2 * -(-channels // lanes)
    images = exports.example_images(network, 2)
    export_network(network, "verilog", tmp_path / "x", images, {"lanes": str(lanes)})
    assert verify_export(tmp_path / "x").mismatch is None
    if kernel == 5:
        run = engine(tmp_path / "x", network, tmp_path)
        run.run(images)
        assert run.clocks == 2 * machine.clocks()


def shared() -> Graph:
    """Padded, strided, with groups, an addition, a division, and places whose parameters differ."""
    n = networks.Net(8, (3, 11, 9))
    x = n.simple("relu", n.bn(n.conv("input", 6, 3, strides=(2, 2), pads=(1, 1, 1, 1))))
    y = n.bn(n.conv(x, 6, 3, pads=(1, 1, 1, 1), groups=2))
    x = n.add(x, y)
    pads = {"kernel": (3, 2), "strides": (1, 1), "pads": (1, 1, 1, 0), "count_include_pad": False}
    x = n.simple("average_pool", x, **pads)
    x = n.simple("max_pool", n.conv(x, 7, 1), kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    return n.graph(n.fc(n.simple("flatten", x), 84, 7))


@pytest.mark.parametrize(
    ("places", "batch", "count"), [(1, 1, 2), (2, 1, 2), (3, 2, 5), (7, 3, 3), (64, 4, 2)]
)
def test_places_and_images_share_weights(places: int, batch: int, count: int, tmp_path: Path) -> None:
    """Every tensor, also where a batch is not full; and as many clocks as the model says."""
    network = exports.quantized(shared(), binary_point={"scope": "channel"})
    images = exports.example_images(network, count)
    options = {"lanes": "3", "places": str(places), "batch": str(batch)}
    export_network(network, "verilog", tmp_path / "x", images, options)
    assert verify_export(tmp_path / "x").mismatch is None
    run = VerilatedTestbench(network, Machine(network, 3, places, batch), tmp_path / "x", tmp_path)
    run.run(images)
    assert run.clocks == -(-count // batch) * Machine(network, 3, places, batch).clocks()


@pytest.mark.parametrize("name", ["lanes", "places", "batch"])
@pytest.mark.parametrize("value", ["0", "1025", "4.5", "-1", "x", "", "٣", 5000 * "1"])
def test_impossible_options(name: str, value: str, tmp_path: Path) -> None:
    network = exports.quantized(networks.residual())
    with pytest.raises(ExportError, match=f"option {name}="):
        export_network(network, "verilog", tmp_path / "x", options={name: value})
    assert not (tmp_path / "x").exists()


# --------------------------------------------------------------------------------------- the real thing


@pytest.fixture(scope="module")
def demo() -> tuple[Graph, Ranges]:
    graph = demo_network()
    return graph, calibrate(graph, demo_images("calibration"))


DESIGNS = {
    "joint": Design.joint(12),
    "separate": Design.separate(conv=10, bn=13),
    "channel": Design.separate(conv=10, bn=13, binary_point={"scope": "channel"}),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_demo_network(demo: tuple[Graph, Ranges], name: str, tmp_path: Path) -> None:
    """All 53 convolutions from image to logits, 10 images, every tensor; then the logits of 40 more."""
    network = quantize(*demo, DESIGNS[name])
    images = quantize_images(network, demo_images("test").inputs(0, 50))
    export_network(network, "verilog", tmp_path / "x", images[:10])
    result = verify_export(tmp_path / "x", lambda _: iter([images[10:]]))
    assert result.mismatch is None
    assert (result.images, result.more_images) == (10, 40)
    assert len(result.layers) == len({t.layer for t in network.tensors.values()}) > 53 + 53


DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no {DATA}: the full-width ResNet-50 is NOT run in Verilog")
def test_full_resnet50(tmp_path: Path) -> None:
    """One image of 64 x 64 pixels, every tensor."""
    graph = load(str(DATA / "resnet50-tiny-imagenet.safetensors"), (3, 64, 64))
    classes = read_classes(str(DATA / "wnids.txt"))
    calibration = load_images(str(DATA / "images-calibration.tar"), None, classes).first(100)
    network = quantize(graph, calibrate(graph, calibration), Design.separate(conv=10, bn=14))
    image = load_images(str(DATA / "images-search.tar"), None, classes).inputs(0, 1)
    export_network(network, "verilog", tmp_path / "x", quantize_images(network, image))
    result = verify_export(tmp_path / "x")
    assert result.mismatch is None
    assert sum(x.values for x in result.layers) == sum(
        int(np.prod(t.shape)) for t in network.tensors.values()
    )


# ------------------------------------------------------------------------------------ the export itself

FIRST = "conv0"


@pytest.fixture(scope="module")
def network() -> IntGraph:
    return exports.quantized(networks.residual())


@pytest.fixture(scope="module")
def exported(network: IntGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its images bring the first convolution to the end of its proven range."""
    folder = tmp_path_factory.mktemp("verilog") / "x"
    images = np.concatenate([exports.extreme_image(network, FIRST), exports.example_images(network, 2)])
    export_network(network, "verilog", folder, images, OPTIONS)
    return folder


def engine(folder: Path, network: IntGraph, scratch: Path) -> VerilatedTestbench:
    (one,) = TARGETS["verilog"].open(folder, network, scratch).values()
    assert isinstance(one, VerilatedTestbench)
    return one


@pytest.mark.parametrize("case", range(3))
def test_clocks_are_those_of_the_model(case: int, tmp_path: Path) -> None:
    """`radixpoint cost` states clocks without a simulation: it must be right about every layer."""
    network = made(case, Rounding.RND, Overflow.SAT)
    images = exports.example_images(network, 3)
    export_network(network, "verilog", tmp_path / "x", images, OPTIONS)
    run = engine(tmp_path / "x", network, tmp_path)
    run.run(images)
    assert run.clocks == 3 * Machine(network, 4).clocks()


def test_the_testbench_alone(exported: Path, tmp_path: Path) -> None:
    """Without radixpoint: it says PASS, and FAIL where a golden logit is another."""
    program = verilate([exported / name for name in SOURCES], tmp_path / "made")
    said = subprocess.run([program], cwd=exported, capture_output=True, text=True, check=True).stdout
    assert re.match(r"PASS: 3 images, 0 differing words of logits, \d+ clocks", said)
    golden = (exported / "logits.hex").read_text()
    (tmp_path / "wrong.hex").write_text(("1" if golden[0] == "0" else "0") + golden[1:])
    wrong = [program, f"+golden={tmp_path}/wrong.hex"]
    said = subprocess.run(wrong, cwd=exported, capture_output=True, text=True, check=True).stdout
    assert re.match(r"FAIL: 3 images, 1 differing words of logits", said)


def test_yosys_accepts_it(exported: Path, tmp_path: Path) -> None:
    """The accelerator without its memories goes through synthesis into gates, no latch among them."""
    read = " ".join(name for name in CORE if name != "rx_core.v")
    script = (
        f"read_verilog {read}; "
        "hierarchy -check -top rx_accelerator -chparam LANES 2 -chparam DIVIDE 32; "
        "proc; flatten; opt -fast; memory -nomap; check -assert; "
        "select -assert-none t:$dlatch t:$adlatch t:$dlatchsr; techmap; tee -q -o stat.json stat -json"
    )
    for name in ("rx_fields.vh", *CORE):
        shutil.copy(exported / name, tmp_path)
    stated = json.loads(run_yosys(script, tmp_path, "stat.json"))
    assert stated["design"]["num_cells"] > 1000


# ------------------------------------------------------------------------------------ planted errors


def test_without_an_error_nothing_is_found(exported: Path) -> None:
    assert verify_export(exported).mismatch is None


def change(path: Path, edit: Callable[[str], str]) -> None:
    text = path.read_text()
    assert edit(text) != text
    path.write_text(edit(text))


def flip_weight(text: str) -> str:
    """The lowest bit of the first lane of the first word."""
    first, rest = text.split("\n", 1)
    return f"{int(first, 16) ^ 1:0{len(first)}x}\n{rest}"


def field(number: int, name: str, to: Callable[[int], int]) -> Callable[[str], str]:
    def edit(text: str) -> str:
        lines = text.splitlines()
        place = number * len(descriptor_fields()) + descriptor_fields().index(name)
        lines[place] = f"{to(int(lines[place], 16)) % 2**64:016x}"
        return "\n".join(lines) + "\n"

    return edit


def shorter_accumulator(text: str) -> str:
    return re.sub(r"ACC = (\d+)", lambda m: f"ACC = {int(m[1]) - 1}", text)


def other_shift(network: IntGraph) -> Callable[[str], str]:
    """The first cast of the first lane by another place."""
    sizes = Machine(network, 4).sizes
    place = 2 * sizes["OFFSET"] + sizes["FACTOR"] + sizes["DIVISOR"]

    def edit(text: str) -> str:
        first, rest = text.split("\n", 1)
        return f"{int(first, 16) ^ (1 << place):0{len(first)}x}\n{rest}"

    return edit


def test_planted_weight_bit(exported: Path, tmp_path: Path) -> None:
    found(exported, tmp_path, "weights.hex", flip_weight)


def test_planted_shift(exported: Path, network: IntGraph, tmp_path: Path) -> None:
    found(exported, tmp_path, "parameters.hex", other_shift(network))


def test_planted_accumulator(exported: Path, tmp_path: Path) -> None:
    found(exported, tmp_path, "parameters.vh", shorter_accumulator)


FIELDS: dict[str, Callable[[int], int]] = {
    "CAST_ROUNDING": lambda v: 0,
    "CAST_HIGH": lambda v: v // 2,
    "STAGES": lambda v: v & ~2,
    "READ_KERNEL_ROW": lambda v: v + 1,
    "FIRST_X": lambda v: v + 1,
    "HEIGHT": lambda v: v - 1,
    "COLUMNS": lambda v: v - 1,
    "TILES": lambda v: v + 1,
    "WINDOW": lambda v: v + 1,
    "PLACED": lambda v: 1,
    "IMAGES": lambda v: v + 1,
    "READ_COLUMN": lambda v: v + 1,
    "KIND": lambda v: 2,
    "ROWS": lambda v: 0,
}


@pytest.mark.parametrize("name", FIELDS)
def test_planted_descriptor_field(exported: Path, name: str, tmp_path: Path) -> None:
    found(exported, tmp_path, "descriptors.hex", field(0, name, FIELDS[name]))


def test_planted_error_in_a_later_layer(exported: Path, network: IntGraph, tmp_path: Path) -> None:
    machine = Machine(network, 4)
    number = next(i for i, d in enumerate(machine.descriptors) if d.owner.head and d.owner.head.op == "add")
    head = machine.descriptors[number].owner.head
    assert head is not None
    edit = field(number, "READ_BLOCK", lambda v: v + 1)
    found(exported, tmp_path, "descriptors.hex", edit, network.tensors[head.name].layer)


def test_planted_error_in_a_module(exported: Path, tmp_path: Path) -> None:
    found(exported, tmp_path, "rx_round.v", lambda text: text.replace("up = half;", "up = half & rest;"))


def found(exported: Path, tmp_path: Path, name: str, edit: Callable[[str], str], layer: str = FIRST) -> None:
    """verify names the layer."""
    folder = tmp_path / "x"
    shutil.copytree(exported, folder)
    change(folder / name, edit)
    result = verify_export(folder)
    assert result.mismatch is not None
    assert result.mismatch.expected != result.mismatch.got
    assert result.layers[-1].layer == layer
    assert result.changed == (name,)
