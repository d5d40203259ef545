"""Well-known networks from every source: imported, on every engine, in every export. Writes docs/networks.md.

    python benchmarks/networks.py [--caffe FOLDER] [--only NAME ...] [--side 64] [--json FILE] [--render]

Each network is imported, which compares it with its own framework; Caffe's are compared with OpenCV. It is
quantized to 8 bits (batch normalization 12), and at full size the native engine has to equal the BLAS engine,
and that the reference, on every tensor of one image. Exports are of the same network on images of ``--side``
pixels (of its own size where it takes no other), and verified on one image; "refused" names the step. Results
are kept, network by network, in the JSON file; ``--render`` only writes the page.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import radixpoint
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.engines import BlasEngine, NativeEngine, ReferenceEngine, quantize_images
from radixpoint.errors import ExportError, RadixpointError
from radixpoint.export import TARGETS, export_network, verify_export
from radixpoint.export.target import check_steps
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import first_mismatch
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import quantize

ROOT = Path(__file__).parents[1]
EXPORTS = ("c", "hls", "verilog", "qonnx", "onnx")
COMPILED = 60
"""Steps beyond which HLS and Verilog are not compiled: vendors' headers and simulators take hours then."""


PARAMETERS = 30_000_000
"""Parameters beyond which no export is compiled or run: as text they are hundreds of megabytes."""
NODES = 3000
"""Nodes beyond which the qonnx package is not asked: its time grows with their square."""


def _nodes(files: Mapping[str, bytes]) -> int:
    import onnx

    return len(onnx.load_from_string(next(iter(files.values()))).graph.node)


@dataclass(frozen=True)
class Source:
    """A network from somewhere: ``load`` takes the side of an image, or None for its own."""

    network: str
    source: str
    load: Callable[[int | None], Graph]


def _onnx(path: Path) -> Callable[[int | None], Graph]:
    return lambda side: radixpoint.load(path)


def from_onnx_package() -> Iterator[Source]:
    import onnx

    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(folder.glob("light_*.onnx")):
        yield Source(path.stem.removeprefix("light_"), "onnx package", _onnx(path))


def from_caffe(folder: Path | None, scratch: Path) -> Iterator[Source]:
    import cv2

    from caffe_models import random_weights

    texts = {"VGG-16": vgg((2, 2, 3, 3, 3)), "VGG-19": vgg((2, 2, 4, 4, 4)), "SqueezeNet": squeezenet()}
    if folder is None:
        print("no --caffe FOLDER: AlexNet, CaffeNet, GoogLeNet and ResNets are left out")
    for path in sorted(folder.glob("*-deploy.prototxt")) if folder else ():
        texts[path.stem.removesuffix("-deploy")] = path.read_text()
    for name, text in texts.items():

        def load(side: int | None, name: str = name, text: str = text) -> Graph:
            weights = random_weights(text)
            (scratch / "n.prototxt").write_text(text)
            (scratch / "n.caffemodel").write_bytes(weights)
            graph = radixpoint.load(scratch / "n.prototxt", weights=scratch / "n.caffemodel")
            net = cv2.dnn.readNetFromCaffe(str(scratch / "n.prototxt"), str(scratch / "n.caffemodel"))
            x = np.random.default_rng(0).normal(size=(1, *graph.shapes[graph.input])).astype(np.float32)
            net.setInput(x)
            from radixpoint.measure.floating import FloatingEngine

            ours = FloatingEngine(graph).run(x)[graph.output].reshape(-1)
            theirs = net.forward(graph.output.removesuffix("_2")).reshape(-1)
            if not np.allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max()):
                raise RuntimeError(f"differs from OpenCV by {np.abs(ours - theirs).max():.3g}")
            return graph

        yield Source(name, "Caffe", load)


def _layer(kind: str, name: str, bottom: str, more: str = "", top: str = "") -> str:
    bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} top: "{top or name}" {more} }}\n'


def _conv(name: str, bottom: str, outputs: int, kernel: int, pad: int = 0, stride: int = 1) -> str:
    own = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {pad} stride: {stride} }}"
    return _layer("Convolution", name, bottom, own) + _layer("ReLU", f"relu_{name}", name, top=name)


HEAD = 'input: "data" input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }\n'
POOL = "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"


def vgg(blocks: tuple[int, ...]) -> str:
    """Simonyan and Zisserman 2015."""
    text, last = HEAD, "data"
    for stage, count in enumerate(blocks):
        for i in range(count):
            text += _conv(f"conv{stage + 1}_{i + 1}", last, min(64 << stage, 512), 3, 1)
            last = f"conv{stage + 1}_{i + 1}"
        text += _layer("Pooling", f"pool{stage + 1}", last, POOL)
        last = f"pool{stage + 1}"
    for name, outputs in (("fc6", 4096), ("fc7", 4096), ("fc8", 1000)):
        text += _layer("InnerProduct", name, last, f"inner_product_param {{ num_output: {outputs} }}")
        if name != "fc8":
            text += _layer("ReLU", f"relu_{name}", name, top=name) + _layer(
                "Dropout", f"drop_{name}", name, top=name
            )
        last = name
    return text


def squeezenet() -> str:
    """Iandola et al. 2016, version 1.1."""
    pool = "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"
    text = HEAD + _conv("conv1", "data", 64, 3, 0, 2) + _layer("Pooling", "pool1", "conv1", pool)
    last = "pool1"
    for number, (squeeze, expand) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)), 2
    ):
        name = f"fire{number}"
        text += _conv(f"{name}/squeeze", last, squeeze, 1)
        text += _conv(f"{name}/one", f"{name}/squeeze", expand, 1)
        text += _conv(f"{name}/three", f"{name}/squeeze", expand, 3, 1)
        text += _layer("Concat", f"{name}/concat", f"{name}/one {name}/three")
        last = f"{name}/concat"
        if number in (3, 5):
            text += _layer("Pooling", f"pool{number}", last, pool)
            last = f"pool{number}"
    text += _conv("conv10", last, 1000, 1)
    return text + _layer("Pooling", "pool10", "conv10", "pooling_param { pool: AVE global_pooling: true }")


def from_modules(scratch: Path) -> Iterator[Source]:
    import torch

    import zoo

    for name in zoo.MODULES:
        own = zoo.MODULES[name][1]

        def shape(side: int | None, own: tuple[int, int, int] = own) -> tuple[int, int, int]:
            if side is None or own[1] == 1:
                return own
            least = max(side, 96) if own[1] == 299 else side  # Inception's windows need as many
            return (own[0], least, least)

        def module(side: int | None, name: str = name, shape: Any = shape) -> Graph:
            return radixpoint.load(zoo.made(name), shape(side))

        def exported(side: int | None, name: str = name, shape: Any = shape, dynamo: bool = True) -> Graph:
            size = shape(side)
            image = torch.zeros(1, *(size if size[1] > 1 else (size[0], size[2])))
            how: dict[str, Any] = {"dynamo": True, "optimize": False}
            if not dynamo:
                how = {"dynamo": False, "training": torch.onnx.TrainingMode.PRESERVE}
            with redirect_stdout(io.StringIO()):
                torch.onnx.export(zoo.made(name), (image,), str(scratch / "m.onnx"), verbose=False, **how)
            return radixpoint.load(scratch / "m.onnx")

        yield Source(name, "torch", module)
        yield Source(name, "ONNX (dynamo)", exported)
        yield Source(name, "ONNX (TorchScript)", lambda side, e=exported: e(side, dynamo=False))


def ranges_of(graph: Graph) -> tuple[Any, np.ndarray]:
    shape = graph.shapes[graph.input]
    pixels = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)
    plain = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0], channel_order="stored")
    images = ImageSet("noise", pixels, np.zeros(4, np.int64), ("0",), plain)
    return calibrate(graph, images), images.inputs(0, 1)


def engines(graph: Graph) -> str:
    ranges, inputs = ranges_of(graph)
    network = quantize(graph, ranges, Design.separate(8, 12))
    stored = quantize_images(network, inputs)
    found = first_mismatch(network, ReferenceEngine(network), BlasEngine(network), stored)
    found = found or first_mismatch(network, BlasEngine(network), NativeEngine(network), stored)
    return "equal" if found is None else f"DIFFER: {found}"


def exports(graph: Graph, scratch: Path) -> dict[str, str]:
    ranges, inputs = ranges_of(graph)
    network = quantize(graph, ranges, Design.separate(8, 12))
    stored = quantize_images(network, inputs)
    result = {}
    if sum(p.data.size for p in network.parameters.values()) > PARAMETERS:
        for target in EXPORTS:
            try:
                check_steps(TARGETS[target], network)
                result[target] = "taken"
            except ExportError as error:
                result[target] = f"refused: {error}"
        return result
    for target in EXPORTS:
        place = Path(tempfile.mkdtemp(dir=scratch)) / target
        try:
            if target == "qonnx" or (target in ("hls", "verilog") and len(network.steps) > COMPILED):
                check_steps(TARGETS[target], network)
                files = TARGETS[target].files(network, stored, {})
                if target != "qonnx" or _nodes(files) > NODES:
                    result[target] = "written"
                    continue
            export_network(network, target, place, images=stored)
            found = verify_export(place).mismatch
            result[target] = "equal" if found is None else f"DIFFERS: {found}"
        except ExportError as error:
            result[target] = f"refused: {error}"
    return result


def measure(source: Source, side: int | None, scratch: Path) -> dict[str, Any]:
    started = time.time()
    row: dict[str, Any] = {"network": source.network, "source": source.source}
    try:
        graph = source.load(None)
        row |= {"imported": "equal", "layers": len(graph.layers), "input": list(graph.shapes[graph.input])}
        row["results"] = [list(graph.shapes[name]) for name in graph.outputs]
        if source.source in ("torch", "Caffe", "onnx package"):
            row["engines"] = engines(graph)
            small = source.load(side) if source.source == "torch" else graph
            row["side"] = list(small.shapes[small.input])
            row["exports"] = exports(small, scratch)
    except (RadixpointError, RuntimeError) as error:
        row.setdefault("imported", f"{type(error).__name__}: {str(error)[:200]}")
        row["error"] = str(error)[:300]
    row["seconds"] = round(time.time() - started, 1)
    return row


PAGE = """# Networks

Written by `python benchmarks/networks.py --caffe FOLDER` ({processor}).

Each network is imported from each source, and what is imported equals its own framework within float32's
errors ([how that is checked](importing.md#is-it-the-same-network)); Caffe's are compared with OpenCV.

*Engines* says whether, quantized to 8 bits (batch normalization 12), native = BLAS = reference on every
tensor of one image at full size. Exports are of the same network on images of the size that the column
*verified at* names, each verified on one image, on every tensor. "written": made, and neither compiled nor
run, since that takes hours for so many steps. "taken": the target has every step, and nothing was written,
as the network has more than 30 million parameters. Weights are random: no accuracy is meant here.

| network | source | imported | layers | engines | verified at | C | HLS | Verilog | QONNX | ONNX |
|---|---|---|---|---|---|---|---|---|---|---|
{rows}

Refusals:

{refusals}
"""


def render(rows: list[dict[str, Any]], processor: str) -> str:
    reasons: dict[str, int] = {}

    def short(text: str) -> str:
        if not text.startswith("refused"):
            return text
        reason = text.removeprefix("refused: ")
        for part in reason.split("'")[1::2]:
            reason = reason.replace(f"'{part}'", "...")
        return f"refused [{reasons.setdefault(reason, len(reasons) + 1)}]"

    lines = []
    for row in rows:
        ends = [short(row.get("exports", {}).get(t, "")) for t in EXPORTS]
        side = "x".join(map(str, row.get("side", [])))
        cells = [row["network"], row["source"], row["imported"], str(row.get("layers", ""))]
        cells += [row.get("engines", ""), side, *ends]
        lines.append(f"| {' | '.join(c.replace('|', '/').splitlines()[0] if c else '' for c in cells)} |")
    refusals = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    return PAGE.format(processor=processor, rows="\n".join(lines), refusals=refusals)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--caffe", type=Path, help="folder of Caffe's original descriptions")
    parser.add_argument("--only", nargs="*", help="names of networks")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "networks.jsonl")
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--processor", default="AMD EPYC, Zen 3, AVX2 only, two cores")
    asked = parser.parse_args()
    sys.path[:0] = [str(ROOT / "training"), str(ROOT / "tests")]
    rows = [json.loads(line) for line in asked.json.read_text().splitlines()] if asked.json.exists() else []
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        for group in (from_modules(scratch), from_caffe(asked.caffe, scratch), from_onnx_package()):
            for source in () if asked.render else group:
                known = any((r["network"], r["source"]) == (source.network, source.source) for r in rows)
                if known or (asked.only and source.network not in asked.only):
                    continue
                rows.append(measure(source, asked.side, scratch))
                print(json.dumps(rows[-1]), flush=True)
                asked.json.parent.mkdir(parents=True, exist_ok=True)
                asked.json.write_text("".join(json.dumps(r) + "\n" for r in rows))
    page = render(rows, asked.processor)
    if asked.render:
        page += f"\nThese are the {len(rows)} rows that are measured so far; the command goes on from them.\n"
    (ROOT / "docs" / "networks.md").write_text(page)


if __name__ == "__main__":
    main()
