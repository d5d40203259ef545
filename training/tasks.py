"""Three small tasks on the demo's images that are no classification, each trained in under a minute.

``segmentation``, ``super_resolution`` and ``detection`` return a trained module, and for calibrating and for
judging each a pair (inputs, targets), as ``docs/examples`` uses them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radixpoint.demo import demo_images

Pair = tuple[np.ndarray, np.ndarray]
Task = tuple[nn.Module, Pair, Pair]
CALIBRATION, JUDGED = 100, 1000
CELLS = 8
"""Cells of the detector's grid along a side, of 4 pixels each."""


def _pictures() -> np.ndarray:
    """(images, 28, 28) in 0..1, shuffled."""
    pixels = np.asarray(demo_images("test").pixels)[:, 0].astype(np.float32) / 255
    return pixels[np.random.default_rng(0).permutation(len(pixels))]


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _train(
    module: nn.Module,
    inputs: np.ndarray,
    targets: np.ndarray,
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
) -> nn.Module:
    torch.manual_seed(0)
    random = np.random.default_rng(1)
    optimizer = torch.optim.Adam(module.parameters(), 3e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, steps)
    for _ in range(steps):
        some = random.integers(0, len(inputs), 64)
        optimizer.zero_grad()
        loss(module(torch.from_numpy(inputs[some])), torch.from_numpy(targets[some])).backward()
        optimizer.step()
        scheduler.step()
    return module.eval()


def _parted(module: nn.Module, inputs: np.ndarray, targets: np.ndarray) -> Task:
    ends = (CALIBRATION, CALIBRATION + JUDGED)
    return (
        module,
        (inputs[: ends[0]], targets[: ends[0]]),
        (inputs[ends[0] : ends[1]], targets[ends[0] : ends[1]]),
    )


class Segmenter(nn.Module):
    """Down once, up once, with a link across."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = _block(1, 16), _block(16, 32, 2)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.joined, self.last = _block(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return self.last(self.joined(torch.cat([self.up(self.down(first)), first], 1)))


def segmentation() -> Task:
    """Garment or background, place by place, under noise; masks (28, 28) of 0 and 1."""
    pictures = _pictures()
    noisy = pictures + np.random.default_rng(2).normal(0, 0.4, pictures.shape).astype(np.float32)
    inputs, masks = noisy[:, None], (pictures > 0.1).astype(np.int64)
    first = CALIBRATION + JUDGED
    torch.manual_seed(0)
    module = _train(Segmenter(), inputs[first:], masks[first:], F.cross_entropy, 120)
    return _parted(module, inputs, masks)


class Enlarger(nn.Module):
    """Twice the size by a pixel shuffle, added to what bilinear resizing gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _block(1, 24), _block(24, 24), nn.Conv2d(24, 4, 3, 1, 1), nn.PixelShuffle(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + F.interpolate(x, scale_factor=2, mode="bilinear")


def super_resolution() -> Task:
    """28 x 28 pixels of 14 x 14; targets (1, 28, 28) in 0..1."""
    pictures = _pictures()[:, None]
    small = pictures.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    first = CALIBRATION + JUDGED
    torch.manual_seed(0)
    module = _train(Enlarger(), small[first:], pictures[first:], F.mse_loss, 150)
    return _parted(module, small, pictures)


class Detector(nn.Module):
    """For each cell of a grid: whether a garment's middle is in it, and its box."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(1, 16, 2), _block(16, 32, 2), _block(32, 32), _block(32, 32))
        self.last = nn.Conv2d(32, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


def _placed(random: np.random.Generator, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One garment of 14 x 14 somewhere in each image of 32 x 32; boxes (images, 1, 5)."""
    small = pictures.reshape(-1, 14, 2, 14, 2).mean((2, 4))
    images = random.normal(0, 0.1, (len(small), 1, 32, 32)).astype(np.float32)
    corners = random.integers(0, 19, (len(small), 2))
    boxes = np.zeros((len(small), 1, 5), np.float32)
    for i, (y, x) in enumerate(corners):
        images[i, 0, y : y + 14, x : x + 14] += small[i]
        rows, columns = np.nonzero(small[i] > 0.1)
        boxes[i, 0, 1:] = (x + columns.min(), y + rows.min(), x + columns.max() + 1, y + rows.max() + 1)
    return images, boxes


def _detection_loss(results: Tensor, boxes: Tensor) -> Tensor:
    middle = (boxes[:, 0, 1:3] + boxes[:, 0, 3:]) / 2
    cell = (middle / 4).long().clamp(0, CELLS - 1)
    number = torch.arange(len(boxes))
    wanted = torch.zeros_like(results[:, 0])
    wanted[number, cell[:, 1], cell[:, 0]] = 1
    own = results[number, 1:, cell[:, 1], cell[:, 0]]
    true = torch.cat([middle - 4 * cell, boxes[:, 0, 3:] - boxes[:, 0, 1:3]], 1) / 16
    sure = F.binary_cross_entropy_with_logits(results[:, 0], wanted, pos_weight=torch.tensor(20.0))
    return sure + 4 * F.smooth_l1_loss(own, true)


def boxes_of(results: np.ndarray) -> Sequence[np.ndarray]:
    """What a detector's grid says: for each image the surest cells as (class, how sure, x0, y0, x1, y1)."""
    return list(_decoded(results))


def _decoded(results: np.ndarray) -> Iterator[np.ndarray]:
    for grid in results:
        order = np.argsort(-grid[0], axis=None, kind="stable")[:5]
        rows, columns = np.unravel_index(order, grid[0].shape)
        x, y, width, height = 16 * grid[1:, rows, columns]
        x, y = x + 4 * columns, y + 4 * rows
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        yield np.stack([np.zeros(len(order)), grid[0, rows, columns], *corners], 1)


def detection() -> Task:
    """One garment in each image; boxes (images, 1, 5): class, x0, y0, x1, y1."""
    images, boxes = _placed(np.random.default_rng(3), _pictures())
    first = CALIBRATION + JUDGED
    torch.manual_seed(0)
    module = _train(Detector(), images[first:], boxes[first:], _detection_loss, 300)
    return _parted(module, images, boxes)
