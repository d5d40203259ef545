"""A network that Brevitas trains quantized enters by QONNX and leaves as verified C and Verilog.

    python training/brevitas_qonnx.py OUT [--epochs 2] [--bits 4]

Needs brevitas and onnxoptimizer (PyPI). A small network of convolutions, batch normalization and ReLU, with
weights and activations of 4 bits and power-of-two scales, is trained on the demo's images, which takes
minutes. Its QONNX model is read by ``radixpoint.load_quantized``. The results are compared with those of the
qonnx package's executor, image by image, and its exports are verified. Exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import onnx
import torch
import torch.nn.functional as F
from brevitas.export import export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8WeightPerTensorFixedPoint,
    Uint8ActPerTensorFixedPoint,
)
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.fold_constants import FoldConstants
from qonnx.transformation.infer_shapes import InferShapes
from torch import nn

import radixpoint
from radixpoint.demo import demo_images

TRAINED, COMPARED = 8000, 200


def network(bits: int) -> nn.Sequential:
    weights = {"weight_bit_width": bits, "weight_quant": Int8WeightPerTensorFixedPoint, "bias": False}

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            qnn.QuantConv2d(inputs, outputs, 3, stride=stride, padding=1, **weights),
            nn.BatchNorm2d(outputs),
            qnn.QuantReLU(bit_width=bits, act_quant=Uint8ActPerTensorFixedPoint),
        ]

    return nn.Sequential(
        qnn.QuantIdentity(bit_width=8, act_quant=Int8ActPerTensorFixedPoint),
        *block(1, 16, 2),
        *block(16, 32, 2),
        nn.MaxPool2d(7),
        nn.Flatten(),
        qnn.QuantLinear(32, 10, **weights),
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--images", type=int, default=TRAINED, help="to train on, for a quick look")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = demo_images("test")
    x = np.asarray(found.pixels, np.float32) / 256
    y = found.labels.astype(np.int64)
    torch.manual_seed(0)
    module = network(asked.bits)
    optimizer = torch.optim.Adam(module.parameters(), 2e-3)
    for _ in range(asked.epochs):
        order = torch.randperm(asked.images)
        for first in range(0, asked.images, 64):
            rows = order[first : first + 64]
            loss = F.cross_entropy(module(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    module.eval()
    path = asked.out / "model.onnx"
    export_qonnx(module, torch.from_numpy(x[:1]), export_path=str(path))

    ours = radixpoint.load_quantized(path, image="ufix8_En8")  # bytes over 256
    radixpoint.save_network(ours, asked.out / "network.safetensors")
    stored = radixpoint.quantize_images(ours, x[TRAINED:])
    logits = ours.run(stored)[ours.output]
    right = 100 * float((logits.argmax(1) == y[TRAINED:]).mean())
    print(f"{ours.summary()}\ntop-1 on {len(stored):,} images: {right:.2f} %")

    model = ModelWrapper(onnx.load(path)).transform(InferShapes()).transform(FoldConstants())
    name, result = model.graph.input[0].name, model.graph.output[0].name
    unit = 2.0 ** -ours.logit_fraction_length()
    wrong = 0
    for number in range(COMPARED):
        image = x[TRAINED + number : TRAINED + number + 1]
        theirs = execute_onnx(model, {name: image})[result]
        wrong += int(np.any(theirs[0].astype(np.float64) != logits[number] * unit))
    print(f"qonnx's executor: {COMPARED} images, {wrong} differ")
    for target in ("c", "verilog"):
        radixpoint.export_network(ours, target, asked.out / target, stored[:4])
        differs = radixpoint.verify_export(asked.out / target).mismatch is not None
        print(f"{target}: {'differs' if differs else 'verified on every tensor'}")
        wrong += differs
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
