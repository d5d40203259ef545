"""The exported C as firmware: camera bytes to a class, the caller's memory, and a Cortex-M7 under QEMU."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

import exports
import networks
from radixpoint.data import Preprocessing
from radixpoint.data.preprocessing import ChannelOrder
from radixpoint.demo import demo_images, demo_network
from radixpoint.engines import make_engine, quantize_images
from radixpoint.errors import ExportError
from radixpoint.export import TARGETS, export_network, verify_export
from radixpoint.export.c import pixel_values
from radixpoint.ir.memory import arenas, footprint
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Plan
from radixpoint.measure.calibrate import calibrate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize
from test_cli import run

pytestmark = pytest.mark.slow("it compiles")
ARM = shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")
needs_arm = pytest.mark.skipif(
    not ARM, reason="no arm-none-eabi-gcc or qemu-system-arm: C on a Cortex-M7 is NOT run"
)
MAIN = """
#include <stdio.h>
#include <string.h>
#include "network.h"
static uint8_t pixels[RADIXPOINT_IMAGE_VALUES];
static struct radixpoint_memory first, second;
int main(void) {
  printf("%u\\n", (unsigned)sizeof(struct radixpoint_buffer));
  while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
    int32_t a, b;
    memset(&first, 0x55, sizeof first); /* nothing may depend on what lies there */
    memset(&second, 0xAA, sizeof second);
    a = radixpoint_classify(&radixpoint_parameters, pixels, &first);
    b = radixpoint_classify(&radixpoint_parameters, pixels, &second);
    printf("%d %d\\n", (int)a, (int)b);
  }
  return 0;
}
"""


def prepared(network: IntGraph, order: ChannelOrder) -> IntGraph:
    """The network with other images in its record."""
    about = Preprocessing((0.1, 0.5, 0.8), (0.2, 0.25, 0.3), channel_order=order)
    text = msgspec.json.encode(about).decode()
    return dataclasses.replace(network, metadata={**network.metadata, "preprocessing": text})


def classes(network: IntGraph, pixels: np.ndarray, folder: Path) -> tuple[int, list[int]]:
    """Bytes of the buffer, and the class of each image (height, width, channel), by the C."""
    export_network(network, "c", folder, options={"parameters": "arrays"})
    (folder / "main.c").write_text(MAIN)
    sources = [folder / name for name in ("main.c", "network.c", "parameters.c")]
    warnings = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2", "-fsanitize=undefined")
    subprocess.run(["cc", *warnings, *sources, "-o", folder / "run"], check=True)
    done = subprocess.run([folder / "run"], input=pixels.tobytes(), capture_output=True, check=True)
    size, *lines = done.stdout.split(b"\n")[:-1]
    pairs = [list(map(int, line.split())) for line in lines]
    assert len(pairs) == len(pixels)
    assert all(a == b for a, b in pairs)
    return int(size), [a for a, _ in pairs]


@pytest.mark.parametrize("order", ["RGB", "BGR", "stored"])
def test_classify_takes_camera_bytes(order: ChannelOrder, tmp_path: Path) -> None:
    """The class that the network gives for the prepared image, for every image and both memories."""
    network = prepared(exports.quantized(networks.balanced(), conv=8, bn=9), order)
    about = msgspec.json.decode(network.metadata["preprocessing"], type=Preprocessing)
    pixels = np.random.default_rng(3).integers(0, 256, (64, 3, 12, 12)).astype(np.uint8)
    ours = about.normalize(pixels)
    best = make_engine(network).run(quantize_images(network, ours))[network.output].argmax(1)
    seen = pixels[:, ::-1] if order == "BGR" else pixels  # a camera gives red first
    size, found = classes(network, np.ascontiguousarray(np.moveaxis(seen, 1, -1)), tmp_path / "c")
    assert found == best.tolist()
    assert len(set(found)) > 1
    assert size == arenas(Plan(network, fused=True)).bytes


def test_classify_on_the_demo(tmp_path: Path) -> None:
    images = demo_images("test").leading(500)
    graph = demo_network()
    network = quantize(graph, calibrate(graph, demo_images("calibration")), Design.separate(8, 10))
    stored = quantize_images(network, images.inputs(0, 500))
    best = make_engine(network).run(stored)[network.output].argmax(1)
    _, found = classes(
        network, np.ascontiguousarray(np.moveaxis(np.asarray(images.pixels), 1, -1)), tmp_path / "c"
    )
    assert found == best.tolist()


def test_no_table_where_a_pixel_does_not_decide() -> None:
    plain = exports.quantized(networks.residual())
    about = msgspec.json.decode(prepared(plain, "RGB").metadata["preprocessing"], type=Preprocessing)
    mean = np.zeros((3, 12, 12), "<f4").tobytes()
    for metadata in (
        {},
        {"preprocessing": "null"},
        {"preprocessing": _text(replace(about, mean_image=mean))},
    ):
        assert pixel_values(dataclasses.replace(plain, metadata=metadata)) is None
    table = pixel_values(prepared(plain, "RGB"))
    assert table is not None
    assert table.shape == (3, 256)


def _text(about: Preprocessing) -> str:
    return msgspec.json.encode(about).decode()


@pytest.mark.parametrize("groups", [1, 3])
def test_a_window_of_one_place_beyond_the_image(groups: int, tmp_path: Path) -> None:
    """Padded below and to the right only, as random networks found: there is nothing to multiply there."""
    n = networks.Net(7, (3, 5, 5))
    x = n.bn(n.conv("input", 6, 1, groups=groups, pads=(0, 0, 1, 3), strides=(1, 2)))
    graph = n.graph(n.fc(n.simple("flatten", x), 6 * 6 * 4, 3))
    assert exports.verified(exports.quantized(graph, conv=8, bn=10), "c", tmp_path).mismatch is None


def test_footprint() -> None:
    """By hand: the layers of a small network, function by function."""
    n = networks.Net(0, (1, 4, 4))
    x = n.simple("relu", n.bn(n.conv("input", 2)))
    graph = n.graph(n.fc(n.simple("flatten", x), 32, 3, bias=False))
    network = exports.quantized(graph, conv=8, bn=8)
    found = footprint(network)
    names = [own.layers for own in found.layers]
    assert names[0][:3] == ("conv0", "batch_norm1", "relu2")
    # image 16, what the first function leaves 32, the flattened operand 32, logits 3
    assert found.layers[0].ram == 16 + 32
    assert found.ram == 16 + 3 + arenas(Plan(network, fused=True)).bytes
    assert found.layers[0].flash == 18 + 2 + 2
    assert found.flash == 18 + 2 + 2 + 96 + 256  # and the table of pixels


@pytest.mark.parametrize("graph", ["residual", "mixed", "varied"])
@pytest.mark.parametrize("options", [{}, {"binary_point": {"scope": "channel"}}, {"batch_norm": "staged"}])
@pytest.mark.parametrize(("conv", "bn"), [(8, 8), (6, 14), (12, 20)])
def test_footprint_is_what_the_export_takes(graph: str, options: dict[str, Any], conv: int, bn: int) -> None:
    network = exports.quantized(getattr(networks, graph)(), conv=conv, bn=bn, **options)
    header = TARGETS["c"].files(network, np.zeros(0), {})["network.h"].decode()
    stated = {name: int(value) for name, value in re.findall(r"define RADIXPOINT_(\w+)_BYTES (\d+)", header)}
    found = footprint(network)
    assert found.flash == stated["PARAMETERS"]
    assert stated["BUFFER"] < found.ram <= stated["BUFFER"] + 4 * 3 * 12 * 12 + 4 * 10


def test_tensors_alive_at_once_do_not_overlap() -> None:
    for graph in (networks.residual(), networks.mixed(), networks.varied()):
        for conv, bn in ((8, 8), (8, 14), (14, 20)):
            network = exports.quantized(graph, conv=conv, bn=bn)
            plan = Plan(network, fused=True)
            found = arenas(plan)
            spans = []
            for name, (bits, first) in found.places.items():
                tensor = network.tensors[name]
                size = (
                    int(np.prod(tensor.shape)) * (8 if tensor.low > -129 and tensor.high < 256 else bits) // 8
                )
                assert first % (1 if size == np.prod(tensor.shape) else bits // 8) == 0
                spans.append((bits, first, first + size, plan.lives[name]))
                assert first + size <= found.sizes[bits]
            for i, a in enumerate(spans):
                for b in spans[:i]:
                    together = a[3][0] <= b[3][1] and b[3][0] <= a[3][1]
                    assert a[0] != b[0] or not together or a[2] <= b[1] or b[2] <= a[1]


# ---------------------------------------------------------------------------------------- Cortex-M7


@needs_arm
@pytest.mark.parametrize("graph", ["residual", "mixed", "varied"])
@pytest.mark.parametrize(("conv", "bn"), [(8, 8), (5, 12), (12, 16)])
def test_on_a_cortex_m7(graph: str, conv: int, bn: int, tmp_path: Path) -> None:
    network = exports.quantized(getattr(networks, graph)(), conv=conv, bn=bn, unsigned=conv == 8)
    export_network(network, "c", tmp_path / "c")
    result = verify_export(tmp_path / "c", machine="cortex-m7")
    assert result.mismatch is None
    assert {layer.engine for layer in result.layers} == {"cortex-m7", "cortex-m7, DSP"}


@needs_arm
def test_the_demo_on_a_cortex_m7(tmp_path: Path) -> None:
    graph = demo_network()
    network = quantize(graph, calibrate(graph, demo_images("calibration")), Design.separate(8, 8))
    export_network(network, "c", tmp_path / "c", quantize_images(network, demo_images("test").inputs(0, 2)))
    assert verify_export(tmp_path / "c", machine="cortex-m7").mismatch is None


@needs_arm
def test_parameters_in_a_file_on_a_cortex_m7(tmp_path: Path) -> None:
    export_network(
        exports.quantized(networks.residual()), "c", tmp_path / "c", options={"parameters": "blob"}
    )
    assert verify_export(tmp_path / "c", machine="cortex-m7").mismatch is None


@needs_arm
def test_an_error_in_the_dsp_kernel_is_found_there_alone(tmp_path: Path) -> None:
    network = exports.quantized(networks.residual(), conv=8, bn=8)
    export_network(network, "c", tmp_path / "c")
    path = tmp_path / "c" / "radixpoint_dsp.h"
    text = path.read_text()
    wrong = re.sub(r"ror #8", "ror #16", text)
    assert wrong != text
    path.write_text(wrong)
    result = verify_export(tmp_path / "c", machine="cortex-m7")
    assert result.mismatch is not None
    assert result.layers[-1].engine == "cortex-m7, DSP"
    assert verify_export(tmp_path / "c").mismatch is None


def test_other_machines_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = exports.quantized(networks.residual())
    export_network(network, "c", tmp_path / "c")
    with pytest.raises(ExportError, match="c on z80: expected one of cortex-m7"):
        verify_export(tmp_path / "c", machine="z80")
    export_network(network, "vectors", tmp_path / "v")
    with pytest.raises(ExportError, match="vectors on cortex-m7: it runs here only"):
        verify_export(tmp_path / "v", machine="cortex-m7")
    monkeypatch.setenv("ARM_CC", "no-such-compiler")
    run("verify", tmp_path / "c", "--on", "cortex-m7", status=2)


def test_cmake(tmp_path: Path) -> None:
    """The folder is a library for CMake (from PyPI, among the tools of the tests)."""
    export_network(exports.quantized(networks.residual(), conv=8, bn=8), "c", tmp_path / "c")
    cmake = shutil.which("cmake")
    assert cmake is not None
    subprocess.run([cmake, "-S", tmp_path / "c", "-B", tmp_path / "b"], check=True, capture_output=True)
    subprocess.run([cmake, "--build", tmp_path / "b"], check=True, capture_output=True)
    assert (tmp_path / "b" / "libradixpoint_network.a").exists()
