"""Small networks of other families, trained on the demo's images, and what separation gives them.

    python training/families.py OUT [--epochs 8] [--only NAME ...]

8,000 of the 10,000 Fashion-MNIST images in the package are for training and calibration, 2,000 for judging.
Three classifiers: inverted residuals with ReLU6 (as MobileNetV2), with gates and hard-swish (as MobileNetV3),
with SiLU and gates (as EfficientNet); and a U-Net that finds the garment's outline under noise, judged by the
intersection over the union of its pixels. Each is trained on the processor in minutes, imported, quantized.
The table gives, for one word length everywhere (joint), for batch normalization apart at 16 bits (separate),
and folded, the shortest word length that loses at most a point. Weights are written to OUT.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

import radixpoint
from radixpoint.data import ImageSet, Preprocessing
from radixpoint.demo import demo_images
from radixpoint.engines import quantize_images
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from zoo import Act, Gate, Inverted, UNet, conv_bn

TRAINED = 8000
LIMIT = 1.0
"""Points of the metric that may be lost."""
BN = 16
MEAN, DEVIATION = 0.286, 0.353


def inverted(act: Act, squeeze: int, gate: Act | None) -> nn.Sequential:
    layers: list[nn.Module] = [conv_bn(1, 16, 3, act=act)]
    inputs = 16
    for expansion, outputs, stride in (
        (1, 16, 1),
        (4, 24, 2),
        (4, 24, 1),
        (4, 40, 2),
        (4, 40, 1),
        (4, 64, 1),
    ):
        middle = inputs * expansion
        own = Gate(middle, max(4, middle // squeeze), nn.ReLU, gate) if gate is not None else None
        layers.append(Inverted(inputs, middle, outputs, 3, stride, act, own))
        inputs = outputs
    layers += [conv_bn(inputs, 128, act=act), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(*layers)


class Outline(UNet):
    """A U-Net for one channel of 28 x 28, two halvings, two classes."""

    def __init__(self) -> None:
        super().__init__(12, 2, 2)
        self.down[0][0][0] = nn.Conv2d(1, 12, 3, padding=1, bias=False)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MobileNetV2-like (ReLU6)": lambda: inverted(nn.ReLU6, 4, None),
    "MobileNetV3-like (gates, hard-swish)": lambda: inverted(nn.Hardswish, 4, nn.Hardsigmoid),
    "EfficientNet-like (gates, SiLU)": lambda: inverted(nn.SiLU, 4, nn.Sigmoid),
    "U-Net-like (ReLU)": Outline,
}


def inputs_of(pixels: np.ndarray, outline: bool) -> np.ndarray:
    scaled = (pixels / 255 - MEAN) / DEVIATION
    if outline:  # the same noise whenever an image is seen
        scaled = scaled + np.random.default_rng(0).normal(0, 0.5, (len(pixels), 1, 28, 28))
    return scaled.astype(np.float32)


def targets_of(found: ImageSet, outline: bool) -> np.ndarray:
    return (found.pixels[:, 0] > 20).astype(np.int64) if outline else found.labels.astype(np.int64)


def train(module: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3, weight_decay=1e-2)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    module.train()
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for first in range(0, len(x) // 64 * 64, 64):
            rows = order[first : first + 64]
            batch, wanted = torch.from_numpy(x[rows]), torch.from_numpy(y[rows])
            if wanted.ndim == 1 and torch.rand(()) < 0.5:
                batch = batch.flip(3)
            loss: Tensor = F.cross_entropy(module(batch), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    module.eval()


def score(logits: np.ndarray, targets: np.ndarray) -> float:
    """Top-1, or the intersection over the union of outlines, in percent."""
    chosen = logits.argmax(1)
    if targets.ndim == 1:
        return 100 * float((chosen == targets).mean())
    both, either = ((chosen & targets) == 1).sum(), ((chosen | targets) == 1).sum()
    return 100 * float(both / either)


def shortest(
    quantizer: Quantizer, x: np.ndarray, y: np.ndarray, real: float, design: Callable[[int], Design]
) -> tuple[int, float]:
    """Shortest word length within the limit, longest first, and what it loses."""
    best = (0, 0.0)
    for word in range(14, 3, -1):
        network = quantizer.quantize(design(word))
        stored = quantize_images(network, x)
        logits = np.concatenate(
            [network.run(stored[i : i + 250])[network.output] for i in range(0, len(x), 250)]
        )
        lost = real - score(logits, y)
        if lost > LIMIT:
            break
        best = (word, lost)
    return best


def measured(graph: Graph, found: ImageSet, outline: bool) -> str:
    x, y = inputs_of(found.pixels, outline)[TRAINED:], targets_of(found, outline)[TRAINED:]
    engine = FloatingEngine(graph)
    real = score(np.concatenate([engine.run(x[i : i + 250])[graph.output] for i in range(0, len(x), 250)]), y)
    plain = Preprocessing((MEAN,), (DEVIATION,), channel_order="L")
    first = ImageSet("training images", found.pixels[:512], found.labels[:512], found.classes, plain)
    quantizer = Quantizer(graph, calibrate(graph, first))
    cells = [f"{real:.2f}"]
    for design in (
        Design.joint,
        lambda word: Design.separate(word, BN),
        lambda word: Design.separate(word, BN, batch_norm="folded"),
    ):
        word, lost = shortest(quantizer, x, y, real, design)
        cells.append(f"{word} ({lost:+.2f})")
    return " | ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--only", nargs="*")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = demo_images("test")
    print("| network | float | joint | separate | folded |\n|---|---|---|---|---|", flush=True)
    for name, make in NETWORKS.items():
        if asked.only and not any(part in name for part in asked.only):
            continue
        outline, path = name.startswith("U-Net"), asked.out / f"{name.split('-like')[0]}.pt"
        torch.manual_seed(0)
        module, started = make(), time.time()
        if path.exists():
            module.load_state_dict(torch.load(path, weights_only=True))
            module.eval()
        else:
            x, y = inputs_of(found.pixels, outline)[:TRAINED], targets_of(found, outline)[:TRAINED]
            train(module, x, y, asked.epochs)
            torch.save(module.state_dict(), path)
            print(f"{name}: trained in {time.time() - started:.0f} s", file=sys.stderr)
        graph = radixpoint.load(module, (1, 28, 28))
        print(f"| {name} | {measured(graph, found, outline)} |", flush=True)


if __name__ == "__main__":
    main()
