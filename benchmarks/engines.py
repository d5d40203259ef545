"""Images a second of the native engine against named peers, and each layer against the instruction's peak.

    python benchmarks/engines.py --data DATA [--json FILE] [--repeats 9] [--threads 2] [--quick]
    python benchmarks/engines.py --module MobileNetV2 [--module ...]

DATA holds a full-width ResNet-50 and calibration images (see reproduce.py). Images are 224 x 224 noise: no
engine's time depends on them. Every repeat runs each system once, after a pause and a run to warm up, so that
a ratio compares neighbours in time; figures are medians over the repeats. Peers: onnxruntime float32 and its
own int8 QDQ model of the same network, OpenVINO with both models, PyTorch float32 (channels last) and
float64, Brevitas' and QPyTorch's fake quantization in PyTorch, and radixpoint's BLAS engine. Those not
installed are left out, by name.

``--module`` takes networks of training/zoo.py instead, with random weights, or ``demo``, the network in the
package, beside onnxruntime float32, its int8 model, and OpenVINO with both.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

import radixpoint
from radixpoint import _native
from radixpoint.demo import demo_network
from radixpoint.engines import (
    BlasEngine,
    NativeEngine,
    chosen_instruction_set,
    instruction_sets,
    quantize_images,
)
from radixpoint.measure.float_model import to_onnx
from radixpoint.quantization.quantize import Quantizer

Run = Callable[[NDArray[np.float32]], Any]
WIDTHS = (16, 14, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2)
DESIGNS = {f"{w} bits, bn 16": (w, 16) for w in WIDTHS} | {"8 bits, bn 8": (8, 8)}
PAUSE = 0.3
"""Seconds before each run: some peers' threads spin for a while after theirs."""


def session(model: bytes, threads: int) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = made.get_inputs()[0].name
    return lambda x: made.run(None, {name: x})


def openvino(model: bytes, threads: int, left_out: dict[str, str]) -> Run | None:
    """The same model in OpenVINO: float32 as such, or with its own int8 kernels where the model is QDQ."""
    try:
        import openvino as ov
    except ImportError as error:
        left_out["OpenVINO"] = str(error)
        return None
    core = ov.Core()
    own = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    made = core.compile_model(core.read_model(model), "CPU", own)
    return lambda x: made(x)


def qdq(model: bytes, images: NDArray[np.float32]) -> bytes:
    """onnxruntime's own int8 model: static, QDQ, per channel, calibrated on ``images``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    name = onnx.load_from_string(model).graph.input[0].name

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [images[i : i + 1] for i in range(len(images))]

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return {name: self.left.pop()} if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (str(Path(folder) / f"{n}.onnx") for n in ("a", "b", "c"))
        onnx.save(onnx.load_from_string(model), source)
        quant_pre_process(source, prepared)
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return Path(target).read_bytes()


def torch_peers(weights: Path, threads: int, left_out: dict[str, str]) -> dict[str, Run]:
    """PyTorch and the fake quantization of Brevitas (8-bit) and QPyTorch (16-bit fixed point)."""
    try:
        import torch
    except ImportError as error:
        left_out["torch"] = str(error)
        return {}
    from safetensors.torch import load_file
    from torch import nn

    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    from resnet import ResNet

    torch.set_num_threads(threads)
    state = load_file(str(weights))

    def network() -> nn.Module:
        made = ResNet(classes=len(state["fc.bias"]))
        made.load_state_dict(state, strict=False)
        return made.eval()

    def runner(model: nn.Module, dtype: torch.dtype, layout: torch.memory_format) -> Run:
        model = model.to(dtype=dtype, memory_format=layout)

        def run(x: NDArray[np.float32]) -> Any:
            with torch.inference_mode():
                return model(torch.from_numpy(x).to(dtype=dtype, memory_format=layout))

        return run

    def replaced(model: nn.Module, kind: type, change: Callable[[Any], nn.Module]) -> nn.Module:
        for name, child in list(model.named_children()):
            if isinstance(child, kind):
                setattr(model, name, change(child))
            else:
                replaced(child, kind, change)
        return model

    last, plain = torch.channels_last, torch.contiguous_format
    peers = {
        "PyTorch float32, channels last": runner(network(), torch.float32, last),
        "PyTorch float64": runner(network(), torch.float64, plain),
    }
    try:
        import brevitas.nn as qnn
        from brevitas.quant import Int8ActPerTensorFloat

        def brevitas(conv: nn.Conv2d) -> nn.Module:
            made = qnn.QuantConv2d(
                conv.in_channels,
                conv.out_channels,
                conv.kernel_size,
                stride=conv.stride,
                padding=conv.padding,
                bias=False,
                weight_bit_width=8,
                input_quant=Int8ActPerTensorFloat,
            )
            made.load_state_dict(conv.state_dict(), strict=False)
            return made

        peers["Brevitas, 8 bits, fake"] = runner(
            replaced(network(), nn.Conv2d, brevitas).eval(), torch.float32, plain
        )
    except Exception as error:
        left_out["Brevitas"] = repr(error)[:200]
    try:
        from qtorch import FixedPoint
        from qtorch.quant import Quantizer as Rounds

        number = FixedPoint(wl=16, fl=8)

        def qpytorch(layer: nn.Module) -> nn.Module:
            return nn.Sequential(
                layer, Rounds(forward_number=number, forward_rounding="nearest", backward_rounding="nearest")
            )

        model = replaced(replaced(network(), nn.BatchNorm2d, qpytorch), nn.Conv2d, qpytorch)
        peers["QPyTorch, 16 bits, fake"] = runner(model.eval(), torch.float32, plain)
    except Exception as error:
        left_out["QPyTorch"] = repr(error)[:200]
    return peers


def throughput(
    systems: dict[str, Run], images: NDArray[np.float32], repeats: int, slow: set[str]
) -> dict[str, dict[str, float]]:
    """Per system: images a second, and how much faster than onnxruntime float32 in the same repeat."""
    times: dict[str, list[float]] = {name: [] for name in systems}
    for repeat in range(repeats):
        for name, run in systems.items():
            if name in slow and repeat >= 3:
                continue
            time.sleep(PAUSE)
            run(images)
            started = time.perf_counter()
            run(images)
            times[name].append(time.perf_counter() - started)
    base = times["onnxruntime float32"]
    return {
        name: {
            "images_per_second": len(images) / median(own),
            "ratio": median([b / t for b, t in zip(base, own, strict=False)]),
        }
        for name, own in times.items()
    }


def peak(bytes_: bool, isa: str) -> float:
    """Operations a second (a multiplication and an addition are two) of the instruction, on one core."""
    rounds, best = 2_000_000, 0.0
    for _ in range(5):
        started = time.perf_counter()
        done = _native.peak(isa, bytes_, rounds)
        best = max(best, 2 * done / (time.perf_counter() - started))
    return best


def layers(
    quantizer: Quantizer, conv: int, bn: int, images: NDArray[np.float32], isa: str
) -> list[dict[str, Any]]:
    """Each convolution on one core, with all that is fused behind it, by shape."""
    graph = quantizer.quantize(radixpoint.Design.separate(conv, bn))
    engine = NativeEngine(graph, 1, isa)
    steps = {step.name: step for step in graph.steps}
    best = peak(conv <= 8, isa)
    rows: dict[str, dict[str, Any]] = {}
    for name, seconds in engine.profile(quantize_images(graph, images)):
        step = steps.get(name)
        if step is None or step.op not in ("conv", "dense"):
            continue
        weight, shape = graph.arrays(step)["weight"], graph.tensors[name].shape
        pixels = int(np.prod(shape[1:]))
        key = f"{'x'.join(map(str, weight.shape))} -> {'x'.join(map(str, shape[1:]) or ['1'])}"
        row = rows.setdefault(key, {"layer": key, "count": 0, "seconds": 0.0, "operations": 0})
        row["count"] += 1
        row["seconds"] += seconds
        row["operations"] += 2 * weight.size * pixels * len(images)
    for row in rows.values():
        row["gops"] = row["operations"] / row["seconds"] * 1e-9
        row["of_peak"] = row["operations"] / row["seconds"] / best
    return list(rows.values())


def peers(
    model: bytes, images: NDArray[np.float32], threads: int, left_out: dict[str, str]
) -> dict[str, Run]:
    """onnxruntime and OpenVINO, each with the float32 model and onnxruntime's int8 one."""
    found: dict[str, Run] = {"onnxruntime float32": session(model, threads)}
    models = {"float32": model, "int8 QDQ": qdq(model, images)}
    found["onnxruntime int8 QDQ"] = session(models["int8 QDQ"], threads)
    for name, content in models.items():
        run = openvino(content, threads, left_out)
        if run is not None:
            found[f"OpenVINO {name}"] = run
    return found


def modules(names: list[str], threads: int, repeats: int) -> None:
    """A table for each network of the zoo."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
    import zoo
    from radixpoint.data import ImageSet, Preprocessing

    print(f"{processor()}, {threads} threads, {chosen_instruction_set()}; {versions()}")
    for name in names:
        demo = name == "demo"
        graph = demo_network() if demo else radixpoint.load(zoo.made(name), zoo.MODULES[name][1])
        shape = graph.shapes[graph.input]
        pixels = np.random.default_rng(0).integers(0, 256, (8, *shape)).astype(np.uint8)
        plain = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0], channel_order="stored")
        noise = ImageSet("noise", pixels, np.zeros(8, np.int64), ("0",), plain)
        quantizer, images = Quantizer(graph, radixpoint.calibrate(graph, noise)), noise.inputs(0, 8)
        model = to_onnx(graph, graph.outputs).SerializeToString()
        systems = peers(model, images, threads, {})
        for title, (conv, bn) in DESIGNS.items():
            quantized = quantizer.quantize(radixpoint.Design.separate(conv, bn))
            engine, stored = NativeEngine(quantized, threads), quantize_images(quantized, images)
            systems[f"native, {title}"] = lambda x, e=engine, s=stored: e.run(s[: len(x)])
        for batch in (8, 1):
            measured = throughput(systems, images[:batch], repeats, set())
            print(
                f"\n| {name}, batch {batch} | images a second | ratio to onnxruntime float32 |\n|---|---|---|"
            )
            for title, row in measured.items():
                print(f"| {title} | {row['images_per_second']:.1f} | {row['ratio']:.2f} |", flush=True)


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("radixpoint", "numpy", "onnxruntime", "openvino", "torch", "brevitas", "qtorch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--module", action="append", help="a network of training/zoo.py")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="only onnxruntime and the native engine")
    arguments = parser.parse_args()
    if arguments.module:
        modules(arguments.module, arguments.threads, arguments.repeats)
        return
    if arguments.data is None:
        parser.error("expected --data or --module")
    weights = arguments.data / "resnet50-tiny-imagenet.safetensors"
    isa, left_out = chosen_instruction_set(), {}

    classes = radixpoint.read_classes(arguments.data / "wnids.txt")
    calibration = radixpoint.load_images(arguments.data / "images-calibration.tar", classes=classes)
    small = radixpoint.load(weights, (3, 64, 64))
    graph = radixpoint.load(weights, (3, 224, 224))
    quantizer = Quantizer(graph, radixpoint.calibrate(small, calibration.first(100)))
    images = np.random.default_rng(0).standard_normal((8, 3, 224, 224)).astype(np.float32)

    model = to_onnx(graph, [graph.output]).SerializeToString()
    systems = peers(model, images, arguments.threads, left_out)
    if arguments.quick:
        systems = {"onnxruntime float32": systems["onnxruntime float32"]}
    slow: set[str] = set()

    def integer(engine: Any, quantized: radixpoint.IntGraph) -> Run:
        stored = quantize_images(quantized, images)
        return lambda x: engine.run(stored[: len(x)])

    for name, (conv, bn) in DESIGNS.items():
        quantized = quantizer.quantize(radixpoint.Design.separate(conv, bn))
        engine = NativeEngine(quantized, arguments.threads, isa)
        systems[f"native, {name}"] = integer(engine, quantized)
    if not arguments.quick:
        others = torch_peers(weights, arguments.threads, left_out)
        quantized = quantizer.quantize(radixpoint.Design.separate(10, 16))
        others["BLAS engine, 10 bits"] = integer(BlasEngine(quantized, arguments.threads), quantized)
        slow |= set(others)
        systems |= others

    result: dict[str, Any] = {
        "machine": {"processor": processor(), "threads": arguments.threads, "instruction_set": isa},
        "versions": versions(),
        "left_out": left_out,
        "repeats": arguments.repeats,
    }
    print(f"{processor()}, {arguments.threads} threads, {isa}; {result['versions']}")
    for batch in (8, 1):
        result[f"batch_{batch}"] = measured = throughput(systems, images[:batch], arguments.repeats, slow)
        print(f"\n| batch {batch} | images a second | ratio to onnxruntime float32 |\n|---|---|---|")
        for name, row in measured.items():
            print(f"| {name} | {row['images_per_second']:.1f} | {row['ratio']:.2f} |")
    result["layers"] = {}
    for conv, bn in ((12, 16), (8, 16)):
        for name in dict.fromkeys((isa, *(n for n, usable in instruction_sets().items() if usable))):
            if name == "portable":
                continue
            rows = layers(quantizer, conv, bn, images, name)
            best = peak(conv <= 8, name) * 1e-9
            result["layers"][f"{conv} bits, {name}"] = {"peak_gops": best, "rows": rows}
            print(f"\n| {conv} bits, {name}, one core, peak {best:.0f} GOP/s | times | GOP/s | of peak |")
            print("|---|---|---|---|")
            for row in rows:
                print(f"| {row['layer']} | {row['count']} | {row['gops']:.0f} | {row['of_peak']:.0%} |")
            total = sum(r["operations"] for r in rows) / sum(r["seconds"] for r in rows) * 1e-9
            print(f"| all | | {total:.0f} | {total / best:.0%} |")
    for name, why in left_out.items():
        print(f"left out: {name}: {why}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
