"""How well networks of several widths bear few bits, quantized directly and retrained.

    python training/resiliency.py OUT [--widths 4 8 16 32] [--bits 8 6 5 4 3 2] [--epochs 4] [--plot FILE]

The experiment of Sung, Shin & Hwang, "Resiliency of Deep Neural Networks under Quantization" (2015), with
convolutions and batch normalization apart. 8,000 of the 10,000 Fashion-MNIST images in the package are for
training, 2,000 for judging. A network has three 3x3 convolutions of so many, twice and four times so many
channels, each with batch normalization and ReLU, a mean over the places and a fully connected layer. Each
is trained in float; then, at every word length of what is multiplied (batch normalization at 16 bits, a
binary point a channel, rule ``loss``, unsigned operands), it is quantized directly, and from there retrained
on the training images by ``radixpoint.retrain`` with the float network as the teacher. Prints a table, a
line when it is known; OUT keeps the float networks. The plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

import radixpoint
from families import DEVIATION, MEAN, TRAINED, inputs_of, train
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.demo import demo_images
from radixpoint.quantization.quantize import Quantizer
from zoo import conv_bn

BN = 16
Point = tuple[int, int, float, float]
"""Width, word length; drop when quantized directly, and when retrained."""


def network_of(width: int) -> nn.Sequential:
    """Three convolutions, the last two of stride 2."""
    layers: list[nn.Module] = [conv_bn(1, width, 3)]
    layers += [conv_bn(width, 2 * width, 3, 2), conv_bn(2 * width, 4 * width, 3, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 10))


def image_sets() -> tuple[ImageSet, ImageSet]:
    """Images to train on, and to judge on."""
    found = demo_images("test")
    plain = Preprocessing((MEAN,), (DEVIATION,), channel_order="L")
    first, last = (
        ImageSet(name, found.pixels[part], found.labels[part], found.classes, plain)
        for name, part in (("training", slice(TRAINED)), ("judging", slice(TRAINED, None)))
    )
    return first, last


def trained(width: int, folder: Path, images: ImageSet) -> nn.Module:
    """The float network, from the folder if it is there."""
    torch.manual_seed(0)
    module, path = network_of(width), folder / f"width-{width}.pt"
    if path.exists():
        module.load_state_dict(torch.load(path, weights_only=True))
        return module.eval()
    train(module, inputs_of(np.asarray(images.pixels), False), images.labels.astype(np.int64), 8)
    torch.save(module.state_dict(), path)
    return module


def drop(found: radixpoint.Evaluation) -> str:
    low, high = found.drop_interval
    return f"{found.drop:+.2f} [{low:+.2f}, {high:+.2f}]"


def plot(points: list[Point], path: Path) -> None:
    """Drop against word length: dashed directly, solid retrained, a colour a width."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "radixpoint"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for number, width in enumerate(dict.fromkeys(point[0] for point in points)):
        own = [point for point in points if point[0] == width]
        bits, colour = [point[1] for point in own], f"C{number}"
        axes.plot(bits, [point[2] for point in own], "--o", color=colour, markersize=3)
        axes.plot(bits, [point[3] for point in own], "-o", color=colour, label=f"{width} channels")
    axes.set(xlabel="bits of weights and operands", ylabel="drop of top-1, points", yscale="symlog")
    axes.set_title("dashed: quantized directly; solid: retrained")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 6, 5, 4, 3, 2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    teaching, judging = image_sets()
    torch.set_num_threads(1)  # tensors are small: two would wait for each other
    how, points = radixpoint.Training(asked.epochs, 0.004, batch=64, mirror=True), []
    print("| channels | float | bits | quantized directly | retrained |\n|---|---|---|---|---|", flush=True)
    for width in asked.widths:
        graph = radixpoint.load(trained(width, asked.out, teaching), (1, 28, 28))
        calibration = teaching.first(1000)
        quantizer = Quantizer(graph, radixpoint.calibrate(graph, calibration), calibration)
        for bits in asked.bits:
            design = radixpoint.Design.separate(
                bits, BN, unsigned=True, binary_point={"scope": "channel", "rule": "loss"}
            )
            network = quantizer.quantize(design)
            direct = radixpoint.evaluate(graph, network, judging)
            network = radixpoint.retrain(graph, network, teaching, how, threads=1)
            again = radixpoint.evaluate(graph, network, judging)
            points.append((width, bits, direct.drop, again.drop))
            real = f"{direct.float_score:.2f} %" if bits == asked.bits[0] else ""
            print(f"| {width} | {real} | {bits} | {drop(direct)} | {drop(again)} |", flush=True)
    if asked.plot is not None:
        plot(points, asked.plot)


if __name__ == "__main__":
    main()
