"""Train the demo network: a quarter-width ResNet-50 on Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    pip install torch==2.13.0 numpy safetensors
    python training/train_demo.py --out src/radixpoint/demo

Writes ``resnet50-quarter.safetensors`` (torchvision's names; convolution and linear weights rounded
to float16, everything of batch normalization in float32), ``test.npz`` (the 10,000 test images) and
``calibration.npz`` (the first 100 training images of each class), and prints the test accuracy of
exactly what it wrote.
"""

from __future__ import annotations

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

from resnet import ResNet

MEAN, STD = 0.286, 0.353


def read_idx(path: Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes."""
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    shape = np.frombuffer(data, ">u4", dimensions, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror half of the images and shift each by up to two pixels."""
    count = len(images)
    mirrored = torch.rand(count, generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    padded = nn.functional.pad(images, (2, 2, 2, 2), value=-MEAN / STD)
    shifts = torch.randint(0, 5, (count, 2), generator=generator)
    rows = shifts[:, :1] + torch.arange(28)
    columns = shifts[:, 1:] + torch.arange(28)
    index = torch.arange(count)[:, None, None]
    return padded[index, 0, rows[:, :, None], columns[:, None, :]][:, None]


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        hits = sum(
            int((model(x).argmax(1) == y).sum())
            for x, y in zip(images.split(500), labels.split(500), strict=True)
        )
    return hits / len(images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    generator = torch.Generator().manual_seed(arguments.seed)
    raw = {
        (split, kind): read_idx(arguments.data / f"{split}-{kind}-ubyte.gz")
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    }

    def tensors(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.from_numpy(raw[split, "images-idx3"].copy()).float()[:, None]
        return (pixels / 255 - MEAN) / STD, torch.from_numpy(raw[split, "labels-idx1"].astype(np.int64))

    train_x, train_y = tensors("train")
    test_x, test_y = tensors("t10k")

    model = ResNet(width=16, classes=10, channels=1).to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": plain}],
        lr=arguments.rate,
        momentum=0.9,
        nesterov=True,
    )
    steps = len(train_x) // arguments.batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.rate, total_steps=arguments.epochs * steps, pct_start=0.2
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(arguments.epochs):
        started = time.time()
        model.train()
        order = torch.randperm(len(train_x), generator=generator)
        total = 0.0
        for step in range(steps):
            batch = order[step * arguments.batch : (step + 1) * arguments.batch]
            x = augment(train_x[batch], generator).contiguous(memory_format=torch.channels_last)
            loss = loss_of(model(x), train_y[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss)
        print(
            f"epoch {epoch + 1}: loss {total / steps:.4f}, test accuracy "
            f"{accuracy(model, test_x, test_y):.4f}, {time.time() - started:.0f} s",
            flush=True,
        )

    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        state[name] = value.half() if value.ndim > 1 else value.float()
    model.load_state_dict(state, strict=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(value.numpy()) for name, value in state.items()},
        arguments.out / "resnet50-quarter.safetensors",
    )
    np.savez_compressed(
        arguments.out / "test.npz", images=raw["t10k", "images-idx3"], labels=raw["t10k", "labels-idx1"]
    )
    labels = raw["train", "labels-idx1"]
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == c)[:100] for c in range(10)]))
    np.savez_compressed(
        arguments.out / "calibration.npz", images=raw["train", "images-idx3"][chosen], labels=labels[chosen]
    )
    print(f"written: test accuracy {accuracy(model, test_x, test_y):.4f}")


if __name__ == "__main__":
    main()
