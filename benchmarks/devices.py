"""Images a second of the engine on PyTorch's tensors, on a device, against PyTorch's float inference there.

    python benchmarks/devices.py [--device cuda] [--module ResNet-50] [--batch 256] [--images 50000]

Networks of training/zoo.py at their own size with random weights; images are noise: no engine's time depends
on them. Each figure is the median of five runs of one batch, results back on the processor included. The last
row of each network is a whole evaluation, quantizing images included, of as many images as ``--images`` says,
which all come from one batch.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import radixpoint
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.engines import make_engine, quantize_images
from radixpoint.quantization.quantize import Quantizer

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import zoo

WIDTHS = (4, 8, 10, 12, 16)


def rate(run: Callable[[], Any], count: int) -> float:
    run()
    times = []
    for _ in range(5):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return count / median(times)


def floating(name: str, device: str, inputs: np.ndarray, tf32: bool) -> Callable[[], Any]:
    module = zoo.made(name).eval().to(device, memory_format=torch.channels_last)
    given = torch.from_numpy(inputs)

    def run() -> Any:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        with torch.inference_mode():
            result = module(given.to(device, memory_format=torch.channels_last))
            return (result if isinstance(result, torch.Tensor) else result[0]).cpu()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--module", action="append")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, default=50_000)
    arguments = parser.parse_args()
    device, batch = arguments.device, arguments.batch
    what = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    print(f"{what}; torch {torch.__version__}, radixpoint {radixpoint.__version__}", flush=True)
    for name in arguments.module or ["ResNet-50"]:
        graph = radixpoint.load(zoo.made(name), zoo.MODULES[name][1])
        shape = graph.shapes[graph.input]
        pixels = np.random.default_rng(0).integers(0, 256, (batch, *shape)).astype(np.uint8)
        plain = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0], channel_order="stored")
        noise = ImageSet("noise", pixels, np.zeros(batch, np.int64), ("0",), plain)
        quantizer = Quantizer(graph, radixpoint.calibrate(graph, noise.first(8)))
        inputs = noise.inputs(0, batch)
        print(f"\n| {name}, batch {batch} | images a second |\n|---|---|", flush=True)
        for title, tf32 in (("float32", False), ("float32 with TF32", True)):
            if not tf32 or device.startswith("cuda"):
                print(
                    f"| PyTorch {title} | {rate(floating(name, device, inputs, tf32), batch):.0f} |",
                    flush=True,
                )
        for width in WIDTHS:
            quantized = quantizer.quantize(radixpoint.Design.separate(width, 16))
            engine, stored = make_engine(quantized, f"torch:{device}"), quantize_images(quantized, inputs)
            print(
                f"| torch engine, {width} bits | {rate(lambda e=engine, s=stored: e.run(s), batch):.0f} |",
                flush=True,
            )
        started = time.perf_counter()
        for _ in range(0, arguments.images, batch):
            engine.run(quantize_images(quantized, noise.inputs(0, batch)))
        seconds = time.perf_counter() - started
        print(
            f"| {arguments.images:,} images evaluated at {width} bits | {arguments.images / seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
