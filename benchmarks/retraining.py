"""What retraining gains: the network in the package at few bits, before and after.

    python benchmarks/retraining.py [--bits 4 3] [--operands 8] [--weights 8] [--epochs 90] [--batch 32]
                                    [--rate 0.004] [--threads 1]

One word length for everything that is multiplied, or another for the weights or the operands; 16 bits for
batch normalization, scope channel, rule ``loss``, unsigned operands. Trained on the 1,000 calibration images
of the package without their labels, mirrored and moved; judged on its 10,000 test images. Prints the drop of
top-1 with its paired 95 % interval, the share of images on which float and quantized agree, the seconds that
training took, and whether offsets of batch normalization that were estimated again afterwards were kept.
"""

from __future__ import annotations

import argparse
import time

from msgspec.structs import replace

import radixpoint
from radixpoint.demo import demo_images, demo_network
from radixpoint.quantization.design import Widths
from radixpoint.quantization.quantize import Quantizer


def row(bits: int, name: str, found: radixpoint.Evaluation, seconds: float | None) -> str:
    low, high = found.drop_interval
    took = "" if seconds is None else f"{seconds:.0f}"
    drop = f"{found.drop:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"| {bits} | {name} | {drop} | {found.agreement:.2f} % | {took} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--operands", type=int)
    parser.add_argument("--weights", type=int)
    parser.add_argument("--epochs", type=int, default=90)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.004)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    graph, images, judges = demo_network(), demo_images("calibration"), demo_images("test")
    ranges = radixpoint.calibrate(graph, images)
    quantizer = Quantizer(graph, ranges, images)
    asked = radixpoint.Training(arguments.epochs, arguments.rate, batch=arguments.batch, mirror=True, shift=2)
    print("| bits | | top-1 drop, 95 % | agreement | seconds |\n|---|---|---|---|---|")
    for bits in arguments.bits:
        design = radixpoint.Design.separate(
            bits, 16, unsigned=True, binary_point={"scope": "channel", "rule": "loss"}
        )
        own = Widths(arguments.weights or bits, arguments.operands or bits, 16)
        classes = {**design.classes, **dict.fromkeys(("conv", "fc", "input"), own)}
        network = quantizer.quantize(replace(design, classes=classes))
        print(row(bits, "quantized", radixpoint.evaluate(graph, network, judges), None), flush=True)
        started = time.perf_counter()
        network = radixpoint.retrain(graph, network, images, asked, threads=arguments.threads)
        seconds = time.perf_counter() - started
        name = f"retrained, offsets {network.metadata['estimated']}"
        print(row(bits, name, radixpoint.evaluate(graph, network, judges), seconds), flush=True)


if __name__ == "__main__":
    main()
